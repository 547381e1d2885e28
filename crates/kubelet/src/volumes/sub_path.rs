//! subPaths: what a volume holds below its root, for one mount of one container.
//!
//! Containers write in the volume while this is looked at, so no path is resolved twice: each name is opened in the directory that was opened before
//! it, links are read and gone along here (those inside a volume, as ours through `..data`, and absolute ones that name the volume by its path on the
//! host), and the descriptor at the end is what is mounted.

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat},
};

use super::mount;

/// How many links are gone along: the kernel's number.
const LINKS_MAX: u32 = 40;
/// How many directories deep a subPath may lie; each is held open on the way.
const DEPTH_MAX: usize = 128;

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
    let held = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY, Mode::empty()).map_err(failed)?;
    // The way to where we are, without the root, and the names still to go, the next one last, each with whether a link led to it.
    let (mut way, mut names): (Vec<OwnedFd>, Vec<_>) =
        (Vec::new(), parts.iter().rev().map(|part| (part.as_os_str().to_owned(), false)).collect());
    let mut links = 0;
    while let Some((name, linked)) = names.pop() {
        if name == ".." {
            way.pop().ok_or_else(outside)?;
            continue;
        }
        let here = way.last().unwrap_or(&root);
        let found = match openat(here, &*name, held, Mode::empty()) {
            // What a link leads to is not made: it may be meant for elsewhere.
            Err(Errno::ENOENT) if linked => return Err(outside()),
            Err(Errno::ENOENT) => make(&root, here, &name),
            found => found,
        }
        .map_err(failed)?;
        if !is_link(&found).map_err(failed)? {
            if way.len() >= DEPTH_MAX {
                return Err(failed(Errno::ENAMETOOLONG));
            }
            way.push(found);
            continue;
        }
        links += 1;
        let target = PathBuf::from(readlinkat(&found, "").map_err(failed)?);
        let within = within(volume, &root, &target).filter(|_| links <= LINKS_MAX).ok_or_else(outside)?;
        if target.is_absolute() {
            way.clear();
        }
        let further = within.components().rev().filter(|part| *part != Component::CurDir);
        names.extend(further.map(|part| (part.as_os_str().to_owned(), true)));
    }
    Ok(way.pop().unwrap_or(root))
}

fn is_link(found: &OwnedFd) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(found)?.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFLNK)
}

/// A link's target from where it is, or from the volume's root if it is absolute; `None` if it is a way out. On the host a volume has the path that it
/// was given by, and that which is free of links.
fn within(volume: &Path, root: &OwnedFd, target: &Path) -> Option<PathBuf> {
    if target.is_relative() {
        return Some(target.to_owned());
    }
    let real = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok();
    [Some(volume), real.as_deref()].into_iter().flatten().find_map(|path| target.strip_prefix(path).ok()).map(Path::to_owned)
}

/// Makes a directory with the mode of the volume's root.
fn make(root: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        // Another container that starts now was first.
        Err(Errno::EEXIST) => return openat(parent, name, flags, Mode::empty()),
        Err(errno) => return Err(errno),
    }
    let dir = openat(parent, name, flags, Mode::empty())?;
    fchmod(&dir, Mode::from_bits_truncate(fstat(root)?.st_mode & 0o7777))?;
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
    fn absolute_links_that_name_the_volume_stay_in_it() {
        let place = Place::new();
        fs::create_dir_all(place.volume().join("releases/1/bin")).unwrap();
        fs::write(place.volume().join("releases/1/bin/app"), "one").unwrap();
        symlink(place.volume().join("releases/1"), place.volume().join("current")).unwrap();
        symlink("./current/../1/bin", place.volume().join("bin")).unwrap();
        symlink(place.volume(), place.volume().join("all")).unwrap();
        for path in ["current/bin/app", "bin/app", "all/current/bin/app"] {
            place.mount(path).unwrap();
            assert_eq!(fs::read_to_string(place.target()).unwrap(), "one", "{path}");
        }
        place.mount("current/new").unwrap();
        assert!(place.volume().join("releases/1/new").is_dir(), "what is missing is made where the link leads");
        // By another name of the volume, which is a link to it.
        let alias = place.0.path().join("alias");
        symlink(place.volume(), &alias).unwrap();
        symlink(alias.join("releases/1/bin/app"), place.volume().join("app")).unwrap();
        mount(&alias, "app", &place.target()).unwrap();
        mount(&alias, "current/bin/app", &place.target()).unwrap();
        assert_eq!(fs::read_to_string(place.target()).unwrap(), "one");
    }

    #[test]
    fn no_way_leads_out_of_a_volume() {
        let place = Place::new();
        symlink(place.victim(), place.volume().join("out")).unwrap();
        symlink("../victim", place.volume().join("up")).unwrap();
        symlink("../victim/new", place.volume().join("dangling")).unwrap();
        symlink("/proc/self/root", place.volume().join("magic")).unwrap();
        symlink(place.volume().join("../victim"), place.volume().join("back")).unwrap();
        symlink(place.volume().join("none"), place.volume().join("none-yet")).unwrap();
        symlink("ring", place.volume().join("ring")).unwrap();
        let neighbour = place.volume().with_extension("2");
        symlink(neighbour, place.volume().join("neighbour")).unwrap();
        for path in [
            "../x",
            "/etc",
            "",
            "out",
            "up",
            "up/x",
            "dangling",
            "dangling/x",
            "magic/etc",
            "back",
            "back/file",
            "none-yet",
            "ring",
            "neighbour",
        ] {
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
