//! 5,000 pods over 1,000 hollow nodes: Node objects without anything behind them.

use std::time::{Duration, Instant};

use anyhow::Context;
use api::core::v1::{Node, Pod};
use client::{Change, ListParams, WatchParams};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{Figure, Goal, stored};
use crate::{Cluster, kube::Namespace, progress::Progress};

const NODES: usize = 1_000;
const PODS: usize = 5_000;
const AT_ONCE: usize = 64;
const HOLLOW: &str = "bench.ferrokube/hollow";

pub(super) async fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let namespace = Namespace::new(cluster, "bind")?;
    let outcome = measure(cluster, &namespace, progress).await;
    let nodes = cluster.client()?.all::<Node>();
    let removed = nodes.delete_collection(&client::delete::now(), &ListParams::default().labels(HOLLOW)).await?;
    progress.note(format!("{removed} hollow nodes removed"));
    let rate = outcome?;
    Ok(vec![Figure {
        what: format!("{PODS} pods over {NODES} hollow nodes, create to bound"),
        value: rate,
        unit: "pods/s",
        goal: Goal::AtLeast(600.0),
        reference: "upstream: 132".into(),
    }])
}

async fn measure(cluster: &Cluster, namespace: &Namespace<'_>, progress: &Progress) -> anyhow::Result<f64> {
    let client = cluster.client()?;
    let nodes = client.all::<Node>();
    let hollow: Vec<Node> = (0..NODES).map(|n| api::json::from_value(node(n))).collect::<Result<_, _>>()?;
    let made = stream::iter(&hollow).map(|node| async {
        let made = nodes.create(node).await?;
        // What a new node says of itself is not what it may run: that is its status.
        let mut full = Node { metadata: made.metadata, ..node.clone() };
        // Controllers write to it meanwhile, and nothing of that is touched here.
        full.metadata_mut().resource_version.clear();
        nodes.update_status(&full).await
    });
    made.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    progress.note(format!("{NODES} hollow nodes made"));

    let pods = client.namespaced::<Pod>(&namespace.name);
    let mut changes = pods.watch(&WatchParams::from_now()).await?;
    let objects: Vec<Pod> = (0..PODS).map(|n| api::json::from_value(pod(n))).collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let create = async {
        stream::iter(&objects).map(|pod| pods.create(pod)).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
        progress.note(format!("{:.0} pods/s created meanwhile", PODS as f64 / begin.elapsed().as_secs_f64()));
        Ok::<_, anyhow::Error>(())
    };
    let follow = async {
        let mut bound = std::collections::HashSet::new();
        while bound.len() < PODS {
            let event = changes.next().await.context("the watch ended")??;
            if let Change::Added(pod) | Change::Modified(pod) = event.change
                && !pod.spec().node_name.is_empty()
            {
                bound.insert(pod.metadata().name.clone());
            }
        }
        Ok(begin.elapsed())
    };
    let both = async { futures::try_join!(create, follow) };
    let (_, took) = tokio::time::timeout(Duration::from_secs(120), both).await.context("not all pods were bound")??;
    Ok(PODS as f64 / took.as_secs_f64())
}

fn node(number: usize) -> Value {
    let name = format!("hollow-{number}");
    let resources = json!({ "cpu": "32", "memory": "256Gi", "pods": "110", "ephemeral-storage": "100Gi" });
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { HOLLOW: "yes", "kubernetes.io/hostname": name } },
        // Nothing else may land here.
        "spec": { "taints": [{ "key": HOLLOW, "effect": "NoSchedule" }] },
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Hollow", "lastHeartbeatTime": now, "lastTransitionTime": now }],
        },
    })
}

fn pod(number: usize) -> Value {
    let mut pod = stored::pod(&format!("p{number}"), "default-scheduler");
    pod["spec"]["nodeSelector"] = json!({ HOLLOW: "yes" });
    pod["spec"]["tolerations"] = json!([{ "key": HOLLOW, "operator": "Exists" }]);
    pod
}
