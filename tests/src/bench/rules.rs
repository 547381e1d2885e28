//! One endpoint changed among 5,000 Services: how long until a node's rules say so.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use api::{core::v1::Service, discovery::v1::EndpointSlice};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{Figure, Goal, quantile};
use crate::{Cluster, http, kube::Namespace, net, progress::Progress, wait};

const SERVICES: usize = 5_000;
const AT_ONCE: usize = 32;
const CHANGES: usize = 20;

/// Measured from outside: two web servers on one node, a Service whose only endpoint is moved from one to the other, and a host that asks
/// all the time who answers. So the figure holds the API server's and the watch's part too.
pub(super) async fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let namespace = Namespace::new(cluster, "rules")?;
    let client = cluster.client()?;
    let (services, slices) = (client.namespaced::<Service>(&namespace.name), client.namespaced::<EndpointSlice>(&namespace.name));
    let made = stream::iter(0..SERVICES).map(|n| {
        let (services, slices) = (&services, &slices);
        async move {
            let name = format!("s{n}");
            services.create_json(&service(&name)).await?;
            slices.create_json(&slice(&name, "172.30.255.1")).await
        }
    });
    made.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    progress.note(format!("{SERVICES} Services with an endpoint each"));

    namespace.apply(&crate::kube::guestbooks("web", 2))?;
    let pods = namespace.wait_pods("app=web", 2, crate::kube::PODS_READY)?;
    let made = services.create_json(&service("moving")).await?;
    slices.create_json(&slice("moving", &pods[0].ip)).await?;
    let address = format!("{}:80", made.spec().cluster_ip);
    let host = cluster.host_named("node-1")?;
    let asked = |expected: String| {
        let address = address.clone();
        move || {
            let answer = http::get(&address, "/", Duration::from_millis(500))?;
            ensure!(answer.body.contains(&expected), "{}", answer.body);
            Ok(())
        }
    };
    let first = asked(pods[0].name.clone());
    net::within(&host, move || wait::until("the first answer", Duration::from_secs(60), first))?;

    let mut millis = Vec::new();
    for change in 1..=CHANGES {
        let pod = &pods[change % 2];
        let probe = asked(pod.name.clone());
        let begin = Instant::now();
        let follow = {
            let host = host.clone();
            tokio::task::spawn_blocking(move || net::within(&host, move || follow(probe)))
        };
        let patch = client::Patch::Merge(json!({ "endpoints": slice("moving", &pod.ip)["endpoints"] }));
        slices.patch("moving", &patch).await?;
        let seen: Instant = follow.await??;
        millis.push((seen - begin).as_secs_f64() * 1000.0);
    }
    let rules = count_rules(&host.netns).unwrap_or_default();
    Ok(vec![Figure {
        what: format!("one endpoint changed among {SERVICES} Services: median until traffic follows"),
        value: quantile(&mut millis, 0.5),
        unit: "ms",
        goal: Goal::AtMost(50.0),
        reference: format!("patch, watch and rules together; {rules} lines of rules on the node"),
    }])
}

/// Asks without pause until the answer is the new one.
fn follow(probe: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match probe() {
            Ok(()) => return Ok(Instant::now()),
            Err(error) if Instant::now() > deadline => return Err(error.context("traffic never followed")),
            Err(_) => {}
        }
    }
}

fn count_rules(netns: &str) -> anyhow::Result<usize> {
    let mut command = Command::new("ip");
    let text = crate::command::output_of(command.args(["netns", "exec", netns, "nft", "list", "ruleset"])).context("nft")?;
    Ok(text.lines().count())
}

fn service(name: &str) -> Value {
    // Without a selector: its endpoints are ours to say.
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "name": "http", "port": 80 }] } })
}

fn slice(service: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": service, "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [ip], "conditions": { "ready": true } }],
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}
