//! Control groups of pods: where a pod's containers are put, what the pod as a whole may use, and how much it does use.
//!
//! A pod's group is `<root>/kubepods[/<class>]/pod<uid>`; the runtime makes the containers' groups below it. *Invariant:* a group carries the
//! pod's UID in its name, so those that belong to no pod are found.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use api::{
    core::v1::Pod,
    pod::{self, Qos},
};

use crate::pod::qos;

const MOUNT: &str = "/sys/fs/cgroup";

/// The control groups of this node's pods.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Our group's path within each hierarchy, with a slash in front, without one behind.
    root: String,
    mount: PathBuf,
    unified: bool,
}

/// CPU time and memory used by a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the group was made, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use that cannot be given up, in bytes.
    pub memory_bytes: u64,
}

// === impl Cgroups ===

impl Cgroups {
    /// Groups below `root`, an absolute path such as `/` or `/node1`.
    pub fn new(root: &str) -> Self {
        let mount = PathBuf::from(MOUNT);
        let root = root.trim_matches('/');
        let root = if root.is_empty() { String::new() } else { format!("/{root}") };
        Self { root, unified: mount.join("cgroup.controllers").exists(), mount }
    }

    /// Groups in plain directories, for tests.
    #[cfg(test)]
    pub(crate) fn at(mount: &Path, unified: bool) -> Self {
        Self { root: "/n".into(), mount: mount.to_owned(), unified }
    }

    /// The group of a pod's containers.
    pub fn pod_parent(&self, pod: &Pod) -> String {
        let class = match Qos::of(pod.spec()) {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        format!("{}/kubepods{class}/pod{}", self.root, pod.metadata().uid)
    }

    /// Makes a pod's group and sets what the pod as a whole may use. Blocks for a moment.
    ///
    /// # Errors
    /// When the group cannot be made, or the kernel refuses a limit.
    pub fn prepare(&self, pod: &Pod) -> io::Result<()> {
        let parent = self.pod_parent(pod);
        let spec = pod.spec();
        let (requests, limits) = (pod::requests(spec), pod::limits(spec));
        let containers = || spec.init_containers.iter().chain(&spec.containers);
        let limited = |name: &str| containers().all(|container| qos::limit(container, name) > 0);
        let shares = qos::cpu_shares(qos::units(&requests, "cpu"));
        let quota = limited("cpu").then(|| qos::cpu_quota(qos::units(&limits, "cpu")));
        let memory = limited("memory").then(|| qos::units(&limits, "memory"));
        let mut settings = Vec::new();
        if self.unified {
            self.delegate(&parent)?;
            settings.push(("", "cpu.weight", cpu_weight(shares).to_string()));
            settings.extend(quota.map(|(quota, period)| ("", "cpu.max", format!("{quota} {period}"))));
            settings.extend(memory.map(|bytes| ("", "memory.max", bytes.to_string())));
        } else {
            settings.push(("cpu", "cpu.shares", shares.to_string()));
            settings.extend(quota.map(|(quota, _)| ("cpu", "cpu.cfs_quota_us", quota.to_string())));
            settings.extend(memory.map(|bytes| ("memory", "memory.limit_in_bytes", bytes.to_string())));
        }
        for (controller, file, value) in settings {
            let dir = self.hierarchy(controller).join(parent.trim_start_matches('/'));
            fs::create_dir_all(&dir)?;
            write_setting(&dir.join(file), &value)?;
        }
        Ok(())
    }

    /// Lets the groups down to the pod's use the controllers: in the unified hierarchy each must be told.
    fn delegate(&self, parent: &str) -> io::Result<()> {
        let mut dir = self.mount.clone();
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            for controller in ["+cpu", "+memory", "+pids"] {
                // One that the kernel does not have is missed by its settings' files.
                drop(write_setting(&dir.join("cgroup.subtree_control"), controller));
            }
            dir.push(part);
            fs::create_dir_all(&dir)?;
        }
        Ok(())
    }

    /// Removes the groups of all pods but these; a group that still has processes stays for the next time. Blocks for a moment.
    pub fn sweep(&self, live: &BTreeSet<String>) {
        for hierarchy in self.hierarchies() {
            for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
                let dir = hierarchy.join(self.root.trim_start_matches('/')).join(class);
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    if name.to_string_lossy().strip_prefix("pod").is_some_and(|uid| !live.contains(uid)) {
                        remove_group(&entry.path());
                    }
                }
            }
        }
    }

    /// Removes one pod's groups. Blocks for a moment.
    pub fn remove(&self, uid: &str) {
        for hierarchy in self.hierarchies() {
            for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
                remove_group(&hierarchy.join(self.root.trim_start_matches('/')).join(class).join(format!("pod{uid}")));
            }
        }
    }

    /// What a container of a pod uses; `None` if it does not run.
    pub fn usage(&self, pod: &Pod, container_id: &str) -> Option<Usage> {
        self.usage_of(&format!("{}/{container_id}", self.pod_parent(pod)))
    }

    /// What a group (by its path within the hierarchies) uses.
    pub fn usage_of(&self, group: &str) -> Option<Usage> {
        let group = group.trim_start_matches('/');
        if self.unified {
            let dir = self.mount.join(group);
            let cpu = keyed(&fs::read_to_string(dir.join("cpu.stat")).ok()?, "usage_usec")?.checked_mul(1000)?;
            let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
            let memory = number(&dir.join("memory.current"))?;
            return Some(Usage {
                cpu_nanos: cpu,
                memory_bytes: memory.saturating_sub(keyed(&stat, "inactive_file").unwrap_or(0)),
            });
        }
        let cpu = number(&self.hierarchy("cpuacct").join(group).join("cpuacct.usage"))?;
        let dir = self.hierarchy("memory").join(group);
        let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
        let memory = number(&dir.join("memory.usage_in_bytes"))?;
        Some(Usage { cpu_nanos: cpu, memory_bytes: memory.saturating_sub(keyed(&stat, "total_inactive_file").unwrap_or(0)) })
    }

    fn hierarchy(&self, controller: &str) -> PathBuf {
        if self.unified { self.mount.clone() } else { self.mount.join(controller) }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.mount.clone()];
        }
        fs::read_dir(&self.mount).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }
}

/// Sets what a group may use; a hierarchy without that controller has no such file.
fn write_setting(file: &Path, value: &str) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(value.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The unified hierarchy's weight (1 to 10000) for CPU shares (2 to 262144).
fn cpu_weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9999 / 262_142
}

/// Removes a group and those below it, as far as they are empty.
fn remove_group(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    // Still in use, or gone: the next sweep looks again.
    drop(fs::remove_dir(dir));
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_after_class_and_pod() {
        let mut pod = Pod::default();
        pod.metadata_mut().uid = "u1".into();
        assert_eq!(Cgroups::new("/n1/").pod_parent(&pod), "/n1/kubepods/besteffort/podu1");
        assert_eq!(Cgroups::new("/").pod_parent(&pod), "/kubepods/besteffort/podu1");
    }

    #[test]
    fn the_root_group_can_be_measured() {
        let usage = Cgroups::new("/").usage_of("/").unwrap();
        assert!(usage.cpu_nanos > 0 && usage.memory_bytes > 0);
    }

    #[test]
    fn a_pods_group_holds_the_sum_of_its_containers_in_either_hierarchy() {
        let mut pod = Pod::default();
        pod.metadata_mut().uid = "u1".into();
        for _ in 0..2 {
            let mut container = api::core::v1::Container::default();
            let resources = container.resources_mut();
            resources.limits.insert("cpu".into(), api::quantity::Quantity::from_milli(250).into());
            resources.limits.insert("memory".into(), api::quantity::Quantity::from_bytes(1 << 20).into());
            resources.requests = resources.limits.clone();
            pod.spec_mut().containers.push(container);
        }
        let cases = [
            (true, [("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("memory.max", "2097152")]),
            (false, [("cpu/cpu.shares", "512"), ("cpu/cpu.cfs_quota_us", "50000"), ("memory/memory.limit_in_bytes", "2097152")]),
        ];
        for (unified, expected) in cases {
            let mount = tempfile::tempdir().unwrap();
            let groups = Cgroups::at(mount.path(), unified);
            // The kernel makes the files with the group.
            let file = |name: &str| {
                let (hierarchy, name) = name.split_once('/').unwrap_or(("", name));
                mount.path().join(hierarchy).join("n/kubepods/podu1").join(name)
            };
            for (name, _) in expected {
                fs::create_dir_all(file(name).parent().unwrap()).unwrap();
                fs::write(file(name), "").unwrap();
            }
            groups.prepare(&pod).unwrap();
            for (name, value) in expected {
                assert_eq!(fs::read_to_string(file(name)).unwrap(), value, "{name}");
            }
        }
    }
}
