//! What the controllers' tests share.

use std::sync::Arc;

use api::core::v1::{Namespace, Pod};
use client::{ControllerMetrics, EventRecorder, Informers, testing::MemoryServer};
use daemon::Kit;
use serde_json::{Value, json};

use crate::{Context, context, reads::SeenPod};

/// A context over an in-memory API server.
pub fn context(server: &MemoryServer) -> Context {
    let kit = Kit::new();
    let client = server.client();
    let informers = Informers::new(client.clone(), kit.clone());
    context::shrink(&informers);
    let recorder = EventRecorder::spawn(client.clone(), "test", "", &kit);
    Context { informers, recorder, metrics: ControllerMetrics::register(&kit.metrics), client, kit }
}

/// An object from JSON.
pub fn object<K: api::Resource>(value: Value) -> K {
    api::json::from_value(value).unwrap()
}

/// A pod as the controllers see it.
pub fn seen(pod: &Pod) -> Arc<SeenPod> {
    Arc::new(SeenPod::of(pod).unwrap())
}

/// A namespace that is in use.
pub fn namespace(name: &str) -> Namespace {
    object(json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}))
}

/// A pod on a node that runs and is ready.
pub fn running_pod(namespace: &str, name: &str, node: &str, ip: &str) -> Pod {
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}],
        },
    }))
}
