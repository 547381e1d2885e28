//! The kernel as the proxy sees it, and a stand-in that records.

use std::collections::BTreeSet;

use net::conntrack::Flow;

use crate::model::Backend;
use crate::ruleset::{Frontend, Rule};
use crate::state::{Contents, Delta};

/// What carries rules out. Calls may block for as long as the kernel computes, never for the network.
pub trait Dataplane: Send + 'static {
    /// Why something was not done.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the table holds now.
    fn observe(&mut self) -> Result<Contents, Self::Error>;

    /// Applies a delta, wholly or, on an error, not at all.
    fn apply(&mut self, delta: &Delta) -> Result<(), Self::Error>;

    /// Ends the tracked UDP flows that any check finds stale. Returns how many.
    fn forget_flows(&mut self, checks: &[FlowCheck]) -> Result<usize, Self::Error>;

    /// How [`Dataplane::observe`] shows a rule.
    fn fingerprint(&self, rule: &Rule) -> u64;
}

/// A UDP frontend and the backends its flows may lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowCheck {
    /// Where clients send to.
    pub frontend: Frontend,
    /// Who may answer.
    pub backends: BTreeSet<Backend>,
}

impl FlowCheck {
    /// Whether the flow goes through the frontend to none of its backends. A flow that was never translated is stale as well (it began before the
    /// Service was known), unless nothing serves that frontend.
    ///
    /// What is sent to a node port may be meant for another host. Such a flow is only tracked anew when it is forgotten, unless its source is
    /// rewritten: it would get another one, so it is left alone.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.destination.port() != self.frontend.port || self.backends.contains(&Backend::from(flow.backend)) {
            return false;
        }
        match self.frontend.address {
            Some(address) => flow.destination.ip() == address && (flow.translated || !self.backends.is_empty()),
            None => flow.translated || (!flow.masqueraded && !self.backends.is_empty()),
        }
    }
}

/// A kernel that is only remembered: as strict as the real one about what exists.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The table.
    pub contents: Contents,
    /// The deltas applied, in order.
    pub applied: Vec<Delta>,
    /// The flow checks made, in order.
    pub checked: Vec<FlowCheck>,
    /// Times the table was listed.
    pub observed: usize,
    /// Calls of [`Dataplane::apply`] that will be refused before one succeeds.
    pub refuse: usize,
}

/// Why a [`Recorder`] refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Dataplane for Recorder {
    type Error = Refused;

    fn observe(&mut self) -> Result<Contents, Refused> {
        self.observed += 1;
        Ok(self.contents.clone())
    }

    fn apply(&mut self, delta: &Delta) -> Result<(), Refused> {
        if let Some(left) = self.refuse.checked_sub(1) {
            self.refuse = left;
            return Err(Refused("refused as told".into()));
        }
        self.contents = self.contents.after(delta, |rule| self.fingerprint(rule)).map_err(Refused)?;
        self.applied.push(delta.clone());
        Ok(())
    }

    fn forget_flows(&mut self, checks: &[FlowCheck]) -> Result<usize, Refused> {
        self.checked.extend_from_slice(checks);
        Ok(0)
    }

    fn fingerprint(&self, rule: &Rule) -> u64 {
        crate::nft::fingerprint(crate::model::Family::V4, rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(last: u8) -> Backend {
        Backend { address: [10, 244, 0, last].into(), port: 53 }
    }

    #[test]
    fn only_flows_of_the_frontend_to_other_backends_are_stale() {
        let service = Backend { address: [10, 96, 0, 10].into(), port: 53 };
        let check =
            FlowCheck { frontend: Frontend { address: Some(service.address), port: 53 }, backends: BTreeSet::from([backend(1)]) };
        let flow = |destination, to, translated| Flow {
            destination: Backend::into(destination),
            backend: Backend::into(to),
            translated,
            masqueraded: false,
        };
        assert!(!check.is_stale(&flow(service, backend(1), true)));
        assert!(check.is_stale(&flow(service, backend(2), true)));
        assert!(check.is_stale(&flow(service, service, false)), "it began before the Service was known");
        assert!(!check.is_stale(&flow(backend(9), backend(9), false)), "another destination");
    }

    #[test]
    fn a_node_port_check_leaves_flows_to_other_hosts_their_source() {
        let frontend = Frontend { address: None, port: 30_053 };
        let (nobody, served) = (BTreeSet::new(), BTreeSet::from([backend(2)]));
        let there = Backend { address: [192, 0, 2, 1].into(), port: 30_053 };
        let translated = Flow { destination: there.into(), backend: backend(1).into(), translated: true, masqueraded: true };
        let early = Flow { destination: there.into(), backend: there.into(), translated: false, masqueraded: false };
        let elsewhere = Flow { masqueraded: true, ..early };
        for (backends, flow, stale) in [
            (&nobody, translated, true),
            (&served, translated, true),
            (&nobody, early, false),
            (&served, early, true),
            (&served, elsewhere, false),
            (&served, Flow { backend: backend(2).into(), ..translated }, false),
        ] {
            let check = FlowCheck { frontend, backends: backends.clone() };
            assert_eq!(check.is_stale(&flow), stale, "{backends:?} {flow:?}");
        }
    }
}
