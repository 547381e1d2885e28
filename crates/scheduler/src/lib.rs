//! The scheduler: a snapshot in, a decision out.
//!
//! ```text
//! informers ─► Cluster (dense array of nodes)      Algorithm: filters ─► scores ─► Placement ─► reserve ─► pre-bind ─► bind
//!          └─► Queue (active, backoff, unschedulable) ─┘          └─► Preemption ─► evict, nominate
//! ```
//!
//! [`algorithm`] and [`preemption`] are pure; [`scheduler`] carries out what they decide.

pub mod algorithm;
mod args;
pub mod cluster;
pub mod default_spreading;
mod filters;
mod metrics;
pub mod node;
pub mod plugin;
pub mod pod;
pub mod pod_set;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod scheduler;
mod scores;
#[cfg(test)]
mod testing;
pub mod topology;

use anyhow::Context;
use api::core::v1::{Container, Namespace, Node, Pod, ReplicationController, Service};
use client::{Client, Config, EventRecorder, Informers, LeaderElection};

pub use self::{args::Args, metrics::Metrics};
use self::{
    plugin::Stages,
    scheduler::{Scheduler, Sources},
};

/// Starts the scheduler: waits for the lease, then for the first lists, and schedules.
///
/// # Errors
/// When the client configuration cannot be used.
pub async fn run(args: Args, kit: daemon::Kit) -> anyhow::Result<()> {
    let config = Config::load(&args.client).context("client configuration")?.named("scheduler");
    let client = Client::new(config)?;
    let metrics = Metrics::new(&kit.metrics);
    kit.tasks.clone().spawn("leader", lead(args, kit, client, metrics));
    Ok(())
}

async fn lead(args: Args, kit: daemon::Kit, client: Client, metrics: Metrics) -> anyhow::Result<()> {
    let leadership = match LeaderElection::new("kube-scheduler").reported(&kit.metrics).acquire(&client, &kit.shutdown).await {
        Err(client::LeaderError::Shutdown) => return Ok(()),
        other => other?,
    };
    let start = |leading: Client, kit: daemon::Kit| {
        kit.tasks.clone().spawn_infallible("scheduling", schedule(args, kit, leading, metrics, Stages::default()));
    };
    Ok(leadership.lead(&kit, start).await?)
}

/// Schedules until the shutdown begins, with a leader's client and these plugins between decision and binding.
pub async fn schedule(args: Args, kit: daemon::Kit, client: Client, metrics: Metrics, stages: Stages) {
    let informers = Informers::new(client.clone(), kit.clone());
    informers.transform(shrink_pod);
    // Only what selects their pods matters.
    informers.transform::<Service>(|service| service.metadata_mut().annotations.clear());
    informers.transform::<ReplicationController>(|controller| controller.spec_mut().template = None);
    let sources = Sources {
        nodes: informers.of::<Node>().subscribe(),
        namespaces: informers.of::<Namespace>().subscribe(),
        pods: informers.of::<Pod>().subscribe(),
        services: informers.of::<Service>().subscribe(),
        controllers: informers.of::<ReplicationController>().subscribe(),
    };
    tokio::select! {
        () = informers.synced() => {}
        () = kit.shutdown.started() => return,
    }
    let recorder = EventRecorder::spawn(client.clone(), "default-scheduler", "", &kit);
    let scheduler = Scheduler::new(client, recorder, metrics, args.scheduler_name, args.parallel_bindings);
    scheduler.with_stages(stages).run(sources, kit.shutdown).await;
}

/// Drops what no decision needs, which is most of a pod's size.
fn shrink_pod(pod: &mut Pod) {
    pod.metadata_mut().annotations.clear();
    if let Some(spec) = &mut pod.spec {
        spec.volumes.clear();
        for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
            shrink_container(container);
        }
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses.clear();
        status.init_container_statuses.clear();
    }
}

fn shrink_container(container: &mut Container) {
    container.command.clear();
    container.args.clear();
    container.env.clear();
    container.env_from.clear();
    container.volume_mounts.clear();
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
    container.lifecycle = None;
    container.security_context = None;
}
