//! Writes the files of a volume so that readers see all of the old or all of the new, never a mixture.
//!
//! The files live in a directory with the time in its name; the symbolic link `..data` leads to it, and what users see are links through
//! `..data`. A change writes a new directory and renames the link. The layout is the one that Kubernetes' users know. Everything is reached by
//! handles from the volume's directory: whatever a container makes of it, nothing outside is read or written.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path},
};

use bytes::Bytes;
use jiff::Timestamp;

use super::dir::Dir;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// A file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    pub data: Bytes,
    /// Permission bits.
    pub mode: u32,
}

/// Files by their path within the volume.
pub(super) type Payload = BTreeMap<String, File>;

/// Whether a path from a user stays within the volume and does not touch our own names.
pub(super) fn is_safe(path: &str) -> bool {
    let components: Vec<_> = Path::new(path).components().collect();
    !components.is_empty()
        && components.iter().all(|component| matches!(component, Component::Normal(_)))
        && !components[0].as_os_str().to_string_lossy().starts_with("..")
}

/// What a pod's group may do at least.
const GROUP_READS: u32 = 0o440;

/// Makes the directory hold exactly these files; says whether that changed anything. With `for_group` the directory's group, which the files
/// inherit, may read them whatever their mode says. Blocks on the file system.
pub(super) fn write(dir: &Dir, files: &Payload, for_group: bool) -> io::Result<bool> {
    let extra = if for_group { GROUP_READS } else { 0 };
    if is_current(dir, files, extra) {
        link_entries(dir, files)?;
        return Ok(false);
    }
    // Also what a write that failed has left: it takes up room.
    let current = dir.read_link(DATA)?.unwrap_or_default();
    remove_others(dir, &current)?;
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.make(&name, 0o755)?;
    for (path, file) in files {
        write_file(&fresh, path, &file.data, file.mode | extra)?;
    }
    dir.remove(DATA_NEXT)?;
    dir.link(&name, DATA_NEXT)?;
    dir.replace(DATA_NEXT, DATA)?;
    link_entries(dir, files)?;
    remove_others(dir, name.as_ref())?;
    Ok(true)
}

/// Removes our directories but one.
fn remove_others(dir: &Dir, kept: &OsStr) -> io::Result<()> {
    for entry in dir.entries()? {
        let (entry, kind) = entry?;
        if entry.to_string_lossy().starts_with("..") && kind.is_dir() && entry != kept {
            dir.remove(entry)?;
        }
    }
    Ok(())
}

fn write_file(fresh: &Dir, path: &str, data: &[u8], mode: u32) -> io::Result<()> {
    let path = Path::new(path);
    let mut parent: Option<Dir> = None;
    for part in path.parent().into_iter().flat_map(Path::components) {
        parent = Some(parent.as_ref().unwrap_or(fresh).make(part, 0o755)?);
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    parent.as_ref().unwrap_or(fresh).create(name, mode)?.write_all(data)
}

/// Whether the link leads to a directory that holds exactly these files.
fn is_current(dir: &Dir, files: &Payload, extra: u32) -> bool {
    let Ok(Some(name)) = dir.read_link(DATA) else { return false };
    // Ours lead to a neighbour; a path is somebody else's.
    let Ok(data) = dir.at(&name) else { return false };
    let same = |(path, file): (&String, &File)| is_same(&data, path, file, extra).unwrap_or(false);
    let depth = files.keys().map(|path| path.matches('/').count()).max().unwrap_or(0);
    let mut left = files.len();
    files.iter().all(same) && count_down(&data, &mut left, depth).is_ok_and(|counted| counted) && left == 0
}

fn is_same(data: &Dir, path: &str, file: &File, extra: u32) -> io::Result<bool> {
    let open = data.file(path)?;
    let found = open.metadata()?;
    if !found.is_file()
        || found.len() != file.data.len() as u64
        || found.permissions().mode() & 0o777 != (file.mode | extra) & 0o777
    {
        return Ok(false);
    }
    let mut old = Vec::with_capacity(file.data.len());
    open.take(found.len()).read_to_end(&mut old)?;
    Ok(old == file.data)
}

/// Takes the number of files in a tree from `left`; false when there are more, or when it is deeper than `depth`.
fn count_down(dir: &Dir, left: &mut usize, depth: usize) -> io::Result<bool> {
    for entry in dir.entries()? {
        let (name, kind) = entry?;
        if kind.is_dir() {
            if depth == 0 || !count_down(&dir.at(name)?, left, depth - 1)? {
                return Ok(false);
            }
        } else {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// Makes the visible links: one for the first component of each path.
fn link_entries(dir: &Dir, files: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let target = format!("{DATA}/{name}");
        if dir.read_link(name)?.as_deref() != Some(OsStr::new(&target)) {
            dir.remove(name)?;
            dir.link(&target, name)?;
        }
    }
    for entry in dir.entries()? {
        let (name, kind) = entry?;
        let shown = name.to_string_lossy();
        if !shown.starts_with("..") && kind.is_symlink() && !wanted.contains(&*shown) {
            dir.remove(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn write_at(dir: &Path, files: &Payload) -> bool {
        write(&Dir::open(dir).unwrap(), files, false).unwrap()
    }

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(path, text)| ((*path).to_owned(), File { data: (*text).to_owned().into(), mode: 0o640 })).collect()
    }

    #[test]
    fn readers_see_whole_changes_through_one_link() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_at(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")])));
        let first = fs::read_link(dir.path().join(DATA)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write_at(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")])), "nothing to do");
        assert!(write_at(dir.path(), &payload(&[("a", "3")])));
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("sub").exists() && !dir.path().join(first).exists());
        assert!(write_at(dir.path(), &payload(&[])), "also to nothing at all");
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn what_somebody_made_of_a_volume_is_put_right_and_nothing_else_touched() {
        let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (payload(&[("a", "1"), ("sub/b", "2")]), payload(&[("a", "3"), ("sub/b", "4")]));
        fs::create_dir(away.path().join("sub")).unwrap();
        fs::write(away.path().join("a"), "theirs").unwrap();
        let (data, spoilt) = (dir.path().join(DATA), dir.path().join("..2020_spoilt"));
        for attack in 0..4 {
            write_at(dir.path(), &old);
            match attack {
                0 => {
                    fs::remove_file(&data).unwrap();
                    symlink(away.path(), &data).unwrap();
                }
                1 => {
                    fs::remove_file(&data).unwrap();
                    fs::create_dir_all(data.join("x/y")).unwrap();
                }
                2 => symlink(away.path(), dir.path().join(DATA_NEXT)).unwrap(),
                _ => {
                    fs::create_dir(&spoilt).unwrap();
                    symlink(away.path(), spoilt.join("sub")).unwrap();
                    fs::remove_file(dir.path().join("a")).unwrap();
                    fs::create_dir_all(dir.path().join("a/full")).unwrap();
                }
            }
            assert!(write_at(dir.path(), &new), "{attack}");
            assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
            assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "4");
            assert_eq!(fs::read_to_string(away.path().join("a")).unwrap(), "theirs");
            assert_eq!(fs::read_dir(away.path().join("sub")).unwrap().count(), 0);
        }
    }

    #[test]
    fn paths_stay_within_the_volume() {
        for path in ["", "/etc/passwd", "../up", "a/../../b", "..data", "..b/a", "a/.."] {
            assert!(!is_safe(path), "{path}");
        }
        assert!(is_safe("a") && is_safe("a/b.c") && is_safe(".hidden") && is_safe("a/..b") && is_safe("a/..data"));
    }
}
