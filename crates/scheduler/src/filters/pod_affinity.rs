//! Pods that must be near, or away from, other pods: their own rules and those of the pods that are there.

use std::collections::{HashMap, HashSet};

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::{AffinityTerm, PodInfo},
};

/// Refuses nodes that break a required affinity or anti-affinity between pods.
pub struct InterPodAffinity;

/// A place: a label and its value.
type Place<'a> = (&'a str, &'a str);

struct Prepared<'a> {
    pod: &'a PodInfo,
    /// Places where a pod that is there does not want this one.
    unwanted: HashSet<Place<'a>>,
    /// Per required affinity term, the places with a pod that matches all of the terms.
    near: Vec<HashSet<&'a str>>,
    /// Per anti-affinity term, the places with a matching pod.
    away: Vec<HashSet<&'a str>>,
    /// No pod anywhere matches the affinity, but this pod itself does: the first of a group.
    first_of_group: bool,
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let label = |namespace: &str, key: &str| cluster.namespace_label(namespace, key);
        let unwanted = unwanted_places(pod, cluster);
        if unwanted.is_empty() && pod.affinity.is_empty() && pod.anti_affinity.is_empty() {
            return None;
        }
        let near_all = |existing: &PodInfo| pod.affinity.iter().all(|t| t.selects(existing, label));
        let near = pod.affinity.iter().map(|t| places(t, cluster, near_all)).collect::<Vec<_>>();
        let away = pod.anti_affinity.iter().map(|t| places(t, cluster, |existing| t.selects(existing, label))).collect();
        let first_of_group = near.iter().all(HashSet::is_empty) && near_all(pod);
        Some(Box::new(Prepared { pod, unwanted, near, away, first_of_group }))
    }
}

impl Check for Prepared<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
        let at =
            |term: &AffinityTerm, places: &HashSet<&str>| topology_value(node, term).is_some_and(|value| places.contains(value));
        let has_keys = self.pod.affinity.iter().all(|t| topology_value(node, t).is_some());
        let near = self.pod.affinity.iter().zip(&self.near).all(|(t, places)| at(t, places));
        if !has_keys || !(near || self.first_of_group) {
            return Err(vec![Refusal::lasting("node(s) didn't match pod affinity rules")]);
        }
        if self.pod.anti_affinity.iter().zip(&self.away).any(|(t, places)| at(t, places)) {
            return Err(vec![Refusal::resolvable("node(s) didn't match pod anti-affinity rules")]);
        }
        if self.unwanted.iter().any(|(key, value)| node.label(key) == Some(value)) {
            return Err(vec![Refusal::resolvable("node(s) didn't satisfy existing pods anti-affinity rules")]);
        }
        Ok(())
    }
}

/// The value of the term's topology label on a node.
pub(crate) fn topology_value<'a>(node: &'a NodeInfo, term: &AffinityTerm) -> Option<&'a str> {
    node.label(&term.topology_key)
}

fn places<'a>(term: &AffinityTerm, cluster: &'a Cluster, matches: impl Fn(&PodInfo) -> bool) -> HashSet<&'a str> {
    // A place needs but one matching pod; nodes of a place that has one are passed over.
    let mut found = HashMap::new();
    for node in cluster.nodes() {
        let Some(value) = topology_value(node, term) else { continue };
        let has = found.entry(value).or_insert(false);
        *has = *has || node.pods.iter().any(|p| matches(p));
    }
    found.into_iter().filter_map(|(value, has)| has.then_some(value)).collect()
}

fn unwanted_places<'a>(pod: &PodInfo, cluster: &'a Cluster) -> HashSet<Place<'a>> {
    let label = |namespace: &str, key: &str| cluster.namespace_label(namespace, key);
    let mut out = HashSet::new();
    for node in cluster.nodes() {
        for term in node.with_affinity.iter().flat_map(|p| &p.anti_affinity) {
            if let Some(value) = topology_value(node, term)
                && term.selects(pod, label)
            {
                out.insert((term.topology_key.as_str(), value));
            }
        }
    }
    out
}
