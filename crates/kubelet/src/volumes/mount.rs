//! Memory file systems, and the careful removal of directories that may contain mounts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs, unless one is there. `size` is its limit in bytes; the kernel's default (half of the memory) without. Its directory has this
/// mode and group from the start.
pub(super) fn mount_tmpfs(dir: &Path, size: Option<u64>, mode: u32, group: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if mounts_below(dir)?.iter().any(|mounted| mounted == dir) {
        return Ok(());
    }
    let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let group = group.map(|group| format!(",gid={group}")).unwrap_or_default();
    let options = format!("mode={mode:o}{size}{group}");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str())).map_err(Into::into)
}

/// Removes a directory and what is in it, never what is mounted in it: every mount below is taken off first. No error if it is gone.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let mut mounts = mounts_below(dir)?;
    // Innermost first.
    mounts.sort_by(|a, b| b.cmp(a));
    for mounted in mounts {
        umount2(&mounted, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    // Whatever could not be taken off must not be emptied.
    if let Some(left) = mounts_below(dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The mount points at or below a directory.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
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
    fn removal_takes_mounts_off_first() {
        let root = tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap();
        let dir = root.path().join("pod/volumes/memory");
        mount_tmpfs(&dir, Some(1 << 20), 0o2777, Some(7)).unwrap();
        mount_tmpfs(&dir, Some(1 << 20), 0o2777, Some(7)).unwrap();
        let made = fs::metadata(&dir).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o2777, 7));
        fs::write(dir.join("file"), "x").unwrap();
        assert!(fs::write(dir.join("big"), vec![0; 2 << 20]).is_err(), "the size limit holds");
        remove_tree(&root.path().join("pod")).unwrap();
        assert!(!root.path().join("pod").exists());
        remove_tree(&root.path().join("pod")).unwrap();
    }
}
