//! Memory file systems, binds, and the careful removal of directories that may contain mounts.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{dir::Dir, private_dir};

/// The mounts that we see, and those that the host's first process sees.
const OWN_MOUNTS: &str = "/proc/thread-self/mountinfo";
const HOST_MOUNTS: &str = "/proc/1/mountinfo";
/// How many mounts on one place are taken off at most.
const STACK_MAX: u32 = 64;

/// Mounts a tmpfs, unless one is there. `size` is its limit in bytes. Its directory has this mode and group from the start.
pub(super) fn mount_tmpfs(dir: &Path, size: u64, mode: u32, group: Option<i64>) -> io::Result<()> {
    private_dir(dir)?;
    if mounts_below(OWN_MOUNTS, dir)?.iter().any(|mounted| mounted == dir) {
        return Ok(());
    }
    let group = group.map(|group| format!(",gid={group}")).unwrap_or_default();
    let options = format!("mode={mode:o},size={size}{group}");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str())).map_err(Into::into)
}

/// Mounts what a descriptor holds at a place that only the kubelet reaches, instead of what is mounted there.
pub(super) fn bind(found: BorrowedFd<'_>, is_dir: bool, target: &Path) -> io::Result<()> {
    for _ in 0..STACK_MAX {
        if umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
            break;
        }
    }
    if let Some(parent) = target.parent() {
        private_dir(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(old) if old.is_dir() == is_dir => {}
        Ok(old) if old.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if is_dir {
        private_dir(target)?;
    } else {
        fs::OpenOptions::new().append(true).create(true).open(target)?;
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    // Without what is mounted below, as upstream: a volume that holds the whole host would bring every other bind with it.
    Ok(mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Whether a mount that the kubelet makes below `root`, a path without links, is seen by the host's first process, and so by the engine.
///
/// # Errors
/// When the mount cannot be made or looked for.
pub fn reaches_the_host(root: &Path) -> io::Result<bool> {
    let place = root.join("mount-check");
    mount_tmpfs(&place, 4096, 0o700, None)?;
    let seen = mounts_below(HOST_MOUNTS, &place);
    remove_tree(&place)?;
    Ok(!seen?.is_empty())
}

/// Removes a directory and what is in it, never what is mounted in it: every mount below is taken off first. No error if it is gone.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let mut mounts = mounts_below(OWN_MOUNTS, dir)?;
    // Innermost first.
    mounts.sort_by(|a, b| b.cmp(a));
    for mounted in mounts {
        umount2(&mounted, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    // Whatever could not be taken off must not be emptied.
    if let Some(left) = mounts_below(OWN_MOUNTS, dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    match Dir::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        parent => parent?.remove(name),
    }
}

/// The mount points at or below a directory.
fn mounts_below(table: &str, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string(table)?;
    Ok(table
        .lines()
        .filter_map(|line| Some(PathBuf::from(unescape(line.split(' ').nth(4)?))))
        .filter(|path| path.starts_with(dir))
        .collect())
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = bytes.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) if byte == b'\\' => {
                out.push(value);
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn mount_points_with_blanks_are_understood() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    }

    #[test]
    fn a_mount_that_nobody_else_sees_is_noticed() {
        let root = tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap();
        assert!(reaches_the_host(root.path()).unwrap());
        let dir = root.path().to_owned();
        let alone = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            reaches_the_host(&dir)
        });
        assert!(!alone.join().unwrap().unwrap());
    }

    #[test]
    fn removal_takes_mounts_off_first() {
        let root = tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap();
        let dir = root.path().join("pod/volumes/memory");
        mount_tmpfs(&dir, 1 << 20, 0o2777, Some(7)).unwrap();
        mount_tmpfs(&dir, 1 << 20, 0o2777, Some(7)).unwrap();
        let made = fs::metadata(&dir).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o2777, 7));
        fs::write(dir.join("file"), "x").unwrap();
        assert!(fs::write(dir.join("big"), vec![0; 2 << 20]).is_err(), "the size limit holds");
        remove_tree(&root.path().join("pod")).unwrap();
        assert!(!root.path().join("pod").exists());
        remove_tree(&root.path().join("pod")).unwrap();
    }
}
