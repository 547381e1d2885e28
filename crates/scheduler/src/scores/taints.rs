//! Taints that pods should rather avoid.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Score, normalize},
    pod::PodInfo,
};

/// Fewer `PreferNoSchedule` taints that the pod does not tolerate.
pub struct TaintToleration;

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let of = |node: &&NodeInfo| {
            let taints = node.node.spec().taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !pod.tolerates(t));
            i64::try_from(taints.count()).unwrap_or(i64::MAX / 100)
        };
        let counts: Vec<i64> = nodes.iter().map(of).collect();
        if counts.iter().all(|n| *n == 0) {
            return None;
        }
        Some(normalize(counts, true))
    }
}
