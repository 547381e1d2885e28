//! Notices nodes that fall silent, and says so: conditions, taints, and pods that are no longer ready.
//!
//! A sign of life is a renewed Lease or a new heartbeat in the node's conditions, dated by our own clock when it comes in, so clocks of
//! other machines do not matter and a controller manager that starts gives every node the whole grace period.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Resource,
    coordination::v1::Lease,
    core::v1::{Node, PodCondition},
    meta::v1::Time,
    names::LEASE_NAMESPACE,
};
use client::{Changed, Controller, Error, EventType, Informer, ObjectKey, Patch, Reconcile, Requeue, Scope};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::plan::{self, Disruption, Readiness};
use crate::{
    Context, NodeArgs,
    context::{NODE, by_node},
    pods,
    reads::{ReadsNode, ReadsPod, SeenNode, SeenPod},
};

/// How long changes of other nodes are gathered before a lost one is judged anew: many may be lost together.
const GATHER: Duration = Duration::from_millis(500);
/// Nodes from which on a partly disrupted zone still has some evicted.
const LARGE_ZONE: usize = 50;
/// Rate at which they are, nodes a second.
const SECONDARY_RATE: f64 = 0.01;
/// Label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

struct Lifecycle {
    context: Context,
    nodes: Informer<SeenNode>,
    pods: Informer<SeenPod>,
    args: NodeArgs,
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    zones: Mutex<Zones>,
}

/// What nodes that fail together have in common, by zone; one without a name if nodes have no zone.
#[derive(Default)]
struct Zones {
    /// When the next node of a zone may be evicted.
    next_eviction: HashMap<String, Instant>,
    /// No node at all was ready when last looked at.
    all_lost: bool,
}

/// Starts the controller.
pub(super) fn start(context: &Context, args: &NodeArgs) {
    let (nodes, pods) = (context.informers.trimmed::<ReadsNode>(), context.informers.trimmed::<ReadsPod>());
    pods.add_index(NODE, by_node);
    let leases = context.informers.with::<Lease>(Scope { namespace: LEASE_NAMESPACE.to_owned(), ..Scope::default() });
    let heard = Arc::<Mutex<HashMap<String, Instant>>>::default();
    let signs = heard.clone();
    leases.on_change(move |changed| {
        let renewed = |lease: &Arc<Lease>| lease.spec().renew_time;
        if let Some(lease) = changed.new.filter(|_| changed.old.map(renewed) != changed.new.map(renewed)) {
            signs.lock().insert(lease.name().to_owned(), Instant::now());
        }
    });
    let reconciler = Lifecycle {
        context: context.recording_as("node-controller"),
        nodes: nodes.clone(),
        pods: pods.clone(),
        args: args.clone(),
        heard: heard.clone(),
        zones: Mutex::default(),
    };
    let controller = Controller::new("node-lifecycle", reconciler, &context.metrics).needs(&pods).needs(&leases);
    let (others, queue) = (nodes.clone(), controller.queue());
    controller
        .watches(&nodes, move |changed| {
            note_heartbeat(&heard, changed);
            if changed.old.map(|node| plan::readiness(node)) != changed.new.map(|node| plan::readiness(node)) {
                // Whether a lost node's pods are evicted depends on how the others are.
                let lost = others.store().list().into_iter().filter(|node| plan::readiness(node) != Readiness::Ready);
                lost.for_each(|node| queue.add_after(node.name().to_owned(), GATHER));
            }
            changed.new.map(|node| node.name().to_owned())
        })
        .spawn(&context.kit);
}

fn note_heartbeat(heard: &Mutex<HashMap<String, Instant>>, changed: Changed<'_, SeenNode>) {
    let beats = |node: &Arc<SeenNode>| -> Vec<i64> {
        node.status().conditions.iter().map(|condition| condition.last_heartbeat_time().seconds).collect()
    };
    match (changed.old, changed.new) {
        // Also of one that was here before: its Lease may have been renewed once more after it had gone.
        (None, Some(node)) => {
            heard.lock().insert(node.name().to_owned(), Instant::now());
        }
        // Conditions that we set have no heartbeat of their own.
        (Some(old), Some(new))
            if (old.metadata().uid != new.metadata().uid || beats(old) != beats(new))
                && plan::readiness(new) != Readiness::Unknown =>
        {
            heard.lock().insert(new.name().to_owned(), Instant::now());
        }
        (Some(node), None) => drop(heard.lock().remove(node.name())),
        _ => {}
    }
}

impl Reconcile for Lifecycle {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, name: &String) -> Result<Requeue, Error> {
        let Some(node) = self.nodes.store().get(&ObjectKey::new("", &**name)) else { return Ok(Requeue::Done) };
        let posted = node.status().conditions.iter().any(|condition| condition.r#type == "Ready");
        let grace = if posted { self.args.node_monitor_grace_period } else { self.args.node_startup_grace_period };
        let silence = self.heard.lock().entry(name.clone()).or_insert_with(Instant::now).elapsed();
        let mut node: Node = (**node).clone();
        if silence >= grace {
            self.declare_silent(&mut node).await?;
        }
        if plan::readiness(&node) != Readiness::Ready {
            self.unready_pods(&node).await?;
        }
        let wait = self.taint(&node, silence).await?;
        let next = if silence < grace { Some(grace - silence) } else { None };
        let next = next.into_iter().chain(wait).min();
        Ok(next.map_or(Requeue::Done, |next| Requeue::After(next + Duration::from_millis(1))))
    }
}

impl Lifecycle {
    async fn declare_silent(&self, node: &mut Node) -> Result<(), Error> {
        let Some(conditions) = plan::silent_conditions(node, Time::now()) else { return Ok(()) };
        let meta = node.metadata();
        tracing::warn!(node = meta.name, "no sign of life");
        let patch = json!({"metadata": {"resourceVersion": meta.resource_version}, "status": {"conditions": conditions}});
        let written = self.context.client.metadata(Node::KIND, "").patch_status(&meta.name, &Patch::Merge(patch)).await?;
        let message = format!("Node {} status is now: NodeNotReady", meta.name);
        self.context.recorder.event(node, EventType::Normal, "NodeNotReady", message);
        node.status_mut().conditions = conditions;
        node.metadata_mut().resource_version = written.metadata.resource_version;
        Ok(())
    }

    /// Pods of a node that is not ready do not serve. A kubelet that says so of its node, and of a pod later that it is ready, is believed.
    async fn unready_pods(&self, node: &Node) -> Result<(), Error> {
        let speaks = plan::readiness(node) == Readiness::NotReady;
        let said = node.status().conditions.iter().find(|condition| speaks && condition.r#type == "Ready");
        let since = said.and_then(|ready| ready.last_transition_time).map(|time| time.seconds);
        let mut failure = None;
        for pod in self.pods.store().by_index(NODE, node.name()) {
            let Some(ready_since) = pods::ready_since(&pod) else { continue };
            if since.is_some_and(|since| ready_since > since) {
                continue;
            }
            let condition = PodCondition { r#type: "Ready".to_owned(), status: "False".to_owned(), ..PodCondition::default() };
            match pods::set_condition(&self.context.client, &pod, condition).await {
                Ok(()) => self.context.recorder.event(&**pod, EventType::Warning, "NodeNotReady", "Node is not ready"),
                // The others do not wait for this one.
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Brings the taints in order. Returns how long to wait if the node's pods would be evicted but it is not its turn yet.
    async fn taint(&self, node: &Node, silence: Duration) -> Result<Option<Duration>, Error> {
        let (evict, wait) = self.may_evict(node, silence);
        let taints = plan::taints(node, evict, Time::now());
        if taints != node.spec().taints {
            let meta = node.metadata();
            let patch = json!({"metadata": {"resourceVersion": meta.resource_version}, "spec": {"taints": taints}});
            self.context.client.metadata(Node::KIND, "").patch(&meta.name, &Patch::Merge(patch)).await?;
        }
        Ok(wait)
    }

    /// Whether the node's pods may be sent away, and if not yet, how long to wait.
    fn may_evict(&self, node: &Node, silence: Duration) -> (bool, Option<Duration>) {
        let readiness = plan::readiness(node);
        let suspicious = self.args.node_monitor_grace_period / 2;
        if readiness == Readiness::Ready {
            if silence < suspicious {
                self.note_recovery(true);
            }
            return (false, None);
        }
        let zone_of = |node: &Node| node.metadata().labels.get(ZONE).cloned().unwrap_or_default();
        let (own, mut ready, mut zone_ready, mut zone_lost) = (zone_of(node), 0, 0, 0);
        let (others, heard) = (self.nodes.store().list(), self.heard.lock());
        for other in others {
            // Nodes that are cut off together fall silent one after the other; the first must not be judged as if it were alone.
            let speaks = heard.get(other.name()).is_none_or(|heard| heard.elapsed() < suspicious);
            let is_ready = plan::readiness(&other) == Readiness::Ready && speaks;
            ready += usize::from(is_ready);
            if zone_of(&other) == own {
                zone_ready += usize::from(is_ready);
                zone_lost += usize::from(!is_ready);
            }
        }
        drop(heard);
        let recovers = self.note_recovery(ready > 0);
        if ready == 0 {
            return (false, Some(suspicious));
        }
        if plan::is_evicting(node) {
            return (true, None);
        }
        if readiness == Readiness::Unknown && (silence < self.args.node_monitor_grace_period || recovers) {
            return (false, Some(self.args.node_monitor_grace_period));
        }
        let disruption = plan::disruption(zone_ready, zone_lost, self.args.unhealthy_zone_threshold);
        let rate = match disruption {
            Disruption::None | Disruption::Full => self.args.node_eviction_rate,
            Disruption::Partial if zone_ready + zone_lost > LARGE_ZONE => SECONDARY_RATE.min(self.args.node_eviction_rate),
            Disruption::Partial => 0.0,
        };
        let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
        if interval > Duration::from_secs(3600) {
            // It becomes its turn when another node's readiness changes.
            return (false, None);
        }
        let now = Instant::now();
        let mut zones = self.zones.lock();
        let next = zones.next_eviction.entry(own).or_insert(now);
        if *next > now {
            return (false, Some(*next - now));
        }
        *next = now + interval;
        (true, None)
    }

    /// Notes whether any node is ready. True if none was when last looked at and now one is.
    fn note_recovery(&self, any_ready: bool) -> bool {
        let recovers = std::mem::replace(&mut self.zones.lock().all_lost, !any_ready) && any_ready;
        if recovers {
            // We, not the nodes, may have been cut off: everyone gets another chance.
            tracing::info!("nodes are coming back");
            self.heard.lock().values_mut().for_each(|heard| *heard = Instant::now());
        }
        recovers
    }
}
