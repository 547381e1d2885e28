//! Host ports.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Change, Check, Filter, Helped, Refusal},
    pod::PodInfo,
    pod_set::Namespaces,
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

    fn helped_by<'a>(&self, change: Change<'a>, _: &'a Namespaces) -> Helped<'a> {
        match change {
            Change::PodGone(gone) => {
                Helped::when(|pod| gone.ports.iter().any(|taken| pod.ports.iter().any(|p| p.conflicts(taken))))
            }
            _ => Helped::by_nodes(change),
        }
    }
}
