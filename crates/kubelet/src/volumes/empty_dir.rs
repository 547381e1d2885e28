//! emptyDir volumes: directories that are empty at first, on the node's disk or in its memory.

use std::{fs, path::Path};

use api::{
    core::v1::{EmptyDirVolumeSource, Pod},
    quantity::Quantity,
};
use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem, blocking, mode_with, mount,
    plugin::{Plugin, Published, Request},
    private_dir, set_owner,
};
use crate::pod::{
    fields::NodeFacts,
    qos,
    unit::{Unit, units},
};

pub(super) struct EmptyDir;

impl Plugin for EmptyDir {
    fn directory(&self) -> &'static str {
        "empty-dir"
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let (source, group) = (request.source().empty_dir(), request.group());
            let size = (source.medium == "Memory").then(|| memory_limit(request.pod, source, request.node));
            let dir = request.dir.clone();
            blocking(move || empty_dir(&dir, size, group)).await?;
            Ok(Published { path: request.dir.clone(), renew_at: None })
        }
        .boxed()
    }
}

/// How large a volume in memory may grow, in bytes: as it says, but not larger than what the pod, or the node, may use.
pub(super) fn memory_limit(pod: &Pod, volume: &EmptyDirVolumeSource, node: &NodeFacts) -> u64 {
    let asked = volume.size_limit.as_ref().and_then(|size| Quantity::try_from(size).ok()).map(Quantity::value);
    let limits: Vec<i64> = units(pod.spec()).filter(Unit::stays).map(|unit| qos::limit(&unit.spec, "memory")).collect();
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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
}
