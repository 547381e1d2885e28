//! 5,000 pods: how fast they are created, what the API server needs to hold them, how fast they are listed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api::{
    core::v1::Pod,
    ferrokube::v1::{ListRequest, ResourceName, objects_client::ObjectsClient},
};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use serde_json::json;

use super::{Figure, Goal, idle::resident_mib};
use crate::{Cluster, Daemon, access, etcd, kube::Namespace, process, progress::Progress};

const PODS: usize = 5_000;
const AT_ONCE: usize = 32;
const LISTS: u32 = 10;

/// A pod of everyday size that no scheduler looks at.
pub(super) fn pod(name: &str, scheduler: &str) -> serde_json::Value {
    let variables: Vec<_> =
        (0..12).map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("value-{n}-of-some-length") })).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { "app": "bench", "tier": "backend", "release": "stable", "pod-template-hash": "5d8f9c7b6" },
            "annotations": { "example.com/owner": "a team with a name", "example.com/config-hash": "0123456789abcdef0123456789abcdef" },
        },
        "spec": {
            "schedulerName": scheduler,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.example.com/team/application:1.2.3", "env": variables,
                "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }],
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "memory": "64Mi" } },
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": "http" } },
                "livenessProbe": { "httpGet": { "path": "/livez", "port": "http" } },
            }],
        },
    })
}

pub(super) async fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let namespace = Namespace::new(cluster, "stored")?;
    let pods = cluster.client()?.namespaced::<Pod>(&namespace.name);
    let sample: Pod = pods.create_json(&pod("sample", "nobody")).await?;
    let size = sample.encoded_len();

    let bare = bare_puts(cluster, size).await?;
    progress.note(format!("etcd takes {bare:.0} bare puts/s of {size} bytes"));
    let objects: Vec<Pod> =
        (0..PODS).map(|n| api::json::from_value(pod(&format!("p{n}"), "nobody"))).collect::<Result<_, _>>()?;
    let begin = Instant::now();
    let created = stream::iter(&objects).map(|object| pods.create(object)).buffer_unordered(AT_ONCE);
    created.try_for_each(|_| async { Ok(()) }).await?;
    let rate = PODS as f64 / begin.elapsed().as_secs_f64();
    progress.note(format!("{rate:.0} pods/s created, {AT_ONCE} at a time"));

    let host = cluster.hosts_of(Daemon::Apiserver).into_iter().next().context("no API server")?;
    let server = process::running(cluster, &host, Daemon::Apiserver).context("no API server")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory = resident_mib(server)?;
    let speed = list(cluster, &namespace.name).await?;
    Ok(vec![
        Figure {
            what: format!("pod creations, {AT_ONCE} at a time, as a share of bare etcd puts"),
            value: rate / bare * 100.0,
            unit: "%",
            goal: Goal::AtLeast(40.0),
            reference: format!("{rate:.0}/s of {bare:.0} puts/s in this run; upstream: 14 %"),
        },
        Figure {
            what: format!("apiserver: resident memory with {PODS} pods"),
            value: memory,
            unit: "MiB",
            goal: Goal::AtMost(80.0),
            reference: format!("{:.1} MiB of encoded pods; upstream: 417–880 MiB", (size * PODS) as f64 / f64::from(1 << 20)),
        },
        Figure {
            what: format!("list of {PODS} pods over gRPC"),
            value: speed,
            unit: "MB/s",
            goal: Goal::AtLeast(300.0),
            reference: "encoded objects as received".into(),
        },
    ])
}

/// Puts per second that etcd takes of values of `size` bytes, as many at a time as pods are created.
async fn bare_puts(cluster: &Cluster, size: usize) -> anyhow::Result<f64> {
    let read = |name: &str| std::fs::read(cluster.pki(name));
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("etcd-ca.crt")?))
        .identity(Identity::from_pem(read("etcd-client.crt")?, read("etcd-client.key")?));
    let options = ConnectOptions::new().with_tls(tls);
    let client = etcd_client::Client::connect(etcd::client_urls(cluster), Some(options)).await?;
    let value = vec![b'x'; size];
    let begin = Instant::now();
    let puts = stream::iter(0..PODS).map(|n| {
        let (mut client, value) = (client.kv_client(), value.clone());
        async move { client.put(format!("/bench/{n}"), value, None).await }
    });
    puts.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    let rate = PODS as f64 / begin.elapsed().as_secs_f64();
    client.kv_client().delete("/bench/", Some(etcd_client::DeleteOptions::new().with_prefix())).await?;
    Ok(rate)
}

/// Megabytes of encoded objects a second in a list of all pods, the best of ten.
async fn list(cluster: &Cluster, namespace: &str) -> anyhow::Result<f64> {
    let mut client = ObjectsClient::new(cluster.channel(access::LARGE_WINDOW).await?).max_decoding_message_size(usize::MAX);
    let resource = ResourceName { version: "v1".into(), resource: "pods".into(), ..Default::default() };
    let mut best = 0f64;
    for _ in 0..LISTS {
        let request = ListRequest { resource: Some(resource.clone()), namespace: namespace.to_owned(), ..Default::default() };
        let (mut bytes, mut count) = (0, 0);
        let begin = Instant::now();
        let mut chunks = client.list(request).await?.into_inner();
        while let Some(chunk) = chunks.message().await? {
            count += chunk.items.len();
            bytes += chunk.items.iter().map(|item| item.value.len()).sum::<usize>();
        }
        best = best.max(bytes as f64 / 1e6 / begin.elapsed().as_secs_f64());
        ensure!(count >= PODS, "the list holds {count} pods");
    }
    Ok(best)
}
