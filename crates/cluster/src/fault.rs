//! What can go wrong with hosts and daemons, on purpose.

use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::{
    cgroup, daemons, net,
    process::{self, Process},
    topology::{Cluster, Daemon, Host},
    wait,
};

const END: Duration = Duration::from_secs(15);
const READY: Duration = Duration::from_secs(60);

impl Cluster {
    /// The running process of `daemon` on `host`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, host: &Host, daemon: Daemon) -> anyhow::Result<Process> {
        process::running(self, host, daemon).with_context(|| format!("{daemon} on {} does not run", host.name))
    }

    /// Ends `daemon` on `host` without giving it a chance, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        self.end(host, daemon, Signal::SIGKILL)
    }

    /// Asks `daemon` on `host` to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop(&self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        self.end(host, daemon, Signal::SIGTERM)
    }

    fn end(&self, host: &Host, daemon: Daemon, signal: Signal) -> anyhow::Result<()> {
        let process = self.process(host, daemon)?;
        process.signal(signal)?;
        process.wait_end(END).with_context(|| format!("{daemon} on {}", host.name))
    }

    /// Starts `daemon` on `host` unless it runs, and waits until it works.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn start(&self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        daemons::ensure_running(self, host, daemon)?;
        wait::until(&format!("{daemon} on {}", host.name), READY, || daemons::ready(self, host, daemon))
            .map_err(|error| self.with_log(error, daemon, host))
    }

    /// Stops `daemon` on `host` in its tracks: it keeps its connections and does nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        self.process(host, daemon)?.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        self.process(host, daemon)?.signal(Signal::SIGCONT)
    }

    /// Cuts a host off: nothing comes in or goes out, all on it goes on.
    ///
    /// # Errors
    /// When its link cannot be changed.
    pub fn cut_off(&self, host: &Host) -> anyhow::Result<()> {
        net::disconnect(host)
    }

    /// Ends what [`Cluster::cut_off`] began.
    ///
    /// # Errors
    /// When its link cannot be changed.
    pub fn reconnect(&self, host: &Host) -> anyhow::Result<()> {
        net::connect(host)
    }

    /// Loses the power of a host: every process on it ends at once, containers too.
    ///
    /// # Errors
    /// When some will not.
    pub fn power_off(&self, host: &Host) -> anyhow::Result<usize> {
        cgroup::kill_all(|| cgroup::host_processes(host))
    }

    /// Starts everything that belongs on a host, and waits until it works.
    ///
    /// # Errors
    /// When something does not within a minute.
    pub fn power_on(&self, host: &Host) -> anyhow::Result<()> {
        for daemon in Daemon::ALL.into_iter().filter(|daemon| self.runs(host, *daemon)) {
            self.start(host, daemon)?;
        }
        Ok(())
    }
}
