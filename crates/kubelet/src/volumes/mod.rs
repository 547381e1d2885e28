//! A pod's volumes on the host: made before its containers start, kept up to date while they run, removed with the pod.
//!
//! Everything of a pod lies below `<root>/pods/<uid>/`, so that whatever belongs to no pod is found by its name:
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
mod dir;
mod host_path;
mod mount;
mod payload;
mod sub_path;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use api::{
    core::v1::{Container, EmptyDirVolumeSource, Pod, Volume, VolumeSource},
    quantity::Quantity,
};
use jiff::Timestamp;

use self::{
    atomic::Payload,
    dir::Dir,
    payload::{DEFAULT_MODE, SharedCluster, Source},
};
pub use self::{mount::reaches_the_host, sub_path::SubPathError};
use crate::{
    cluster,
    pod::{
        fields::{FieldError, NodeFacts},
        qos,
    },
};

/// Permission bits of the kubelet's own directories, upstream's: other users of the host must not see what is in them.
const PRIVATE: u32 = 0o750;
/// The most that a volume which the kubelet fills may take of the node's memory, in bytes, old and new files together: one key can become any number
/// of files.
const FILLED_MAX: u64 = 128 << 20;

/// Makes and removes the volumes of this node's pods.
pub struct Volumes {
    pods: PathBuf,
    cluster: SharedCluster,
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
    #[error("volume source {0} is not supported by this kubelet yet")]
    Unsupported(&'static str),
    /// The kubelet is going down.
    #[error("the kubelet is shutting down")]
    Cancelled,
}

// === impl Volumes ===

impl Volumes {
    /// Manages the volumes below `root`.
    pub fn new(root: &Path, cluster: SharedCluster, node: Arc<NodeFacts>) -> Self {
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
            let (path, renew_at) = self.prepare_one(pod, volume).await.map_err(failed)?;
            mounted.renew_at = [mounted.renew_at, renew_at].into_iter().flatten().min();
            if is_filled(volume.volume_source()) {
                mounted.read_only.insert(volume.name.clone());
            }
            mounted.paths.insert(volume.name.clone(), path);
        }
        Ok(mounted)
    }

    async fn prepare_one(&self, pod: &Pod, volume: &Volume) -> Result<(PathBuf, Option<Timestamp>), Problem> {
        let source = volume.volume_source();
        let (kind, in_memory) = kind_of(source)?;
        if let Some(host) = &source.host_path {
            let (path, kind) = (PathBuf::from(&host.path), host.r#type.clone().unwrap_or_default());
            let checked = path.clone();
            blocking(move || host_path::check(&checked, &kind).map_err(Problem::HostPath)).await?;
            return Ok((path, None));
        }
        let dir = self.pod_dir(&pod.metadata().uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name);
        let group = pod.spec().security_context().fs_group;
        if source.empty_dir.is_some() || *source == VolumeSource::default() {
            let size = in_memory.then(|| memory_limit(pod, source.empty_dir(), &self.node));
            let target = dir.clone();
            blocking(move || empty_dir(&target, size, group)).await?;
            return Ok((dir, None));
        }
        let mut reader = Source { cluster: &*self.cluster, pod, node: &self.node, renew_at: None };
        let payload = read_payload(&mut reader, source).await?;
        let renew_at = reader.renew_at;
        let target = dir.clone();
        let size = in_memory.then(|| memory_limit(pod, &EmptyDirVolumeSource::default(), &self.node).min(FILLED_MAX));
        blocking(move || write_files(&target, size, &payload, group)).await?;
        Ok((dir, renew_at))
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
            let target = self.pod_dir(uid).join("volume-subpaths").join(volume).join(&container.name).join(index.to_string());
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
        blocking(move || mount::remove_tree(&dir).map_err(|source| Problem::Io { path: dir, source })).await
    }

    /// Removes what belongs to none of these pods; says whose it was.
    ///
    /// # Errors
    /// What cannot be listed, unmounted or removed.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Problem> {
        let mut removed = Vec::new();
        let entries = match fs::read_dir(&self.pods) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            entries => entries.map_err(|source| Problem::Io { path: self.pods.clone(), source })?,
        };
        for entry in entries.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !live.contains(&uid) {
                self.remove(&uid).await?;
                removed.push(uid);
            }
        }
        Ok(removed)
    }
}

/// The directory name of a kind of volume, and whether it lies in memory.
fn kind_of(source: &VolumeSource) -> Result<(&'static str, bool), Problem> {
    match source {
        VolumeSource { host_path: Some(_), .. } => Ok(("host-path", false)),
        VolumeSource { empty_dir: Some(empty), .. } if empty.medium.is_empty() => Ok(("empty-dir", false)),
        VolumeSource { empty_dir: Some(empty), .. } if empty.medium == "Memory" => Ok(("empty-dir", true)),
        VolumeSource { empty_dir: Some(_), .. } => Err(Problem::Unsupported("emptyDir with huge pages")),
        VolumeSource { config_map: Some(_), .. } => Ok(("configmap", false)),
        VolumeSource { secret: Some(_), .. } => Ok(("secret", true)),
        VolumeSource { downward_api: Some(_), .. } => Ok(("downward-api", true)),
        VolumeSource { projected: Some(_), .. } => Ok(("projected", true)),
        VolumeSource { persistent_volume_claim: Some(_), .. } => Err(Problem::Unsupported("persistentVolumeClaim")),
        VolumeSource { csi: Some(_), .. } => Err(Problem::Unsupported("csi")),
        VolumeSource { ephemeral: Some(_), .. } => Err(Problem::Unsupported("ephemeral")),
        VolumeSource { image: Some(_), .. } => Err(Problem::Unsupported("image")),
        VolumeSource { nfs: Some(_), .. } => Err(Problem::Unsupported("nfs")),
        // Without any source, upstream's default.
        source if *source == VolumeSource::default() => Ok(("empty-dir", false)),
        _ => Err(Problem::Unsupported("of this type")),
    }
}

/// Whether the kubelet fills a volume, rather than its containers.
fn is_filled(source: &VolumeSource) -> bool {
    source.config_map.is_some() || source.secret.is_some() || source.downward_api.is_some() || source.projected.is_some()
}

async fn read_payload(reader: &mut Source<'_>, source: &VolumeSource) -> Result<Payload, Problem> {
    if let Some(map) = &source.config_map {
        let mode = map.default_mode.unwrap_or(DEFAULT_MODE);
        return reader.config_map(&map.local_object_reference().name, &map.items, map.optional.unwrap_or_default(), mode).await;
    }
    if let Some(secret) = &source.secret {
        let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
        return reader.secret(&secret.secret_name, &secret.items, secret.optional.unwrap_or_default(), mode).await;
    }
    if let Some(downward) = &source.downward_api {
        return reader.downward(&downward.items, downward.default_mode.unwrap_or(DEFAULT_MODE));
    }
    match &source.projected {
        Some(projected) => reader.projected(projected).await,
        None => Ok(Payload::new()),
    }
}

/// How large a volume in memory may grow, in bytes: as it says, but not larger than what the pod, or the node, may use.
fn memory_limit(pod: &Pod, volume: &EmptyDirVolumeSource, node: &NodeFacts) -> u64 {
    let asked = volume.size_limit.as_ref().and_then(|size| Quantity::try_from(size).ok()).map(Quantity::value);
    let limits: Vec<i64> = pod.spec().containers.iter().map(|container| qos::limit(container, "memory")).collect();
    let of_pod = limits.iter().all(|limit| *limit > 0).then(|| limits.iter().sum());
    let bounds = [asked, of_pod, Some(node.memory)].into_iter().flatten().filter(|bound| *bound > 0);
    bounds.min().and_then(|bound| u64::try_from(bound).ok()).unwrap_or(u64::MAX)
}

/// Makes an empty directory, in memory if a size is given. What containers make of one that is there already is theirs.
fn empty_dir(dir: &Path, memory: Option<u64>, group: Option<i64>) -> Result<(), Problem> {
    let failed = |source| Problem::Io { path: dir.to_owned(), source };
    if let Some(size) = memory {
        return mount::mount_tmpfs(dir, size, mode_with(0o777, group), group).map_err(failed);
    }
    if dir.exists() {
        return Ok(());
    }
    // It appears only when it is whole, so that one cut short is made anew.
    let fresh = dir.with_extension("new");
    private_dir(&fresh).map_err(failed)?;
    set_owner(&fresh, 0o777, group).map_err(failed)?;
    fs::rename(&fresh, dir).map_err(failed)
}

/// Makes a directory hold these files, in memory if a size is given.
fn write_files(dir: &Path, memory: Option<u64>, payload: &Payload, group: Option<i64>) -> Result<(), Problem> {
    let failed = |source| Problem::Io { path: dir.to_owned(), source };
    if let Some(size) = memory {
        mount::mount_tmpfs(dir, size, 0o755, None).map_err(failed)?;
    }
    private_dir(dir).map_err(failed)?;
    set_owner(dir, 0o755, group).map_err(failed)?;
    Dir::open(dir).and_then(|dir| atomic::write(&dir, payload, group.is_some())).map_err(failed)?;
    Ok(())
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
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_a_container_makes_of_its_empty_dir_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        fs::create_dir(root.path().join("data.new")).unwrap();
        empty_dir(&dir, None, Some(7)).unwrap();
        assert_eq!((mode(&dir), fs::metadata(&dir).unwrap().gid()), (0o2777, 7), "also after one that was cut short");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        empty_dir(&dir, None, Some(7)).unwrap();
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn a_group_that_is_given_can_read_files_and_others_keep_their_mode() {
        let root = tempfile::tempdir().unwrap();
        let payload = Payload::from([("d/f".to_owned(), atomic::File { data: "x".into(), mode: 0o400 })]);
        for (name, group, wanted) in [("with", Some(7), 0o440), ("without", None, 0o400)] {
            let dir = root.path().join(name);
            write_files(&dir, None, &payload, group).unwrap();
            write_files(&dir, None, &payload, group).unwrap();
            let file = fs::metadata(dir.join("d/f")).unwrap();
            assert_eq!((file.permissions().mode() & 0o777, file.gid()), (wanted, group.unwrap_or(0) as u32));
        }
    }

    #[test]
    fn what_the_kubelet_fills_takes_no_more_memory_than_it_may() {
        let root = tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap();
        let dir = root.path().join("secret");
        let file = || atomic::File { data: vec![7; 1 << 20].into(), mode: 0o400 };
        let of = |count: u32| (0..count).map(|n| (n.to_string(), file())).collect::<Payload>();
        write_files(&dir, Some(4 << 20), &of(2), None).unwrap();
        let refused = write_files(&dir, Some(4 << 20), &of(9), None).unwrap_err();
        assert!(matches!(refused, Problem::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
        assert_eq!(fs::read(dir.join("1")).unwrap().len(), 1 << 20, "what was there stays");
        write_files(&dir, Some(4 << 20), &of(1), None).unwrap();
        mount::remove_tree(&dir).unwrap();
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

    #[test]
    fn memory_is_bounded_by_volume_pod_and_node() {
        let node = NodeFacts { memory: 1000, ..NodeFacts::default() };
        let mut pod = Pod::default();
        pod.spec_mut().containers.push(Default::default());
        let mut volume = EmptyDirVolumeSource::default();
        assert_eq!(memory_limit(&pod, &volume, &node), 1000);
        let limits = &mut pod.spec_mut().containers[0].resources_mut().limits;
        limits.insert("memory".into(), Quantity::from_bytes(500).into());
        assert_eq!(memory_limit(&pod, &volume, &node), 500);
        volume.size_limit = Some(Quantity::from_bytes(100).into());
        assert_eq!(memory_limit(&pod, &volume, &node), 100);
    }

    #[test]
    fn what_is_mounted_is_what_the_api_server_does_not_warn_of() {
        let message = api::core::v1::Volume::default();
        let mut sources = vec![message.volume_source().clone()];
        for json in [
            r#"{"hostPath": {"path": "/"}}"#,
            r#"{"emptyDir": {}}"#,
            r#"{"emptyDir": {"medium": "Memory"}}"#,
            r#"{"emptyDir": {"medium": "HugePages"}}"#,
            r#"{"configMap": {"name": "a"}}"#,
            r#"{"secret": {"secretName": "a"}}"#,
            r#"{"downwardAPI": {}}"#,
            r#"{"projected": {}}"#,
            r#"{"persistentVolumeClaim": {"claimName": "a"}}"#,
            r#"{"nfs": {"server": "a", "path": "/"}}"#,
            r#"{"iscsi": {"targetPortal": "a"}}"#,
            r#"{"image": {"reference": "a"}}"#,
        ] {
            sources.push(api::json::read(serde_json::from_str(json).unwrap()).unwrap());
        }
        for source in sources {
            assert_eq!(kind_of(&source).is_ok(), api::unsupported::is_mounted(&source), "{source:?}");
        }
    }
}
