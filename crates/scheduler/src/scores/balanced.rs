//! Prefers nodes where CPU and memory are used up at the same pace.

use crate::{cluster::Cluster, node::NodeInfo, plugin::Score, pod::PodInfo};

/// 100 less the difference between the shares of CPU and memory in use, halved.
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, _: &Cluster, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        // A pod that asks for nothing unbalances nothing.
        if pod.requested.milli_cpu == 0 && pod.requested.memory == 0 {
            return None;
        }
        let share = |taken: i64, all: i64| if all <= 0 { 10_000 } else { (taken.saturating_mul(10_000) / all).min(10_000) };
        let of = |node: &&NodeInfo| {
            let cpu = share(node.requested.milli_cpu + pod.requested.milli_cpu, node.allocatable.milli_cpu);
            let memory = share(node.requested.memory + pod.requested.memory, node.allocatable.memory);
            // The standard deviation of two values is half their difference.
            100 - (cpu - memory).abs() / 2 / 100
        };
        Some(nodes.iter().map(of).collect())
    }
}
