//! A value made of files, made again when they change.

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::{Pem, TlsError};
use crate::Shutdown;

/// How long after a change the files are read: writers change certificate and key one after the other.
const SETTLE: Duration = Duration::from_millis(100);

type Build<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// A value of PEM sources. Readers take what is current; [`Reloading::watch`] keeps it so.
pub struct Reloading<T> {
    sources: Vec<Pem>,
    build: Build<T>,
    current: ArcSwap<T>,
    /// Hash of the files' contents that `current` was made of.
    fingerprint: AtomicU64,
}

/// An inotify instance, in the shape the runtime waits on.
struct Changes(Inotify);

// === impl Reloading ===

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl<T> Reloading<T> {
    pub(super) fn new(
        sources: Vec<Pem>,
        build: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        // The fingerprint comes first: a change in between makes the next reload find a difference, never miss one.
        let fingerprint = fingerprint(&sources)?;
        let current = ArcSwap::from_pointee(build()?);
        Ok(Arc::new(Self { sources, build: Box::new(build), current, fingerprint: fingerprint.into() }))
    }

    /// What handshakes should use now.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Reads the files again if their contents have changed. Says whether there is a new value.
    ///
    /// # Errors
    /// When a file cannot be read or used; what was there stays.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let fingerprint = fingerprint(&self.sources)?;
        if fingerprint == self.fingerprint.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.current.store(Arc::new((self.build)()?));
        self.fingerprint.store(fingerprint, Ordering::Release);
        Ok(true)
    }

    /// Reloads whenever the files change, until the shutdown begins. Without files it only waits for the shutdown.
    ///
    /// # Errors
    /// When the files' directories cannot be watched.
    pub async fn watch(self: Arc<Self>, shutdown: Shutdown) -> std::io::Result<()> {
        let files: Vec<&Path> = self
            .sources
            .iter()
            .filter_map(|source| if let Pem::File(path) = source { Some(path.as_path()) } else { None })
            .collect();
        if files.is_empty() {
            shutdown.started().await;
            return Ok(());
        }
        let changes = watch_directories(&files)?;
        // What changed between loading and watching has sent no event.
        self.reload_and_log();
        loop {
            tokio::select! {
                () = shutdown.started() => return Ok(()),
                ready = changes.readable() => ready?.clear_ready(),
            }
            tokio::time::sleep(SETTLE).await;
            drain(changes.get_ref())?;
            self.reload_and_log();
        }
    }

    fn reload_and_log(&self) {
        match self.reload() {
            Ok(false) => {}
            Ok(true) => tracing::info!(files = ?self.sources, "certificates reloaded"),
            Err(error) => {
                tracing::error!(
                    error = api::error::chain(&error),
                    "certificates changed but cannot be used; keeping the former ones"
                )
            }
        }
    }
}

// === impl Changes ===

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Directories, not files, are watched: a file that is replaced by a rename is another file.
fn watch_directories(files: &[&Path]) -> std::io::Result<AsyncFd<Changes>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut directories = BTreeSet::new();
    for file in files {
        directories.insert(parent(file));
        // A file behind a symbolic link changes elsewhere.
        if let Ok(target) = file.canonicalize() {
            directories.insert(parent(&target));
        }
    }
    let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
    for directory in &directories {
        inotify.add_watch(directory, flags)?;
    }
    // SAFETY: `Changes` owns its descriptor, never closes or replaces it before it is dropped, and hands out no other.
    unsafe { AsyncFd::register(Changes(inotify)) }.map_err(Into::into)
}

fn parent(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Takes all waiting events: which file they name does not matter, contents decide.
fn drain(changes: &Changes) -> std::io::Result<()> {
    loop {
        match changes.0.read_events() {
            Ok(_) => {}
            Err(nix::Error::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn fingerprint(sources: &[Pem]) -> Result<u64, TlsError> {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        source.read()?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}
