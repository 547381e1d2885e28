//! Memory and CPU of the daemons while nothing happens.

use std::{fs, thread, time::Duration};

use anyhow::Context;

use super::{Figure, Goal};
use crate::{
    Cluster, Daemon,
    process::{self, Process},
    progress::Progress,
};

/// How long the daemons are watched.
const SPAN: Duration = Duration::from_secs(30);
/// The kernel's clock ticks, in which it counts CPU time.
const TICKS: f64 = 100.0;

/// Resident memory that each daemon may have, MiB.
const MEMORY: [(Daemon, f64); 5] = [
    (Daemon::Apiserver, 40.0),
    (Daemon::Scheduler, 20.0),
    (Daemon::ControllerManager, 25.0),
    (Daemon::Kubelet, 25.0),
    (Daemon::KubeProxy, 15.0),
];

pub(super) fn run(cluster: &Cluster, progress: &Progress) -> anyhow::Result<Vec<Figure>> {
    let mut watched = Vec::new();
    for (daemon, limit) in MEMORY {
        let host = cluster.hosts_of(daemon).into_iter().next().context("no host")?;
        let process = process::running(cluster, &host, daemon).with_context(|| format!("{daemon} does not run"))?;
        watched.push((daemon, limit, process, cpu_ticks(process)?));
    }
    progress.note(format!("watching the idle daemons for {} s", SPAN.as_secs()));
    thread::sleep(SPAN);
    let mut figures = Vec::new();
    for (daemon, limit, process, before) in watched {
        let percent = (cpu_ticks(process)? - before) / TICKS / SPAN.as_secs_f64() * 100.0;
        let reference = match daemon {
            Daemon::Apiserver => "upstream's kube-apiserver with 5,000 pods: 417–880 MiB",
            _ => "",
        };
        figures.push(Figure {
            what: format!("{daemon}: idle resident memory"),
            value: resident_mib(process)?,
            unit: "MiB",
            goal: Goal::AtMost(limit),
            reference: reference.to_owned(),
        });
        figures.push(Figure {
            what: format!("{daemon}: idle CPU"),
            value: percent,
            unit: "% of a core",
            goal: Goal::AtMost(1.0),
            reference: String::new(),
        });
    }
    Ok(figures)
}

/// Resident memory of a process, MiB.
///
/// # Errors
/// When it has ended.
pub(super) fn resident_mib(process: Process) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("no VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}

fn cpu_ticks(process: Process) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))?;
    let fields: Vec<_> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("no times");
    Ok(ticks(11)? + ticks(12)?)
}
