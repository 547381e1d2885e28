//! How many pods a second the scheduler binds when the API server costs nothing: 5,000 pods over 1,000 nodes through the whole of it,
//! informers, queue, decisions and bindings, against an in-memory API server.
//!
//! `cargo run --release -p scheduler --example throughput`

#![allow(clippy::panic, reason = "a benchmark has nobody to answer to")]

use std::time::{Duration, Instant};

use api::core::v1::{Node, Pod};
use client::testing::MemoryServer;
use serde_json::{Value, json};

const NODES: usize = 1_000;
const PODS: usize = 5_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("{PODS} pods over {NODES} nodes, present to bound:");
    let web = json!({ "matchLabels": { "app": "web" } });
    let by = |label: &str| json!({ "topologyKey": label, "labelSelector": web });
    let spread = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": web });
    let (near, apart) = (json!([by("zone")]), json!([{ "weight": 100, "podAffinityTerm": by("rack") }]));
    let near = json!({ "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": near } });
    let apart = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": apart } });
    for (what, spec) in [
        ("that ask for CPU and memory only", json!({})),
        ("evenly over zones", json!({ "topologySpreadConstraints": [spread] })),
        ("all in one zone", json!({ "affinity": near })),
        ("each in another rack if possible", json!({ "affinity": apart })),
    ] {
        let took = bind_all(&spec).await?;
        println!("  {:>6.0} pods/s  {what}", PODS as f64 / took.as_secs_f64());
    }
    Ok(())
}

async fn bind_all(spec: &Value) -> anyhow::Result<Duration> {
    let (server, kit) = (MemoryServer::new(), daemon::Kit::new());
    for n in 0..NODES {
        server.put::<Node>(api::json::from_value(node(n))?);
    }
    let args = scheduler::Args {
        client: client::Args::default(),
        scheduler_name: "default-scheduler".to_owned(),
        parallel_bindings: 64,
    };
    let metrics = scheduler::Metrics::new(&kit.metrics);
    let scheduling =
        tokio::spawn(scheduler::schedule(args, kit.clone(), server.client(), metrics, scheduler::plugin::Stages::default()));
    let pods: Vec<Pod> = (0..PODS).map(|n| api::json::from_value(pod(n, spec))).collect::<Result<_, _>>()?;
    // Once one is bound, everything runs.
    server.put::<Pod>(api::json::from_value(pod(PODS, spec))?);
    bound(&server, 1).await;
    let begun = Instant::now();
    pods.into_iter().for_each(|pod| drop(server.put(pod)));
    bound(&server, PODS).await;
    let took = begun.elapsed();
    kit.shutdown.start();
    scheduling.await?;
    Ok(took)
}

/// Waits for so many bindings.
async fn bound(server: &MemoryServer, pods: usize) {
    let mut seen = 0;
    while seen < pods {
        tokio::time::sleep(Duration::from_millis(5)).await;
        seen += server.take_writes().iter().filter(|write| write.starts_with("bind ")).count();
    }
}

fn node(number: usize) -> Value {
    let name = format!("node-{number}");
    let resources = json!({ "cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi" });
    let labels = json!({
        "kubernetes.io/hostname": name, "zone": format!("z{}", number % 3), "rack": format!("r{}", number % 40),
    });
    json!({ "metadata": { "name": name, "labels": labels }, "status": { "capacity": resources, "allocatable": resources } })
}

fn pod(number: usize, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "namespace": "default", "name": format!("p{number}"), "labels": { "app": "web", "tier": "backend" } },
        "spec": { "schedulerName": "default-scheduler", "containers": [{
            "name": "main", "image": "registry.example.com/team/application:1.2.3",
            "env": (0..12).map(|n| json!({ "name": format!("SETTING_{n}"), "value": "a value" })).collect::<Vec<_>>(),
            "resources": { "requests": { "cpu": "1m", "memory": "1Mi" } },
        }] },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}
