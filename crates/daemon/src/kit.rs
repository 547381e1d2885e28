//! The life of a daemon's process: flags, log, runtime, admin port, the daemon's own tasks, signals, drain, exit code.

use std::{ffi::OsString, process::ExitCode};

use futures::StreamExt;
use tokio::net::TcpListener;

use crate::{Args, Health, Metrics, Outcome, Shutdown, Tasks, logging, scrape::Scrape, serve_admin, shutdown, tls};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a daemon is given to live with. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Kit {
    /// Begins on SIGINT or SIGTERM, or when a critical task ends.
    pub shutdown: Shutdown,
    /// Where critical tasks are spawned.
    pub tasks: Tasks,
    /// What `/livez` and `/readyz` answer.
    pub health: Health,
    /// What `/metrics` answers.
    pub metrics: Metrics,
}

// === impl Kit ===

impl Default for Kit {
    fn default() -> Self {
        Self::new()
    }
}

impl Kit {
    /// A kit of its own, without signals or admin port: for tests, and for daemons run inside another process.
    pub fn new() -> Self {
        let shutdown = Shutdown::new();
        Self { tasks: Tasks::new(shutdown.clone()), health: Health::new(shutdown.clone()), metrics: Metrics::new(), shutdown }
    }
}

/// Runs a daemon: parses flags of type `A`, calls `run`, which spawns its tasks and returns, and lives until a signal comes or a
/// critical task ends.
///
/// `admin_address` is the default of `--admin-address`. Exit codes: 0 after a drain, 1 after a failure, an overlong drain or a
/// second signal, 2 for wrong flags.
pub fn main<A, R, F, E>(name: &'static str, admin_address: &'static str, run: R) -> ExitCode
where
    A: clap::Args,
    R: FnOnce(A, Kit) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let (common, own) = match crate::parse::<A>(name, admin_address, std::env::args_os().collect::<Vec<OsString>>()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    if let Err(error) = logging::init(&common.log) {
        eprintln!("{name}: {error}");
        return ExitCode::from(2);
    }
    raise_file_limit();
    tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(live(name, common, |kit| run(own, kit)));
    // What is still running has had its time to drain.
    runtime.shutdown_background();
    code
}

async fn live<R, F, E>(name: &'static str, args: Args, run: R) -> ExitCode
where
    R: FnOnce(Kit) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let kit = Kit::new();
    let mut signals = match shutdown::signals() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return ExitCode::FAILURE;
        }
    };
    let listener = match TcpListener::bind(args.admin_address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(address = %args.admin_address, %error, "cannot listen on --admin-address");
            return ExitCode::FAILURE;
        }
    };
    match Scrape::bind(&args.scrape).await {
        Ok(None) => {}
        Ok(Some(scrape)) => {
            let serve = scrape.serve(kit.health.clone(), kit.metrics.clone(), kit.shutdown.clone());
            kit.tasks.spawn_infallible("scrape", serve);
        }
        Err(error) => {
            tracing::error!(error = api::error::chain(&error), "cannot serve metrics to other hosts");
            return ExitCode::FAILURE;
        }
    }
    kit.tasks.spawn("admin", serve_admin(listener, kit.health.clone(), kit.metrics.clone(), kit.shutdown.clone()));
    tracing::info!(name, version = crate::VERSION, pid = std::process::id(), admin = %args.admin_address, "started");
    let mut run = std::pin::pin!(async {
        let starting = kit.health.ready_gate("start");
        let outcome = run(kit.clone()).await.map_err(Into::into);
        starting.open();
        match outcome {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    });
    let failed = tokio::select! {
        biased;
        failure = kit.tasks.failure() => { tracing::error!("{failure}"); true }
        error = &mut run => { tracing::error!(error = api::error::chain(&*error), "cannot start"); true }
        _ = signals.next() => { tracing::info!("signal received, draining"); false }
    };
    let outcome = kit.shutdown.drain(kit.tasks.all_ended(), args.drain_timeout, signals).await;
    match outcome {
        Outcome::Drained => tracing::info!("ended"),
        Outcome::TimedOut => {
            tracing::warn!(timeout = ?args.drain_timeout, "work was still running when the time to drain had passed")
        }
        Outcome::Aborted => tracing::warn!("second signal, not waiting for running work"),
    }
    let failed_late = !failed && kit.tasks.failed_already().inspect(|failure| tracing::error!("{failure}")).is_some();
    if failed || failed_late || outcome != Outcome::Drained { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Daemons hold a descriptor for each connection and watch; the soft limit is low only for the sake of `select(2)`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    fn args() -> Args {
        let argv = ["x", "--admin-address=127.0.0.1:0", "--drain-timeout=1s"].map(OsString::from);
        #[derive(clap::Args)]
        struct None {}
        crate::parse::<None>("x", "127.0.0.1:0", argv).unwrap().0
    }

    #[tokio::test]
    async fn a_daemon_that_cannot_start_ends_with_a_failure() {
        let code = live("x", args(), |_| async { Err(io::Error::other("no etcd")) }).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }

    #[tokio::test]
    async fn a_dead_critical_task_ends_the_daemon() {
        let run = |kit: Kit| async move {
            kit.tasks.spawn_infallible("worker", async { tokio::time::sleep(Duration::from_millis(10)).await });
            Ok::<(), io::Error>(())
        };
        let code = live("x", args(), run).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }

    #[tokio::test]
    async fn sigterm_drains_and_ends_well() {
        let run = |kit: Kit| async move {
            kit.tasks.spawn_infallible("server", kit.shutdown.started());
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).map_err(io::Error::from)
        };
        let code = live("x", args(), run).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    }
}
