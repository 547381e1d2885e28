//! The loop: takes in what informers say, decides on one pod after another, and carries out the decisions beside it.
//!
//! One task owns cluster and queue, so that each decision is made on a consistent state and nothing is locked. What goes over the network
//! runs in tasks of its own, at most [`Scheduler::parallel`] at once; their results come back to the loop.

use std::{sync::Arc, time::Instant as StdInstant};

use api::{
    Resource, StatusError,
    core::v1::{Binding, Namespace, Node, ObjectReference, Pod, ReplicationController, Service},
    meta::v1::DeleteOptions,
    pod::is_terminal,
};
use client::{Client, EventRecorder, EventType, ObjectChange, Patch, Subscription};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    algorithm::{Algorithm, Placement, Unplaceable},
    cluster::Cluster,
    metrics::Metrics,
    plugin::{Change, StageFailed, Stages},
    pod::PodInfo,
    preemption::{self, NoPreemption, Preemption},
    queue::Queue,
};

/// Where changes come from.
pub struct Sources {
    /// All pods.
    pub pods: Subscription<Pod>,
    /// All nodes.
    pub nodes: Subscription<Node>,
    /// All namespaces.
    pub namespaces: Subscription<Namespace>,
    /// All Services.
    pub services: Subscription<Service>,
    /// All replication controllers.
    pub controllers: Subscription<ReplicationController>,
}

/// What became of something that was sent to the API server.
enum Done {
    /// A binding.
    Bound { pod: Arc<PodInfo>, node: String, result: Result<(), BindError> },
    /// A status; the loop has nothing to do when it is written.
    Written,
    /// The eviction of a pod that makes room for this one.
    Evicted { preemptor: Arc<PodInfo>, victim: Arc<PodInfo>, result: Result<(), client::Error> },
}

/// Why a pod was not bound to the node that was chosen for it.
#[derive(Debug, thiserror::Error)]
enum BindError {
    /// A plugin did not let it happen.
    #[error(transparent)]
    Stage(#[from] StageFailed),
    /// The API server did not do it, or did not say that it did.
    #[error(transparent)]
    Api(#[from] client::Error),
}

/// The scheduler.
pub struct Scheduler {
    client: Client,
    recorder: EventRecorder,
    metrics: Metrics,
    name: String,
    parallel: usize,
    cluster: Cluster,
    queue: Queue,
    algorithm: Algorithm,
    stages: Stages,
    under_way: JoinSet<Done>,
}

impl Scheduler {
    /// A scheduler for pods with this `spec.schedulerName`, which has at most `parallel` requests under way.
    pub fn new(client: Client, recorder: EventRecorder, metrics: Metrics, name: String, parallel: usize) -> Self {
        Self {
            client,
            recorder,
            metrics,
            name,
            parallel: parallel.max(1),
            cluster: Cluster::default(),
            queue: Queue::default(),
            algorithm: Algorithm::default(),
            stages: Stages::default(),
            under_way: JoinSet::new(),
        }
    }

    /// With these plugins between a decision and its binding.
    #[must_use]
    pub fn with_stages(mut self, stages: Stages) -> Self {
        self.stages = stages;
        self
    }

    /// Schedules until the shutdown begins; then waits for what is under way.
    pub async fn run(mut self, mut sources: Sources, shutdown: daemon::Shutdown) {
        let mut stop = std::pin::pin!(shutdown.started());
        loop {
            self.take_in(&mut sources);
            let mut next_tick = self.queue.tick(Instant::now());
            while self.under_way.len() < self.parallel
                && let Some(pod) = self.queue.pop()
            {
                self.decide(pod);
                // What was decided may be outdated by what has arrived meanwhile.
                self.take_in(&mut sources);
                // A decision that came to nothing at once has its own time to be tried again.
                next_tick = self.queue.tick(Instant::now());
            }
            self.metrics.pending(self.queue.lengths());
            let tick = async {
                match next_tick {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // `Subscription::next` and `JoinSet::join_next` are cancel safe.
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(done) = self.under_way.join_next() => self.finish(done),
                change = sources.nodes.next() => self.node_changed(&change),
                change = sources.pods.next() => self.pod_changed(&change),
                change = sources.namespaces.next() => self.namespace_changed(&change),
                change = sources.services.next() => self.service_changed(&change),
                change = sources.controllers.next() => self.controller_changed(&change),
                () = tick => {}
            }
        }
        while let Some(done) = self.under_way.join_next().await {
            self.finish(done);
        }
    }

    /// Takes in everything that has arrived. Pods last: what decides on them counts from the start.
    fn take_in(&mut self, sources: &mut Sources) {
        while let Some(change) = sources.services.try_next() {
            self.service_changed(&change);
        }
        while let Some(change) = sources.controllers.try_next() {
            self.controller_changed(&change);
        }
        while let Some(change) = sources.namespaces.try_next() {
            self.namespace_changed(&change);
        }
        while let Some(change) = sources.nodes.try_next() {
            self.node_changed(&change);
        }
        while let Some(change) = sources.pods.try_next() {
            self.pod_changed(&change);
        }
    }

    fn service_changed(&mut self, change: &ObjectChange<Service>) {
        if let Some(known) = change.new.as_ref().or(change.old.as_ref()) {
            let selector = change.new.as_ref().map(|service| service.spec().selector.clone());
            self.cluster.default_spreading_mut().set_service(known.namespace(), known.name(), selector);
        }
    }

    fn controller_changed(&mut self, change: &ObjectChange<ReplicationController>) {
        if let Some(known) = change.new.as_ref().or(change.old.as_ref()) {
            let selector = change.new.as_ref().map(|controller| controller.spec().selector.clone());
            self.cluster.default_spreading_mut().set_controller(known.namespace(), known.name(), selector);
        }
    }

    fn namespace_changed(&mut self, change: &ObjectChange<Namespace>) {
        match (&change.new, &change.old) {
            (Some(new), Some(old)) if new.metadata().labels == old.metadata().labels => return,
            (Some(new), _) => self.cluster.set_namespace(new.name(), new.metadata().labels.clone()),
            (None, Some(old)) => self.cluster.remove_namespace(old.name()),
            (None, None) => return,
        }
        self.news(Change::Namespace, Instant::now());
    }

    /// Something happened that pods may have waited for.
    fn news(&mut self, change: Change<'_>, now: Instant) {
        self.queue.changed(change, self.cluster.namespaces(), now);
    }

    /// Room is no longer made for a pod. Unless it was made on `taken`, where the pod is now, others may have it. True if it was made.
    fn give_up_room(&mut self, uid: &str, taken: &str, now: Instant) -> bool {
        let Some((pod, node)) = self.cluster.forget_nomination(uid) else { return false };
        if node != taken {
            self.news(Change::PodGone(&pod), now);
        }
        true
    }

    fn node_changed(&mut self, change: &ObjectChange<Node>) {
        match (&change.new, &change.old) {
            (Some(new), old) => {
                self.cluster.set_node(new.clone());
                if old.as_ref().is_none_or(|old| differs_for_pods(old, new)) {
                    self.news(Change::Node, Instant::now());
                }
            }
            (None, Some(old)) => {
                self.cluster.remove_node(old.name());
                self.news(Change::NodeGone, Instant::now());
            }
            (None, None) => {}
        }
    }

    fn pod_changed(&mut self, change: &ObjectChange<Pod>) {
        let now = Instant::now();
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| new.metadata().uid != old.metadata().uid)
        {
            self.pod_gone(&old.metadata().uid, now);
        }
        let Some(pod) = &change.new else { return };
        let (uid, spec) = (&pod.metadata().uid, pod.spec());
        if is_terminal(pod) {
            self.pod_gone(uid, now);
            return;
        }
        let info = match PodInfo::new(pod.clone()) {
            Ok(info) => Arc::new(info),
            Err(error) => {
                // The API server refuses such pods.
                tracing::warn!(pod = %client::ObjectKey::of(pod.metadata()), %error, "pod with invalid selectors");
                return;
            }
        };
        if !spec.node_name.is_empty() {
            self.placed(info, now);
        } else if self.cluster.is_placed(uid) {
            // Assumed to be there; what came is from before the binding, which may yet fail.
            if self.queue.knows(uid) {
                self.queue.put(info, now);
            }
        } else if spec.scheduler_name != self.name
            || pod.metadata().deletion_timestamp.is_some()
            || !spec.scheduling_gates.is_empty()
        {
            self.queue.remove(uid);
            self.give_up_room(uid, "", now);
        } else {
            self.note_nomination(change.old.as_deref(), &info, now);
            self.queue.put(info, now);
        }
    }

    /// The API server shows the pod on a node.
    fn placed(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let (uid, node) = (pod.uid(), &pod.pod.spec().node_name);
        self.queue.remove(uid);
        self.give_up_room(uid, node, now);
        let stays = self.cluster.node_of(uid).is_some_and(|known| known.name() == node || !known.exists());
        let former = self.cluster.remove_pod(uid);
        self.cluster.place(pod.clone(), node);
        match former {
            Some(former) if stays => {
                if !former.same_for_others(&pod) {
                    self.news(Change::PodChanged { from: &former, to: &pod }, now);
                }
            }
            former => {
                former.iter().for_each(|former| self.news(Change::PodGone(former), now));
                self.news(Change::PodPlaced(&pod), now);
            }
        }
    }

    /// What the status says of a nomination holds, also if it was made in an earlier life; what it does not say yet may be under way.
    fn note_nomination(&mut self, old: Option<&Pod>, pod: &Arc<PodInfo>, now: Instant) {
        let node = &pod.pod.status().nominated_node_name;
        let had = old.is_some_and(|old| !old.status().nominated_node_name.is_empty());
        if !node.is_empty() || had {
            self.give_up_room(pod.uid(), node, now);
        }
        if !node.is_empty() {
            self.cluster.nominate(pod.clone(), node);
        }
    }

    fn pod_gone(&mut self, uid: &str, now: Instant) {
        self.queue.remove(uid);
        self.give_up_room(uid, "", now);
        if let Some(gone) = self.cluster.remove_pod(uid) {
            self.news(Change::PodGone(&gone), now);
        }
    }

    fn decide(&mut self, pod: Arc<PodInfo>) {
        let begun = StdInstant::now();
        self.cluster.follow(&pod);
        let decision = self.algorithm.place(&pod, &self.cluster);
        self.metrics.decided(decision.is_ok(), begun.elapsed());
        match decision {
            Ok(Placement { node }) => {
                let now = Instant::now();
                if let Err(error) = self.stages.reserve(&pod, &node) {
                    return self.not_bound(&pod, &node, &error, now);
                }
                self.give_up_room(pod.uid(), &node, now);
                self.cluster.place(pod.clone(), &node);
                // The informers will say nothing of it that is new.
                self.news(Change::PodPlaced(&pod), now);
                self.bind(pod, node);
            }
            Err(why) => self.no_place(pod, why),
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let mut binding = Binding::default();
        let (meta, of) = (binding.metadata_mut(), pod.pod.metadata());
        (meta.name, meta.namespace, meta.uid) = (of.name.clone(), of.namespace.clone(), of.uid.clone());
        binding.target = Some(ObjectReference { kind: "Node".to_owned(), name: node.clone(), ..ObjectReference::default() });
        let (pods, stages) = (self.client.pods(), self.stages.clone());
        self.under_way.spawn(async move {
            let result = async {
                stages.pre_bind(&pod, &node).await?;
                Ok(pods.bind(binding).await?)
            };
            let result = result.await;
            Done::Bound { pod, node, result }
        });
    }

    /// A plugin or the API server did not let a pod go to its node: it is tried again after a pause.
    fn not_bound(&mut self, pod: &Arc<PodInfo>, node: &str, error: &(dyn std::error::Error + 'static), now: Instant) {
        tracing::warn!(pod = pod.key(), node, error, "cannot bind");
        let message = api::error::chain(error);
        self.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", message);
        self.queue.failed(pod.uid(), now);
    }

    fn no_place(&mut self, pod: Arc<PodInfo>, why: Unplaceable) {
        self.queue.unschedulable(pod.uid(), why.filters.clone(), Instant::now());
        let mut message = why.to_string();
        let mut nomination = None;
        if why.nodes > 0 {
            match preemption::preempt(&pod, &self.cluster, &why) {
                Ok(preemption) => {
                    nomination = Some(preemption.node.clone());
                    self.give_up_less_important(&pod, &preemption.node);
                    self.cluster.nominate(pod.clone(), &preemption.node);
                    self.evict(&pod, preemption);
                }
                Err(no) => {
                    message = format!("{message} preemption: {no}");
                    if matches!(no, NoPreemption::Nowhere { .. }) && self.give_up_room(pod.uid(), "", Instant::now()) {
                        nomination = Some(String::new());
                    }
                }
            }
        }
        tracing::debug!(pod = pod.key(), why = message, "unschedulable");
        self.recorder.event(&*pod.pod, EventType::Warning, "FailedScheduling", message.clone());
        self.report(&pod, message, nomination);
    }

    /// The room that is being made on the node for less important pods will be taken by this one.
    fn give_up_less_important(&mut self, pod: &PodInfo, node: &str) {
        let less: Vec<_> = self.cluster.nominated_on(node).filter(|other| other.priority < pod.priority).cloned().collect();
        for other in less {
            self.cluster.forget_nomination(other.uid());
            self.write_status(&other, json!({ "nominatedNodeName": null }));
        }
    }

    /// Writes why the pod waits into its status, unless it stands there already, and the node it is nominated for if that changed; an
    /// empty name is none any more.
    fn report(&mut self, pod: &Arc<PodInfo>, message: String, nomination: Option<String>) {
        let conditions = &pod.pod.status().conditions;
        let waits = conditions.iter().find(|c| c.r#type == "PodScheduled" && c.status == "False");
        if nomination.is_none() && waits.is_some_and(|c| c.reason == "Unschedulable" && c.message == message) {
            return;
        }
        let since = waits.and_then(|c| c.last_transition_time).unwrap_or_else(api::meta::v1::Time::now);
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastTransitionTime": since});
        let mut status = json!({ "conditions": [condition] });
        if let Some(node) = nomination {
            status["nominatedNodeName"] = if node.is_empty() { serde_json::Value::Null } else { node.into() };
        }
        self.write_status(pod, status);
    }

    fn write_status(&mut self, pod: &Arc<PodInfo>, status: serde_json::Value) {
        let (client, pod) = (self.client.clone(), pod.clone());
        self.under_way.spawn(async move {
            if let Err(error) = patch_status(&client, &pod, status).await {
                tracing::warn!(pod = pod.key(), error = &error as &dyn std::error::Error, "cannot write the pod's status");
            }
            Done::Written
        });
    }

    fn evict(&mut self, pod: &Arc<PodInfo>, preemption: Preemption) {
        for victim in preemption.victims {
            let message = format!("Preempted by pod {} on node {}", pod.uid(), preemption.node);
            self.recorder.event(&*victim.pod, EventType::Normal, "Preempted", message);
            let (client, scheduler, preemptor) = (self.client.clone(), self.name.clone(), pod.clone());
            self.under_way.spawn(async move {
                let result = evict(&client, &victim, &scheduler).await;
                Done::Evicted { preemptor, victim, result }
            });
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            // A panic is a defect that must not go unseen.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        match done {
            Done::Written => {}
            Done::Bound { pod, node, result } => self.bound(&pod, &node, result),
            Done::Evicted { result: Ok(()), .. } => {}
            Done::Evicted { preemptor, victim, result: Err(error) } => {
                // It changed since it was chosen, or cannot go: whom to evict is decided anew.
                if !error.is_conflict() {
                    tracing::warn!(pod = victim.key(), error = &error as &dyn std::error::Error, "cannot evict");
                }
                self.queue.look_again(preemptor.uid(), Instant::now());
            }
        }
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, result: Result<(), BindError>) {
        self.metrics.bound(result.is_ok());
        match result {
            Ok(()) => {
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {} to {node}", pod.key());
                self.recorder.event(&*pod.pod, EventType::Normal, "Scheduled", message);
            }
            // It was bound all the same, by this request or another, or is gone: what is known of it is newer than this.
            Err(_) if !self.queue.knows(pod.uid()) => {
                if self.cluster.node_of(pod.uid()).is_none_or(|known| known.name() != node) {
                    self.stages.unreserve(pod, node);
                }
            }
            Err(error) => {
                let now = Instant::now();
                self.stages.unreserve(pod, node);
                self.cluster.remove_pod(pod.uid());
                let gone = |error: &client::Error| error.status().is_some_and(StatusError::is_not_found);
                match &error {
                    BindError::Api(error) if gone(error) => self.queue.remove(pod.uid()),
                    _ => self.not_bound(pod, node, &error, now),
                }
                self.news(Change::PodGone(pod), now);
            }
        }
    }
}

/// Changes the status of this very pod. A pod that is gone is no error.
async fn patch_status(client: &Client, pod: &PodInfo, status: serde_json::Value) -> Result<(), client::Error> {
    let patch = Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": status }));
    let pods = client.namespaced::<Pod>(pod.pod.namespace());
    unless_gone(pods.patch_status(pod.pod.name(), &patch).await)
}

/// Says in the pod's status why it goes, then deletes it: the very version that was chosen. A pod that is gone is no error, one that has
/// changed meanwhile is a conflict.
async fn evict(client: &Client, victim: &PodInfo, scheduler: &str) -> Result<(), client::Error> {
    let condition = json!({
        "type": preemption::DISRUPTION_TARGET, "status": "True", "reason": preemption::BY_SCHEDULER,
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": api::meta::v1::Time::now(),
    });
    let (pods, seen) = (client.namespaced::<Pod>(victim.pod.namespace()), victim.pod.metadata());
    let seen_meta = json!({ "uid": seen.uid, "resourceVersion": seen.resource_version });
    let patch = Patch::Strategic(json!({ "metadata": seen_meta, "status": { "conditions": [condition] } }));
    match pods.patch_status(&seen.name, &patch).await {
        Ok(written) => pods.delete_seen(written.metadata(), DeleteOptions::default()).await,
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// No error if the pod is gone, or is another one of its name by now.
fn unless_gone<T>(outcome: Result<T, client::Error>) -> Result<(), client::Error> {
    match outcome {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

/// True if a pod that did not fit before may fit now. Heartbeats make no difference.
fn differs_for_pods(old: &Node, new: &Node) -> bool {
    old.spec != new.spec || old.metadata().labels != new.metadata().labels || old.status().allocatable != new.status().allocatable
}

#[cfg(test)]
mod tests;
