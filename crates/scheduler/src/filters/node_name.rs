//! Pods that name their node.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::PodInfo,
};

/// Refuses all nodes but the one in `spec.nodeName`.
pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let wanted = pod.pod.spec().node_name.as_str();
        if wanted.is_empty() {
            return None;
        }
        Some(Box::new(move |node: &NodeInfo| match node.name() == wanted {
            true => Ok(()),
            false => Err(vec![Refusal::lasting("node(s) didn't match the requested node name")]),
        }))
    }
}
