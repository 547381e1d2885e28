//! A watch as a stream of changes.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use api::{
    KindRef, StatusError,
    ferrokube::v1::{self, WatchResponse, watch_event},
    google::protobuf::Any,
    meta::v1::{ObjectMeta, PartialObjectMetadata},
};
use futures::Stream;
use prost::Message as _;
use tonic::Streaming;

use super::{Item, item::read_one};
use crate::error::{Error, Result};

/// One change with its revision.
#[derive(Clone, Debug)]
pub struct WatchEvent<T> {
    /// What happened.
    pub change: Change<T>,
    /// The change's revision; a watch may resume after it.
    pub revision: i64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<T> {
    /// The object is new, or began to match the selectors.
    Added(T),
    /// The object changed.
    Modified(T),
    /// The object is gone, or ceased to match the selectors; this is its last state.
    Deleted(T),
    /// Only the revision is new.
    Bookmark {
        /// Every object that existed has been sent.
        initial_events_end: bool,
    },
}

/// Changes in order. An object that cannot be read is an [`Error::Unreadable`]; the changes after it follow.
#[derive(Debug)]
pub struct WatchStream<T> {
    kind: KindRef,
    responses: Streaming<WatchResponse>,
    waiting: VecDeque<v1::WatchEvent>,
    item: std::marker::PhantomData<fn() -> T>,
}

// === impl WatchStream ===

impl<T> WatchStream<T> {
    pub(super) fn new(kind: KindRef, responses: Streaming<WatchResponse>) -> Self {
        Self { kind, responses, waiting: VecDeque::new(), item: std::marker::PhantomData }
    }
}

impl<T: Item> Stream for WatchStream<T> {
    type Item = Result<WatchEvent<T>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Poll::Ready(Some(read(&self.kind, event)));
            }
            match ready!(Pin::new(&mut self.responses).poll_next(context)) {
                Some(Ok(response)) => self.waiting = response.events.into(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

fn read<T: Item>(kind: &KindRef, event: v1::WatchEvent) -> Result<WatchEvent<T>> {
    use watch_event::Type;
    let (revision, initial_events_end, what) = (event.resource_version, event.initial_events_end, event.r#type());
    let object = || read_one(kind, event.object.unwrap_or_default());
    let change = match what {
        Type::Added => Change::Added(object()?),
        Type::Modified => Change::Modified(object()?),
        // Which one it was is enough to know that it is gone.
        Type::Deleted => Change::Deleted(object().or_else(|error| named(kind, error))?),
        Type::Bookmark => Change::Bookmark { initial_events_end },
        Type::Unspecified => return Err(Error::Api(StatusError::internal("the server sent a watch event of no type"))),
    };
    Ok(WatchEvent { change, revision })
}

/// An object of which only the name is known, which is enough for one that is gone.
fn named<T: Item>(kind: &KindRef, error: Error) -> Result<T> {
    let Error::Unreadable { key, .. } = &error else { return Err(error) };
    let metadata = ObjectMeta { namespace: key.namespace.clone(), name: key.name.clone(), ..ObjectMeta::default() };
    let object = PartialObjectMetadata { metadata: Some(metadata) };
    T::read(kind, Any { type_url: kind.type_url.to_string(), value: object.encode_to_vec().into() }).map_err(|_| error)
}
