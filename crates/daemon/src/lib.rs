//! What every daemon shares: flags and configuration file, tracing, metrics, health, TLS with reload, shutdown.
//!
//! A daemon's `main.rs` is one call:
//!
//! ```no_run
//! # mod scheduler {
//! #     #[derive(clap::Args)]
//! #     pub struct Args {}
//! #     pub async fn run(_: Args, _: daemon::Kit) -> Result<(), std::io::Error> { Ok(()) }
//! # }
//! fn main() -> std::process::ExitCode {
//!     daemon::main("scheduler", "127.0.0.1:10259", scheduler::run)
//! }
//! ```
//!
//! `scheduler::run` takes its own flags and a [`Kit`], spawns its critical tasks on [`Kit::tasks`] and returns once they run.
//! The kit knows nothing of Kubernetes objects.

mod admin;
mod args;
mod config;
mod health;
mod kit;
mod logging;
pub mod memory;
mod metrics;
pub mod pki;
pub mod rpc;
mod scrape;
pub mod serve;
mod shutdown;
mod tasks;
pub mod tls;

pub use self::{
    admin::{admin_router, serve_admin},
    args::{Args, LogArgs, LogFormat, parse},
    config::ConfigError,
    health::{Gate, Health},
    kit::{Kit, main},
    metrics::Metrics,
    scrape::{ScrapeArgs, ScrapeError},
    shutdown::{Outcome, Shutdown},
    tasks::{TaskFailure, Tasks},
};

/// The version every daemon reports, `MAJOR.MINOR.PATCH`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Operating system and architecture as upstream writes them, such as `linux/amd64`.
pub fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}
