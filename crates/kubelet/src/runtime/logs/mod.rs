//! A container's log, read from the files that the engine writes.
//!
//! The engine's own call repeats and loses lines where it rotates files, counts pieces of long lines as lines and stamps each. The files do not: a
//! [`Reader`] holds the file that it reads open, knows it by its inode wherever rotation moves it, and goes on with the next newer one. A
//! [`Watcher`] tells when there is more. *Invariant:* a line is told once, in the order in which it was written; what is held in memory is a few pieces,
//! however long lines are and however slowly they are taken.

mod files;
mod reader;
mod record;
mod watcher;

use std::path::PathBuf;

use futures::{StreamExt as _, stream::BoxStream};
use hyper::Method;

use self::reader::Reader;
pub(super) use self::watcher::Watcher;
use super::{Error, LogOptions, Output, Result, wire::Wire};

/// Pause before an engine that is away is asked again whether a container runs.
const ENGINE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// The log whose newest file is at `path`, as the options want it.
pub(super) fn read(
    wire: Wire,
    watcher: Watcher,
    id: String,
    path: PathBuf,
    options: LogOptions,
) -> BoxStream<'static, Result<Output>> {
    async_stream::try_stream! {
        let follow = options.follow;
        let mut changes = match (follow, path.parent()) {
            // From before the first look, so that nothing falls in between.
            (true, Some(dir)) => Some(watcher.watch(dir).map_err(Error::log)?),
            _ => None,
        };
        let mut reader = blocking(move || Reader::open(path, &options)).await?;
        let mut end = std::pin::pin!(ended(&wire, &id));
        let mut has_ended = !follow;
        loop {
            let (back, next) = blocking(move || reader.next().map(|next| (reader, next))).await?;
            reader = back;
            match (next, &mut changes) {
                (Some(output), _) => yield output,
                // This look came after the end.
                (None, _) if has_ended => break,
                (None, Some(changes)) => {
                    let changed = tokio::select! {
                        changed = changes.changed() => Some(changed),
                        () = &mut end => None,
                    };
                    has_ended = changed.transpose().map_err(Error::log)?.is_none();
                }
                (None, None) => break,
            }
        }
    }
    .boxed()
}

/// Waits until a container does not run any more; its log is complete then.
async fn ended(wire: &Wire, id: &str) {
    loop {
        match wire.ask(Method::POST, &format!("/containers/{id}/wait?condition=not-running")).await {
            Ok(answer) if !answer.is_empty() => return,
            Err(Error::NotFound { .. }) => return,
            // The engine goes away, and comes back.
            Ok(_) | Err(_) => tokio::time::sleep(ENGINE_RETRY).await,
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::log),
        Err(error) => Err(Error::log(std::io::Error::other(error))),
    }
}
