//! Taints that keep pods away.

use crate::{
    cluster::Cluster,
    node::NodeInfo,
    plugin::{Check, Filter, Refusal},
    pod::PodInfo,
};

/// Refuses nodes with a `NoSchedule` or `NoExecute` taint that the pod does not tolerate.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _: &'a Cluster) -> Option<Box<dyn Check + 'a>> {
        Some(Box::new(move |node: &NodeInfo| {
            let taints = node.node.spec().taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
            match taints.into_iter().find(|t| !pod.tolerates(t)) {
                Some(t) => Err(vec![Refusal::lasting(format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value))]),
                None => Ok(()),
            }
        }))
    }
}
