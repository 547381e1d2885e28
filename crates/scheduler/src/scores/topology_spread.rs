//! Topology spread constraints that should hold.

use crate::{cluster::Cluster, filters::Spread, node::NodeInfo, plugin::Score, pod::PodInfo};

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
        // Pods that say nothing about it are spread away from others of their kind.
        let defaults = if pod.spread.is_empty() { cluster.default_spread(pod) } else { Vec::new() };
        let all_keys = defaults.is_empty();
        let constraints = pod.spread.iter().filter(|c| !c.required).chain(&defaults).collect();
        let spreads = Spread::over(pod, cluster, constraints, all_keys);
        if spreads.is_empty() {
            return None;
        }
        // How crowded the node's places are; a node that should have all of the labels but lacks one is in no place at all.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small counts")]
        let crowd = |node: &&NodeInfo| {
            let mut sum = 0.0;
            for spread in &spreads {
                match node.label(&spread.constraint.topology_key) {
                    Some(place) => {
                        let weighted = spread.at(place) as f64 * ((spread.places() + 2) as f64).ln();
                        sum += weighted + (spread.constraint.max_skew - 1) as f64;
                    }
                    None if all_keys => return None,
                    None => {}
                }
            }
            Some(sum.round() as i64)
        };
        let crowds: Vec<Option<i64>> = nodes.iter().map(crowd).collect();
        let (most, least) = (crowds.iter().flatten().max().copied()?, crowds.iter().flatten().min().copied()?);
        let score = |crowd: Option<i64>| match crowd {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(crowd) => 100 * (most + least - crowd) / most,
        };
        Some(crowds.into_iter().map(score).collect())
    }
}
