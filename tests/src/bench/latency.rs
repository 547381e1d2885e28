//! One pod at a time on an idle cluster: from its creation until it is Ready.

use std::time::{Duration, Instant};

use anyhow::Context;
use api::core::v1::Pod;
use client::{Change, WatchParams};
use futures::StreamExt;
use serde_json::json;

use super::{Figure, Goal, quantile};
use crate::{Cluster, images, kube::Namespace, progress::Progress};

const PODS: usize = 100;

pub(super) async fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let namespace = Namespace::new(cluster, "latency")?;
    let pods = cluster.client()?.namespaced::<Pod>(&namespace.name);
    let mut samples = Vec::new();
    for number in 0..PODS {
        let name = format!("p{number}");
        let mut changes = pods.watch(&WatchParams::from_now().fields(format!("metadata.name={name}"))).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c", "image": images::GUESTBOOK }] },
        });
        let begin = Instant::now();
        pods.create_json(&pod).await?;
        let ready = async {
            while let Some(event) = changes.next().await {
                if let Change::Added(pod) | Change::Modified(pod) = event?.change
                    && pod.status().conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
                {
                    return Ok(());
                }
            }
            anyhow::bail!("the watch ended")
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.with_context(|| format!("pod {name} is not Ready"))??;
        samples.push(begin.elapsed().as_secs_f64());
        pods.delete(&name, &client::delete::now()).await?;
    }
    progress.note(format!("{PODS} pods, median {:.3} s", quantile(&mut samples, 0.5)));
    Ok(vec![Figure {
        what: "one pod, create to Ready, image present: p99".into(),
        value: quantile(&mut samples, 0.99),
        unit: "s",
        goal: Goal::AtMost(1.2),
        reference: "Docker alone takes some 0.45 s for sandbox and container".into(),
    }])
}
