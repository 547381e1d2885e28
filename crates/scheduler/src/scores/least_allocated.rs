//! Prefers nodes with the most left.

use crate::{cluster::Cluster, node::NodeInfo, plugin::Score, pod::PodInfo};

/// The mean of the shares of CPU and memory that would be left.
pub struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let left = |taken: i64, all: i64| if all <= 0 || taken > all { 0 } else { (all - taken) * 100 / all };
        let of = |node: &&NodeInfo| {
            let cpu = left(node.scored.milli_cpu + pod.scored.milli_cpu, node.allocatable.milli_cpu);
            let memory = left(node.scored.memory + pod.scored.memory, node.allocatable.memory);
            (cpu + memory) / 2
        };
        Some(nodes.iter().map(of).collect())
    }
}
