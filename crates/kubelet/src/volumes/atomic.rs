//! Writes the files of a volume so that readers see all of the old or all of the new, never a mixture.
//!
//! The files live in a directory with the time in its name; the symbolic link `..data` leads to it, and what users see are links through
//! `..data`. A change writes a new directory and renames the link. The layout is the one that Kubernetes' users know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// A file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    pub data: Vec<u8>,
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
        && !components.iter().any(|component| component.as_os_str().to_string_lossy().starts_with(".."))
}

/// What a pod's group may do at least.
const GROUP_READS: u32 = 0o440;

/// Makes the directory hold exactly these files; says whether that changed anything. With `for_group` the directory's group, which the files
/// inherit, may read them whatever their mode says. Blocks on the file system.
pub(super) fn write(dir: &Path, files: &Payload, for_group: bool) -> io::Result<bool> {
    let data = dir.join(DATA);
    let old = fs::read_link(&data).ok();
    let extra = if for_group { GROUP_READS } else { 0 };
    if old.is_some() && is_current(&data, files, extra) {
        link_entries(dir, files)?;
        return Ok(false);
    }
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    for (path, file) in files {
        write_file(&fresh.join(path), &file.data, file.mode | extra)?;
    }
    let next = dir.join(DATA_NEXT);
    remove(&next)?;
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    link_entries(dir, files)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let stale =
            entry.file_name().to_string_lossy().starts_with("..") && entry.file_type()?.is_dir() && entry.file_name() != *name;
        if stale {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn write_file(path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
    use io::Write as _;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    open.write_all(data)?;
    // The mode given to open is cut by the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn is_current(data: &Path, files: &Payload, extra: u32) -> bool {
    let same = |(path, file): (&String, &File)| {
        let path = data.join(path);
        fs::read(&path).is_ok_and(|old| old == file.data)
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == (file.mode | extra) & 0o777)
    };
    files.iter().all(same) && count_files(data).is_ok_and(|count| count == files.len())
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Makes the visible links: one for the first component of each path.
fn link_entries(dir: &Path, files: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let (link, target) = (dir.join(name), PathBuf::from(DATA).join(name));
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            remove(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && entry.file_type()?.is_symlink() && !wanted.contains(&*name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(path, text)| ((*path).to_owned(), File { data: (*text).into(), mode: 0o640 })).collect()
    }

    #[test]
    fn readers_see_whole_changes_through_one_link() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), false).unwrap());
        let first = fs::read_link(dir.path().join(DATA)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), false).unwrap(), "nothing to do");
        assert!(write(dir.path(), &payload(&[("a", "3")]), false).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("sub").exists() && !dir.path().join(first).exists());
        assert!(write(dir.path(), &payload(&[]), false).unwrap(), "also to nothing at all");
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn paths_stay_within_the_volume() {
        for path in ["", "/etc/passwd", "../up", "a/../../b", "..data", "a/..b"] {
            assert!(!is_safe(path), "{path}");
        }
        assert!(is_safe("a") && is_safe("a/b.c") && is_safe(".hidden"));
    }
}
