//! What a node's conditions and taints should be. No I/O.

use api::{
    core::v1::{Node, NodeCondition, Taint},
    meta::v1::Time,
    taint::{NOT_READY, UNREACHABLE, UNSCHEDULABLE},
};

/// Conditions other than Ready that keep new pods away while they hold.
const BY_CONDITION: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only the kubelet can vouch for.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Whether a node can run pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It says so.
    Ready,
    /// It says that it cannot, or has never said anything.
    NotReady,
    /// It no longer says anything.
    Unknown,
}

/// How many of the nodes that fail together are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disruption {
    /// Few enough are not: each is treated on its own.
    None,
    /// So many are not that something they share is rather at fault.
    Partial,
    /// None is ready.
    Full,
}

pub(super) fn readiness(node: &Node) -> Readiness {
    match node.status().conditions.iter().find(|condition| condition.r#type == "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("Unknown") => Readiness::Unknown,
        _ => Readiness::NotReady,
    }
}

/// Conditions of a node that fell silent; `None` if they say so already.
pub(super) fn silent_conditions(node: &Node, now: Time) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status().conditions.clone();
    let mut changed = false;
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.r#type == *kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = "NodeStatusUnknown".to_owned();
                condition.message = "Kubelet stopped posting node status.".to_owned();
                condition.last_transition_time = Some(now);
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    r#type: (*kind).to_owned(),
                    status: "Unknown".to_owned(),
                    reason: "NodeStatusNeverUpdated".to_owned(),
                    message: "Kubelet never posted node status.".to_owned(),
                    last_heartbeat_time: node.metadata().creation_timestamp,
                    last_transition_time: Some(now),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The node's taints as they should be; those that are not ours stay. `evict` says whether pods may be sent away from a node that is not
/// ready.
pub(super) fn taints(node: &Node, evict: bool, now: Time) -> Vec<Taint> {
    let mut wanted = Vec::new();
    let by_readiness = match readiness(node) {
        Readiness::Ready => None,
        Readiness::NotReady => Some(NOT_READY),
        Readiness::Unknown => Some(UNREACHABLE),
    };
    if let Some(key) = by_readiness {
        wanted.push((key, "NoSchedule"));
        if evict {
            wanted.push((key, "NoExecute"));
        }
    }
    let holds =
        |kind: &str| node.status().conditions.iter().any(|condition| condition.r#type == kind && condition.status == "True");
    wanted.extend(BY_CONDITION.iter().filter(|(kind, _)| holds(kind)).map(|(_, key)| (*key, "NoSchedule")));
    if node.spec().unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints = node.spec().taints.clone();
    taints.retain(|taint| !is_ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added: Some(now), ..Taint::default() });
        }
    }
    taints
}

/// True if the node has the taint that sends its pods away.
pub(super) fn is_evicting(node: &Node) -> bool {
    node.spec().taints.iter().any(|taint| taint.effect == "NoExecute" && matches!(taint.key.as_str(), NOT_READY | UNREACHABLE))
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || BY_CONDITION.iter().any(|(_, key)| *key == taint.key)
        }
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    }
}

/// Judges nodes that fail together, of which so many are ready.
pub(super) fn disruption(ready: usize, not_ready: usize, threshold: f64) -> Disruption {
    let share = not_ready as f64 / (ready + not_ready).max(1) as f64;
    match (ready, not_ready) {
        (0, 1..) => Disruption::Full,
        (_, 3..) if share >= threshold => Disruption::Partial,
        _ => Disruption::None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    fn node(ready: &str) -> Node {
        object(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "True"}]},
        }))
    }

    fn keys(node: &Node, evict: bool) -> Vec<String> {
        let mut keys: Vec<_> = taints(node, evict, Time::now()).iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
        keys.sort();
        keys
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let disk = "node.kubernetes.io/disk-pressure:NoSchedule";
        assert_eq!(keys(&node("True"), true), ["mine:NoSchedule", disk]);
        assert_eq!(keys(&node("False"), false), ["mine:NoSchedule", disk, "node.kubernetes.io/not-ready:NoSchedule"]);
        let unknown = ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"];
        assert_eq!(keys(&node("Unknown"), true)[2..], unknown);
        let mut back = node("Unknown");
        back.spec_mut().taints = taints(&back, true, Time::now());
        back.status_mut().conditions = node("True").status().conditions.clone();
        assert_eq!(keys(&back, true), ["mine:NoSchedule", disk]);
    }

    #[test]
    fn a_taint_keeps_the_time_it_was_added() {
        let mut lost = node("Unknown");
        lost.spec_mut().taints = taints(&lost, true, Time { seconds: 5, nanos: 0 });
        let again = taints(&lost, true, Time { seconds: 9, nanos: 0 });
        assert_eq!(again, lost.spec().taints);
        assert!(is_evicting(&lost));
    }

    #[test]
    fn a_silent_node_is_unknown_in_upstreams_words() {
        let conditions = silent_conditions(&node("True"), Time { seconds: 5, nanos: 0 }).unwrap();
        let of = |kind: &str| conditions.iter().find(|c| c.r#type == kind).unwrap();
        assert_eq!(
            (of("Ready").status.as_str(), of("Ready").message.as_str()),
            ("Unknown", "Kubelet stopped posting node status.")
        );
        assert_eq!(
            (of("PIDPressure").reason.as_str(), of("Ready").last_transition_time().seconds),
            ("NodeStatusNeverUpdated", 5)
        );
        let mut silent = node("True");
        silent.status_mut().conditions = conditions;
        assert!(silent_conditions(&silent, Time::now()).is_none());
    }

    #[test]
    fn when_all_nodes_or_most_of_many_fail_the_nodes_are_not_at_fault() {
        assert_eq!(disruption(0, 3, 0.55), Disruption::Full);
        assert_eq!(disruption(1, 2, 0.55), Disruption::None);
        assert_eq!(disruption(2, 3, 0.55), Disruption::Partial);
        assert_eq!(disruption(7, 3, 0.55), Disruption::None);
    }
}
