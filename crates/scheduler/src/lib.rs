//! The scheduler: a snapshot in, a decision out.
//!
//! ```text
//! informers ─► Cluster (dense array of nodes)      Algorithm: filters ─► scores ─► Placement ─► bind
//!          └─► Queue (active, backoff, unschedulable) ─┘          └─► Preemption ─► evict, nominate
//! ```
//!
//! [`algorithm`] and [`preemption`] are pure; [`scheduler`] carries out what they decide.

pub mod algorithm;
mod args;
pub mod cluster;
mod filters;
mod metrics;
pub mod node;
pub mod plugin;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod scheduler;
mod scores;
#[cfg(test)]
mod testing;

use anyhow::Context;
use api::core::v1::{Namespace, Node, Pod};
use client::{Client, Config, EventRecorder, Informers, LeaderElection};

use self::scheduler::{Scheduler, Sources};
pub use self::{args::Args, metrics::Metrics};

/// Starts the scheduler: waits for the lease, then for the first lists, and schedules.
///
/// # Errors
/// When the client configuration cannot be used.
pub async fn run(args: Args, kit: daemon::Kit) -> anyhow::Result<()> {
    let config = Config::load(&args.client).context("client configuration")?.named("scheduler");
    let client = Client::new(config)?;
    let metrics = Metrics::new(&kit.metrics);
    kit.tasks.clone().spawn("scheduler", lead(args, kit, client, metrics));
    Ok(())
}

async fn lead(args: Args, kit: daemon::Kit, client: Client, metrics: Metrics) -> anyhow::Result<()> {
    let leadership = match LeaderElection::new("kube-scheduler").acquire(&client, &kit.shutdown).await {
        Err(client::LeaderError::Shutdown) => return Ok(()),
        other => other?,
    };
    let fenced = leadership.client();
    kit.tasks.spawn("lease", leadership.keep(kit.shutdown.clone()));
    let informers = Informers::new(client.clone(), kit.clone());
    // Decisions need none of this, and it is most of a pod's size.
    informers.transform::<Pod>(|pod| {
        let meta = pod.metadata_mut();
        meta.annotations.clear();
        meta.managed_fields.clear();
        for container in pod.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
            container.env.clear();
            container.args.clear();
            container.volume_mounts.clear();
        }
        if let Some(status) = &mut pod.status {
            status.container_statuses.clear();
        }
    });
    let sources = Sources {
        nodes: informers.of::<Node>().subscribe(),
        namespaces: informers.of::<Namespace>().subscribe(),
        pods: informers.of::<Pod>().subscribe(),
    };
    tokio::select! {
        () = informers.synced() => {}
        () = kit.shutdown.started() => return Ok(()),
    }
    let recorder = EventRecorder::spawn(client, "default-scheduler", "", &kit);
    Scheduler::new(fenced, recorder, metrics, args.scheduler_name, args.parallel_bindings).run(sources, kit.shutdown).await;
    Ok(())
}
