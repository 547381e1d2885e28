//! The scheduler's flags.

/// Flags of the scheduler.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How to reach the API server.
    #[command(flatten)]
    pub client: client::Args,
    /// Pods with this spec.schedulerName are scheduled
    #[arg(long, value_name = "NAME", default_value = "default-scheduler")]
    pub scheduler_name: String,
    /// How many pods are bound at the same time
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub parallel_bindings: usize,
}
