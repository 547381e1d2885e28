//! 100 watchers of 1,000 updates, without and with one more that does not read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::{
    core::v1::ConfigMap,
    ferrokube::v1::{ResourceName, WatchRequest, objects_client::ObjectsClient},
};
use client::Patch;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;

use super::{Figure, Goal, quantile};
use crate::{Cluster, access, kube::Namespace, progress::Progress};

const WATCHERS: usize = 100;
const UPDATES: usize = 1_000;
/// Rounds without a stalled watcher, and as many with one.
const ROUNDS: usize = 5;
/// What the stalled watcher's connection takes before the server must keep the rest, bytes: far less than a round sends.
const STALLED_WINDOW: u32 = 64 << 10;
const AT_ONCE: usize = 32;
/// Watchers share connections as informers of one process do.
const CONNECTIONS: usize = 10;

/// What one round showed.
struct Round {
    deliveries_per_second: f64,
    p99_millis: f64,
}

pub(super) async fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let namespace = Namespace::new(cluster, "watch")?;
    // In turn, so that both kinds of round meet the same machine.
    let (mut free, mut stalled) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        free.push(round(cluster, &namespace.name, &format!("free-{number}"), false).await?);
        stalled.push(round(cluster, &namespace.name, &format!("stalled-{number}"), true).await?);
    }
    let median = |rounds: &[Round], of: fn(&Round) -> f64| quantile(&mut rounds.iter().map(of).collect::<Vec<_>>(), 0.5);
    let millis = |rounds: &[Round]| median(rounds, |round| round.p99_millis);
    let listed = |rounds: &[Round]| rounds.iter().map(|round| format!("{:.0}", round.p99_millis)).collect::<Vec<_>>().join(", ");
    progress.note(format!("p99 of a delivery: {} ms; with a stalled watcher: {} ms", listed(&free), listed(&stalled)));
    Ok(vec![
        Figure {
            what: format!("{WATCHERS} watchers of {UPDATES} updates"),
            value: median(&free, |round| round.deliveries_per_second),
            unit: "deliveries/s",
            goal: Goal::AtLeast(60_000.0),
            reference: "upstream: 11,700".into(),
        },
        Figure {
            what: "p99 of a delivery with one stalled watcher, as a share of that without".into(),
            value: millis(&stalled) / millis(&free) * 100.0,
            unit: "%",
            goal: Goal::AtMost(125.0),
            reference: format!(
                "{:.1} ms against {:.1} ms, medians of {ROUNDS} rounds each; a quarter is what two runs differ by",
                millis(&stalled),
                millis(&free)
            ),
        },
    ])
}

async fn round(cluster: &Cluster, namespace: &str, name: &str, stall: bool) -> anyhow::Result<Round> {
    let maps = cluster.client()?.namespaced::<ConfigMap>(namespace);
    let filler = "x".repeat(1000);
    for number in 0..AT_ONCE {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("{name}-{number}") }, "data": { "filler": filler, "n": "" },
        });
        maps.create_json(&map).await?;
    }
    let start = maps.list(&client::ListParams::default()).await?.metadata.resource_version;
    let request = WatchRequest {
        resource: Some(ResourceName { version: "v1".into(), resource: "configmaps".into(), ..Default::default() }),
        namespace: namespace.to_owned(),
        resource_version: start,
        ..Default::default()
    };
    // By revision: when the update was acknowledged to have happened, at the earliest.
    let sent: Arc<Mutex<Vec<(i64, Instant)>>> = Arc::default();
    let mut watchers = Vec::new();
    let stalled = if stall {
        let mut client = ObjectsClient::new(cluster.channel(STALLED_WINDOW).await?);
        Some(client.watch(request.clone()).await?)
    } else {
        None
    };
    for _ in 0..CONNECTIONS {
        let mut client = ObjectsClient::new(cluster.channel(access::LARGE_WINDOW).await?).max_decoding_message_size(usize::MAX);
        for _ in 0..WATCHERS / CONNECTIONS {
            let mut batches = client.watch(request.clone()).await?.into_inner();
            watchers.push(tokio::spawn(async move {
                let mut received = Vec::with_capacity(UPDATES);
                while received.len() < UPDATES {
                    let Some(batch) = batches.message().await? else { bail!("a watch ended after {} events", received.len()) };
                    let now = Instant::now();
                    received.extend(
                        batch.events.iter().filter(|event| event.object.is_some()).map(|event| (event.resource_version, now)),
                    );
                }
                Ok(received)
            }));
        }
    }

    let begin = Instant::now();
    let updates = stream::iter(0..UPDATES).map(|n| {
        let (maps, sent) = (&maps, &sent);
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        let target = format!("{name}-{}", n % AT_ONCE);
        async move {
            let at = Instant::now();
            let map = maps.patch(&target, &patch).await?;
            sent.lock().push((map.metadata().resource_version.parse()?, at));
            Ok::<_, anyhow::Error>(())
        }
    });
    updates.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    let mut received = Vec::new();
    for watcher in watchers {
        let events: anyhow::Result<Vec<_>> =
            tokio::time::timeout(Duration::from_secs(60), watcher).await.context("a watcher never got all")??;
        received.extend(events?);
    }
    let last = received.iter().map(|(_, at)| *at).max().context("no deliveries")?;
    let sent: std::collections::HashMap<_, _> = sent.lock().drain(..).collect();
    let mut millis: Vec<f64> = received
        .iter()
        .filter_map(|(revision, at)| Some(at.duration_since(*sent.get(revision)?).as_secs_f64() * 1000.0))
        .collect();
    drop(stalled);
    Ok(Round {
        deliveries_per_second: received.len() as f64 / (last - begin).as_secs_f64(),
        p99_millis: quantile(&mut millis, 0.99),
    })
}
