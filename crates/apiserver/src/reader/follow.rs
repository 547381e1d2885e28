//! Following objects of one kind in memory.
//!
//! A follower is told the whole state once (again after the watch fell behind) and the changes after that: levels, not edges.

use std::{convert::Infallible, sync::Arc, time::Duration};

use store::{Collection, Entry, Error, ReadAt, Selection, WatchEvent, WatchStart};

/// Pause before a watch that failed is begun again.
const PAUSE: Duration = Duration::from_millis(500);

/// What keeps something of all objects of a kind.
pub(crate) trait Follower: Send + Sync {
    /// These are all objects now.
    fn replace(&self, entries: &[Arc<Entry>]);
    /// This changed.
    fn apply(&self, events: &[WatchEvent]);
}

/// Keeps a follower in step with the objects that a selection selects. Never ends by itself; dropping it is the way to end it.
pub(crate) async fn follow(collection: Collection, selection: Selection, follower: &dyn Follower) {
    loop {
        let Err(error) = round(&collection, selection.clone(), follower).await;
        match error {
            // The watch fell behind: what there is now says it all.
            Error::Expired { .. } => {}
            error => {
                let kind = &collection.layout().name;
                tracing::warn!(error = &error as &dyn std::error::Error, %kind, "a watch failed; beginning again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn round(collection: &Collection, selection: Selection, follower: &dyn Follower) -> Result<Infallible, Error> {
    let mut watch = collection.watch(selection, WatchStart::Initial(ReadAt::Any)).await?;
    let mut initial = Vec::new();
    loop {
        let batch = watch.next().await?;
        initial.extend(batch.events.into_iter().map(|event| event.entry));
        if batch.initial_end {
            break;
        }
    }
    follower.replace(&initial);
    drop(initial);
    loop {
        let batch = watch.next().await?;
        follower.apply(&batch.events);
    }
}
