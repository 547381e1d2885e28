//! Pods and nodes for tests, in a few words.

use std::sync::Arc;

use api::{
    core::v1::{Container, Node, Pod, Taint},
    resource::Quantity,
};

use crate::{cluster::Cluster, pod::PodInfo};

pub struct NodeBuilder(Node);

pub fn node(name: &str) -> NodeBuilder {
    let mut node = Node::default();
    node.metadata_mut().name = name.to_owned();
    node.metadata_mut().labels.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    NodeBuilder(node).allocatable("cpu", "4").allocatable("memory", "8Gi").allocatable("pods", "110")
}

impl NodeBuilder {
    fn allocatable(mut self, resource: &str, amount: &str) -> Self {
        self.0.status_mut().allocatable.insert(resource.to_owned(), Quantity { string: amount.to_owned() });
        self
    }

    pub fn cpu(self, amount: &str) -> Self {
        self.allocatable("cpu", amount)
    }

    pub fn memory(self, amount: &str) -> Self {
        self.allocatable("memory", amount)
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata_mut().labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taint = Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned(), ..Taint::default() };
        self.0.spec_mut().taints.push(taint);
        self
    }

    pub fn build(self) -> Arc<Node> {
        Arc::new(self.0)
    }
}

pub struct PodBuilder(Pod);

pub fn pod(name: &str) -> PodBuilder {
    let mut pod = Pod::default();
    let meta = pod.metadata_mut();
    (meta.name, meta.namespace, meta.uid) = (name.to_owned(), "default".to_owned(), name.to_owned());
    pod.spec_mut().containers.push(Container::default());
    PodBuilder(pod)
}

impl PodBuilder {
    pub fn cpu(mut self, amount: &str) -> Self {
        let requests = &mut self.0.spec_mut().containers[0].resources_mut().requests;
        requests.insert("cpu".to_owned(), Quantity { string: amount.to_owned() });
        self
    }

    pub fn priority(mut self, priority: i32) -> Self {
        self.0.spec_mut().priority = Some(priority);
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata_mut().labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Pod)) -> Self {
        change(&mut self.0);
        self
    }

    pub fn build(self) -> PodInfo {
        PodInfo::new(Arc::new(self.0)).unwrap()
    }
}

pub fn cluster(nodes: impl IntoIterator<Item = Arc<Node>>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(node);
    }
    cluster
}
