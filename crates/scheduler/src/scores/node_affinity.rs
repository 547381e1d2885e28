//! Preferred node affinity.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Score, normalize},
    pod::PodInfo,
};

/// The weights of the preferences that the node meets.
pub struct NodeAffinity;

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        if pod.preferred_nodes.is_empty() {
            return None;
        }
        let of = |node: &&NodeInfo| {
            let met = pod.preferred_nodes.iter().filter(|(_, term)| term.matches(node.name(), |key| node.label(key)));
            met.map(|(weight, _)| i64::from(*weight)).sum()
        };
        Some(normalize(nodes.iter().map(of).collect(), false))
    }
}
