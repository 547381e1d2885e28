//! Pods that should be near, or away from, other pods: their own preferences and those of the pods that are there.

use std::collections::HashMap;

use crate::{
    cluster::Cluster,
    filters::topology_value,
    node::NodeInfo,
    plugin::{Score, normalize_range},
    pod::{AffinityTerm, PodInfo},
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
        let label = |namespace: &str, key: &str| cluster.namespace_label(namespace, key);
        let mut places: HashMap<(&str, &str), i64> = HashMap::new();
        for node in cluster.nodes() {
            let weigh = |term: &AffinityTerm, about: &PodInfo, weight: i64| if term.selects(about, label) { weight } else { 0 };
            // The pod's own preferences about every pod that is there.
            for (weight, term) in &pod.preferred_pods {
                let Some(value) = topology_value(node, term) else { continue };
                let sum: i64 = node.pods.iter().map(|p| weigh(term, p, i64::from(*weight))).sum();
                *places.entry((&term.topology_key, value)).or_default() += sum;
            }
            // What the pods that are there say about it.
            for existing in &node.with_affinity {
                let hard = existing.affinity.iter().map(|t| (HARD_AFFINITY_WEIGHT, t));
                let soft = existing.preferred_pods.iter().map(|(w, t)| (i64::from(*w), t));
                for (weight, term) in hard.chain(soft) {
                    let Some(value) = topology_value(node, term) else { continue };
                    *places.entry((&term.topology_key, value)).or_default() += weigh(term, pod, weight);
                }
            }
        }
        places.retain(|_, weight| *weight != 0);
        if places.is_empty() {
            return None;
        }
        let of = |node: &&NodeInfo| {
            let here = places.iter().filter(|((key, value), _)| node.label(key) == Some(value));
            here.map(|(_, weight)| *weight).sum()
        };
        Some(normalize_range(nodes.iter().map(of).collect()))
    }
}
