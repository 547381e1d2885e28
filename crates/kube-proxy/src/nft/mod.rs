//! The proxy's table in the kernel, in the words of [`net`].
//!
//! [`encode`], [`decode`] and [`batch`] turn values into netfilter's and back and do no I/O; [`observe`] reads the table back; [`Netlink`] is the
//! [`Dataplane`](crate::dataplane::Dataplane) made of them.

mod batch;
mod decode;
mod encode;
mod observe;

use std::collections::HashMap;

use net::{Channel, Error, Monitor, conntrack};

pub use self::encode::fingerprint;

use crate::dataplane::{Dataplane, FlowCheck};
use crate::model::Family;
use crate::ruleset::{Frontend, TABLE};
use crate::state::{Contents, Delta};

/// The kernel's table of one family in the network namespace the value was made in.
#[derive(Debug)]
pub struct Netlink {
    family: Family,
    channel: Channel,
}

impl Netlink {
    /// Opens a netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open(family: Family) -> Result<Self, Error> {
        Ok(Self { family, channel: Channel::open()? })
    }

    /// Listens, in the calling thread's network namespace, for changes of the table that others make.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn monitor(&self) -> Result<Monitor, Error> {
        Monitor::open(&self.channel, self.family, TABLE)
    }
}

impl Dataplane for Netlink {
    type Error = Error;

    fn observe(&mut self) -> Result<Contents, Error> {
        observe::contents(&mut self.channel, self.family)
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), Error> {
        let transaction = batch::transaction(&self.channel, self.family, delta);
        self.channel.transact(&transaction)
    }

    fn forget_flows(&mut self, checks: &[FlowCheck]) -> Result<usize, Error> {
        if checks.is_empty() {
            return Ok(0);
        }
        let by_frontend: HashMap<Frontend, &FlowCheck> = checks.iter().map(|check| (check.frontend, check)).collect();
        conntrack::forget(&mut self.channel, self.family, |flow| {
            let (address, port) = (flow.destination.ip(), flow.destination.port());
            let frontends = [Frontend { address: Some(address), port }, Frontend { address: None, port }];
            frontends.iter().filter_map(|frontend| by_frontend.get(frontend)).any(|check| check.is_stale(flow))
        })
    }

    fn fingerprint(&self, rule: &crate::ruleset::Rule) -> u64 {
        encode::fingerprint(self.family, rule)
    }
}
