//! Taints and tolerations.

use crate::core::v1::{Taint, Toleration};

/// Key of the taint on a node that says it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Key of the taint on a node that is not heard of.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Key of the taint on a node that is cordoned off.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// True if the toleration lets a pod be on a node in spite of the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator == "Exists";
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key == taint.key || (toleration.key.is_empty() && exists))
        && (exists || toleration.value == taint.value)
}

/// The first of the tolerations that lets a pod be on a node in spite of the taint.
pub fn tolerated_by<'a>(taint: &Taint, tolerations: &'a [Toleration]) -> Option<&'a Toleration> {
    tolerations.iter().find(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_toleration_lets_pass_what_it_names() {
        let taint: Taint = crate::json::read(json!({"key": "k", "value": "v", "effect": "NoExecute"})).unwrap();
        let passes = |toleration| tolerates(&crate::json::read(toleration).unwrap(), &taint);
        for toleration in [
            json!({"operator": "Exists"}),
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
            json!({"key": "k", "value": "v"}),
            json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}),
        ] {
            assert!(passes(toleration.clone()), "{toleration}");
        }
        for toleration in [
            json!({"key": "k", "value": "w"}),
            json!({"key": "other", "operator": "Exists"}),
            json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
            json!({"value": "v"}),
        ] {
            assert!(!passes(toleration.clone()), "{toleration}");
        }
    }
}
