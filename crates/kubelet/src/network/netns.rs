//! Netlink in another network namespace. A socket belongs to the namespace in which it was opened, whoever uses it later; so a short-lived
//! thread enters the namespace, opens the socket and ends, and no thread of the runtime ever changes its namespace.

use std::{fs::File, path::PathBuf, thread};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::{Error, Result, link::Netlink};

/// Opens netlink in the network namespace of a process.
pub(super) async fn netlink_of(pid: i32) -> Result<Netlink> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let runtime = tokio::runtime::Handle::current();
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("netns".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let _runtime = runtime.enter();
            let open = || {
                let namespace = File::open(&path).map_err(Error::file(&path))?;
                setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::file(&path)(errno.into()))?;
                Netlink::open()
            };
            // Nobody waits any more: the socket is closed again.
            drop(sender.send(open()));
        })
        .map_err(Error::Socket)?;
    receiver.await.map_err(|_| Error::Cancelled)?
}
