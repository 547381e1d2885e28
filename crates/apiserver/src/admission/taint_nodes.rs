//! A new node gets no pods before it has said that it is ready: the node lifecycle controller takes the taint away then.

use api::{
    Object,
    core::v1::{Node, Taint},
    taint::NOT_READY,
};

use super::{Admitted, Effects, Plugin, Write};

const EFFECT: &str = "NoSchedule";

/// See the module.
pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        if let Some(node) = write.created::<Node>(object) {
            let taints = &mut node.spec_mut().taints;
            if !taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == EFFECT) {
                taints.push(Taint { key: NOT_READY.to_owned(), effect: EFFECT.to_owned(), ..Taint::default() });
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
