//! Each host's processes live in cgroups named after the host, so that they can be found and ended whoever started them.
//!
//! `/<netns>/daemons` holds what the harness starts (and what that starts, such as containerd and its shims); Docker puts containers
//! into groups beside it. Both cgroup v1, where each controller has its own tree, and v2 are understood.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use nix::{sys::signal::Signal, unistd::Pid};

use crate::{
    topology::{Cluster, Host},
    wait,
};

const ROOT: &str = "/sys/fs/cgroup";

/// Whether this machine has cgroup v2 only.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The roots of all cgroup trees of this machine.
fn roots() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if is_unified() {
        return vec![root];
    }
    let entries = fs::read_dir(&root).into_iter().flatten().flatten();
    let mut roots: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect();
    roots.sort();
    roots
}

/// The tree by which processes are found: all of them carry their children along, this one is there for counting.
fn tracking_root() -> PathBuf {
    let root = PathBuf::from(ROOT);
    if is_unified() { root } else { root.join("pids") }
}

/// The open `cgroup.procs` file of the group for a host's daemons, made if it is missing.
///
/// # Errors
/// When the group cannot be made.
pub fn daemons_group(host: &Host) -> anyhow::Result<File> {
    let group = tracking_root().join(&host.netns).join("daemons");
    fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
    let procs = group.join("cgroup.procs");
    File::options().write(true).open(&procs).with_context(|| procs.display().to_string())
}

/// The open `cgroup.procs` files of a host's own group in every tree, made if they are missing: whoever is in them sees nothing above.
///
/// # Errors
/// When a group cannot be made.
pub fn host_groups(host: &Host) -> anyhow::Result<Vec<File>> {
    let open = |root: PathBuf| {
        let group = root.join(&host.netns);
        fs::create_dir_all(&group)?;
        // A new group of the cpuset controller has no processor, and takes no process.
        for name in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|name| !is_unified() && group.join(name).exists()) {
            fs::write(group.join(name), fs::read(root.join(name))?)?;
        }
        File::options().write(true).open(group.join("cgroup.procs"))
    };
    roots().into_iter().map(|root| open(root.clone()).with_context(|| root.display().to_string())).collect()
}

/// Every group of the cluster that exists, in every tree, children before their parents.
pub fn groups(cluster: &Cluster) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for root in roots() {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| cluster.owns_name(name)) && entry.path().is_dir() {
                collect(&entry.path(), &mut groups);
            }
        }
    }
    groups
}

fn collect(group: &Path, groups: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), groups);
        }
    }
    groups.push(group.to_owned());
}

/// Every process of the cluster.
pub fn processes(cluster: &Cluster) -> BTreeSet<i32> {
    members(&groups(cluster))
}

/// Every process of a host, containers included.
pub fn host_processes(host: &Host) -> BTreeSet<i32> {
    let mut groups = Vec::new();
    for root in roots() {
        collect(&root.join(&host.netns), &mut groups);
    }
    members(&groups)
}

fn members(groups: &[PathBuf]) -> BTreeSet<i32> {
    let texts = groups.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).filter(|pid| *pid > 1).collect()
}

/// Ends every process that `find` finds, again and again until there is none: some are born meanwhile.
///
/// # Errors
/// When some are still there after ten seconds.
pub fn kill_all(find: impl Fn() -> BTreeSet<i32>) -> anyhow::Result<usize> {
    let mut killed: BTreeSet<i32> = BTreeSet::new();
    wait::until("processes to end", Duration::from_secs(10), || {
        let found = find();
        for pid in &found {
            // One that has ended by itself is no error.
            nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGKILL).ok();
        }
        killed.extend(&found);
        anyhow::ensure!(found.is_empty(), "still running: {found:?}");
        Ok(())
    })?;
    Ok(killed.len())
}

/// Removes every group of the cluster. They must be empty.
///
/// # Errors
/// When a group is still in use after five seconds.
pub fn remove_all(cluster: &Cluster) -> anyhow::Result<usize> {
    let mut removed = 0;
    wait::until("cgroups to be empty", Duration::from_secs(5), || {
        let mut last = None;
        for group in groups(cluster) {
            match fs::remove_dir(&group) {
                Ok(()) => removed += 1,
                Err(error) => last = Some(anyhow::Error::new(error).context(group.display().to_string())),
            }
        }
        last.map_or(Ok(()), Err)
    })?;
    Ok(removed)
}
