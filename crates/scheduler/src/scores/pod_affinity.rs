//! Pods that should be near, or away from, other pods: their own preferences and those of the pods that are there.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Score, normalize_range},
    pod::{PodInfo, Rule},
    topology::Tally,
};

/// What a required affinity of a pod that is there counts for a pod that it is about (upstream's default).
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// The weights of all preferences that the node's places meet.
pub struct InterPodAffinity;

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        // The pod's own preferences about every pod that is there.
        let own = pod.preferred_pods.iter().map(|(weight, term)| {
            let places = cluster.places(&term.set, &term.topology_key);
            (i64::from(*weight), Tally::new(term.topology_key.as_str(), places))
        });
        // What the pods that are there say about it.
        let theirs = cluster.carried().filter_map(|carried| {
            let weight = match carried.rule {
                Rule::Near => HARD_AFFINITY_WEIGHT,
                Rule::Prefers(weight) => i64::from(weight),
                Rule::Away => return None,
            };
            let about = carried.term.set.contains(pod, cluster.namespaces());
            let tally = || Tally::new(carried.term.topology_key.as_str(), std::borrow::Cow::Borrowed(&carried.places));
            about.then(|| (weight, tally()))
        });
        let weighed: Vec<_> = own.chain(theirs).filter(|(weight, tally)| *weight != 0 && tally.total() != 0).collect();
        if weighed.is_empty() {
            return None;
        }
        let of = |node: &&NodeInfo| weighed.iter().map(|(weight, tally)| weight * tally.at(node)).sum();
        Some(normalize_range(nodes.iter().map(of).collect()))
    }
}
