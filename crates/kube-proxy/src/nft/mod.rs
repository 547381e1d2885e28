//! nftables and connection tracking over netlink.
//!
//! [`encode`], [`decode`] and [`batch`] turn values into bytes and back and do no I/O; [`socket`] moves bytes; [`observe`] reads the table back;
//! [`Monitor`] hears of others' changes; [`Netlink`] is the [`Dataplane`](crate::dataplane::Dataplane) made of them.

mod batch;
mod conntrack;
mod decode;
mod encode;
mod expr;
mod monitor;
mod observe;
mod socket;

pub use self::encode::fingerprint;
pub use self::monitor::Monitor;
pub use self::socket::Error;

use self::batch::Batch;
use self::socket::Channel;
use crate::dataplane::{Dataplane, FlowCheck};
use crate::model::Family;
use crate::state::{Contents, Delta};

/// The kernel's table of one family in the network namespace the value was made in.
#[derive(Debug)]
pub struct Netlink {
    family: Family,
    channel: Channel,
}

impl Netlink {
    /// Opens a netlink socket in the calling thread's network namespace.
    pub fn open(family: Family) -> Result<Self, Error> {
        Ok(Self { family, channel: Channel::open()? })
    }
}

impl Dataplane for Netlink {
    type Error = Error;

    fn observe(&mut self) -> Result<Contents, Error> {
        observe::contents(&mut self.channel, self.family)
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), Error> {
        let batch = Batch::of(self.family, delta, self.channel.sequence());
        self.channel.transact(&batch)
    }

    fn forget_flows(&mut self, checks: &[FlowCheck]) -> Result<usize, Error> {
        conntrack::forget(&mut self.channel, self.family, checks)
    }

    fn fingerprint(&self, rule: &crate::ruleset::Rule) -> u64 {
        encode::fingerprint(self.family, rule)
    }
}
