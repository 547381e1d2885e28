//! The one packet filter table of the pod network: traffic from this node's pods to anywhere outside the cluster leaves under the node's address.
//!
//! That holds towards API servers too, also where they are nodes: a host without a kubelet has no route to the pods of others, and what a
//! server's host is can change. So an API server sees pods under their node's address and must count nobody who has shown who it is by
//! address.
//!
//! The table is static and written whole in one transaction, so it can be written again at any time:
//!
//! ```text
//! table ip ferrokube-pods {
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat
//!     ip saddr POD-CIDR ip daddr != CLUSTER-CIDR masquerade fully-random
//!   }
//! }
//! ```

use ipnet::Ipv4Net;
use net::{
    Channel, Error, Family, Field, Hook, Rule,
    expr::{self, Operator},
};

const TABLE: &str = "ferrokube-pods";
const CHAIN: &str = "postrouting";

/// Replaces the table. Blocks for some milliseconds.
pub(super) fn install(pods: Ipv4Net, cluster: Ipv4Net) -> Result<(), Error> {
    let mut channel = Channel::open()?;
    let mut batch = channel.batch(Family::V4, TABLE);
    batch.replace_table();
    batch.make_chain(CHAIN, Some(Hook::NAT_POSTROUTING));
    let mut rule = Rule::new(batch.next_set_id());
    rule.network(Field::Source, Operator::Equal, pods.into());
    rule.network(Field::Destination, Operator::NotEqual, cluster.into());
    rule.push(expr::masquerade());
    batch.add_rule(CHAIN, rule, None);
    channel.transact(&batch.finish())
}
