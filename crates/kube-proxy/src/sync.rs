//! From changed services to applied rules.
//!
//! [`Syncer`] owns the desired [`Ruleset`] and the [`Dataplane`]; one task drives it. While all goes well a change costs what the change
//! is worth: plan the services that changed, apply the delta. At start-up and after a failure the kernel's table is listed once and
//! brought to the desired state from whatever it is. *Invariant:* until the first call nothing is touched, so a proxy that starts
//! again leaves the rules of its predecessor in force until it knows better.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::dataplane::{Dataplane, FlowCheck};
use crate::model::{Backend, Node, Service, ServiceKey};
use crate::plan;
use crate::ruleset::{Fragment, Frontend};
use crate::state::{Ruleset, adopt};

/// The services that changed: their new state, or `None` for one that is gone.
pub type Changes = BTreeMap<ServiceKey, Option<Service>>;

/// Drives one table.
#[derive(Debug)]
pub struct Syncer<D> {
    node: Node,
    ruleset: Ruleset,
    dataplane: D,
    in_step: bool,
    flows: BTreeMap<Frontend, BTreeSet<Backend>>,
}

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The table was listed first.
    pub listed: bool,
    /// Something was changed in the kernel.
    pub changed: bool,
    /// Tracked UDP flows that were ended.
    pub flows_ended: usize,
    /// Rules in the table now.
    pub rules: usize,
    /// Elements in its static sets now.
    pub elements: usize,
    /// Services planned.
    pub planned: usize,
    /// Time in the kernel and in planning.
    pub took: Duration,
}

impl<D: Dataplane> Syncer<D> {
    /// A syncer that has not looked at anything yet.
    pub fn new(node: Node, dataplane: D) -> Self {
        let ruleset = Ruleset::new(plan::base(&node));
        Self { node, ruleset, dataplane, in_step: false, flows: BTreeMap::new() }
    }

    /// Takes in the changes and applies whatever follows from them, and from earlier ones that failed.
    ///
    /// # Errors
    ///
    /// What the kernel refused. The changes are remembered: call again, with no changes or new ones, to retry.
    pub fn sync(&mut self, changes: Changes) -> Result<Summary, D::Error> {
        let begun = Instant::now();
        let mut summary = Summary { planned: changes.len(), listed: !self.in_step, ..Summary::default() };
        let mut fragments = Vec::with_capacity(changes.len());
        for (key, service) in changes {
            let fragment = service.map(|service| plan::service(&key, &service, &self.node)).unwrap_or_default();
            self.note_flows(&key, &fragment);
            fragments.push((key, fragment));
        }
        let mut delta = self.ruleset.update(fragments);
        if !self.in_step {
            let found = self.dataplane.observe()?;
            delta = adopt(&found, &self.ruleset, |rule| self.dataplane.fingerprint(rule));
        }
        if !delta.is_empty() {
            self.in_step = false;
            self.dataplane.apply(&delta)?;
            summary.changed = true;
        }
        self.in_step = true;
        summary.flows_ended = self.end_flows()?;
        summary.rules = self.ruleset.rule_count();
        summary.elements = self.ruleset.element_count();
        summary.took = begun.elapsed();
        Ok(summary)
    }

    /// Begins anew for a node whose pod prefix or zone has changed: the next [`Syncer::sync`] must be given every service.
    pub fn restart(&mut self, node: Node) {
        self.ruleset = Ruleset::new(plan::base(&node));
        self.node = node;
        self.in_step = false;
    }

    /// Says that the table was changed by somebody else, so that the next sync lists it.
    pub fn distrust(&mut self) {
        self.in_step = false;
    }

    /// The node the rules are for.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Remembers the UDP frontends whose flows may have lost their backend, or have begun before there was one.
    fn note_flows(&mut self, key: &ServiceKey, new: &Fragment) {
        let nothing = Fragment::default();
        let old = self.ruleset.service(key).unwrap_or(&nothing);
        for (frontend, backends) in &old.udp {
            if !new.udp.contains_key(frontend) && !backends.is_empty() {
                self.flows.entry(*frontend).or_default();
            }
        }
        for (frontend, backends) in &new.udp {
            let had = old.udp.get(frontend);
            let awake = had.is_none_or(BTreeSet::is_empty) && !backends.is_empty();
            if awake || had.is_some_and(|had| !had.is_subset(backends)) {
                self.flows.insert(*frontend, backends.clone());
            } else if let Some(pending) = self.flows.get_mut(frontend) {
                pending.clone_from(backends);
            }
        }
    }

    fn end_flows(&mut self) -> Result<usize, D::Error> {
        if self.flows.is_empty() {
            return Ok(0);
        }
        let checks: Vec<FlowCheck> =
            self.flows.iter().map(|(frontend, backends)| FlowCheck { frontend: *frontend, backends: backends.clone() }).collect();
        let ended = self.dataplane.forget_flows(&checks)?;
        self.flows.clear();
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Recorder;
    use crate::model::{Endpoint, Family, Port, Protocol};

    fn syncer() -> Syncer<Recorder> {
        Syncer::new(Node { family: Family::V4, pod_cidrs: vec![], zone: None, api_servers: BTreeSet::new() }, Recorder::default())
    }

    fn dns(pods: &[u8]) -> Service {
        let endpoints = pods.iter().map(|last| {
            let backend = Backend { address: [10, 244, 0, *last].into(), port: 53 };
            Endpoint { backend, ready: true, serving: true, terminating: false, local: true, zones: vec![] }
        });
        let port = Port { protocol: Protocol::Udp, port: 53, node_port: None, endpoints: endpoints.collect() };
        Service { cluster_ips: vec![[10, 96, 0, 10].into()], ports: vec![port], ..Service::default() }
    }

    fn change(service: Option<Service>) -> Changes {
        Changes::from([(ServiceKey::new("kube-system", "dns"), service)])
    }

    #[test]
    fn the_table_is_listed_at_start_up_only() {
        let mut syncer = syncer();
        assert!(syncer.sync(change(Some(dns(&[1])))).unwrap().listed);
        for pods in [&[1, 2][..], &[2], &[]] {
            assert!(!syncer.sync(change(Some(dns(pods)))).unwrap().listed);
        }
        assert_eq!(syncer.dataplane.observed, 1);
    }

    #[test]
    fn the_same_state_again_touches_nothing() {
        let mut syncer = syncer();
        syncer.sync(change(Some(dns(&[1])))).unwrap();
        assert!(!syncer.sync(change(Some(dns(&[1])))).unwrap().changed);
        assert_eq!(syncer.dataplane.applied.len(), 1);
    }

    #[test]
    fn a_change_of_one_service_does_not_touch_another() {
        let mut syncer = syncer();
        let all = (0..50).map(|n| (ServiceKey::new("default", &format!("s{n}")), Some(dns(&[n])))).collect();
        syncer.sync(all).unwrap();
        syncer.sync(Changes::from([(ServiceKey::new("default", "s7"), Some(dns(&[7, 8])))])).unwrap();
        let delta = syncer.dataplane.applied.last().unwrap();
        assert_eq!(delta.rules.keys().map(|name| &**name).collect::<Vec<_>>(), ["all/default/s7/udp/53"]);
    }

    #[test]
    fn what_was_refused_is_caught_up_with_from_a_fresh_listing() {
        let mut syncer = syncer();
        syncer.sync(change(Some(dns(&[1])))).unwrap();
        syncer.dataplane.refuse = 2;
        syncer.sync(change(Some(dns(&[1, 2])))).unwrap_err();
        syncer.sync(Changes::new()).unwrap_err();
        let summary = syncer.sync(Changes::new()).unwrap();
        assert!(summary.listed && summary.changed);
        let delta = syncer.dataplane.applied.last().unwrap();
        assert!(!delta.reset && delta.rules.len() == 1, "only what was missing is written");
    }

    #[test]
    fn a_successor_adopts_the_table_without_writing() {
        let mut first = syncer();
        first.sync(change(Some(dns(&[1, 2])))).unwrap();
        let kernel = Recorder { contents: first.dataplane.contents.clone(), ..Recorder::default() };
        let mut second = Syncer::new(first.node.clone(), kernel);
        let summary = second.sync(change(Some(dns(&[1, 2])))).unwrap();
        assert!(summary.listed && !summary.changed);
    }

    #[test]
    fn flows_are_checked_when_a_udp_backend_leaves_and_when_the_first_comes() {
        let mut syncer = syncer();
        for (pods, checks) in [(Some(&[1, 2][..]), 1), (Some(&[1, 2, 3]), 1), (Some(&[1, 3]), 2), (None, 3), (None, 3)] {
            syncer.sync(change(pods.map(dns))).unwrap();
            assert_eq!(syncer.dataplane.checked.len(), checks, "{pods:?}");
        }
        assert!(syncer.dataplane.checked.last().unwrap().backends.is_empty());
    }
}
