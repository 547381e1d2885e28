//! subPaths: what a volume holds below its root, for one mount of one container.
//!
//! Containers write in the volume while this is looked at, so no path is resolved twice: the kernel finds it beneath the volume's own directory
//! (links inside a volume are followed, as ours through `..data` are), and the descriptor that it answers with is what is mounted.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

use super::mount;

/// A subPath that cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It leads out of its volume.
    #[error("invalid subPath {0:?}: it must be relative and must not lead out of its volume")]
    Outside(String),
    /// It cannot be found, made or mounted.
    #[error("failed to prepare subPath {0:?}: {1}")]
    Io(String, #[source] io::Error),
}

/// Mounts what is at `sub_path` of a volume at `target`, where no container reaches it. What is not there is made, as a directory that those may
/// write who may write in the volume. Blocks on the file system.
pub(super) fn mount(volume: &Path, sub_path: &str, target: &Path) -> Result<(), SubPathError> {
    let failed = |error| SubPathError::Io(sub_path.to_owned(), error);
    let found = find(volume, sub_path)?;
    let kind = found.try_clone().map(fs::File::from).and_then(|file| file.metadata()).map_err(failed)?;
    mount::bind(found.as_fd(), kind.is_dir(), target).map_err(failed)
}

fn find(volume: &Path, sub_path: &str) -> Result<OwnedFd, SubPathError> {
    let outside = || SubPathError::Outside(sub_path.to_owned());
    let failed = |errno: Errno| SubPathError::Io(sub_path.to_owned(), errno.into());
    let parts: Vec<Component<'_>> = Path::new(sub_path).components().collect();
    if parts.is_empty() || !parts.iter().all(|part| matches!(part, Component::Normal(_))) {
        return Err(outside());
    }
    let held = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(volume, held | OFlag::O_DIRECTORY, Mode::empty()).map_err(failed)?;
    let mut here = root.try_clone().map_err(|error| SubPathError::Io(sub_path.to_owned(), error))?;
    let mut path = PathBuf::new();
    for part in parts {
        path.push(part);
        here = match beneath(&root, &path, held, ResolveFlag::RESOLVE_NO_MAGICLINKS) {
            // The kernel's words for a way out, and for a link of its own or one that never ends.
            Err(Errno::EXDEV | Errno::ELOOP) => return Err(outside()),
            Err(Errno::ENOENT) => make(&root, &here, part).map_err(|errno| match errno {
                // A link that leads nowhere yet.
                Errno::ELOOP | Errno::ENOTDIR => outside(),
                errno => failed(errno),
            })?,
            found => found.map_err(failed)?,
        };
    }
    Ok(here)
}

fn beneath(dir: &OwnedFd, path: impl AsRef<Path>, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | resolve);
    loop {
        match openat2(dir, path.as_ref(), how) {
            // Something was renamed meanwhile; the kernel could not be sure.
            Err(Errno::EAGAIN) => {}
            opened => return opened,
        }
    }
}

/// Makes a directory with the mode of the volume's root.
fn make(root: &OwnedFd, parent: &OwnedFd, name: Component<'_>) -> nix::Result<OwnedFd> {
    let made = mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o755));
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match made {
        Ok(()) => {}
        // Another container that starts now was first.
        Err(Errno::EEXIST) => return beneath(parent, name, flags, ResolveFlag::RESOLVE_NO_SYMLINKS),
        Err(errno) => return Err(errno),
    }
    let dir = beneath(parent, name, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    let mode = nix::sys::stat::fstat(root)?.st_mode & 0o7777;
    nix::sys::stat::fchmod(&dir, Mode::from_bits_truncate(mode))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt as _, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// A volume, a victim outside it, and the kubelet's private place; unmounted and removed at the end.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::Builder::new().prefix("fkkubelet").tempdir().unwrap());
            for dir in ["volume", "victim"] {
                fs::create_dir(place.0.path().join(dir)).unwrap();
            }
            fs::write(place.victim().join("file"), "theirs").unwrap();
            place
        }

        fn volume(&self) -> PathBuf {
            self.0.path().join("volume")
        }

        fn victim(&self) -> PathBuf {
            self.0.path().join("victim")
        }

        fn target(&self) -> PathBuf {
            self.0.path().join("private/0")
        }

        fn mount(&self, sub_path: &str) -> Result<(), SubPathError> {
            mount(&self.volume(), sub_path, &self.target())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            mount::remove_tree(&self.0.path().join("private")).unwrap();
        }
    }

    #[test]
    fn what_is_mounted_lies_in_the_volume() {
        let place = Place::new();
        fs::set_permissions(place.volume(), fs::Permissions::from_mode(0o2777)).unwrap();
        for made in ["made", "made/here", "made//two/three"] {
            place.mount(made).unwrap();
            let metadata = fs::metadata(place.volume().join(made)).unwrap();
            assert!(metadata.is_dir() && metadata.permissions().mode() & 0o7777 == 0o2777, "as writable as its volume");
            fs::write(place.target().join("file"), made).unwrap();
            assert_eq!(fs::read_to_string(place.volume().join(made).join("file")).unwrap(), made);
        }
        // A key of a ConfigMap: a link through another one.
        fs::create_dir(place.volume().join("..1")).unwrap();
        fs::write(place.volume().join("..1/key"), "value").unwrap();
        symlink("..1", place.volume().join("..data")).unwrap();
        symlink("..data/key", place.volume().join("key")).unwrap();
        place.mount("key").unwrap();
        assert_eq!(fs::read_to_string(place.target()).unwrap(), "value");
        place.mount("made").unwrap();
        assert!(place.target().is_dir(), "a directory in place of a file");
    }

    #[test]
    fn no_way_leads_out_of_a_volume() {
        let place = Place::new();
        symlink(place.victim(), place.volume().join("out")).unwrap();
        symlink("../victim", place.volume().join("up")).unwrap();
        symlink("../victim/new", place.volume().join("dangling")).unwrap();
        symlink("/proc/self/root", place.volume().join("magic")).unwrap();
        for path in ["../x", "/etc", "", "out", "up", "up/x", "dangling", "dangling/x", "magic/etc"] {
            assert!(matches!(place.mount(path), Err(SubPathError::Outside(_))), "{path}");
        }
        assert_eq!(fs::read_dir(place.victim()).unwrap().count(), 1, "nothing is made outside");
        assert!(!place.target().exists());
    }

    #[test]
    fn a_container_that_swaps_a_directory_for_a_link_gains_nothing() {
        let place = Place::new();
        let (swapped, victim, stop) = (place.volume().join("x"), place.victim(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(fs::remove_dir_all(&swapped));
                    drop(symlink(&victim, &swapped));
                    drop(fs::remove_file(&swapped));
                    drop(fs::create_dir_all(swapped.join("y")));
                }
            });
            let mut mounted = 0;
            for _ in 0..500 {
                for path in ["x", "x/y"] {
                    if place.mount(path).is_ok() {
                        mounted += 1;
                        assert!(!place.target().join("file").exists(), "the victim is mounted");
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            assert!(mounted > 0, "the attack must not simply prevent every mount");
        });
        assert_eq!(fs::read_dir(place.victim()).unwrap().count(), 1, "nothing was made at the victim's");
    }
}
