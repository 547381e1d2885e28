//! What the nodes' objects claim of the pod network, checked before it is believed: a wrong claim costs the node that makes it, nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use api::{cidr, core::v1::Node};
use ipnet::Ipv4Net;
use jiff::Timestamp;

use crate::network::Peer;

/// What a node's object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// `spec.podCIDR`; empty until it is assigned.
    pods: String,
    /// The address of type InternalIP; empty if there is none.
    address: String,
    /// When the node was made: of two that claim the same addresses the older one has them.
    created: Option<Timestamp>,
}

/// The claims that hold, and what is wrong with the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// The pod networks of the nodes, by the nodes' names.
    pub networks: BTreeMap<String, Ipv4Net>,
    /// The ways to those of them whose node can be addressed.
    pub peers: BTreeMap<String, Peer>,
    /// What is not believed: the node's name, and why not.
    pub wrong: BTreeSet<(String, String)>,
}

// === impl Claim ===

impl Claim {
    pub(super) fn of(node: &Node) -> Self {
        let address = node.status().addresses.iter().find(|address| address.r#type == "InternalIP");
        Self {
            pods: node.spec().pod_cidr.clone(),
            address: address.map(|address| address.address.clone()).unwrap_or_default(),
            created: node.metadata().creation_timestamp.as_ref().map(|time| time.timestamp()),
        }
    }
}

/// Checks the claims of all nodes. Every node comes to the same result, whatever the order in which it heard of them.
pub(super) fn check(cluster: Ipv4Net, claims: &BTreeMap<String, Claim>) -> Checked {
    let mut by_age: Vec<(&String, &Claim)> = claims.iter().filter(|(_, claim)| !claim.pods.is_empty()).collect();
    by_age.sort_by_key(|(name, claim)| (claim.created, *name));
    let mut checked = Checked::default();
    for (name, claim) in by_age {
        let pods = match pods(cluster, &claim.pods, &checked.networks) {
            Ok(pods) => pods,
            Err(why) => {
                checked.wrong.insert((name.clone(), why));
                continue;
            }
        };
        checked.networks.insert(name.clone(), pods);
        match address(cluster, &claim.address) {
            Ok(Some(address)) => drop(checked.peers.insert(name.clone(), Peer { pods, address })),
            Ok(None) => {}
            Err(why) => drop(checked.wrong.insert((name.clone(), why))),
        }
    }
    checked
}

/// The pod network that a node claims, if it may have it beside those that others have.
fn pods(cluster: Ipv4Net, text: &str, others: &BTreeMap<String, Ipv4Net>) -> Result<Ipv4Net, String> {
    let pods = cidr::parse_v4(text).map_err(|_| format!("its podCIDR {text:?} is not an IPv4 network such as 10.244.1.0/24"))?;
    if !cluster.contains(&pods) {
        return Err(format!("its podCIDR {pods} is not within the cluster's pod network {cluster}"));
    }
    match others.iter().find(|(_, other)| cidr::overlap((**other).into(), pods.into())) {
        Some((node, other)) => Err(format!("its podCIDR {pods} overlaps with {other} of node {node}, which is older")),
        None => Ok(pods),
    }
}

/// The address of another node's host; `None` if it has not said any.
fn address(cluster: Ipv4Net, text: &str) -> Result<Option<Ipv4Addr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let Ok(address) = text.parse::<Ipv4Addr>() else { return Err(format!("its InternalIP {text:?} is not an IPv4 address")) };
    let nobodys = address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast();
    if nobodys || cluster.contains(&address) {
        return Err(format!("its InternalIP {address} cannot be a node's"));
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> Ipv4Net {
        "10.244.0.0/16".parse().unwrap()
    }

    fn claim(second: i64, pods: &str, address: &str) -> Claim {
        Claim { pods: pods.into(), address: address.into(), created: Timestamp::from_second(second).ok() }
    }

    fn claims<'a>(all: impl IntoIterator<Item = (&'a str, Claim)>) -> BTreeMap<String, Claim> {
        all.into_iter().map(|(name, claim)| (name.to_owned(), claim)).collect()
    }

    #[test]
    fn a_wrong_claim_costs_only_the_node_that_makes_it() {
        let checked = check(
            cluster(),
            &claims([
                ("good", claim(5, "10.244.1.0/24", "192.0.2.1")),
                ("thief", claim(9, "10.244.1.128/25", "192.0.2.2")),
                ("all", claim(9, "10.244.0.0/16", "192.0.2.3")),
                ("outside", claim(1, "0.0.0.0/0", "192.0.2.4")),
                ("services", claim(1, "10.96.0.0/16", "192.0.2.4")),
                ("text", claim(1, "fd00::/64", "192.0.2.5")),
                ("new", claim(1, "", "192.0.2.6")),
                ("loop", claim(1, "10.244.2.0/24", "127.0.0.1")),
                ("pod", claim(1, "10.244.3.0/24", "10.244.1.7")),
                ("name", claim(1, "10.244.4.0/24", "not-an-ip")),
                ("silent", claim(1, "10.244.5.0/24", "")),
            ]),
        );
        assert_eq!(checked.peers.keys().collect::<Vec<_>>(), ["good"]);
        assert_eq!(checked.networks.keys().collect::<Vec<_>>(), ["good", "loop", "name", "pod", "silent"]);
        let wrong: Vec<&str> = checked.wrong.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(wrong, ["all", "loop", "name", "outside", "pod", "services", "text", "thief"]);
        let told = "its podCIDR 10.244.1.128/25 overlaps with 10.244.1.0/24 of node good, which is older";
        assert!(checked.wrong.contains(&("thief".to_owned(), told.to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_believed_never_overlaps_and_the_oldest_is_always_believed(
            nets in proptest::collection::vec((0..4_i64, 0..8_u8, 20..26_u8), 1..8)
        ) {
            let names: Vec<String> = (0..nets.len()).map(|index| format!("n{index}")).collect();
            let all = claims(names.iter().zip(&nets).map(|(name, (age, third, prefix))| {
                (name.as_str(), claim(*age, &format!("10.244.{third}.0/{prefix}"), "192.0.2.1"))
            }));
            let checked = check(cluster(), &all);
            let believed: Vec<Ipv4Net> = checked.networks.values().copied().collect();
            for (index, one) in believed.iter().enumerate() {
                prop_assert!(believed[index + 1..].iter().all(|other| !cidr::overlap((*one).into(), (*other).into())));
            }
            let oldest = all.iter().min_by_key(|(name, claim)| (claim.created, *name)).unwrap().0;
            prop_assert!(checked.networks.contains_key(oldest));
            prop_assert_eq!(checked.networks.len() + checked.wrong.len(), all.len());
        }
    }
}
