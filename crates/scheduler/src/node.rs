//! A node as the scheduler sees it: what it has, and the pods that take from it.

use std::{collections::HashMap, sync::Arc};

use api::{Resource, core::v1::Node, pod::HostPort};

use crate::{pod::PodInfo, resources::Resources};

/// A node with the pods on it, those assumed to be there included.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; its default if pods are on it that was not seen (yet).
    pub node: Arc<Node>,
    /// What pods may take.
    pub allocatable: Resources,
    /// What its pods take.
    pub requested: Resources,
    /// What its pods count as when nodes are scored.
    pub scored: Resources,
    /// Its pods.
    pub pods: Vec<Arc<PodInfo>>,
    /// Sizes of its images in bytes, by each of their names.
    pub images: Arc<HashMap<String, i64>>,
}

impl NodeInfo {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// True if the node itself was seen, not only pods on it.
    pub fn exists(&self) -> bool {
        !self.name().is_empty()
    }

    /// The value of a label; for selectors.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata().labels.get(key).map(String::as_str)
    }

    /// Takes over a new state of the node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        self.allocatable = Resources::from_list(&node.status().allocatable);
        let images = &node.status().images;
        let names = images.iter().flat_map(|image| image.names.iter().map(|name| (name.clone(), image.size_bytes)));
        self.images = Arc::new(names.collect());
        self.node = node;
    }

    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requested);
        self.scored.add(&pod.scored);
        self.pods.push(pod);
    }

    /// Takes a pod away and returns it; `None` if it was not there.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| p.uid() == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requested);
        self.scored.subtract(&pod.scored);
        Some(pod)
    }

    /// The host ports its pods have open.
    pub fn ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.iter().flat_map(|p| &p.ports)
    }
}
