//! The pods of this node: a task for each, told of what concerns it; and the sweeps that find what belongs to none.
//!
//! *Invariant:* a pod UID has one task at most. Nothing is removed before the first whole list of pods is in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::{
    core::v1::{Node, Pod},
    pod::is_terminal,
    references::References,
    resource::Quantity,
};
use client::{Informer, ObjectChange, ObjectKey};
use futures::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval_at, sleep, timeout},
};
use tracing::{Instrument as _, info, warn};

use crate::{
    cluster::{Reference, ReferenceKind},
    pod::{self, Context, Mailbox, admission::refusal, state::Desired},
    runtime::{self, ContainerEvent, Labels, Runtime},
};

/// How often leftovers are looked for, besides at the start.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How often the runtime is asked whether it still answers, and how long it may take.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the runtime may be away before the node is not ready: upstream's number.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long pods wait for their node to be registered.
const REGISTERED: Duration = Duration::from_secs(30);
/// Pause before the runtime is asked again after it went away.
const RECONNECT: Duration = Duration::from_secs(1);

/// The mailboxes of the pods that have a task; shared with whoever has news for them.
#[derive(Clone, Default)]
pub struct Pods {
    inner: Arc<Mutex<BTreeMap<String, Entry>>>,
}

struct Entry {
    mailbox: Mailbox,
    pod: Arc<Pod>,
    /// The API server has it no more.
    gone: bool,
    /// The node does not take it.
    rejected: bool,
    references: BTreeSet<Reference>,
}

/// This node's object as the admission of pods sees it.
pub struct OwnNode {
    nodes: Informer<Node>,
    name: String,
    /// What pods may use of what this kubelet hands out itself.
    allocatable: BTreeMap<String, Quantity>,
}

/// Gives each pod its task.
struct Manager {
    ctx: Arc<Context>,
    pods: Pods,
    /// The tasks; each says whose it was.
    tasks: JoinSet<String>,
    informer: Informer<Pod>,
    source: OwnNode,
    /// The node as it last was: it may be deleted for a while.
    node: Node,
}

/// Whether the container runtime answers; the text says why not.
pub type RuntimeState = watch::Sender<Result<(), String>>;

// === impl Pods ===

impl Pods {
    /// Tells every pod that refers to an object of its change.
    pub fn source_changed(&self, reference: &Reference) {
        for entry in self.inner.lock().values().filter(|entry| entry.references.contains(reference)) {
            entry.mailbox.sources_changed();
        }
    }

    /// The pod with this name; not one that the API server has no more, whose name another may have by now.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pods = self.inner.lock();
        let is_it = |pod: &Pod| pod.metadata().namespace == namespace && pod.metadata().name == name;
        let found = pods.values().find(|entry| !entry.gone && is_it(&entry.pod));
        found.map(|entry| entry.pod.clone())
    }

    /// All pods.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.inner.lock().values().map(|entry| entry.pod.clone()).collect()
    }

    fn uids(&self) -> BTreeSet<String> {
        self.inner.lock().keys().cloned().collect()
    }

    fn references(&self) -> BTreeSet<Reference> {
        self.inner.lock().values().flat_map(|entry| entry.references.iter().cloned()).collect()
    }

    fn resync(&self) {
        for entry in self.inner.lock().values() {
            entry.mailbox.resync();
        }
    }
}

/// Routes the runtime's events to the pods; for ever. A runtime that is away for a moment, as while it is restarted, is nothing to report: its
/// containers go on.
pub async fn route_events(runtime: Arc<dyn Runtime>, pods: Pods, state: RuntimeState) {
    let mut away_since: Option<Instant> = None;
    loop {
        // Events are asked for before the pods look, so nothing falls in between.
        let events = runtime.events();
        match answers(&*runtime).await {
            Ok(()) => {
                away_since = None;
                if state.send_if_modified(|state| std::mem::replace(state, Ok(())).is_err()) {
                    info!("the container runtime answers");
                }
                pods.resync();
                follow_events(&*runtime, &pods, events).await;
            }
            Err(message) => {
                let away = away_since.get_or_insert_with(Instant::now).elapsed();
                let told = message.clone();
                let down = |state: &mut Result<(), String>| std::mem::replace(state, Err(told)).is_ok();
                if away >= PATIENCE && state.send_if_modified(down) {
                    warn!(message, "the container runtime does not answer");
                }
            }
        }
        sleep(RECONNECT).await;
    }
}

/// Passes events on until they break off, or until the runtime does not answer any more: one that hangs says nothing.
async fn follow_events(runtime: &dyn Runtime, pods: &Pods, mut events: BoxStream<'static, runtime::Result<ContainerEvent>>) {
    let mut checks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = checks.tick() => match answers(runtime).await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match event {
            Some(Ok(event)) => {
                if let Some(entry) = pods.inner.lock().get(&event.pod_uid) {
                    entry.mailbox.container_changed(event.id);
                }
            }
            Some(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the container runtime's events broke off");
                return;
            }
            None => return,
        }
    }
}

/// Whether the runtime answers within the time that something healthy needs.
async fn answers(runtime: &dyn Runtime) -> Result<(), String> {
    match timeout(CHECK_TIMEOUT, runtime.version()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
    }
}

/// Runs the pods that the API server has for this node; for ever.
pub async fn run(ctx: Arc<Context>, pods: Pods, informer: Informer<Pod>, node: OwnNode) {
    informer.wait_synced().await;
    let mut changes = informer.subscribe();
    let mut running = running(&*ctx.runtime).await;
    let mut manager = Manager { node: node.known().await, source: node, ctx, pods, tasks: JoinSet::new(), informer };
    // All that is there is in the subscription already. What the node took before the kubelet was restarted comes first, the rest by age.
    let mut first: Vec<_> = std::iter::from_fn(|| changes.try_next()).collect();
    let is_taken = |pod: &Pod| acknowledged(pod) || running.contains(&pod.metadata().uid);
    first.sort_by_cached_key(|change| {
        let pod = change.new.as_deref();
        let age = pod.and_then(|pod| pod.metadata().creation_timestamp.as_ref().map(|time| time.timestamp()));
        (pod.is_some_and(|pod| !is_taken(pod)), age)
    });
    first.into_iter().for_each(|change| manager.apply(change, &running));
    running.clear();
    manager.follow();
    let mut sweeps = interval_at(Instant::now(), SWEEP_INTERVAL);
    loop {
        tokio::select! {
            change = changes.next() => {
                manager.apply(change, &running);
                manager.follow();
            }
            Some(ended) = manager.tasks.join_next(), if !manager.tasks.is_empty() => match ended {
                Ok(uid) => manager.forget(&uid),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            _ = sweeps.tick() => manager.sweep().await,
        }
    }
}

/// The UIDs of the pods that have containers. Asks until the runtime answers.
async fn running(runtime: &dyn Runtime) -> BTreeSet<String> {
    loop {
        match runtime.list(None).await {
            Ok(containers) => return containers.into_iter().map(|container| container.labels.uid).collect(),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot look for the containers that run"),
        }
        sleep(RECONNECT).await;
    }
}

/// Whether this node has said something about the pod: then it has taken it.
fn acknowledged(pod: &Pod) -> bool {
    pod.status().start_time.is_some()
}

// === impl OwnNode ===

impl OwnNode {
    /// The node of that name, whose pods may use what `allocatable` says whatever the API server has heard of it.
    pub fn new(nodes: Informer<Node>, name: String, allocatable: BTreeMap<String, Quantity>) -> Self {
        Self { nodes, name, allocatable }
    }

    fn get(&self) -> Option<Node> {
        let mut node = Node::clone(&*self.nodes.store().get(&ObjectKey::new("", &*self.name))?);
        let allocatable = &mut node.status_mut().allocatable;
        allocatable.extend(self.allocatable.iter().map(|(name, amount)| (name.clone(), amount.clone())));
        Some(node)
    }

    /// Waits until the node is registered. Pods that run must not wait for that for ever: then it is one without labels and taints.
    async fn known(&self) -> Node {
        let mut news = self.nodes.subscribe();
        let registered = async {
            loop {
                match self.get() {
                    Some(node) => return node,
                    None => drop(news.next().await),
                }
            }
        };
        if let Ok(node) = timeout(REGISTERED, registered).await {
            return node;
        }
        warn!(node = self.name, "the node is not registered; its pods are run all the same");
        let mut node = Node::default();
        node.metadata_mut().name.clone_from(&self.name);
        node.status_mut().allocatable.clone_from(&self.allocatable);
        node
    }
}

// === impl Manager ===

impl Manager {
    fn apply(&mut self, change: ObjectChange<Pod>, running: &BTreeSet<String>) {
        match (change.old, change.new) {
            (old, Some(pod)) => {
                // Deleted and created again under the same name, seen as one change.
                if let Some(old) = old.filter(|old| old.metadata().uid != pod.metadata().uid) {
                    self.want(Desired { pod: old, gone: true }, true);
                }
                let taken = running.contains(&pod.metadata().uid);
                self.want(Desired { pod, gone: false }, taken);
            }
            (Some(pod), None) => self.want(Desired { pod, gone: true }, true),
            (None, None) => {}
        }
    }

    /// Tells a pod's task what is wanted; starts it if there is none. `taken`: the node is not asked (again) whether it takes the pod.
    fn want(&mut self, desired: Desired, taken: bool) {
        let (uid, pod, gone) = (desired.pod.metadata().uid.clone(), desired.pod.clone(), desired.gone);
        let references = if gone { BTreeSet::new() } else { references(&pod) };
        let mut entries = self.pods.inner.lock();
        if let Some(entry) = entries.get_mut(&uid) {
            (entry.pod, entry.gone) = (pod, gone);
            entry.references = references;
            entry.mailbox.set_desired(desired);
            return;
        }
        let ends = gone || pod.metadata().deletion_timestamp.is_some() || is_terminal(&pod);
        let rejection = if taken || ends || acknowledged(&pod) {
            None
        } else {
            if let Some(node) = self.source.get() {
                self.node = node;
            }
            let counted = entries.values().filter(|entry| !entry.gone && !entry.rejected);
            refusal(&self.node, counted.map(|entry| &*entry.pod), &pod)
        };
        let mailbox = Mailbox::new(desired);
        let span = tracing::info_span!("pod", pod = pod.metadata().name, namespace = pod.metadata().namespace, uid);
        let rejected = rejection.is_some();
        let work = pod::run(self.ctx.clone(), mailbox.clone(), rejection);
        entries.insert(uid.clone(), Entry { mailbox, pod, gone, rejected, references });
        self.tasks.spawn(
            async move {
                work.await;
                uid
            }
            .instrument(span),
        );
    }

    /// A task has ended: the pod left nothing. If it is wanted again since, it gets a new task.
    fn forget(&mut self, uid: &str) {
        self.pods.inner.lock().remove(uid);
        let again = self.informer.store().list().into_iter().find(|pod| pod.metadata().uid == uid);
        if let Some(pod) = again {
            self.want(Desired { pod, gone: false }, false);
        }
        self.follow();
    }

    fn follow(&self) {
        self.ctx.cluster.follow(self.pods.references());
    }

    /// Finds what belongs to no pod: containers get a task that removes them, the rest is removed here.
    async fn sweep(&mut self) {
        let (ctx, mut in_doubt) = (self.ctx.clone(), BTreeSet::new());
        match ctx.runtime.list(None).await {
            Ok(containers) => {
                let known = self.pods.uids();
                let strangers: BTreeMap<_, _> = containers
                    .into_iter()
                    .filter(|c| !known.contains(&c.labels.uid))
                    .map(|c| (c.labels.uid.clone(), c.labels))
                    .collect();
                for (uid, labels) in strangers {
                    let key = ObjectKey::new(&*labels.namespace, &*labels.pod);
                    if let Err(error) = self.informer.store().find(&key) {
                        warn!(uid, error = &error as &dyn std::error::Error, "leaving containers alone");
                        in_doubt.insert(uid);
                        continue;
                    }
                    info!(uid, pod = labels.pod, namespace = labels.namespace, "removing the containers of a pod that is gone");
                    self.want(Desired { pod: Arc::new(stand_in(&labels)), gone: true }, true);
                }
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot look for leftover containers");
                return;
            }
        }
        let mut live = self.pods.uids();
        live.append(&mut in_doubt);
        if let Err(error) = ctx.network.sweep(&live).await {
            warn!(error = &*error as &dyn std::error::Error, "cannot look for leftover links and addresses");
        }
        match ctx.volumes.sweep(&live).await {
            Ok(removed) => removed.iter().for_each(|uid| info!(uid, "removed the files of a pod that is gone")),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot look for leftover files"),
        }
        let groups = ctx.cgroups.clone();
        if tokio::task::spawn_blocking(move || groups.sweep(&live)).await.is_err() {
            warn!("cannot look for leftover control groups");
        }
    }
}

/// What a container's labels tell of a pod whose object is gone.
fn stand_in(labels: &Labels) -> Pod {
    let mut pod = Pod::default();
    let metadata = pod.metadata_mut();
    metadata.name.clone_from(&labels.pod);
    metadata.namespace.clone_from(&labels.namespace);
    metadata.uid.clone_from(&labels.uid);
    pod.spec_mut().termination_grace_period_seconds = Some(labels.grace_seconds);
    pod
}

/// The ConfigMaps and Secrets that a pod refers to.
fn references(pod: &Pod) -> BTreeSet<Reference> {
    let References { secrets, config_maps, .. } = References::of(pod);
    let of = |kind, name| Reference { kind, namespace: pod.metadata().namespace.clone(), name };
    let secrets = secrets.into_iter().map(|name| of(ReferenceKind::Secret, name));
    secrets.chain(config_maps.into_iter().map(|name| of(ReferenceKind::ConfigMap, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_restarted_is_no_news_and_one_that_stays_away_is() {
        let (runtime, (state, told)) = (FakeRuntime::new(&[]), watch::channel(Ok(())));
        let task = tokio::spawn(route_events(Arc::new(runtime.clone()), Pods::default(), state));
        for (down, seconds, fine) in
            [(false, 5, true), (true, 50, true), (false, 40, true), (true, 50, true), (true, 30, false), (false, 2, true)]
        {
            runtime.set_down(down);
            sleep(Duration::from_secs(seconds)).await;
            assert_eq!(told.borrow().is_ok(), fine, "{down} for {seconds} s");
        }
        task.abort();
    }

    #[test]
    fn a_name_means_the_pod_that_has_it_now() {
        let pods = Pods::default();
        for (uid, gone) in [("1", true), ("2", false), ("3", true)] {
            let mut pod = Pod::default();
            (pod.metadata_mut().namespace, pod.metadata_mut().name, pod.metadata_mut().uid) =
                ("ns".into(), "web".into(), uid.into());
            let pod = Arc::new(pod);
            let mailbox = Mailbox::new(Desired { pod: pod.clone(), gone });
            pods.inner.lock().insert(uid.into(), Entry { mailbox, pod, gone, rejected: false, references: BTreeSet::new() });
        }
        assert_eq!(pods.find("ns", "web").unwrap().metadata().uid, "2");
    }
}
