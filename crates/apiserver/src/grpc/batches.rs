//! Lists and watches as streams of bounded messages made from cached bytes.

use api::{
    KindRef, StatusError,
    ferrokube::v1::{ListResponse, WatchEvent, WatchResponse, watch_event::Type},
    meta::v1::ListMeta,
};
use futures::Stream;
use store::{Entry, EventKind, Watch};
use tokio::time::{Duration, Instant};

use super::render::Rendered;
use crate::pipeline::{Page, Stored, watch_error};

/// A message is sent once it holds this many bytes of objects.
const CHUNK: usize = 128 << 10;
/// A watcher that asked for bookmarks gets one about this often.
const BOOKMARK: Duration = Duration::from_secs(60);

/// What of each object is sent, and how.
#[derive(Clone)]
pub(super) struct Form {
    pub(super) kind: KindRef,
    pub(super) metadata_only: bool,
    pub(super) as_json: bool,
}

impl Form {
    fn of(&self, entry: &Entry, warnings: &mut Vec<String>) -> Rendered {
        match self.metadata_only {
            true => Rendered::partial(entry.partial(), self.as_json, warnings),
            false => Rendered::object(Stored { kind: self.kind.clone(), bytes: entry.object() }, self.as_json, warnings),
        }
    }
}

/// Computed objects in one message.
pub(super) fn computed(objects: Vec<Stored>, as_json: bool) -> ListResponse {
    let mut answer = ListResponse { metadata: Some(ListMeta::default()), ..ListResponse::default() };
    for object in objects {
        match Rendered::object(object, as_json, &mut answer.warnings) {
            Rendered { object: Some(object), .. } => answer.items.push(object),
            Rendered { json, .. } => answer.json_items.push(json),
        }
    }
    answer
}

/// The page in chunks; the last one carries the metadata.
pub(super) fn list(form: Form, page: Page) -> impl Iterator<Item = ListResponse> + Send {
    let metadata = ListMeta {
        resource_version: page.revision.to_string(),
        r#continue: page.continue_token,
        remaining_item_count: page.remaining,
        ..ListMeta::default()
    };
    let mut items = page.items.into_iter().peekable();
    let mut metadata = Some(metadata);
    std::iter::from_fn(move || {
        metadata.as_ref()?;
        let (mut chunk, mut size) = (ListResponse::default(), 0);
        while size < CHUNK
            && let Some(entry) = items.next()
        {
            let rendered = form.of(&entry, &mut chunk.warnings);
            size += rendered.len();
            match rendered.object {
                Some(object) => chunk.items.push(object),
                None => chunk.json_items.push(rendered.json),
            }
        }
        if items.peek().is_none() {
            chunk.metadata = metadata.take();
        }
        Some(chunk)
    })
}

/// What a watch stream needs to know of its request.
pub(super) struct WatchOptions {
    pub(super) form: Form,
    pub(super) bookmarks: bool,
    /// The client asked for the initial events, so it is told where they end.
    pub(super) tell_initial_end: bool,
    pub(super) deadline: Instant,
}

/// The changes of a watch until it expires, its deadline passes, or the shutdown begins.
pub(super) fn watch(
    mut watch: Watch,
    options: WatchOptions,
    shutdown: daemon::Shutdown,
) -> impl Stream<Item = Result<WatchResponse, StatusError>> + Send {
    async_stream::stream! {
        let mut over = std::pin::pin!(tokio::time::sleep_until(options.deadline));
        let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK, BOOKMARK);
        let mut shutdown = std::pin::pin!(shutdown.started());
        loop {
            // Every branch is cancel safe: `Watch::next` keeps its place.
            let batch = tokio::select! {
                biased;
                () = &mut shutdown => return,
                () = &mut over => return,
                batch = watch.next() => batch,
                _ = bookmarks.tick(), if options.bookmarks => {
                    if let Some(revision) = watch.bookmark() {
                        yield Ok(WatchResponse { events: vec![bookmark(revision, false)], warnings: Vec::new() });
                    }
                    continue;
                }
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(e) => {
                    yield Err(watch_error(&options.form.kind, e));
                    return;
                }
            };
            let (mut message, mut size) = (WatchResponse::default(), 0);
            for event in batch.events {
                let rendered = options.form.of(&event.entry, &mut message.warnings);
                size += rendered.len();
                message.events.push(WatchEvent {
                    r#type: match event.kind {
                        EventKind::Added => Type::Added,
                        EventKind::Modified => Type::Modified,
                        EventKind::Deleted => Type::Deleted,
                    } as i32,
                    object: rendered.object,
                    resource_version: event.entry.revision(),
                    initial_events_end: false,
                    json: rendered.json,
                });
                if size >= CHUNK {
                    yield Ok(std::mem::take(&mut message));
                    size = 0;
                }
            }
            if batch.initial_end && options.tell_initial_end {
                message.events.push(bookmark(batch.revision, true));
            }
            if !message.events.is_empty() {
                yield Ok(message);
            }
        }
    }
}

fn bookmark(revision: i64, initial_events_end: bool) -> WatchEvent {
    WatchEvent { r#type: Type::Bookmark as i32, resource_version: revision, initial_events_end, ..WatchEvent::default() }
}
