//! Topology spread constraints that should hold.

use crate::{
    cluster::Cluster,
    filters::Counts,
    node::NodeInfo,
    plugin::{Score, normalize_range},
    pod::PodInfo,
};

/// Fewer matching pods in the node's places; places of constraints with many of them count more, as upstream has it.
pub struct PodTopologySpread;

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &PodInfo, cluster: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let counts = Counts::of(pod, cluster, false);
        if counts.is_empty() {
            return None;
        }
        let of = |node: &&NodeInfo| {
            let cost = counts.iter().map(|c| {
                let here = node.label(&c.constraint.topology_key).map_or(i64::from(u16::MAX), |place| c.at(place));
                #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small counts")]
                let weighted = (here as f64 * ((c.places() + 2) as f64).ln() * 100.0) as i64;
                weighted + c.constraint.max_skew - 1
            });
            -cost.sum::<i64>()
        };
        Some(normalize_range(nodes.iter().map(of).collect()))
    }
}
