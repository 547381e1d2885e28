//! `down`: removes all that any `up` with this directory and prefix can have made, and nothing else.
//!
//! It finds things by what they are, not by what was written down: after a failed `up` or a kill -9 the notes may be wrong. Only the
//! directories that all users of a machine share are removed on the word of `cluster.json`, and only if they are empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, umount2};

use crate::{cgroup, net, process::parent, progress::Progress, topology::Cluster, up};

impl Cluster {
    /// Stops and removes all of the cluster. Goes on after errors, and reports them all.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn down(&self, progress: &Progress) -> anyhow::Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "must run as root");
        let _lock = up::lock(&self.dir)?;
        let mut errors = Vec::new();
        let sockets = self.shim_sockets();
        match cgroup::kill_all(|| self.processes()) {
            Ok(0) => {}
            Ok(count) => progress.did(format!("ended {count} processes")),
            Err(error) => errors.push(error),
        }
        match self.unmount_all() {
            Ok(0) => {}
            Ok(count) => progress.did(format!("undid {count} mounts")),
            Err(error) => errors.push(error),
        }
        errors.extend(net::down(self, progress));
        match cgroup::remove_all(self) {
            Ok(0) => {}
            Ok(count) => progress.did(format!("removed {count} cgroups")),
            Err(error) => errors.push(error),
        }
        let directories = [self.run_root(), self.dir.clone()].into_iter().filter(|path| path.exists());
        for path in sockets.into_iter().chain(directories) {
            let is_dir = path.is_dir();
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Ok(()) if is_dir => progress.did(format!("removed {}", path.display())),
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    errors.push(anyhow::Error::new(error).context(format!("cannot remove {}", path.display())));
                }
                _ => {}
            }
        }
        self.made.iter().for_each(|path| remove_if_empty(path));
        let left = self.leftovers();
        if left.is_empty() && errors.is_empty() {
            progress.note(if progress.changes() == 0 { "there was nothing to remove" } else { "nothing is left" });
            return Ok(());
        }
        let mut text: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
        text.extend(left.into_iter().map(|thing| format!("left behind: {thing}")));
        anyhow::bail!("{}", text.join("\n"))
    }

    /// Everything of the cluster that is on the machine now: processes, namespaces, links, mounts, cgroups, directories.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        left.extend(self.processes().into_iter().map(|pid| format!("process {pid}: {}", command_line(pid).join(" "))));
        left.extend(net::namespaces(self).into_iter().map(|name| format!("network namespace {name}")));
        left.extend(net::links(self).into_iter().map(|name| format!("link {name}")));
        left.extend(self.mounts().into_iter().map(|path| format!("mount {}", path.display())));
        left.extend(cgroup::groups(self).into_iter().map(|path| format!("cgroup {}", path.display())));
        let directories = [self.run_root(), self.dir.clone()];
        left.extend(directories.into_iter().filter(|path| path.exists()).map(|path| format!("directory {}", path.display())));
        left
    }

    /// Every process of the cluster: those in its cgroups, those in its hosts' network namespaces, the shims of its engines
    /// wherever they were moved, and all their children.
    fn processes(&self) -> BTreeSet<i32> {
        let mut found = cgroup::processes(self);
        let namespaces: BTreeSet<u64> = net::namespaces(self)
            .iter()
            .filter_map(|name| fs::metadata(net::netns_path(name)).ok())
            .map(|file| file.ino())
            .collect();
        let run_root = format!("{}/", self.run_root().display());
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for pid in all_processes() {
            if let Some(parent) = parent(pid) {
                children.entry(parent).or_default().push(pid);
            }
            let inside = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|file| namespaces.contains(&file.ino()));
            let shim = || {
                let words = command_line(pid);
                let program = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
                matches!(program, "dockerd" | "containerd" | "containerd-shim" | "containerd-shim-runc-v2" | "runc")
                    && words.iter().any(|word| word.contains(&run_root))
            };
            if inside || shim() {
                found.insert(pid);
            }
        }
        let mut open: Vec<i32> = found.iter().copied().collect();
        while let Some(pid) = open.pop() {
            open.extend(children.get(&pid).into_iter().flatten().filter(|child| found.insert(**child)));
        }
        // Someone may run this from inside one of the hosts.
        let mut own = Some(i32::try_from(std::process::id()).unwrap_or_default());
        while let Some(pid) = own.filter(|pid| *pid > 0) {
            found.remove(&pid);
            own = parent(pid);
        }
        found
    }

    /// The sockets of containerd's shims, which lie outside of all our directories.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let mut sockets = Vec::new();
        find_files(&self.run_root(), "address", &mut |path| {
            let address = fs::read_to_string(path).unwrap_or_default();
            let socket = address.trim().trim_start_matches("unix://").to_owned();
            if socket.starts_with("/run/containerd/s/") {
                sockets.push(PathBuf::from(socket));
            }
        });
        sockets
    }

    /// Mounts below the cluster's directories, innermost first.
    fn mounts(&self) -> Vec<PathBuf> {
        let roots = [self.dir.clone(), self.run_root()];
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
        let mut mounts: Vec<_> = points.filter(|point| roots.iter().any(|root| point.starts_with(root))).collect();
        mounts.reverse();
        mounts
    }

    fn unmount_all(&self) -> anyhow::Result<usize> {
        let mut count = 0;
        // Mounts may lie on top of each other, and some propagate away with another.
        for _ in 0..8 {
            let mounts = self.mounts();
            if mounts.is_empty() {
                break;
            }
            for mount in mounts {
                match umount2(&mount, MntFlags::MNT_DETACH) {
                    Ok(()) => count += 1,
                    Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                    Err(error) => {
                        return Err(error).with_context(|| format!("cannot unmount {}", mount.display()));
                    }
                }
            }
        }
        Ok(count)
    }
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid > 1)
}

fn command_line(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Removes a directory that holds nothing but empty directories. Whoever uses it still keeps it.
fn remove_if_empty(directory: &Path) {
    let entries: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().collect();
    if entries.iter().any(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        return;
    }
    entries.iter().for_each(|entry| remove_if_empty(&entry.path()));
    // `ip netns` mounts its directory on itself; what cannot be removed is in use.
    umount2(directory, MntFlags::empty()).ok();
    fs::remove_dir(directory).ok();
}

fn find_files(directory: &Path, name: &str, found: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name() != "rootfs" => find_files(&entry.path(), name, found),
            Ok(kind) if kind.is_file() && entry.file_name() == name => found(&entry.path()),
            _ => {}
        }
    }
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
