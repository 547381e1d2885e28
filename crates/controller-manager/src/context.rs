//! What every controller is given, and what none of them needs of the objects they share.

use std::collections::BTreeMap;

use api::{
    core::v1::{ContainerState, ContainerStateTerminated, Node, Pod, Service},
    meta::v1::ObjectMeta,
};
use client::{Client, ControllerMetrics, EventRecorder, Informers, Item, Metadata};
use daemon::Kit;

/// Name of the index of objects by namespace.
pub const NAMESPACE: &str = "namespace";
/// Name of the index of pods by node.
pub const NODE: &str = "node";
/// Name of the index of objects by label, each as [`label_key`] has it.
pub const LABEL: &str = "label";
/// Name of the index of objects by the UIDs of their owners.
pub const OWNER: &str = "owner";

/// What every controller is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Writes only while the lease is held.
    pub client: Client,
    /// The process's informers.
    pub informers: Informers,
    /// Records events.
    pub recorder: EventRecorder,
    /// Metrics of controllers.
    pub metrics: ControllerMetrics,
    /// The process.
    pub kit: Kit,
}

impl Context {
    /// The same for a controller whose events name it so: upstream's names, since people and programs select events by them.
    #[must_use]
    pub fn recording_as(&self, component: &str) -> Self {
        Self { recorder: self.recorder.of(component), ..self.clone() }
    }
}

/// Drops what no controller reads, so that thousands of objects stay small. Objects in a store are therefore never written back whole:
/// controllers patch.
pub fn shrink(informers: &Informers) {
    informers.transform(|pod: &mut Pod| {
        pod.metadata_mut().annotations.retain(|name, _| name == crate::replication::DELETION_COST);
        let Some(spec) = &mut pod.spec else { return };
        spec.volumes = Vec::new();
        spec.affinity = None;
        spec.security_context = None;
        for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
            container.image = String::new();
            container.command = Vec::new();
            container.args = Vec::new();
            container.env = Vec::new();
            container.env_from = Vec::new();
            container.volume_mounts = Vec::new();
            container.liveness_probe = None;
            container.readiness_probe = None;
            container.startup_probe = None;
            container.lifecycle = None;
            container.security_context = None;
        }
        let Some(status) = &mut pod.status else { return };
        for container in status.container_statuses.iter_mut().chain(&mut status.init_container_statuses) {
            // When those ended that did.
            let finished_at = container.state.take().and_then(|state| state.terminated?.finished_at);
            container.state = finished_at.map(|finished_at| ContainerState {
                terminated: Some(ContainerStateTerminated { finished_at: Some(finished_at), ..Default::default() }),
                ..Default::default()
            });
            container.last_state = None;
            container.image = String::new();
            container.image_id = String::new();
            container.container_id = String::new();
        }
    });
    informers.transform(|node: &mut Node| {
        node.metadata_mut().annotations = BTreeMap::new();
        node.status_mut().images = Vec::new();
    });
    informers.transform(|service: &mut Service| service.metadata_mut().annotations = BTreeMap::new());
    informers.transform(|metadata: &mut Metadata| {
        metadata.metadata.annotations = BTreeMap::new();
        metadata.metadata.labels = BTreeMap::new();
    });
}

/// Values of the index [`NAMESPACE`].
pub fn by_namespace<T: Item>(object: &T) -> Vec<String> {
    vec![object.meta().namespace.clone()]
}

/// Values of the index [`NODE`].
pub fn by_node(pod: &Pod) -> Vec<String> {
    Some(pod.spec().node_name.clone()).filter(|node| !node.is_empty()).into_iter().collect()
}

/// Values of the index [`LABEL`].
pub fn by_label<T: Item>(object: &T) -> Vec<String> {
    let meta = object.meta();
    meta.labels.iter().map(|(name, value)| label_key(&meta.namespace, name, value)).collect()
}

/// Values of the index [`OWNER`].
pub fn by_owner<T: Item>(object: &T) -> Vec<String> {
    object.meta().owner_references.iter().map(|owner| owner.uid.clone()).collect()
}

/// A label of an object in a namespace, as one text.
pub fn label_key(namespace: &str, name: &str, value: &str) -> String {
    format!("{namespace}\0{name}\0{value}")
}

/// The object's revision; 0 if it has none.
pub fn revision(meta: &ObjectMeta) -> i64 {
    meta.resource_version.parse().unwrap_or(0)
}
