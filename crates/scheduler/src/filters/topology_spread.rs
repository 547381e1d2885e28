//! Topology spread constraints that must hold.

use std::collections::HashMap;

use api::Resource;

use super::node_affinity::node_matches;
use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::{PodInfo, SpreadConstraint},
};

/// Refuses nodes where one more pod would make the spread too uneven.
pub struct PodTopologySpread;

/// How many matching pods there are in each place of a constraint.
pub(crate) struct Counts<'a> {
    pub(crate) constraint: &'a SpreadConstraint,
    by_place: HashMap<&'a str, i64>,
}

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let counts: Vec<(Counts<'a>, i64)> = Counts::of(pod, cluster, true)
            .into_iter()
            .map(|c| {
                let least = c.least();
                (c, least)
            })
            .collect();
        if counts.is_empty() {
            return None;
        }
        Some(Box::new(move |node: &NodeInfo| {
            for (count, least) in &counts {
                let Some(place) = node.label(&count.constraint.topology_key) else {
                    return Err(vec![Refusal::lasting(
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    )]);
                };
                let own = i64::from(count.constraint.selector.matches(|key| pod.label(key)));
                if count.at(place) + own - least > count.constraint.max_skew {
                    return Err(vec![Refusal::resolvable("node(s) didn't match pod topology spread constraints")]);
                }
            }
            Ok(())
        }))
    }
}

impl<'a> Counts<'a> {
    /// Counts for each of the pod's constraints that are (not) required.
    pub(crate) fn of(pod: &'a PodInfo, cluster: &'a Cluster, required: bool) -> Vec<Self> {
        let constraints: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| c.required == required).collect();
        let all_keys = |node: &NodeInfo| constraints.iter().all(|c| node.label(&c.topology_key).is_some());
        constraints.iter().map(|c| Self::count(pod, cluster, c, &all_keys)).collect()
    }

    fn count(
        pod: &PodInfo,
        cluster: &'a Cluster,
        constraint: &'a SpreadConstraint,
        all_keys: &impl Fn(&NodeInfo) -> bool,
    ) -> Self {
        let mut by_place = HashMap::new();
        for node in cluster.nodes().iter().filter(|n| n.exists() && all_keys(n)) {
            let counted = (!constraint.honor_affinity || node_matches(pod, node))
                && (!constraint.honor_taints
                    || node.node.spec().taints.iter().all(|t| t.effect == "PreferNoSchedule" || pod.tolerates(t)));
            let Some(place) = node.label(&constraint.topology_key).filter(|_| counted) else { continue };
            let here = node.pods.iter().filter(|p| {
                p.pod.namespace() == pod.pod.namespace()
                    && p.pod.metadata().deletion_timestamp.is_none()
                    && constraint.selector.matches(|key| p.label(key))
            });
            *by_place.entry(place).or_default() += i64::try_from(here.count()).unwrap_or(i64::MAX);
        }
        Self { constraint, by_place }
    }

    /// Matching pods in a place.
    pub(crate) fn at(&self, place: &str) -> i64 {
        self.by_place.get(place).copied().unwrap_or_default()
    }

    /// Matching pods in the emptiest place.
    fn least(&self) -> i64 {
        let places = i64::try_from(self.by_place.len()).unwrap_or(i64::MAX);
        if self.constraint.min_domains.is_some_and(|min| places < min) {
            return 0;
        }
        self.by_place.values().copied().min().unwrap_or_default()
    }

    /// How many places there are.
    pub(crate) fn places(&self) -> usize {
        self.by_place.len()
    }
}
