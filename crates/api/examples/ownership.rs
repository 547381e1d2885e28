//! What field ownership costs a write, beside encoding the object: `cargo run --release -p api --example ownership`.

use std::{hint::black_box, time::Instant};

use api::{
    Object, Resource,
    core::v1::{Pod, PodCondition},
    meta::v1::Time,
    ownership::{Comparison, ManagerId, Managers, Operation},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut pod: Pod = serde_json::from_str(
        r#"{"metadata": {"name": "web-12345", "namespace": "default", "labels": {"app": "web", "tier": "front"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "controller": true,
            "uid": "0b6a5b7e-2f4c-4a55-9d3e-2f1f3c1d9a10", "blockOwnerDeletion": true}]},
            "spec": {"containers": [{"name": "web", "image": "web:1.2.3", "ports": [{"containerPort": 8080, "name": "http"}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}], "volumes": [{"name": "tmp", "emptyDir": {}}]}}"#,
    )?;
    Object::set_defaults(&mut pod);
    let message = Pod::KIND.message().ok_or("a kind of the schema")?;
    let manager = |name: &str, subresource: &str| ManagerId {
        manager: name.to_owned(),
        operation: Operation::Update,
        api_version: "v1".to_owned(),
        subresource: subresource.to_owned(),
    };
    let (creator, kubelet) = (manager("kube-controller-manager", ""), manager("kubelet", "status"));

    let create = |pod: &Pod| {
        let new = Object::encode(pod);
        let mut managers = Managers::default();
        managers.update(&creator, Comparison::of_encoded(message, b"\x0a\x00\x12\x00\x1a\x00", &new), Time::now());
        managers.encode()
    };
    let without = Object::encode(&pod).len();
    measure("encode the pod", || Object::encode(black_box(&pod)));
    measure("own a new pod", || create(black_box(&pod)));
    pod.metadata_mut().managed_fields = create(&pod);
    println!("{:32} {without} bytes, with managedFields {}", "the pod", Object::encode(&pod).len());

    let mut running = pod.clone();
    let condition = |kind: &str| PodCondition { r#type: kind.into(), status: "True".into(), ..PodCondition::default() };
    running.status_mut().phase = "Running".into();
    running.status_mut().conditions = vec![condition("PodScheduled"), condition("Initialized"), condition("Ready")];
    let old = Object::encode(&pod);
    measure("own a changed status", || {
        let new = Object::encode(black_box(&running));
        let change = Comparison::of_encoded(message, &old, &new);
        let mut managers = Managers::stored(&pod.metadata().managed_fields, |_| true).unwrap_or_default();
        managers.update(&kubelet, change, Time::now());
        managers.encode()
    });
    Ok(())
}

fn measure<T>(what: &str, work: impl Fn() -> T) {
    const ROUNDS: u32 = 20_000;
    let best = (0..5).map(|_| {
        let started = Instant::now();
        (0..ROUNDS).for_each(|_| drop(black_box(work())));
        started.elapsed() / ROUNDS
    });
    println!("{what:32} {:?}", best.min().unwrap_or_default());
}
