//! Daemons as processes that outlive whoever starts them, and pid files that never lead to a stranger.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::Signal,
    unistd::{Pid, sethostname, setsid},
};

use crate::{
    cgroup, net,
    topology::{Cluster, Daemon, Host},
    wait,
};

/// A process that is or was a daemon of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot: a number that is used again has another start.
    start: u64,
}

/// Starts `command` as `daemon` of `host`: in the host's network namespace and cgroup, under the host's name, in a
/// session of its own, writing to its log.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(cluster: &Cluster, host: &Host, daemon: Daemon, mut command: Command) -> anyhow::Result<Process> {
    let what = || format!("cannot start {daemon} on {}", host.name);
    let log = cluster.log(daemon, host);
    let mut output = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    writeln!(output, "--- {daemon} on {} starts", host.name)?;
    let namespace_path = net::netns_path(&host.netns);
    let namespace = File::open(&namespace_path).with_context(|| namespace_path.display().to_string())?;
    let mut group = cgroup::daemons_group(host)?;
    command
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    for name in ["FERROKUBE_LOG", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let name = host.name.clone();
    let enter = move || {
        group.write_all(b"0")?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWUTS)?;
        sethostname(&name)?;
        setsid()?;
        Ok::<(), io::Error>(())
    };
    // SAFETY: between fork and exec only system calls are made, on what was opened and allocated before.
    unsafe { command.pre_exec(enter) };
    let mut child = command.spawn().with_context(what)?;
    let pid = i32::try_from(child.id())?;
    let process = Process { pid, start: start_of(pid).unwrap_or_default() };
    process.write(&cluster.pid_file(daemon, host))?;
    // As long as we live it is our child, and must not stay as a zombie.
    std::thread::spawn(move || child.wait());
    Ok(process)
}

/// The running process of `daemon` on `host`.
pub fn running(cluster: &Cluster, host: &Host, daemon: Daemon) -> Option<Process> {
    Process::read(&cluster.pid_file(daemon, host)).filter(|process| process.is_running())
}

// === impl Process ===

impl Process {
    /// From its pid file and the file beside it that holds its start.
    fn read(path: &Path) -> Option<Self> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        Some(Self { pid: i32::try_from(number(path)?).ok()?, start: number(&start_path(path))? })
    }

    fn write(self, path: &Path) -> anyhow::Result<()> {
        daemon::pki::write_atomic(&start_path(path), format!("{}\n", self.start).as_bytes(), 0o644)?;
        daemon::pki::write_atomic(path, format!("{}\n", self.pid).as_bytes(), 0o644)?;
        Ok(())
    }

    /// Whether it is still there, and still the same.
    pub fn is_running(self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(self, signal: Signal) -> anyhow::Result<()> {
        if !self.is_running() {
            bail!("process {} has ended", self.pid);
        }
        nix::sys::signal::kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot signal process {}", self.pid))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait_end(self, limit: Duration) -> anyhow::Result<()> {
        wait::until("a process to end", limit, || {
            anyhow::ensure!(!self.is_running(), "process {} still runs", self.pid);
            Ok(())
        })
    }
}

fn start_path(pid_file: &Path) -> PathBuf {
    pid_file.with_extension("start")
}

/// The parent of a process that is there.
pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The name of the living process whose number stands in `pid_file`.
pub(crate) fn program_of(pid_file: &Path) -> Option<String> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    start_of(pid)?;
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

/// Field 22 of `/proc/<pid>/stat`; nothing for a process that is not there or only waits to be reaped.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    // The state is that of the first thread. Until the last one has ended, ports and files are still open.
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    (!matches!(state, "Z" | "X") || threads() > 1).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let us = Process { pid, start: start_of(pid).unwrap() };
        assert!(us.is_running());
        assert!(!Process { start: us.start + 1, ..us }.is_running());
    }

    #[test]
    fn a_process_is_read_back_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet-node-1.pid");
        let process = Process { pid: 42, start: 7 };
        process.write(&path).unwrap();
        assert_eq!(Process::read(&path), Some(process));
        assert_eq!(fs::read_to_string(&path).unwrap(), "42\n");
    }
}
