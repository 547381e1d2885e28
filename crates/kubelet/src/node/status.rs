//! The node's status, derived from what is known of machine, runtime and network.

use api::{
    core::v1::{ContainerImage, NodeAddress, NodeCondition, NodeStatus},
    meta::v1::Time,
};
use jiff::Timestamp;

use super::machine::Machine;
use crate::runtime::Image;

/// Images that a status lists at most: upstream's number.
const IMAGES_MAX: usize = 50;
/// Names of an image that a status lists at most: upstream's number.
const IMAGE_NAMES_MAX: usize = 5;

/// What decides a node's status.
pub(super) struct Facts<'a> {
    pub machine: &'a Machine,
    pub address: &'a str,
    pub hostname: &'a str,
    pub pods: u32,
    pub port: u16,
    /// Version of the runtime.
    pub engine: &'a str,
    /// What is present; `None` if the runtime does not say.
    pub images: Option<&'a [Image]>,
    /// Why no pods can be run; empty if they can.
    pub problems: &'a [String],
}

/// Derives the status; transition times and others' conditions come from the last one.
pub(super) fn status(facts: &Facts<'_>, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let Facts { machine, .. } = facts;
    let mut info = machine.info.clone();
    info.container_runtime_version = format!("docker://{}", facts.engine);
    let mut status = NodeStatus {
        capacity: machine.capacity(facts.pods),
        allocatable: machine.allocatable(facts.pods),
        node_info: Some(info),
        addresses: [("InternalIP", facts.address), ("Hostname", facts.hostname)]
            .map(|(kind, address)| NodeAddress { r#type: kind.into(), address: address.into() })
            .into(),
        images: facts.images.map_or_else(|| old.images.clone(), images),
        volumes_in_use: old.volumes_in_use.clone(),
        volumes_attached: old.volumes_attached.clone(),
        ..NodeStatus::default()
    };
    status.daemon_endpoints_mut().kubelet_endpoint_mut().port = facts.port.into();
    let ready = if facts.problems.is_empty() {
        ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", false, "KubeletNotReady", facts.problems.join(", "))
    };
    let fine = |kind, reason, message: &str| (kind, false, reason, message.to_owned());
    let ours = [
        // Eviction under pressure has its place here.
        fine("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        fine("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        fine("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    let names = ours.each_ref().map(|(kind, ..)| *kind);
    status.conditions.extend(old.conditions.iter().filter(|condition| !names.contains(&condition.r#type.as_str())).cloned());
    for (kind, holds, reason, message) in ours {
        let value = if holds { "True" } else { "False" };
        let before = old.conditions.iter().find(|condition| condition.r#type == kind && condition.status == value);
        status.conditions.push(NodeCondition {
            r#type: kind.into(),
            status: value.into(),
            last_heartbeat_time: Some(Time::from(now)),
            last_transition_time: before.and_then(|condition| condition.last_transition_time).or(Some(now.into())),
            reason: reason.into(),
            message,
        });
    }
    status
}

/// Whether two statuses say the same, heartbeats aside.
pub(super) fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().for_each(|condition| condition.last_heartbeat_time = None);
        status.conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
        status
    };
    still(a) == still(b)
}

/// The largest images, which are those that matter for where a pod starts quickly.
fn images(present: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<ContainerImage> = present
        .iter()
        .filter(|image| !image.names.is_empty())
        .map(|image| ContainerImage {
            names: image.names.iter().take(IMAGE_NAMES_MAX).cloned().collect(),
            size_bytes: image.size,
        })
        .collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images.truncate(IMAGES_MAX);
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(problems: &[String], old: &NodeStatus, second: i64) -> NodeStatus {
        let (machine, engine) = (Machine::default(), "20.10");
        let images = [Image { names: vec!["a:1".into()], size: 5, ..Image::default() }, Image::default()];
        let facts = Facts {
            machine: &machine,
            address: "192.0.2.1",
            hostname: "n1",
            pods: 110,
            port: 10250,
            engine,
            images: Some(&images),
            problems,
        };
        status(&facts, old, Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn conditions_keep_their_transition_time_and_others_stay() {
        let foreign = NodeCondition { r#type: "NetworkUnavailable".into(), status: "False".into(), ..NodeCondition::default() };
        let old = NodeStatus { conditions: vec![foreign], ..NodeStatus::default() };
        let first = derive(&[], &old, 100);
        let second = derive(&[], &first, 200);
        assert!(same(&first, &second), "a heartbeat alone is no change");
        assert!(second.conditions.iter().any(|condition| condition.r#type == "NetworkUnavailable"));
        let ready =
            |status: &NodeStatus| status.conditions.iter().find(|condition| condition.r#type == "Ready").cloned().unwrap();
        assert_eq!(ready(&second).last_transition_time.unwrap().seconds, 100);
        let third = derive(&["container runtime is down".into()], &second, 300);
        assert_eq!((ready(&third).status.as_str(), ready(&third).last_transition_time.unwrap().seconds), ("False", 300));
        assert_eq!(second.images.len(), 1, "images without a name are nobody's");
    }
}
