//! Tells followers of logs that there is more: one inotify instance for all of them, since a host has few.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use parking_lot::Mutex;
use tokio::{io::unix::AsyncFd, sync::watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error};

/// The instance, in the shape the runtime waits on.
struct Instance(Inotify);

/// Who waits for which directory: the sender, and how many hold a [`Watch`] of it. `None` once nobody reads the instance any more.
type Listeners = Mutex<Option<HashMap<WatchDescriptor, (watch::Sender<()>, usize)>>>;

struct Shared {
    inotify: AsyncFd<Instance>,
    listeners: Listeners,
}

/// Watches directories; clones are one. It begins with the first directory, and anew with the next after it has failed.
#[derive(Clone, Default)]
pub(in crate::runtime) struct Watcher(Arc<Mutex<Option<Reading>>>);

/// An instance that is being read.
struct Reading {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

/// A directory that is being watched, for as long as this is held.
pub(super) struct Watch {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    changes: watch::Receiver<()>,
}

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

// === impl Watcher ===

impl Watcher {
    /// Watches a directory from now on.
    pub(super) fn watch(&self, dir: &Path) -> io::Result<Watch> {
        let mut slot = self.0.lock();
        if let Some(reading) = &*slot
            && let Some(watch) = reading.watch(dir)?
        {
            return Ok(watch);
        }
        slot.insert(Reading::start()?).watch(dir)?.ok_or_else(ended)
    }
}

fn ended() -> io::Error {
    io::Error::other("the watch of log files has ended")
}

// === impl Reading ===

impl Reading {
    fn start() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: `Instance` owns its descriptor, never closes or replaces it before it is dropped, and hands out no other.
        let inotify = unsafe { AsyncFd::register(Instance(inotify)) }?;
        let shared = Arc::new(Shared { inotify, listeners: Mutex::new(Some(HashMap::new())) });
        let told = shared.clone();
        let task = tokio::spawn(async move {
            let end = End(told);
            if let Err(error) = end.0.run().await {
                error!(%error, "followers of logs have lost their watch");
            }
        });
        Ok(Self { shared, _task: AbortOnDropHandle::new(task) })
    }

    /// Watches a directory; `None` if the instance is not read any more.
    fn watch(&self, dir: &Path) -> io::Result<Option<Watch>> {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
        // Held meanwhile, so that nobody takes the watch off in between: the kernel answers with the same descriptor for the same directory.
        let mut listeners = self.shared.listeners.lock();
        let Some(listeners) = &mut *listeners else { return Ok(None) };
        let descriptor = self.shared.inotify.get_ref().0.add_watch(dir, flags)?;
        let (sender, holders) = listeners.entry(descriptor).or_insert_with(|| (watch::Sender::new(()), 0));
        *holders += 1;
        Ok(Some(Watch { shared: self.shared.clone(), descriptor, changes: sender.subscribe() }))
    }
}

/// Tells whoever waits that the instance is not read any more, however that came about.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        *self.0.listeners.lock() = None;
    }
}

// === impl Shared ===

impl Shared {
    async fn run(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                events => {
                    let (events, listeners) = (events?, self.listeners.lock());
                    let Some(listeners) = &*listeners else { return Ok(()) };
                    for event in events {
                        match listeners.get(&event.wd) {
                            Some((sender, _)) => sender.send_replace(()),
                            // Events were lost: anything may have changed.
                            None if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => {
                                listeners.values().for_each(|(sender, _)| sender.send_replace(()));
                            }
                            None => {}
                        }
                    }
                }
            }
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Waits for a change since the last call, or since the watch began.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        self.changes.changed().await.map_err(|_| ended())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut listeners = self.shared.listeners.lock();
        let Some(listeners) = &mut *listeners else { return };
        let Some((_, holders)) = listeners.get_mut(&self.descriptor) else { return };
        *holders -= 1;
        if *holders == 0 {
            listeners.remove(&self.descriptor);
            // The directory may be gone, and the watch with it.
            if let Err(errno) = self.shared.inotify.get_ref().0.rm_watch(self.descriptor) {
                debug!(%errno, "cannot take off a watch of log files");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn followers_are_told_of_a_watch_that_has_failed_and_later_ones_have_another() {
        let (watcher, dir) = (Watcher::default(), tempfile::tempdir().unwrap());
        let mut first = watcher.watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("log"), "1").unwrap();
        timeout(Duration::from_secs(5), first.changed()).await.unwrap().unwrap();
        watcher.0.lock().as_ref().unwrap()._task.abort();
        let lost = async { while first.changed().await.is_ok() {} };
        timeout(Duration::from_secs(5), lost).await.unwrap();
        let mut second = watcher.watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("log"), "2").unwrap();
        timeout(Duration::from_secs(5), second.changed()).await.unwrap().unwrap();
    }
}
