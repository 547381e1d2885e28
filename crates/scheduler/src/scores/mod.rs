//! The scores with their weights (upstream's).

mod balanced;
mod image_locality;
mod least_allocated;
mod node_affinity;
mod pod_affinity;
mod taints;
mod topology_spread;

use crate::plugin::Score;

/// Every score.
pub const ALL: &[&dyn Score] = &[
    &taints::TaintToleration,
    &node_affinity::NodeAffinity,
    &least_allocated::LeastAllocated,
    &balanced::BalancedAllocation,
    &topology_spread::PodTopologySpread,
    &pod_affinity::InterPodAffinity,
    &image_locality::ImageLocality,
];
