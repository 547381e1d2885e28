//! A pod's task: observe, plan, act, report; then wait for the next thing to happen.
//!
//! *Invariant:* everything the plan asks for is marked busy until its job has reported, so it is never done twice at once; one write of the
//! status is under way at most, and the last one written is the last one derived.

mod outcomes;
mod telling;

pub(super) use self::telling::short;

use std::{sync::Arc, time::Duration};

use api::core::v1::{Pod, PodStatus};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info};

use super::{
    Context, Mailbox,
    admission::Rejection,
    backoff::{Backoff, later},
    jobs::{self, SandboxStage, StartFailure, StartJob, VolumeStage},
    plan::{Life, Plan, Situation, Start, Stop, TearDown, Why, life, plan},
    probe::{Kind, Report},
    probing::Probing,
    reason::Reason,
    spec::spec_hash,
    state::{Desired, Memory, Observed, Probes, Stopping, Task, VolumeState},
    status::status,
    unit::{reported, unit, units},
};
use crate::{
    cluster::{self, PodEvent},
    network::Addresses,
    runtime::{Container, ContainerId, LogOptions},
};

/// Delay before a tear-down or a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The longest delay of a sandbox that failed: much of what can be wrong with it is over soon.
const SANDBOX_RETRY_MAX: Duration = Duration::from_secs(10);
/// How much of the log stands in for a termination message: upstream's lines and bytes.
const LOG_TAIL_LINES: i64 = 80;
const LOG_TAIL_BYTES: usize = 2048;

/// What a job reports.
enum Done {
    Sandbox(Result<(Container, Addresses), String>),
    Volumes(Result<crate::volumes::Mounted, String>),
    /// With the hash of the spec that it was started from.
    Start(Start, String, Result<Container, StartFailure>),
    Signal(ContainerId, Result<(), crate::runtime::Error>),
    Remove(ContainerId, Result<(), crate::runtime::Error>),
    TearDown(TearDown, Result<(), String>),
    Status(Box<PodStatus>, Result<Option<u64>, cluster::Error>),
    Deleted(Result<(), cluster::Error>),
}

struct Worker {
    ctx: Arc<Context>,
    uid: String,
    desired: Desired,
    observed: Observed,
    memory: Memory,
    jobs: JoinSet<Done>,
    probing: Probing,
    sandbox: Arc<watch::Sender<SandboxStage>>,
    volumes: watch::Sender<VolumeStage>,
    cancel: CancellationToken,
    /// The status that the API server has, as far as is known: the newer of what we wrote and what we were told.
    written: PodStatus,
    /// The revision at which it has it.
    written_at: u64,
    writing: bool,
    /// The object has been deleted, or was not found; only word of its disappearance is awaited.
    deleted: bool,
    /// Work that failed and has no time of its own is tried again then.
    retry_at: Option<Timestamp>,
    /// The runtime could not be asked; ask again.
    resync: bool,
    /// When this task began to start a pod that had no status yet; `None` once it is ready.
    starting_since: Option<Instant>,
}

/// Runs a pod until nothing of it is left. `mailbox` must hold what is wanted; `rejection` says why the node does not take it.
pub async fn run(ctx: Arc<Context>, mailbox: Mailbox, rejection: Option<Rejection>) {
    let Some(desired) = mailbox.take().desired else { return };
    let uid = desired.pod.metadata().uid.clone();
    let (volumes, sandbox) = (watch::Sender::new(VolumeStage::Pending), Arc::new(watch::Sender::new(SandboxStage::Pending)));
    let (written, written_at) = (desired.pod.status().clone(), revision(&desired.pod));
    let starting_since = desired.pod.status().container_statuses.is_empty().then(Instant::now);
    let mut worker = Worker {
        ctx,
        uid,
        desired,
        observed: Observed::default(),
        memory: Memory { rejection, seen_at: Some(Timestamp::now()), ..Memory::default() },
        jobs: JoinSet::new(),
        probing: Probing::new(),
        sandbox,
        volumes,
        cancel: CancellationToken::new(),
        written,
        written_at,
        writing: false,
        deleted: false,
        retry_at: None,
        resync: true,
        starting_since,
    };
    worker.look_at_all().await;
    worker.recall();
    worker.note_rejection();
    worker.live(&mailbox).await;
}

// === impl Worker ===

impl Worker {
    async fn live(&mut self, mailbox: &Mailbox) {
        loop {
            let now = Timestamp::now();
            self.retry_at = self.retry_at.filter(|at| now < *at);
            let plan = plan(&self.situation(now));
            let finished = plan.finished;
            let wake_at = [plan.wake_at, self.retry_at].into_iter().flatten().min();
            if !self.resync {
                self.act(plan, now);
                self.report(now, finished);
            }
            let wanted = !self.desired.gone && life(&self.situation(now)) == Life::Runs;
            self.probing.sync(&self.ctx, &self.desired.pod, &self.observed, &self.memory, wanted);
            if finished && self.desired.gone && self.jobs.is_empty() {
                info!("pod gone");
                self.ctx.running.remove(&self.uid);
                self.ctx.metrics.forget_probes(&self.desired.pod);
                return;
            }
            let pause = wake_at.map(|at| Instant::now() + at.duration_since(now).try_into().unwrap_or(Duration::ZERO));
            tokio::select! {
                () = mailbox.arrived() => self.read_mail(mailbox).await,
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok(done) => self.finish(done).await,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(report) = self.probing.next() => self.hear(report),
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {
                    if self.resync {
                        self.look_at_all().await;
                    }
                }
            }
        }
    }

    fn situation(&self, now: Timestamp) -> Situation<'_> {
        Situation { pod: &self.desired.pod, gone: self.desired.gone, observed: &self.observed, memory: &self.memory, now }
    }

    // --- observe ---

    async fn read_mail(&mut self, mailbox: &Mailbox) {
        let mail = mailbox.take();
        if let Some(desired) = mail.desired {
            self.want(desired);
        }
        if mail.sources_changed {
            self.renew_volumes();
            for container in self.memory.containers.values_mut() {
                // A ConfigMap that was missing may be there now.
                container.failure =
                    container.failure.take().filter(|failure| failure.reason != Reason::CreateContainerConfigError);
            }
        }
        if mail.resync || self.resync {
            self.look_at_all().await;
        } else {
            for id in mail.containers {
                self.look_at(&id).await;
            }
        }
    }

    fn want(&mut self, desired: Desired) {
        // Labels and annotations may be shown in volumes.
        let (old, new) = (self.desired.pod.metadata(), desired.pod.metadata());
        let shown = old.labels != new.labels || old.annotations != new.annotations;
        for new in units(desired.pod.spec()) {
            let old = unit(self.desired.pod.spec(), new.name());
            if old.is_some_and(|old| spec_hash(&old.spec) != spec_hash(&new.spec)) {
                // What failed was another container.
                self.memory.containers.remove(new.name());
            }
        }
        self.desired = desired;
        if shown {
            self.renew_volumes();
        }
        let revision = revision(&self.desired.pod);
        if revision > self.written_at {
            self.written = self.desired.pod.status().clone();
            self.written_at = revision;
            // It is there, whatever a write said.
            self.deleted = false;
        } else {
            // Told of a state before our last write.
            self.show_written();
        }
        if !matches!(life(&self.situation(Timestamp::now())), Life::Runs) {
            self.cancel.cancel();
        }
    }

    /// What the volumes show has changed. If they are just being made, of the old or the new, they are made once more.
    fn renew_volumes(&mut self) {
        self.memory.volumes = VolumeState::Unknown;
        self.memory.volumes_stale = self.memory.busy.contains(&Task::Volumes);
    }

    /// Lets the pod carry the newest status, which the next one derives from.
    fn show_written(&mut self) {
        if *self.desired.pod.status() != self.written {
            Arc::make_mut(&mut self.desired.pod).status = Some(self.written.clone());
        }
    }

    async fn look_at_all(&mut self) {
        match jobs::observe(&self.ctx, &self.uid).await {
            Ok(observed) => {
                self.resync = false;
                self.set_observed(observed).await;
            }
            Err(error) => {
                debug!(uid = self.uid, error = %api::error::chain(&error), "cannot look at the pod's containers");
                self.resync = true;
                self.retry_later();
            }
        }
    }

    async fn look_at(&mut self, id: &str) {
        match self.ctx.runtime.inspect(id).await {
            Ok(found) => {
                let others =
                    self.observed.applications().chain(&self.observed.sandboxes).filter(|container| container.id != id).cloned();
                let observed = Observed::new(others.chain(found));
                let observed = jobs::with_sandbox_addresses(&self.ctx, &self.uid, observed);
                self.set_observed(observed).await;
            }
            Err(_) => {
                self.resync = true;
                self.retry_later();
            }
        }
    }

    async fn set_observed(&mut self, observed: Observed) {
        let before = std::mem::replace(&mut self.observed, observed);
        self.tell_ended(&before);
        self.ctx.running.set(&self.uid, &self.observed);
        self.memory.forget_removed(&self.observed);
        let sandbox = self.observed.sandbox().map(|sandbox| sandbox.id.clone());
        let host_network = self.desired.pod.spec().host_network;
        if !self.memory.busy.contains(&Task::Sandbox) {
            let stage = match sandbox {
                Some(id) if host_network || !self.observed.addresses.is_empty() => {
                    SandboxStage::Ready(id, self.observed.addresses.clone())
                }
                _ => SandboxStage::Pending,
            };
            self.sandbox.send_if_modified(|current| std::mem::replace(current, stage.clone()) != stage);
        }
        let ended: Vec<Container> = self.observed.applications().filter(|c| c.exit().is_some()).cloned().collect();
        for container in ended {
            if !self.memory.messages.contains_key(&container.id) {
                let message = self.last_words(&container).await;
                self.memory.messages.insert(container.id, message);
            }
        }
    }

    /// A container's termination message: its file, or the end of its log if that is wanted.
    async fn last_words(&self, container: &Container) -> String {
        use futures::StreamExt as _;
        let labels = &container.labels;
        let files = super::files::PodFiles::new(self.ctx.volumes.pod_dir(&self.uid));
        let left = files.read_message(&labels.container, labels.attempt);
        let failed = container.exit().is_some_and(|exit| exit.code != 0);
        if !left.is_empty() || labels.message_policy != "FallbackToLogsOnError" || !failed {
            return left;
        }
        let options = LogOptions { tail: Some(LOG_TAIL_LINES), ..LogOptions::default() };
        let mut end = Vec::new();
        let mut log = self.ctx.runtime.logs(&container.id, options);
        // A line can be of any length; only the end is kept.
        while let Some(Ok(chunk)) = log.next().await {
            end.extend_from_slice(&chunk.into_bytes());
            end.drain(..end.len().saturating_sub(LOG_TAIL_BYTES));
        }
        String::from_utf8_lossy(&end).into_owned()
    }

    /// After a restart of the kubelet, what was reported of a container is what is remembered of it: the last word of its probes if it still runs,
    /// and that it is held back.
    fn recall(&mut self) {
        for unit in units(self.desired.pod.spec()) {
            let Some(container) = self.observed.newest(unit.name()) else { continue };
            let Some(status) = reported(&self.desired.pod, unit.name()) else { continue };
            if !status.container_id.ends_with(&container.id) {
                continue;
            }
            if container.is_running() {
                let probes = Probes { started: status.started.filter(|started| *started), live: None, ready: Some(status.ready) };
                self.memory.probes.insert(container.id.clone(), probes);
            } else if Reason::parse(&status.state().waiting().reason) == Some(Reason::CrashLoopBackOff) {
                let tried = container.started_at.unwrap_or(container.created_at);
                let restarts = Backoff::after(container.labels.attempt, tried);
                self.memory.containers.entry(unit.name().to_owned()).or_default().restarts = restarts;
            }
        }
    }

    fn hear(&mut self, report: Report) {
        self.tell_probe(&report);
        let probes = self.memory.probes.entry(report.container).or_default();
        match report.kind {
            Kind::Startup => probes.started = Some(report.good),
            Kind::Liveness => probes.live = Some(report.good),
            Kind::Readiness => probes.ready = Some(report.good),
        }
    }

    // --- act ---

    fn act(&mut self, plan: Plan, now: Timestamp) {
        let pod = self.desired.pod.clone();
        if plan.prepare_volumes {
            self.memory.busy.insert(Task::Volumes);
            let work = jobs::prepare_volumes(self.ctx.clone(), pod.clone());
            self.spawn(async move { Done::Volumes(work.await) });
        }
        if let Some(attempt) = plan.create_sandbox {
            if attempt > 0 {
                self.event(PodEvent::normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created."));
            }
            self.memory.busy.insert(Task::Sandbox);
            self.sandbox.send_replace(SandboxStage::Pending);
            let work = jobs::create_sandbox(self.ctx.clone(), pod.clone(), attempt, self.sandbox.clone());
            self.spawn(async move { Done::Sandbox(work.await) });
        } else if plan.connect_sandbox
            && let Some(id) = self.observed.sandbox().map(|sandbox| sandbox.id.clone())
        {
            self.memory.busy.insert(Task::Sandbox);
            let work = jobs::connect_sandbox(self.ctx.clone(), pod.clone(), id, self.sandbox.clone());
            self.spawn(async move { Done::Sandbox(work.await) });
        }
        for start in plan.start {
            self.start(&pod, start, now);
        }
        for stop in plan.stop {
            self.stop(stop, now);
        }
        for id in plan.force {
            if let Some(stopping) = self.memory.stopping.get_mut(&id) {
                (stopping.forced, stopping.failed) = (true, false);
            }
            self.tell_forced(&id);
            self.signal(id, "SIGKILL".to_owned());
        }
        for id in plan.remove {
            self.memory.busy.insert(Task::Remove(id.clone()));
            let ctx = self.ctx.clone();
            self.spawn(async move {
                let result = ctx.metrics.timed("remove_container", ctx.runtime.remove(&id)).await;
                Done::Remove(id, result)
            });
        }
        if let Some(what) = plan.tear_down.filter(|_| self.retry_at.is_none()) {
            self.memory.busy.insert(Task::TearDown);
            let work = jobs::tear_down(self.ctx.clone(), self.uid.clone(), what);
            self.spawn(async move { Done::TearDown(what, work.await) });
        }
    }

    fn start(&mut self, pod: &Arc<Pod>, start: Start, now: Timestamp) {
        let Some(unit) = unit(pod.spec(), &start.container) else { return };
        self.memory.busy.insert(Task::Start(start.container.clone()));
        let memory = self.memory.container(&start.container);
        if let Some(ended) = start.last_ended
            && memory.failure.as_ref().is_none_or(|failure| failure.reason == Reason::RunContainerError)
        {
            memory.restarts.advance(ended, now);
        }
        let job = StartJob {
            pod: pod.clone(),
            spec: unit.spec.into_owned(),
            attempt: start.attempt,
            sandbox: self.sandbox.subscribe(),
            volumes: self.volumes.subscribe(),
            cancel: self.cancel.clone(),
        };
        let (hash, work) = (spec_hash(&job.spec), jobs::start_container(self.ctx.clone(), job));
        self.spawn(async move { Done::Start(start, hash, work.await) });
    }

    fn stop(&mut self, stop: Stop, now: Timestamp) {
        let deadline = later(now, stop.grace).unwrap_or(now);
        let forced = stop.grace.is_zero();
        let stopping = Stopping { deadline, forced, failed: false };
        // Asked already, and now to be quicker.
        if self.memory.stopping.insert(stop.id.clone(), stopping).is_some() && !forced {
            return;
        }
        self.tell_stop(&stop);
        let name = &stop.container;
        let message = match stop.why {
            Why::NotLive => format!("Container {name} failed liveness probe, will be restarted"),
            Why::NotStarted => format!("Container {name} failed startup probe, will be restarted"),
            Why::Changed => format!("Container {name} definition changed, will be restarted"),
            Why::PodEnds | Why::SandboxChanged | Why::Superfluous => format!("Stopping container {name}"),
        };
        self.event(PodEvent::normal("Killing", message).about(name));
        // preStop hooks have their place here, within the grace.
        let signal =
            self.observed.applications().find(|container| container.id == stop.id).map(|container| container.stop_signal.clone());
        self.signal(stop.id, if forced { "SIGKILL".to_owned() } else { signal.unwrap_or_else(|| "SIGTERM".to_owned()) });
    }

    fn signal(&mut self, id: ContainerId, signal: String) {
        self.memory.busy.insert(Task::Signal(id.clone()));
        let ctx = self.ctx.clone();
        self.spawn(async move {
            let result = ctx.metrics.timed("stop_container", ctx.runtime.signal(&id, &signal)).await;
            Done::Signal(id, result)
        });
    }

    // --- report ---

    fn report(&mut self, now: Timestamp, finished: bool) {
        if self.desired.gone || self.deleted || self.writing {
            return;
        }
        let derived = status(&self.situation(now), &self.ctx.node);
        if self.written != derived {
            if self.retry_at.is_some() {
                return;
            }
            self.writing = true;
            self.tell_phase(&derived);
            self.note_back_offs(&derived);
            let (ctx, pod) = (self.ctx.clone(), self.desired.pod.clone());
            self.spawn(async move {
                let result = ctx.cluster.write_status(&pod, &derived).await;
                Done::Status(Box::new(derived), result)
            });
        } else if finished && self.retry_at.is_none() {
            self.writing = true;
            let (ctx, pod) = (self.ctx.clone(), self.desired.pod.clone());
            self.spawn(async move { Done::Deleted(ctx.cluster.delete_pod(&pod).await) });
        }
    }

    /// Starts a job of the pod.
    fn spawn(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.spawn(job.in_current_span());
    }

    fn soon(&self, delay: Duration) -> Timestamp {
        let now = Timestamp::now();
        later(now, delay).unwrap_or(now)
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(self.soon(RETRY));
    }
}

/// The revision at which the API server had the pod.
fn revision(pod: &Pod) -> u64 {
    pod.metadata().resource_version.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
