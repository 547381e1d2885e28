//! Objects and their changes for as long as somebody looks: a watch that ends is resumed where it ended.

use std::time::Duration;

use client::{Api, Backoff, Change, Dynamic, ListParams, WatchParams, WatchStream};
use futures::{Stream, StreamExt as _, stream};

/// A change and what it is; `None` once every object that existed has been seen.
pub type Seen = Option<(&'static str, Dynamic)>;

struct Follower {
    api: Api<Dynamic>,
    select: ListParams,
    stream: Option<WatchStream<Dynamic>>,
    /// Resume after this; 0 if nothing has been seen.
    revision: i64,
    /// What existed at the beginning is still being sent.
    initial: bool,
    /// It is left out.
    only_changes: bool,
    backoff: Backoff,
}

/// Every object that matches (unless `only_changes`), then every change. An object that cannot be read is an error, after which the others
/// go on; ends with an error that trying again does not cure.
pub fn changes(api: Api<Dynamic>, select: ListParams, only_changes: bool) -> impl Stream<Item = client::Result<Seen>> + Send {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let follower = Follower { api, select, stream: None, revision: 0, initial: true, only_changes, backoff };
    stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        let seen = follower.next().await;
        let goes_on = matches!(seen, Ok(_) | Err(client::Error::Unreadable { .. }));
        Some((seen, goes_on.then_some(follower)))
    })
}

// === impl Follower ===

impl Follower {
    async fn next(&mut self) -> client::Result<Seen> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.api.watch(&self.params()).await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => self.recover(error).await?,
                }
                continue;
            };
            match stream.next().await {
                Some(Ok(event)) => {
                    self.backoff.reset();
                    let settled = matches!(event.change, Change::Bookmark { initial_events_end: true });
                    let left_out = self.initial && self.only_changes && !settled;
                    self.initial &= !settled;
                    // Until then a watch that resumes would miss what has not been sent yet.
                    if !self.initial {
                        self.revision = self.revision.max(event.revision);
                    }
                    if left_out {
                        continue;
                    }
                    return Ok(match event.change {
                        Change::Added(object) => Some(("ADDED", object)),
                        Change::Modified(object) => Some(("MODIFIED", object)),
                        Change::Deleted(object) => Some(("DELETED", object)),
                        Change::Bookmark { .. } if settled => None,
                        Change::Bookmark { .. } => continue,
                    });
                }
                Some(Err(error @ client::Error::Unreadable { .. })) => return Err(error),
                Some(Err(error)) => self.recover(error).await?,
                None => {
                    self.stream = None;
                    tokio::time::sleep(self.backoff.next_delay()).await;
                }
            }
        }
    }

    fn params(&self) -> WatchParams {
        let from = if self.initial { WatchParams::from_now() } else { WatchParams::after(self.revision.to_string()) };
        from.labels(&*self.select.label_selector).fields(&*self.select.field_selector)
    }

    /// Prepares for another attempt after a pause, or gives the error back.
    async fn recover(&mut self, error: client::Error) -> client::Result<()> {
        let started = self.revision > 0;
        if error.is_expired() {
            // What happened in between is not known: what there is now has to say it.
            (self.revision, self.initial, self.only_changes) = (0, true, false);
        } else if !error.is_unavailable() || !started {
            return Err(error);
        }
        self.stream = None;
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }
}
