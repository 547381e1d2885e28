//! The filters, cheap ones first.

mod node_affinity;
mod node_name;
mod node_ports;
mod pod_affinity;
mod resources_fit;
mod taints;
#[cfg(test)]
mod tests;
mod topology_spread;
mod unschedulable;

pub(crate) use self::topology_spread::Spread;
use crate::plugin::Filter;

/// The filter of a name.
pub(crate) fn named(name: &str) -> Option<&'static dyn Filter> {
    ALL.iter().copied().find(|filter| filter.name() == name)
}

/// Every filter in the order they are asked.
pub const ALL: &[&dyn Filter] = &[
    &unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taints::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &resources_fit::NodeResourcesFit,
    &topology_spread::PodTopologySpread,
    &pod_affinity::InterPodAffinity,
];
