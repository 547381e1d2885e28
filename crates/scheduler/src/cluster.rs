//! What the scheduler knows of the cluster: nodes in a dense array, their pods, and the labels of namespaces.
//!
//! Updated by the scheduler's one task from the informers and by its own decisions, each time only where something changed. Invariant:
//! every pod is on at most one node; a pod that was assumed to be on a node stays there until the API server shows it there, shows it
//! elsewhere, or the binding failed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{Resource, core::v1::Node};

use crate::{
    default_spreading::{self, DefaultSpreading},
    node::NodeInfo,
    pod::{PodInfo, SpreadConstraint},
    pod_set::{Namespaces, PodSet},
    topology::{Carried, EACH_NODE, Places, Topology},
};

/// The state decisions are made on.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// A node keeps its place as long as it or a pod on it is known; free places are empty.
    nodes: Vec<NodeInfo>,
    free: Vec<usize>,
    by_name: HashMap<String, usize>,
    /// How many nodes exist.
    existing: usize,
    /// Place of the node of each pod, by UID.
    placed: HashMap<String, usize>,
    namespaces: Namespaces,
    /// Pods that room is being made for, by UID, with their nodes.
    nominated: HashMap<String, (Arc<PodInfo>, String)>,
    /// How many nodes have each image, by each of its names.
    images: HashMap<String, usize>,
    topology: Topology,
    default_spreading: DefaultSpreading,
}

impl Cluster {
    /// The nodes, in no particular but a stable order. Some may be known by their pods only, see [`NodeInfo::exists`].
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// How many nodes exist.
    pub fn node_count(&self) -> usize {
        self.existing
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|at| self.nodes.get(*at))
    }

    /// How many nodes have an image of this name.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or_default()
    }

    fn entry(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            self.nodes.len() - 1
        });
        self.by_name.insert(name.to_owned(), at);
        at
    }

    /// Takes over a new state of a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let at = self.entry(node.name());
        self.replace(at, node);
    }

    /// Forgets a node, or remembers only its pods while it has any.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.by_name.get(name).copied() {
            self.replace(at, Arc::default());
            self.tidy(name, at);
        }
    }

    fn replace(&mut self, at: usize, node: Arc<Node>) {
        let entry = &mut self.nodes[at];
        self.existing = self.existing + usize::from(!node.name().is_empty()) - usize::from(entry.exists());
        // Another label may be another place for all of its pods.
        let moves = (entry.name(), &entry.node.metadata().labels) != (node.name(), &node.metadata().labels);
        if moves {
            entry.pods.iter().for_each(|pod| self.topology.change(pod, entry, -1, &self.namespaces));
        }
        for name in entry.images.keys() {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
        entry.set_node(node);
        entry.images.keys().for_each(|name| *self.images.entry(name.clone()).or_default() += 1);
        if moves {
            entry.pods.iter().for_each(|pod| self.topology.change(pod, entry, 1, &self.namespaces));
        }
    }

    /// Frees the place of a node that is gone with all its pods.
    fn tidy(&mut self, name: &str, at: usize) {
        if !self.nodes[at].exists() && self.nodes[at].pods.is_empty() {
            self.nodes[at] = NodeInfo::default();
            self.by_name.remove(name);
            self.free.push(at);
        }
    }

    /// Takes over a pod that is, or is assumed to be, on a node.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(pod.uid());
        let at = self.entry(node);
        self.placed.insert(pod.uid().to_owned(), at);
        self.topology.change(&pod, &self.nodes[at], 1, &self.namespaces);
        self.nodes[at].add(pod);
    }

    /// Takes a pod from its node and returns it; `None` if it was on none.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.placed.remove(uid)?;
        let pod = self.nodes[at].remove(uid)?;
        self.topology.change(&pod, &self.nodes[at], -1, &self.namespaces);
        if !self.nodes[at].exists() && self.nodes[at].pods.is_empty() {
            let name = self.by_name.iter().find(|(_, place)| **place == at).map(|(name, _)| name.clone());
            name.into_iter().for_each(|name| self.tidy(&name, at));
        }
        Some(pod)
    }

    /// The node that a pod is, or is assumed to be, on.
    pub fn node_of(&self, uid: &str) -> Option<&NodeInfo> {
        self.placed.get(uid).and_then(|at| self.nodes.get(*at))
    }

    /// True if the pod is, or is assumed to be, on a node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Remembers that room is being made for a pod on a node.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominated.insert(pod.uid().to_owned(), (pod, node.to_owned()));
    }

    /// Forgets that room is being made for a pod. Returns the pod and the node if it was.
    pub fn forget_nomination(&mut self, uid: &str) -> Option<(Arc<PodInfo>, String)> {
        self.nominated.remove(uid)
    }

    /// The node on which room is being made for a pod.
    pub fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(_, node)| node.as_str())
    }

    /// True if room is being made for any pod.
    pub fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// The pods that room is being made for on a node.
    pub fn nominated_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        self.nominated.values().filter(move |(_, on)| on == node).map(|(pod, _)| pod)
    }

    /// Takes over the labels of a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        if self.namespaces.insert(name.to_owned(), labels.clone()) != Some(labels) {
            self.topology.namespace_changed();
        }
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.topology.namespace_changed();
    }

    /// Labels of namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Keeps count of the pods that this pod's rules are about, so that deciding on it and others like it need not count.
    pub fn follow(&mut self, pod: &PodInfo) {
        for (set, key) in pod.asks() {
            self.topology.follow(set, key, &self.nodes, &self.namespaces);
        }
        if pod.spread.is_empty()
            && let Some(set) = self.default_spreading.group_of(pod)
        {
            self.topology.follow(&set, EACH_NODE, &self.nodes, &self.namespaces);
        }
    }

    /// What groups pods: Services and replication controllers.
    pub fn default_spreading_mut(&mut self) -> &mut DefaultSpreading {
        &mut self.default_spreading
    }

    /// How a pod is spread that does not say so itself.
    pub(crate) fn default_spread(&self, pod: &PodInfo) -> Vec<SpreadConstraint> {
        self.default_spreading.group_of(pod).map(default_spreading::constraints).unwrap_or_default()
    }

    /// How many pods of a set there are, by the values of a topology label.
    pub fn places(&self, set: &PodSet, key: &str) -> Cow<'_, Places> {
        self.topology.places(set, key, &self.nodes, &self.namespaces)
    }

    #[cfg(test)]
    pub(crate) fn followed(&self) -> usize {
        self.topology.followed()
    }

    /// The rules about other pods that pods on nodes have, with the places of those pods.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &Carried> {
        self.topology.carried()
    }
}
