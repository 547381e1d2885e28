//! A pod's volumes on the host: made before its containers start, kept up to date while they run, removed with the pod.
//!
//! Each kind of volume is a [`Plugin`] in a file of its own. Everything of a pod lies below `<root>/pods/<uid>/`, so that whatever belongs to no pod is
//! found by its name:
//!
//! ```text
//! volumes/kubernetes.io~<kind>/<name>/   what is mounted into containers
//! volume-subpaths/<volume>/<container>/<index>   subPaths, by descriptor
//! containers/<name>/<attempt>            termination messages
//! etc-hosts, resolv.conf
//! ```
//!
//! *Invariants:* [`Volumes::prepare`] can be repeated at any time; it changes only what differs. Secrets lie in memory file systems only. Where a
//! container can write, nothing is reached by a path. What the kubelet fills, containers cannot write. Nobody but root comes below the root.

mod atomic;
mod config_map;
mod dir;
mod downward_api;
mod empty_dir;
mod filled;
mod host_path;
mod mount;
mod payload;
mod plugin;
mod projected;
mod secret;
mod sub_path;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use api::{
    core::v1::{Container, Pod},
    volume::{Kind, Unsupported},
};
use jiff::Timestamp;

use self::{
    dir::Dir,
    plugin::{Plugin, Request},
};
pub use self::{mount::reaches_the_host, sub_path::SubPathError};
use crate::{
    cluster::{self, Cluster},
    pod::fields::{FieldError, NodeFacts},
};

/// The directory of a pod's subPaths.
const SUB_PATHS: &str = "volume-subpaths";
/// Permission bits of the kubelet's own directories, upstream's: other users of the host must not see what is in them.
const PRIVATE: u32 = 0o750;

/// Makes and removes the volumes of this node's pods.
pub struct Volumes {
    pods: PathBuf,
    cluster: Arc<dyn Cluster>,
    node: Arc<NodeFacts>,
}

/// The volumes of a pod, ready to be mounted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mounted {
    /// Host path of each volume by its name.
    pub paths: BTreeMap<String, PathBuf>,
    /// Those that the kubelet fills and keeps up to date: containers have them read-only, whatever they ask for.
    pub read_only: BTreeSet<String>,
    /// When [`Volumes::prepare`] must run again because a token ends.
    pub renew_at: Option<Timestamp>,
}

/// A volume that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {problem}")]
pub struct Error {
    /// The volume's name.
    pub volume: String,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// Why a volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A ConfigMap or Secret does not exist.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A ConfigMap or Secret lacks a key.
    #[error("references non-existent {kind} key: {key} (in {name:?})")]
    MissingKey {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A path leads out of the volume.
    #[error("invalid path {0:?}: it must be relative and must not contain \"..\"")]
    BadPath(String),
    /// A field cannot be read.
    #[error(transparent)]
    Field(FieldError),
    /// The API server could not be asked.
    #[error(transparent)]
    Cluster(cluster::Error),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host has not what a hostPath volume names.
    #[error("{0}")]
    HostPath(String),
    /// This kind of volume is not there yet.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The kubelet is going down.
    #[error("the kubelet is shutting down")]
    Cancelled,
}

// === impl Volumes ===

impl Volumes {
    /// Manages the volumes below `root`.
    pub fn new(root: &Path, cluster: Arc<dyn Cluster>, node: Arc<NodeFacts>) -> Self {
        Self { pods: root.join("pods"), cluster, node }
    }

    /// The directory that holds everything of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Makes the pod's volumes, or brings them up to date.
    ///
    /// # Errors
    /// The first volume that cannot be made, and why.
    pub async fn prepare(&self, pod: &Pod) -> Result<Mounted, Error> {
        let mut mounted = Mounted::default();
        for volume in &pod.spec().volumes {
            let failed = |problem| Error { volume: volume.name.clone(), problem };
            let kind = Kind::of(volume.volume_source()).map_err(|unsupported| failed(unsupported.into()))?;
            let (plugin, cluster, node) = (plugin::of(kind), &*self.cluster, &*self.node);
            let dir = volumes_of(&self.pod_dir(&pod.metadata().uid), plugin).join(&volume.name);
            let published = plugin.publish(&Request { pod, volume, dir, cluster, node }).await.map_err(failed)?;
            mounted.renew_at = [mounted.renew_at, published.renew_at].into_iter().flatten().min();
            if plugin.is_filled() {
                mounted.read_only.insert(volume.name.clone());
            }
            mounted.paths.insert(volume.name.clone(), published.path);
        }
        Ok(mounted)
    }

    /// Mounts the subPaths of a container's mounts, given by the mounts' places in the spec, where no container reaches them; says where. Blocks on
    /// the file system.
    ///
    /// # Errors
    /// The first path that cannot be mounted, and why.
    pub fn mount_sub_paths(
        &self,
        uid: &str,
        container: &Container,
        mounted: &Mounted,
        asked: &BTreeMap<usize, String>,
    ) -> Result<BTreeMap<usize, PathBuf>, SubPathError> {
        let mut found = BTreeMap::new();
        for (&index, sub_path) in asked {
            let volume = container.volume_mounts.get(index).map_or("", |mount| mount.name.as_str());
            // One that is missing is told of when the container's spec is made.
            let Some(path) = mounted.paths.get(volume) else { continue };
            let target = self.pod_dir(uid).join(SUB_PATHS).join(volume).join(&container.name).join(index.to_string());
            sub_path::mount(path, sub_path, &target)?;
            found.insert(index, target);
        }
        Ok(found)
    }

    /// Removes everything of a pod from the host. No error if nothing is there.
    ///
    /// # Errors
    /// What cannot be unmounted or removed.
    pub async fn remove(&self, uid: &str) -> Result<(), Problem> {
        let dir = self.pod_dir(uid);
        // They lie in volumes.
        remove_tree(dir.join(SUB_PATHS)).await?;
        for plugin in Kind::ALL.map(plugin::of) {
            for volume in entries(&volumes_of(&dir, plugin))? {
                plugin.unpublish(&volume).await?;
            }
        }
        remove_tree(dir).await
    }

    /// Removes what belongs to none of these pods; says whose it was.
    ///
    /// # Errors
    /// What cannot be listed, unmounted or removed.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Problem> {
        let mut removed = Vec::new();
        for pod in entries(&self.pods)? {
            let uid = pod.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !live.contains(&uid) {
                self.remove(&uid).await?;
                removed.push(uid);
            }
        }
        Ok(removed)
    }
}

/// The directory of a pod's volumes of one kind.
fn volumes_of(pod_dir: &Path, plugin: &dyn Plugin) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{}", plugin.directory()))
}

/// What is in one of the kubelet's own directories; nothing if it is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let read = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|source| Problem::Io { path: dir.to_owned(), source }),
    }
}

async fn remove_tree(dir: PathBuf) -> Result<(), Problem> {
    blocking(move || mount::remove_tree(&dir).map_err(|source| Problem::Io { path: dir, source })).await
}

/// The mode of a volume's directory: with a pod's fsGroup, that group may do all, and new files inherit it.
fn mode_with(mode: u32, group: Option<i64>) -> u32 {
    if group.is_some() { mode | 0o2070 } else { mode }
}

fn set_owner(dir: &Path, mode: u32, group: Option<i64>) -> io::Result<()> {
    Dir::open(dir)?.set_owner(mode_with(mode, group), group.map(|group| group as u32))
}

/// Makes a directory, and those above it that are missing, for the kubelet alone.
///
/// # Errors
/// When the file system refuses.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(dir)
}

/// Makes the kubelet's root directory, and shuts out other users from it and from what an earlier kubelet left open in it.
///
/// # Errors
/// When the file system refuses.
pub fn private_root(root: &Path) -> io::Result<()> {
    private_dir(&root.join("pods"))?;
    let mut below = Vec::new();
    for dir in [root.to_owned(), root.join("pods")] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(PRIVATE))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                below.push(entry.path());
            }
        }
    }
    below.iter().try_for_each(|dir| fs::set_permissions(dir, fs::Permissions::from_mode(PRIVATE)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::Cancelled)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn other_users_are_shut_out_of_what_is_there_already_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("kubelet");
        for dir in ["network/addresses", "pods/u1/volumes"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        private_root(&root).unwrap();
        private_root(&root).unwrap();
        for dir in ["", "network", "pods", "pods/u1"] {
            assert_eq!(mode(&root.join(dir)), 0o750, "{dir}");
        }
    }
}
