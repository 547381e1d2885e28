//! Registers the node and keeps its status up to date: at every change, and every five minutes.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use api::core::v1::{Node, NodeStatus, Taint};
use client::{Client, EventRecorder, EventType, Informer, Patch, Subscription};
use daemon::Gate;
use jiff::Timestamp;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    machine::{Machine, architecture},
    status::{Facts, same, status},
};
use crate::runtime::{Image, Runtime};

/// How often an unchanged status is written.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);
/// How long after a start the parts may take to become known before they are reported as they are.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the runtime may take to say what it has; what it has not said by then is reported as it was, and asked for again.
const ENGINE_PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Who the node is.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Labels that it registers with, besides the customary ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that it registers with.
    pub taints: Vec<Taint>,
    /// How many pods it takes.
    pub max_pods: u32,
    /// Port of the kubelet's service.
    pub port: u16,
}

/// Writes the node's object.
pub struct Agent {
    /// The API server.
    pub client: Client,
    /// For events about the node.
    pub recorder: EventRecorder,
    /// Who the node is.
    pub config: NodeConfig,
    /// What it is.
    pub machine: Machine,
    /// The runtime, for its version and images.
    pub runtime: Arc<dyn Runtime>,
    /// Whether the runtime answers.
    pub runtime_state: watch::Receiver<Result<(), String>>,
    /// Whether pods can be put on the network; `None` until that is known.
    pub network_state: watch::Receiver<Option<Result<(), String>>>,
    /// Rung when the images have changed, which the status shows.
    pub changed: Arc<Notify>,
    /// All nodes, ours among them: others may write its status, such as that it stopped posting.
    pub nodes: Informer<Node>,
}

/// The object's revision; 0 if it says none.
fn version(node: &Node) -> u64 {
    node.metadata().resource_version.parse().unwrap_or_default()
}

/// Waits until the node of that name is there in a newer version.
async fn newer(news: &mut Subscription<Node>, name: &str, than: u64) {
    loop {
        if let Some(node) = news.next().await.new
            && node.metadata().name == name
            && version(&node) > than
        {
            return;
        }
    }
}

/// What the runtime said of itself; `None` where it did not answer.
struct Engine {
    version: Option<String>,
    images: Option<Vec<Image>>,
    /// Nothing was given up waiting for.
    in_time: bool,
}

/// Asks the runtime. An engine can be busy for long with what has nothing to do with the answer.
async fn ask_engine(runtime: &dyn Runtime) -> Engine {
    let asked = tokio::join!(timeout(ENGINE_PATIENCE, runtime.version()), timeout(ENGINE_PATIENCE, runtime.images()));
    let in_time = asked.0.is_ok() && asked.1.is_ok();
    Engine { version: asked.0.ok().and_then(Result::ok), images: asked.1.ok().and_then(Result::ok), in_time }
}

// === impl Agent ===

impl Agent {
    /// Makes sure the node's object exists, with our labels, and returns it. Tries until it succeeds.
    pub async fn register(&self) -> Node {
        loop {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot register the node"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_register(&self) -> client::Result<Node> {
        let nodes = self.client.all::<Node>();
        let name = &self.config.name;
        let labels = self.labels();
        if let Some(node) = nodes.get_opt(name).await? {
            if labels.iter().all(|(key, value)| node.metadata().labels.get(key) == Some(value)) {
                return Ok(node);
            }
            return nodes.patch(name, &Patch::Merge(json!({ "metadata": { "labels": labels } }))).await;
        }
        let mut node = Node::default();
        node.metadata_mut().name.clone_from(name);
        node.metadata_mut().labels = labels;
        node.spec_mut().taints.clone_from(&self.config.taints);
        node.status = Some(self.derive(&NodeStatus::default()).await.0);
        match nodes.create(&node).await {
            Err(error) if error.is_already_exists() => nodes.get(name).await,
            created => {
                info!(node = name, "node registered");
                created
            }
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.config.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", architecture()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(self.config.labels.clone());
        labels
    }

    /// Keeps the status up to date; for ever. `reported` opens once it is written for the first time.
    pub async fn run(mut self, node: Node, reported: Gate) {
        let (mut stored, mut stored_at) = (node.status().clone(), version(&node));
        let mut news = self.nodes.subscribe();
        self.recorder.event(&node, EventType::Normal, "Starting", "Starting kubelet.");
        // Until the parts are known, what was last reported stands. When that takes long it is news.
        if let Ok(Err(_)) = timeout(PATIENCE, self.network_state.wait_for(Option::is_some)).await {
            return;
        }
        let mut written_at = Instant::now();
        loop {
            let (derived, complete) = self.derive(&stored).await;
            let due = written_at.elapsed() >= REPORT_INTERVAL;
            let mut next = written_at + REPORT_INTERVAL;
            if !due && same(&derived, &stored) {
                reported.open();
            } else {
                match self.write(&stored, &derived).await {
                    Ok(written) => {
                        self.announce(&node, &stored, written.status());
                        (stored, stored_at) = (written.status().clone(), version(&written));
                        written_at = Instant::now();
                        next = Instant::now() + REPORT_INTERVAL;
                        reported.open();
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "cannot write the node's status");
                        next = Instant::now() + RETRY;
                        if let Ok(node) = self.client.all::<Node>().get(&self.config.name).await {
                            (stored, stored_at) = (node.status().clone(), version(&node));
                        } else if self.try_register().await.is_ok() {
                            continue;
                        }
                    }
                }
            }
            if !complete {
                next = next.min(Instant::now() + RETRY);
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.changed.notified() => {}
                changed = self.runtime_state.changed() => if changed.is_err() { return },
                changed = self.network_state.changed() => if changed.is_err() { return },
                // Cancel safe: what is passed over is not about us.
                () = newer(&mut news, &self.config.name, stored_at) => {
                    // The local copy is without what is large; a failure is noticed with the next write.
                    if let Ok(node) = self.client.all::<Node>().get(&self.config.name).await {
                        (stored, stored_at) = (node.status().clone(), version(&node));
                    }
                }
            }
        }
    }

    async fn write(&self, old: &NodeStatus, new: &NodeStatus) -> client::Result<Node> {
        let mut patch = serde_json::to_value(new).unwrap_or_default();
        // An emptied list or map is removed, not left as it was.
        if let (Some(new), Ok(serde_json::Value::Object(old))) = (patch.as_object_mut(), serde_json::to_value(old)) {
            for name in old.keys() {
                new.entry(name.clone()).or_insert(serde_json::Value::Null);
            }
        }
        let nodes = self.client.all::<Node>();
        nodes.patch_status(&self.config.name, &Patch::Merge(json!({ "status": patch }))).await
    }

    /// The status, and whether the runtime has said all that belongs in it.
    async fn derive(&self, old: &NodeStatus) -> (NodeStatus, bool) {
        let mut problems = Vec::new();
        let state = self.runtime_state.borrow().clone();
        if let Err(message) = state {
            problems.push(format!("container runtime is down: {message}"));
        }
        let network = self.network_state.borrow().clone();
        if let Err(message) = network.unwrap_or_else(|| Err("it has not been looked at yet".to_owned())) {
            problems.push(format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{message}"
            ));
        }
        let engine = ask_engine(&*self.runtime).await;
        let known = || old.node_info().container_runtime_version.trim_start_matches("docker://").to_owned();
        let facts = Facts {
            machine: &self.machine,
            address: &self.config.address.to_string(),
            hostname: &self.config.name,
            pods: self.config.max_pods,
            port: self.config.port,
            engine: &engine.version.unwrap_or_else(known),
            images: engine.images.as_deref(),
            problems: &problems,
        };
        (status(&facts, old, Timestamp::now()), engine.in_time)
    }

    fn announce(&self, node: &Node, old: &NodeStatus, new: &NodeStatus) {
        let ready = |status: &NodeStatus| {
            status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
        };
        let name = &self.config.name;
        match (ready(old), ready(new)) {
            (false, true) => {
                self.recorder.event(node, EventType::Normal, "NodeReady", format!("Node {name} status is now: NodeReady"))
            }
            (true, false) => {
                self.recorder.event(node, EventType::Normal, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"))
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn a_busy_engine_holds_up_no_status() {
        let runtime = FakeRuntime::new(&["app:1"]);
        let begun = Instant::now();
        let engine = ask_engine(&runtime).await;
        assert!(engine.in_time && engine.images.is_some_and(|images| images.len() == 1) && begun.elapsed().is_zero());
        runtime.set_images_delay(Duration::from_secs(15));
        let engine = ask_engine(&runtime).await;
        assert_eq!((engine.in_time, engine.images, engine.version.as_deref()), (false, None, Some("20.10")));
        assert!(begun.elapsed() <= Duration::from_secs(1));
    }
}
