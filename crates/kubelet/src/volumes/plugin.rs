//! What a kind of volume is to the kubelet: how one is made for a pod's containers, and how it is taken away again.

use std::path::{Path, PathBuf};

use api::{
    core::v1::{Pod, Volume, VolumeSource},
    volume::Kind,
};
use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;

use super::{
    Problem, blocking, config_map::ConfigMap, downward_api::DownwardApi, empty_dir::EmptyDir, host_path::HostPath, mount,
    payload::Source, projected::Projected, secret::Secret,
};
use crate::{cluster::Cluster, pod::fields::NodeFacts};

/// A kind of volume.
pub(super) trait Plugin: Send + Sync {
    /// The directory of volumes of this kind is `kubernetes.io~` and this.
    fn directory(&self) -> &'static str;

    /// Whether the kubelet fills such volumes and keeps them up to date, rather than containers.
    fn is_filled(&self) -> bool {
        false
    }

    /// Makes a volume, or brings it up to date.
    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>>;

    /// Takes away what was made at a volume's own directory. No error if nothing is there.
    fn unpublish<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<(), Problem>> {
        let dir = dir.to_owned();
        blocking(move || mount::remove_tree(&dir).map_err(|source| Problem::Io { path: dir, source })).boxed()
    }
}

/// A volume to be made.
pub(super) struct Request<'a> {
    /// Whose.
    pub pod: &'a Pod,
    /// What it is to be.
    pub volume: &'a Volume,
    /// Its own directory.
    pub dir: PathBuf,
    /// Where what it shows comes from.
    pub cluster: &'a dyn Cluster,
    /// The node.
    pub node: &'a NodeFacts,
}

/// A volume that has been made.
pub(super) struct Published {
    /// What containers mount.
    pub path: PathBuf,
    /// When it must be made anew.
    pub renew_at: Option<Timestamp>,
}

/// What makes volumes of a kind.
pub(super) fn of(kind: Kind) -> &'static dyn Plugin {
    match kind {
        Kind::HostPath => &HostPath,
        Kind::EmptyDir => &EmptyDir,
        Kind::ConfigMap => &ConfigMap,
        Kind::Secret => &Secret,
        Kind::DownwardApi => &DownwardApi,
        Kind::Projected => &Projected,
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    /// What the volume is to be.
    pub(super) fn source(&self) -> &'a VolumeSource {
        self.volume.volume_source()
    }

    /// Reads what the volume shows.
    pub(super) fn reader(&self) -> Source<'a> {
        Source { cluster: self.cluster, pod: self.pod, node: self.node, renew_at: None }
    }

    /// The group that may use the volume, if the pod names one.
    pub(super) fn group(&self) -> Option<i64> {
        self.pod.spec().security_context().fs_group
    }
}
