//! NodeRestriction: a kubelet changes only its own Node, its own pods and its own lease, and of those only what is a kubelet's business.
//! The messages are upstream's. Tokens for its pods' service accounts are limited where they are issued.

use std::collections::BTreeSet;

use api::{
    Object, Resource, StatusError,
    coordination::v1::Lease,
    core::v1::{Node, NodeSpec, Pod},
    names::LEASE_NAMESPACE,
    pod::{MIRROR, is_mirror},
    references::References,
};

use super::node::uid_of_node;
use crate::{
    admission::{Admitted, Effects, Plugin, Write},
    request::Verb,
};
use store::Store;

/// Labels of the Kubernetes namespaces that kubelets set on their Node.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// Label namespaces that kubelets may use freely, those below them included.
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Label namespace that tells trusted nodes apart, so that no kubelet may write in it.
const RESTRICTED_NAMESPACE: &str = "node-restriction.kubernetes.io";

/// The admission plugin.
pub(super) struct NodeRestriction(pub(super) Store);

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn permit_deletion<'a>(&'a self, write: &'a Write<'a>, object: &'a dyn Object) -> Admitted<'a> {
        Box::pin(async move {
            let Some(node) = write.request.user.node_name() else { return Ok(()) };
            if let Some(pod) = object.downcast_ref::<Pod>() {
                let what = if write.request.verb == Verb::Create { "evict" } else { "delete" };
                own_pod(node, pod, &format!("can only {what} pods"))?;
            } else if object.downcast_ref::<Node>().is_some() {
                own_name(node, object)?;
            } else if object.downcast_ref::<Lease>().is_some() {
                own_lease(node, object)?;
            }
            Ok(())
        })
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, _effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            let Some(node) = write.request.user.node_name() else { return Ok(()) };
            let object = &*object;
            if let Some(pod) = object.downcast_ref::<Pod>() {
                match write.old.and_then(|old| old.downcast_ref::<Pod>()) {
                    None => self.mirror_pod(node, pod).await?,
                    Some(old) => pod_status(node, write.request.part(), pod, old)?,
                }
            } else if let Some(new) = object.downcast_ref::<Node>() {
                own_name(node, object)?;
                own_node(node, new, write.old.and_then(|old| old.downcast_ref::<Node>()))?;
            } else if object.downcast_ref::<Lease>().is_some() {
                own_lease(node, object)?;
            }
            Ok(())
        })
    }
}

impl NodeRestriction {
    /// The only pods that a kubelet creates: those that show what it runs from files of its host.
    async fn mirror_pod(&self, node: &str, pod: &Pod) -> Result<(), StatusError> {
        let no = |why: String| Err(StatusError::forbidden(Pod::KIND, &pod.metadata().name, why));
        if !is_mirror(pod) {
            return no(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
        }
        if pod.spec().node_name != node {
            return no(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let [owner] = pod.metadata().owner_references.as_slice() else {
            return no(format!("node {node:?} can only create pods with a single owner reference set to itself"));
        };
        if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
            return no(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if owner.controller != Some(true) {
            return no(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner.block_owner_deletion == Some(true) {
            return no(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let uid = uid_of_node(&self.0, node).await?.ok_or_else(|| StatusError::not_found(Node::KIND, node))?;
        if owner.uid != uid {
            return no(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
        }
        // The annotation is left out of account: what the spec names is the question here.
        let named = References::of_spec(&pod.metadata().name, pod.spec());
        let kinds = [
            ("a service account", !named.service_account.is_empty()),
            ("secrets", !named.secrets.is_empty()),
            ("configmaps", !named.config_maps.is_empty()),
            ("persistentvolumeclaims", !named.claims.is_empty()),
            ("resourceclaims", !pod.spec().resource_claims.is_empty()),
        ];
        match kinds.iter().find(|(_, is_named)| *is_named) {
            Some((what, _)) => no(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }
}

fn own_pod(node: &str, pod: &Pod, what: &str) -> Result<(), StatusError> {
    if pod.spec().node_name == node {
        return Ok(());
    }
    let why = format!("node {node:?} {what} with spec.nodeName set to itself");
    Err(StatusError::forbidden(Pod::KIND, &pod.metadata().name, why))
}

fn pod_status(node: &str, subresource: &str, pod: &Pod, old: &Pod) -> Result<(), StatusError> {
    let no = |why: String| Err(StatusError::forbidden(Pod::KIND, &old.metadata().name, why));
    if subresource != "status" {
        return no(format!("unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed"));
    }
    own_pod(node, old, "can only update pod status for pods")?;
    if pod.metadata().labels != old.metadata().labels {
        return no(format!("node {node:?} cannot update labels through pod status"));
    }
    if pod.status().resource_claim_statuses != old.status().resource_claim_statuses {
        return no(format!("node {node:?} cannot update resource claim statuses"));
    }
    Ok(())
}

fn own_name(node: &str, object: &dyn Object) -> Result<(), StatusError> {
    let name = &object.meta().name;
    if name == node {
        return Ok(());
    }
    Err(StatusError::forbidden(object.kind(), name, format!("node {node:?} is not allowed to modify node {name:?}")))
}

fn own_lease(node: &str, object: &dyn Object) -> Result<(), StatusError> {
    let meta = object.meta();
    let no = |why: String| Err(StatusError::forbidden(Lease::KIND, &meta.name, why));
    if meta.namespace != LEASE_NAMESPACE {
        return no(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if meta.name != node {
        return no("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn own_node(node: &str, new: &Node, old: Option<&Node>) -> Result<(), StatusError> {
    let no = |why: String| Err(StatusError::forbidden(Node::KIND, node, why));
    let empty = Default::default();
    let labels = &new.metadata().labels;
    let old_labels = old.map_or(&empty, |old| &old.metadata().labels);
    let keys: BTreeSet<&String> = labels.keys().chain(old_labels.keys()).collect();
    let changed = keys.into_iter().filter(|key| labels.get(*key) != old_labels.get(*key));
    let forbidden: Vec<&str> = changed.map(String::as_str).filter(|key| is_forbidden(key)).collect();
    // Beyond upstream: every other node routes to the networks that a Node says are its pods', and masquerades none of their traffic.
    let unset = NodeSpec::default();
    let (spec, given) = (new.spec(), old.map_or(&unset, |old| old.spec()));
    if spec.pod_cidr != given.pod_cidr || spec.pod_cidrs != given.pod_cidrs {
        return no(format!("node {node:?} is not allowed to set its podCIDR: the controller manager assigns it"));
    }
    if spec.config_source.is_some() && spec.config_source != given.config_source {
        return no(format!("node {node:?} is not allowed to set configSource"));
    }
    let Some(old) = old else {
        if !new.metadata().owner_references.is_empty() {
            return no(format!("node {node:?} is not allowed to create a node with ownerReferences"));
        }
        if !forbidden.is_empty() {
            return no(format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")));
        }
        return Ok(());
    };
    if new.spec().taints != old.spec().taints {
        return no(format!("node {node:?} is not allowed to modify taints"));
    }
    if new.metadata().owner_references != old.metadata().owner_references {
        return no(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    if !forbidden.is_empty() {
        return no(format!("node {node:?} is not allowed to modify labels: {}", forbidden.join(", ")));
    }
    Ok(())
}

/// True if kubelets must leave the label alone: those that isolate nodes, and Kubernetes' own but for a few.
fn is_forbidden(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else { return false };
    let within = |parent: &str| namespace.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within(RESTRICTED_NAMESPACE) {
        return true;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    of_kubernetes && !KUBELET_LABELS.contains(&key) && !KUBELET_NAMESPACES.iter().any(|parent| within(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_sets_only_labels_that_are_its_business() {
        for allowed in
            ["kubernetes.io/hostname", "disk", "example.com/rack", "node.kubernetes.io/pool", "x.kubelet.kubernetes.io/y"]
        {
            assert!(!is_forbidden(allowed), "{allowed}");
        }
        for forbidden in [
            "node-restriction.kubernetes.io/pci",
            "a.node-restriction.kubernetes.io/pci",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/other",
            "x.k8s.io/y",
        ] {
            assert!(is_forbidden(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn a_kubelet_neither_taints_nor_relabels_its_node() {
        let mut old = Node::default();
        old.metadata_mut().name = "n1".into();
        old.metadata_mut().labels.insert("node-restriction.kubernetes.io/pci".into(), "yes".into());
        assert!(own_node("n1", &old.clone(), Some(&old)).is_ok());

        let mut tainted = old.clone();
        tainted.spec_mut().taints.push(Default::default());
        let error = own_node("n1", &tainted, Some(&old)).unwrap_err();
        assert_eq!(error.message(), "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints");

        let mut bare = old.clone();
        bare.metadata_mut().labels.clear();
        let error = own_node("n1", &bare, Some(&old)).unwrap_err();
        assert!(error.message().ends_with("is not allowed to modify labels: node-restriction.kubernetes.io/pci"), "{error}");
        assert!(own_node("n1", &old, None).unwrap_err().message().contains("set the following labels"));
    }

    #[test]
    fn a_kubelet_does_not_say_which_networks_are_its_own() {
        let mut routed = Node::default();
        routed.spec_mut().pod_cidr = "10.96.0.0/16".into();
        routed.spec_mut().pod_cidrs = vec!["10.96.0.0/16".into()];
        let message =
            "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set its podCIDR: the controller manager assigns it";
        assert_eq!(own_node("n1", &routed, None).unwrap_err().message(), message);
        assert_eq!(own_node("n1", &routed, Some(&Node::default())).unwrap_err().message(), message);
        assert!(own_node("n1", &routed, Some(&routed)).is_ok());
        let mut configured = Node::default();
        configured.spec_mut().config_source = Some(Default::default());
        assert!(own_node("n1", &configured, None).is_err());
    }

    #[test]
    fn a_kubelet_writes_the_status_of_its_own_pods_only() {
        let mut pod = Pod::default();
        pod.metadata_mut().name = "web".into();
        pod.spec_mut().node_name = "n1".into();
        assert!(pod_status("n1", "status", &pod, &pod).is_ok());
        assert!(pod_status("n2", "status", &pod, &pod).is_err());
        assert!(pod_status("n1", "", &pod, &pod).is_err());
        let mut moved = pod.clone();
        moved.metadata_mut().labels.insert("app".into(), "other".into());
        assert!(pod_status("n1", "status", &moved, &pod).is_err());
    }
}
