//! Volumes that the kubelet fills with files and keeps up to date; containers have them read-only.

use std::path::Path;

use api::core::v1::EmptyDirVolumeSource;
use jiff::Timestamp;

use super::{
    Problem,
    atomic::{self, Payload},
    blocking,
    dir::Dir,
    empty_dir::memory_limit,
    mount,
    plugin::{Published, Request},
    private_dir, set_owner,
};

/// The most that a volume which the kubelet fills may take of the node's memory, in bytes, old and new files together: one key can become any number
/// of files.
const FILLED_MAX: u64 = 128 << 20;

/// Where files lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// On the node's disk.
    Disk,
    /// In its memory, for what must not be found on the disk.
    Memory,
}

/// Makes a volume hold these files until `renew_at`.
pub(super) async fn publish(
    request: &Request<'_>,
    payload: Payload,
    medium: Medium,
    renew_at: Option<Timestamp>,
) -> Result<Published, Problem> {
    let size = || memory_limit(request.pod, &EmptyDirVolumeSource::default(), request.node).min(FILLED_MAX);
    let (dir, size, group) = (request.dir.clone(), (medium == Medium::Memory).then(size), request.group());
    blocking(move || write_files(&dir, size, &payload, group)).await?;
    Ok(Published { path: request.dir.clone(), renew_at })
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

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    };

    use super::*;

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
}
