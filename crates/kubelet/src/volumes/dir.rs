//! Directories by handle. Where a container can write, a path from the root may lead anywhere a moment later; a handle stays what it was opened as, and
//! nothing here follows a symbolic link or leaves the directory.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat},
    sys::stat::{Mode, mkdirat},
    unistd::{Gid, UnlinkatFlags, fchown, symlinkat, unlinkat},
};

/// How many directories are open at once while a tree is removed; what lies deeper is brought up first. A container can nest without end.
const OPEN_DEPTH: u32 = 32;
/// How often a tree is gone through before it counts as one that somebody goes on filling.
const ROUNDS: u32 = 100_000;

/// An open directory.
pub(super) struct Dir(OwnedFd);

// === impl Dir ===

impl Dir {
    /// Opens a directory whose way only the kubelet can change.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    fn beneath(&self, path: impl AsRef<Path>, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .mode(Mode::from_bits_truncate(mode))
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        loop {
            match openat2(&self.0, path.as_ref(), how) {
                // Something was renamed meanwhile; the kernel could not be sure.
                Err(Errno::EAGAIN) => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// Opens a directory in this one.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        self.beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).map(Self)
    }

    /// Opens a file in this directory for reading. Never waits, whatever kind of file it has become.
    pub(super) fn file(&self, path: impl AsRef<Path>) -> io::Result<fs::File> {
        self.beneath(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0).map(Into::into)
    }

    /// Makes a file in this directory that was not there, with exactly these permission bits.
    pub(super) fn create(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<fs::File> {
        let file: fs::File = self.beneath(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode)?.into();
        // The mode given to open is cut by the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Makes a directory in this one, or takes the one that is there.
    pub(super) fn make(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        match mkdirat(&self.0, name.as_ref(), Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => self.at(name),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a symbolic link in this directory.
    pub(super) fn link(&self, target: impl AsRef<Path>, name: &str) -> io::Result<()> {
        Ok(symlinkat(target.as_ref(), &self.0, name)?)
    }

    /// Where a symbolic link in this directory leads; `None` if there is none of that name.
    pub(super) fn read_link(&self, name: &str) -> io::Result<Option<OsString>> {
        match readlinkat(&self.0, name) {
            Ok(target) => Ok(Some(target)),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Gives an entry of this directory another name, in place of whatever has it.
    pub(super) fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        match renameat(&self.0, from, &self.0, to) {
            Err(Errno::EISDIR | Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {
                self.remove(to)?;
                Ok(renameat(&self.0, from, &self.0, to)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// What is in this directory, each with whether it is a directory itself.
    pub(super) fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<(OsString, fs::FileType)>> + use<>> {
        // The handle's own place in /proc leads to it and nowhere else.
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        Ok(fs::read_dir(path)?.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?))
        }))
    }

    /// Sets permission bits and, if one is given, the group.
    pub(super) fn set_owner(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        if let Some(group) = group {
            fchown(&self.0, None, Some(Gid::from_raw(group)))?;
        }
        let file = fs::File::from(self.0.try_clone()?);
        if file.metadata()?.permissions().mode() & 0o7777 != mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Removes an entry of this directory, with all that is in it. No error if it is gone.
    pub(super) fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = Path::new(name.as_ref());
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let doomed = self.at(name)?;
        for _ in 0..ROUNDS {
            doomed.empty(&doomed, OPEN_DEPTH)?;
            match unlinkat(&self.0, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::ENOTEMPTY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::other(format!("{} is being filled while it is removed", name.display())))
    }

    /// Removes what is in this directory; directories deeper than `left` are moved to `top`, for the next round.
    fn empty(&self, top: &Self, left: u32) -> io::Result<()> {
        for entry in self.entries()? {
            let (name, kind) = entry?;
            let name = Path::new(&name);
            if !kind.is_dir() {
                unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?;
            } else if unlinkat(&self.0, name, UnlinkatFlags::RemoveDir).is_ok() {
            } else if left == 0 {
                // A name that nobody can have taken before.
                renameat(&self.0, name, &top.0, format!("..{:x}", rand::random::<u128>()).as_str())?;
            } else {
                self.at(name)?.empty(top, left - 1)?;
                match unlinkat(&self.0, name, UnlinkatFlags::RemoveDir) {
                    // What was moved up may have been put back below by whoever still writes: the next round sees.
                    Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out_of_a_directory() {
        let (root, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(away.path().join("file"), "theirs").unwrap();
        symlink(away.path(), root.path().join("out")).unwrap();
        let dir = Dir::open(root.path()).unwrap();
        for path in ["out/file", "out/new", "../x", "/etc/passwd"] {
            assert!(dir.file(path).is_err() && dir.create(path, 0o644).is_err(), "{path}");
        }
        assert!(dir.at("out").is_err() && dir.make("out", 0o755).is_err());
        dir.remove("out").unwrap();
        assert_eq!(fs::read_to_string(away.path().join("file")).unwrap(), "theirs");
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let top = Dir::open(root.path()).unwrap();
        let mut here = top.make("deep", 0o755).unwrap();
        for _ in 0..3000 {
            here.create("file", 0o600).unwrap();
            here = here.make("d", 0o755).unwrap();
        }
        top.remove("deep").unwrap();
        assert_eq!(top.entries().unwrap().count(), 0);
        top.remove("deep").unwrap();
    }
}
