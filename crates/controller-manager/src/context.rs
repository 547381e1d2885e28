//! What every controller is given, and what none of them needs of the objects they share.

use std::collections::BTreeMap;

use client::{Client, ControllerMetrics, EventRecorder, Informers, Item, Metadata};
use daemon::Kit;

use crate::reads::SeenPod;

/// Name of the index of objects by namespace.
pub const NAMESPACE: &str = "namespace";
/// Name of the index of pods by node.
pub const NODE: &str = "node";
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

/// Drops what no controller reads of the metadata of every kind, so that thousands of objects stay small.
pub fn shrink(informers: &Informers) {
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
pub fn by_node(pod: &SeenPod) -> Vec<String> {
    Some(pod.spec().node_name.clone()).filter(|node| !node.is_empty()).into_iter().collect()
}

/// Values of the index [`OWNER`].
pub fn by_owner<T: Item>(object: &T) -> Vec<String> {
    object.meta().owner_references.iter().map(|owner| owner.uid.clone()).collect()
}
