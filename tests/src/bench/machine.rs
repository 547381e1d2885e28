//! On what the figures were measured.

use std::{fs, process::Command};

use anyhow::Context;

use crate::{Cluster, command::output_of};

/// One line: cores, memory, kernel, and the versions of what is not ours.
pub(super) fn describe(cluster: &Cluster) -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let model = field("/proc/cpuinfo", "model name")?;
    let memory: u64 = field("/proc/meminfo", "MemTotal")?.trim_end_matches(" kB").parse().context("MemTotal")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let etcd = output_of(Command::new("etcd").arg("--version"))?;
    let docker = output_of(Command::new("dockerd").arg("--version"))?;
    Ok(format!(
        "{cores} cores ({model}), {:.0} GiB, Linux {}; {}, {}; {}; everything on the one machine.",
        memory as f64 / f64::from(1 << 20),
        kernel.trim(),
        etcd.lines().next().unwrap_or_default().replace(" Version:", ""),
        docker.trim(),
        cluster.size,
    ))
}

/// What follows `name:` in a file of the kernel's.
fn field(path: &str, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("{path} has no {name}"))?;
    Ok(line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default())
}
