//! Node selector and required node affinity.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::PodInfo,
};

/// Refuses nodes that do not match `spec.nodeSelector` and the required node affinity.
pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        if pod.node_selector.is_everything() && pod.node_affinity.is_none() {
            return None;
        }
        Some(Box::new(move |node: &NodeInfo| match node_matches(pod, node) {
            true => Ok(()),
            false => Err(vec![Refusal::lasting("node(s) didn't match Pod's node affinity/selector")]),
        }))
    }
}

/// True if the pod's node selector and required affinity allow the node.
pub(crate) fn node_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_selector.matches(|key| node.label(key))
        && pod.node_affinity.as_ref().is_none_or(|affinity| affinity.matches(node.name(), |key| node.label(key)))
}
