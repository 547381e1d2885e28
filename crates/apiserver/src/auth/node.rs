//! The node authoriser: what a kubelet may do follows from the pods on its node.
//!
//! A kubelet may read the Secrets, ConfigMaps and so on that its pods name, and get tokens for their service accounts; other rules are
//! fixed. NodeRestriction (see its module) then looks at what exactly a kubelet writes. As upstream at 1.33, a kubelet reads only its
//! own pods and its own Node through this.
//!
//! The pods come from the store's index on `spec.nodeName`; what each names is worked out once per version of the pod and kept.
//! *Invariant:* what `nodes` holds of a node and a namespace is of pods that were there when it was last asked about.

use std::{collections::HashMap, sync::Arc};

use api::{
    StatusError,
    core::v1::{Node, Pod},
    names::LEASE_NAMESPACE,
    rbac::v1::PolicyRule,
    references::References,
};
use parking_lot::Mutex;
use store::{Entry, ReadAt, Store};

use super::{Attributes, ResourceAttributes, Verdict, rbac::rules};
use crate::reader::{self, Reader};

/// Nodes of which references are kept at most.
const REMEMBERED: usize = 10_000;

/// What the pods of one node refer to: by namespace and name of the pod, with the revision it was worked out from.
type Graph = HashMap<String, HashMap<String, (i64, References)>>;

/// Decides on requests of kubelets.
pub(super) struct NodeAuthorizer {
    store: Store,
    rules: Vec<PolicyRule>,
    nodes: Mutex<HashMap<String, Arc<Mutex<Graph>>>>,
}

/// What a kubelet wants to read because a pod refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

impl NodeAuthorizer {
    pub(super) fn new(store: Store) -> Self {
        Self { store, rules: static_rules(), nodes: Mutex::default() }
    }

    /// Decides on an action; no opinion, without a reason, on users that are no kubelets.
    pub(super) async fn authorize(&self, attributes: &Attributes<'_>) -> Result<Verdict, StatusError> {
        let Some(node) = attributes.user.node_name() else { return Ok(Verdict::default()) };
        let by_rule = || if rules::allow(attributes, &self.rules) { Verdict::allow("") } else { Verdict::default() };
        let Some(r) = attributes.resource() else { return Ok(by_rule()) };
        match (r.group, r.resource) {
            ("", "secrets") => self.readable(node, attributes.verb, r, Wanted::Secret).await,
            ("", "configmaps") => self.readable(node, attributes.verb, r, Wanted::ConfigMap).await,
            ("", "persistentvolumeclaims") => match (attributes.verb, r.subresource) {
                ("get", "") | ("get" | "update" | "patch", "status") => self.related(node, r, Wanted::Claim).await,
                _ => Ok(Verdict::no_opinion("can only get individual resources of this type")),
            },
            ("", "serviceaccounts") => match (attributes.verb, r.subresource) {
                ("get", "") => self.related(node, r, Wanted::ServiceAccount).await,
                ("create", "token") if !r.name.is_empty() => self.related(node, r, Wanted::ServiceAccount).await,
                ("create", "token") => Ok(Verdict::no_opinion("can only create tokens for individual service accounts")),
                _ => Ok(Verdict::no_opinion("can only get service accounts of its pods and create their tokens")),
            },
            ("coordination.k8s.io", "leases") => Ok(lease(node, attributes.verb, r)),
            ("", "nodes") => Ok(own_node(node, attributes.verb, r)),
            ("", "pods") => self.pod(node, attributes.verb, r).await,
            _ => Ok(by_rule()),
        }
    }

    async fn readable(&self, node: &str, verb: &str, r: &ResourceAttributes<'_>, wanted: Wanted) -> Result<Verdict, StatusError> {
        let why = match verb {
            _ if !matches!(verb, "get" | "list" | "watch") => "can only read resources of this type",
            _ if !r.subresource.is_empty() => "cannot read subresource",
            _ if r.namespace.is_empty() => "can only read namespaced object of this type",
            _ => return self.related(node, r, wanted).await,
        };
        Ok(Verdict::no_opinion(why))
    }

    /// Allows what a pod of the node refers to.
    async fn related(&self, node: &str, r: &ResourceAttributes<'_>, wanted: Wanted) -> Result<Verdict, StatusError> {
        if r.name.is_empty() {
            return Ok(Verdict::no_opinion("No Object name found"));
        }
        // Another API server may have bound the pod just now, so that what the cache does not know is looked for in etcd.
        for at in [ReadAt::Any, ReadAt::Latest] {
            let pods = Reader::<Pod>::new(&self.store).indexed(r.namespace, "spec.nodeName", node, at).await?;
            if self.refer(node, r.namespace, &pods, |references| names(references, wanted, r.name))? {
                return Ok(Verdict::allow(""));
            }
        }
        Ok(unrelated(node))
    }

    /// True if one of the node's pods in a namespace refers to what `wanted` says.
    fn refer(
        &self,
        node: &str,
        namespace: &str,
        pods: &[Arc<Entry>],
        wanted: impl Fn(&References) -> bool,
    ) -> Result<bool, StatusError> {
        let graph = self.graph(node);
        let mut graph = graph.lock();
        let mut known = graph.remove(namespace).unwrap_or_default();
        let mut current = HashMap::with_capacity(pods.len());
        let mut found = false;
        for pod in pods {
            let references = match known.remove(pod.name()) {
                Some((revision, references)) if revision == pod.revision() => references,
                _ => References::of(&reader::decode(pod)?),
            };
            found |= wanted(&references);
            current.insert(pod.name().to_owned(), (pod.revision(), references));
        }
        if !current.is_empty() {
            graph.insert(namespace.to_owned(), current);
        }
        Ok(found)
    }

    /// What is known of a node's pods.
    fn graph(&self, node: &str) -> Arc<Mutex<Graph>> {
        let mut nodes = self.nodes.lock();
        if let Some(graph) = nodes.get(node) {
            return graph.clone();
        }
        // Of nodes that are gone nobody tells us. What is forgotten is worked out anew when it is needed.
        if nodes.len() >= REMEMBERED {
            nodes.clear();
        }
        nodes.entry(node.to_owned()).or_default().clone()
    }

    async fn pod(&self, node: &str, verb: &str, r: &ResourceAttributes<'_>) -> Result<Verdict, StatusError> {
        match (verb, r.subresource) {
            // NodeRestriction looks at which pods these are on.
            ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(Verdict::allow("")),
            ("list" | "watch", "") if r.selected_node == Some(node) => Ok(Verdict::allow("")),
            ("get" | "list" | "watch", "") if !r.name.is_empty() => {
                let on_node = |entry: &Entry| reader::decode::<Pod>(entry).is_ok_and(|pod| pod.spec().node_name == node);
                let pod = Reader::<Pod>::new(&self.store).entry_unless_cached(r.namespace, r.name, on_node).await?;
                Ok(if pod.is_some_and(|pod| on_node(&pod)) { Verdict::allow("") } else { unrelated(node) })
            }
            ("list" | "watch", "") => Ok(Verdict::no_opinion("can only list/watch pods with spec.nodeName field selector")),
            _ => Ok(Verdict::default()),
        }
    }
}

fn names(references: &References, wanted: Wanted, name: &str) -> bool {
    match wanted {
        Wanted::Secret => references.secrets.contains(name),
        Wanted::ConfigMap => references.config_maps.contains(name),
        Wanted::Claim => references.claims.contains(name),
        Wanted::ServiceAccount => references.service_account == name,
    }
}

fn unrelated(node: &str) -> Verdict {
    Verdict::no_opinion(format!("no relationship found between node '{node}' and this object"))
}

/// A node has one lease, of its own name. At creation the name is not known here; NodeRestriction looks at it.
fn lease(node: &str, verb: &str, r: &ResourceAttributes<'_>) -> Verdict {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Verdict::no_opinion("can only get, create, update, patch, or delete a node lease");
    }
    if r.namespace != LEASE_NAMESPACE {
        return Verdict::no_opinion(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if verb != "create" && r.name != node {
        return Verdict::no_opinion("can only access node lease with the same name as the requesting node");
    }
    Verdict::allow("")
}

fn own_node(node: &str, verb: &str, r: &ResourceAttributes<'_>) -> Verdict {
    match (verb, r.subresource, r.name) {
        // NodeRestriction looks at which node it is.
        ("create" | "update" | "patch", "", _) | ("update" | "patch", "status", _) => Verdict::allow(""),
        ("get" | "list" | "watch", "", name) if name == node => Verdict::allow(""),
        ("get" | "list" | "watch", "", "") => {
            Verdict::no_opinion(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("get" | "list" | "watch", "", name) => {
            Verdict::no_opinion(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => Verdict::default(),
    }
}

/// What every kubelet may do, whatever its pods.
fn static_rules() -> Vec<PolicyRule> {
    let rule = |verbs: &[&str], group: &str, resources: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: owned(verbs),
            api_groups: vec![group.to_owned()],
            resources: owned(resources),
            ..PolicyRule::default()
        }
    };
    vec![
        // Its own server asks who its callers are and what they may do.
        rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
        rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews", "localsubjectaccessreviews"]),
        // Environment variables of Services.
        rule(&["get", "list", "watch"], "", &["services"]),
        rule(&["create", "update", "patch"], "", &["events"]),
        rule(&["create", "update", "patch"], "events.k8s.io", &["events"]),
    ]
}

/// The node's object as admission needs it.
pub(super) async fn uid_of_node(store: &Store, name: &str) -> Result<Option<String>, StatusError> {
    Ok(Reader::<Node>::new(store).entry_unless_cached("", name, |_| true).await?.map(|entry| entry.uid().to_owned()))
}
