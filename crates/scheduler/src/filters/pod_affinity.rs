//! Pods that must be near, or away from, other pods: their own rules and those of the pods that are there.

use std::borrow::Cow;

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Change, Check, Filter, Helped, Refusal},
    pod::{AffinityTerm, PodInfo, Rule},
    pod_set::Namespaces,
    topology::{Places, Tally},
};

/// Refuses nodes that break a required affinity or anti-affinity between pods.
pub struct InterPodAffinity;

struct Prepared<'a> {
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    /// Per rule of pods that are there and do not want this one near, where they are.
    unwanted: Vec<(AffinityTerm, Tally<'a>)>,
    /// Per required affinity term, the pods that match all of the terms.
    near: Vec<Tally<'a>>,
    /// Per anti-affinity term, the matching pods.
    away: Vec<Tally<'a>>,
    /// The pod itself matches its affinity, so it may be the first of a group.
    own_group: bool,
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let about = |term: &AffinityTerm| term.set.contains(pod, cluster.namespaces());
        let unwanted = cluster.carried().filter(|carried| carried.rule == Rule::Away && about(&carried.term));
        let unwanted: Vec<_> = unwanted
            .map(|carried| {
                let places = Cow::Borrowed(&carried.places);
                (carried.term.clone(), Tally::new(carried.term.topology_key.as_str(), places))
            })
            .collect();
        // Pods with such rules may yet be supposed to be there.
        let asked_what_if = cluster.has_nominations();
        if unwanted.is_empty() && pod.affinity.is_empty() && pod.anti_affinity.is_empty() && !asked_what_if {
            return None;
        }
        let tally = |set, key| Tally::new(key, cluster.places(set, key));
        let near = pod.affinity.iter().map(|term| tally(&pod.group, term.topology_key.as_str())).collect();
        let away = pod.anti_affinity.iter().map(|term| tally(&term.set, term.topology_key.as_str())).collect();
        let own_group = pod.group.contains(pod, cluster.namespaces());
        Some(Box::new(Prepared { pod, cluster, unwanted, near, away, own_group }))
    }

    fn helped_by<'a>(&self, change: Change<'a>, namespaces: &'a Namespaces) -> Helped<'a> {
        let near = |pod: &PodInfo, other: &PodInfo| !pod.affinity.is_empty() && pod.group.contains(other, namespaces);
        let away = |from: &PodInfo, other: &PodInfo| from.anti_affinity.iter().any(|term| term.set.contains(other, namespaces));
        // A pod that may be the first of its group may be so, too, when the last other one is gone.
        let gone = move |pod: &PodInfo, other: &PodInfo| near(pod, other) || away(pod, other) || away(other, pod);
        match change {
            Change::Node | Change::NodeGone | Change::Namespace => Helped::All,
            Change::PodGone(other) => Helped::when(move |pod| gone(pod, other)),
            Change::PodPlaced(other) => Helped::when(move |pod| near(pod, other)),
            Change::PodChanged { from, to } => Helped::when(move |pod| gone(pod, from) || near(pod, to)),
        }
    }
}

impl Check for Prepared<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
        let near = self.near.iter().all(|tally| tally.at(node) > 0);
        let first_of_group = || self.own_group && self.near.iter().all(|tally| tally.total() == 0 && tally.has_place(node));
        if !near && !first_of_group() {
            return Err(vec![Refusal::lasting("node(s) didn't match pod affinity rules")]);
        }
        if self.away.iter().any(|tally| tally.at(node) > 0) {
            return Err(vec![Refusal::resolvable("node(s) didn't match pod anti-affinity rules")]);
        }
        if self.unwanted.iter().any(|(_, tally)| tally.at(node) > 0) {
            return Err(vec![Refusal::resolvable("node(s) didn't satisfy existing pods anti-affinity rules")]);
        }
        Ok(())
    }

    fn changed(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let namespaces = self.cluster.namespaces();
        if !self.near.is_empty() && self.pod.group.contains(other, namespaces) {
            self.near.iter_mut().for_each(|tally| tally.change(node, by));
        }
        for (term, tally) in self.pod.anti_affinity.iter().zip(&mut self.away) {
            if term.set.contains(other, namespaces) {
                tally.change(node, by);
            }
        }
        for term in other.anti_affinity.iter().filter(|term| term.set.contains(self.pod, namespaces)) {
            let same = |known: &AffinityTerm| known.set.id() == term.set.id() && known.topology_key == term.topology_key;
            match self.unwanted.iter_mut().find(|(known, _)| same(known)) {
                Some((_, tally)) => tally.change(node, by),
                None => {
                    let mut tally = Tally::new(term.topology_key.clone(), Cow::Owned(Places::default()));
                    tally.change(node, by);
                    self.unwanted.push((term.clone(), tally));
                }
            }
        }
    }
}
