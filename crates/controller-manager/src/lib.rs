//! The controller manager: the loops that bring a cluster from what is asked for to what is.
//!
//! One module a controller, each a `reconcile` over `client`'s runtime. [`run`] wires them: it waits for the lease, then starts all
//! controllers over shared informers with a client whose writes succeed only while the lease is held.

mod config;
mod context;
mod endpoints;
mod garbage;
mod namespace;
mod node;
mod pod_gc;
mod pods;
mod quota;
mod reads;
mod replication;
mod service_account;
#[cfg(test)]
mod testing;

pub use self::{
    config::{Args, NodeArgs},
    context::Context,
};

use client::{Client, Config, ControllerMetrics, EventRecorder, Informers, LeaderElection, LeaderError};
use daemon::Kit;

/// Why the controller manager cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API client's configuration cannot be used.
    #[error("cannot use the API client's configuration")]
    Config(#[from] client::ConfigError),
    /// A file named by a flag cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The lease is lost.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// Starts the controller manager: a task that waits for the lease and then runs the controllers.
///
/// # Errors
/// When the configuration cannot be used.
pub async fn run(args: Args, kit: Kit) -> Result<(), Error> {
    let client = Client::new(Config::load(&args.api)?.named("controller-manager"))?;
    let root_ca = match &args.root_ca_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.map_err(|source| Error::Read { path: path.clone(), source })?)
        }
        None => None,
    };
    kit.tasks.spawn("leader", lead(args, root_ca, client, kit.clone()));
    Ok(())
}

/// Waits for the lease, then works until the shutdown begins or the lease is lost.
async fn lead(args: Args, root_ca: Option<String>, client: Client, kit: Kit) -> Result<(), Error> {
    let leadership = LeaderElection::new("kube-controller-manager").reported(&kit.metrics);
    let leadership = match leadership.acquire(&client, &kit.shutdown).await {
        Err(LeaderError::Shutdown) => return Ok(()),
        outcome => outcome?,
    };
    let start = |leading: Client, kit: Kit| {
        let context = Context {
            informers: Informers::new(leading.clone(), kit.clone()),
            recorder: EventRecorder::spawn(leading.clone(), "controller-manager", "", &kit),
            metrics: ControllerMetrics::register(&kit.metrics),
            client: leading,
            kit,
        };
        start(&context, &args, root_ca);
    };
    Ok(leadership.lead(&kit, start).await?)
}

/// Starts every controller.
fn start(context: &Context, args: &Args, root_ca: Option<String>) {
    context::shrink(&context.informers);
    node::start(context, &args.node);
    replication::start(context);
    endpoints::start(context);
    namespace::start(context);
    service_account::start(context, root_ca);
    quota::start(context);
    pod_gc::start(context, args.terminated_pod_gc_threshold);
    garbage::start(context);
}
