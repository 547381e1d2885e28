//! Nodes that are cordoned off.

use api::{core::v1::Taint, taint::UNSCHEDULABLE};

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::PodInfo,
};

/// Refuses nodes with `spec.unschedulable`, unless the pod tolerates the taint that stands for it.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        let taint = Taint { key: UNSCHEDULABLE.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        let tolerated = pod.tolerates(&taint);
        Some(Box::new(move |node: &NodeInfo| match node.node.spec().unschedulable && !tolerated {
            true => Err(vec![Refusal::lasting("node(s) were unschedulable")]),
            false => Ok(()),
        }))
    }
}
