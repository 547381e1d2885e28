//! What the scheduler knows of the cluster: nodes in a dense array, their pods, and the labels of namespaces.
//!
//! Updated by the scheduler's one task from the informers and by its own decisions. Invariant: every pod is on at most one node; a pod
//! that was assumed to be on a node stays there until the API server shows it there, shows it elsewhere, or the binding failed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{Resource, core::v1::Node};

use crate::{node::NodeInfo, pod::PodInfo};

/// The state decisions are made on.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Node of each pod, by UID.
    placed: HashMap<String, String>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Pods that room is being made for, by UID, with their nodes.
    nominated: HashMap<String, (Arc<PodInfo>, String)>,
}

impl Cluster {
    /// The nodes, in no particular but a stable order. Some may be known by their pods only, see [`NodeInfo::exists`].
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// How many nodes exist.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().filter(|n| n.exists()).count()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|at| self.nodes.get(*at))
    }

    /// The same cluster with another state of one node: for asking what if.
    pub fn with_node(&self, node: NodeInfo) -> Self {
        let mut copy = self.clone();
        if let Some(at) = copy.by_name.get(node.name()) {
            copy.nodes[*at] = node;
        }
        copy
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let next = self.nodes.len();
        let at = *self.by_name.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.nodes.push(NodeInfo::default());
        }
        &mut self.nodes[at]
    }

    /// Takes over a new state of a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        self.entry(node.name()).set_node(node);
    }

    /// Forgets a node, or remembers only its pods while it has any.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        if !self.nodes[at].pods.is_empty() {
            self.nodes[at].set_node(Arc::default());
            return;
        }
        self.nodes.swap_remove(at);
        self.by_name.remove(name);
        // The last one took its place.
        let moved = self.by_name.values_mut().find(|place| **place == self.nodes.len());
        if let Some(place) = moved {
            *place = at;
        }
    }

    /// Takes over a pod that is, or is assumed to be, on a node.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(pod.uid());
        self.placed.insert(pod.uid().to_owned(), node.to_owned());
        self.entry(node).add(pod);
    }

    /// Takes a pod from its node. True if it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        let removed = self.by_name.get(&node).is_some_and(|at| self.nodes[*at].remove(uid));
        if self.node(&node).is_some_and(|n| !n.exists() && n.pods.is_empty()) {
            self.remove_node(&node);
        }
        removed
    }

    /// Remembers that room is being made for a pod on a node.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominated.insert(pod.uid().to_owned(), (pod, node.to_owned()));
    }

    /// Forgets that room is being made for a pod.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// The node as it will be once the pods are there that room is being made for and that come before this one; `None` if there are
    /// none.
    pub fn with_nominated(&self, node: &NodeInfo, pod: &PodInfo) -> Option<NodeInfo> {
        let before = |other: &&(Arc<PodInfo>, String)| {
            other.1 == node.name() && other.0.priority >= pod.priority && other.0.uid() != pod.uid()
        };
        let mut with = None;
        for (other, _) in self.nominated.values().filter(before) {
            with.get_or_insert_with(|| node.clone()).add(other.clone());
        }
        with
    }

    /// The node a pod is on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(String::as_str)
    }

    /// Takes over the labels of a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A label of a namespace; for selectors.
    pub fn namespace_label(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }
}
