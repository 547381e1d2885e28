//! What the controllers read of the objects of which there are many. The rest is never decoded nor kept.
//!
//! A controller that comes to read another field adds it here; without it the field reads as unset.

use std::sync::LazyLock;

use api::{
    Resource,
    core::v1::{Node, Pod, Service},
    mask::Mask,
};
use client::{Reads, Trimmed};

/// A pod as the controllers see it.
pub type SeenPod = Trimmed<ReadsPod>;
/// A node as the controllers see it.
pub type SeenNode = Trimmed<ReadsNode>;
/// A Service as the controllers see it.
pub type SeenService = Trimmed<ReadsService>;

/// The fields of pods.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadsPod;
/// The fields of nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadsNode;
/// The fields of Services.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadsService;

const POD: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.labels",
    "metadata.annotations['controller.kubernetes.io/pod-deletion-cost']",
    "metadata.ownerReferences",
    "spec.nodeName",
    "spec.hostname",
    "spec.subdomain",
    "spec.tolerations",
    "spec.priorityClassName",
    "spec.activeDeadlineSeconds",
    "spec.overhead",
    // What quotas count, and the ports that Services name.
    "spec.containers.name",
    "spec.containers.ports",
    "spec.containers.resources",
    "spec.initContainers.name",
    "spec.initContainers.ports",
    "spec.initContainers.resources",
    "spec.initContainers.restartPolicy",
    // A quota's scope asks whether it looks beyond its namespace.
    "spec.affinity.podAffinity",
    "spec.affinity.podAntiAffinity",
    "status.phase",
    "status.reason",
    "status.message",
    "status.startTime",
    "status.podIP",
    "status.podIPs",
    "status.conditions",
    "status.containerStatuses.restartCount",
    "status.containerStatuses.state.terminated.finishedAt",
];

const NODE: &[&str] = &[
    "metadata.name",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.labels",
    "spec.podCIDR",
    "spec.podCIDRs",
    "spec.taints",
    "spec.unschedulable",
    "status.conditions",
];

const SERVICE: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.labels",
    "spec",
];

/// Reads these fields of a kind.
macro_rules! reads {
    ($reads:ty, $kind:ty, $fields:expr) => {
        impl Reads for $reads {
            type Of = $kind;

            fn mask() -> Option<&'static Mask> {
                static MASK: LazyLock<Option<Mask>> = LazyLock::new(|| Mask::new(<$kind>::KIND.message()?, $fields).ok());
                MASK.as_ref()
            }
        }
    };
}

reads!(ReadsPod, Pod, POD);
reads!(ReadsNode, Node, NODE);
reads!(ReadsService, Service, SERVICE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_one_of_its_kind() {
        assert_eq!(Mask::new(Pod::KIND.message().unwrap(), POD).err(), None);
        assert_eq!(Mask::new(Node::KIND.message().unwrap(), NODE).err(), None);
        assert_eq!(Mask::new(Service::KIND.message().unwrap(), SERVICE).err(), None);
    }
}
