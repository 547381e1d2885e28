//! Work in another network namespace. A socket belongs to the namespace in which it was opened, whoever uses it later; so a short-lived
//! thread enters the namespace, opens the socket and ends, and no thread of the runtime ever changes its namespace.

use std::{fs::File, path::PathBuf, thread};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::{Error, Result, link::Netlink};

/// Calls a function in the network namespace of a process, on a thread of its own with the runtime entered.
///
/// # Errors
/// When the namespace cannot be entered, or the thread cannot be made.
pub async fn in_network_of<T: Send + 'static>(pid: i32, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = oneshot::channel();
    let thread = move || {
        let _runtime = runtime.enter();
        let enter = || {
            let namespace = File::open(&path).map_err(Error::file(&path))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::file(&path)(errno.into()))
        };
        // When nobody waits any more, what was made is dropped.
        drop(sender.send(enter().map(|()| work())));
    };
    thread::Builder::new().name("netns".into()).stack_size(128 * 1024).spawn(thread).map_err(Error::Socket)?;
    receiver.await.map_err(|_| Error::Cancelled)?
}

/// Opens netlink in the network namespace of a process.
pub(super) async fn netlink_of(pid: i32) -> Result<Netlink> {
    in_network_of(pid, Netlink::open).await?
}
