//! Room for what the pod asks for.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Change, Check, Filter, Helped, Refusal},
    pod::PodInfo,
    pod_set::Namespaces,
};

/// Refuses nodes that have less left than the pod asks for.
pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        Some(Box::new(move |node: &NodeInfo| {
            let mut refusals = Vec::new();
            if node.requested.pods + 1 > node.allocatable.pods {
                refusals.push(Refusal::resolvable("Too many pods"));
            }
            for resource in pod.requested.short_of(&node.allocatable, &node.requested) {
                let wanted = amount(&pod.requested, resource);
                // No eviction makes a node larger.
                let helps = wanted <= amount(&node.allocatable, resource);
                refusals.push(Refusal { reason: format!("Insufficient {resource}").into(), preemption_helps: helps });
            }
            if refusals.is_empty() { Ok(()) } else { Err(refusals) }
        }))
    }

    fn helped_by<'a>(&self, change: Change<'a>, _: &'a Namespaces) -> Helped<'a> {
        match change {
            Change::PodGone(_) => Helped::All,
            Change::PodChanged { from, to } if from.requested != to.requested => Helped::All,
            _ => Helped::by_nodes(change),
        }
    }
}

fn amount(resources: &crate::resources::Resources, name: &str) -> i64 {
    match name {
        "cpu" => resources.milli_cpu,
        "memory" => resources.memory,
        "ephemeral-storage" => resources.ephemeral_storage,
        name => resources.extended.get(name).copied().unwrap_or_default(),
    }
}
