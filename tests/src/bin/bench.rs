//! What `scripts/bench` runs: `bench [NAME ...]` on the cluster that is up.

use std::process::ExitCode;

use tests::{Cluster, bench, progress::Progress};

fn main() -> anyhow::Result<ExitCode> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let reached = bench::run(&Cluster::for_tests()?, &names, &Progress::default())?;
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
