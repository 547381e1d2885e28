//! Host ports.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::PodInfo,
};

/// Refuses nodes where a host port of the pod is taken.
pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        if pod.ports.is_empty() {
            return None;
        }
        Some(Box::new(move |node: &NodeInfo| match node.ports().any(|taken| pod.ports.iter().any(|p| p.conflicts(taken))) {
            true => Err(vec![Refusal::resolvable("node(s) didn't have free ports for the requested pod ports")]),
            false => Ok(()),
        }))
    }
}
