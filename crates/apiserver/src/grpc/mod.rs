//! The gRPC front end: what it is sent becomes a [`Call`](crate::call::Call), the answer becomes messages. It decides nothing.

pub(crate) mod answers;
mod batches;
mod methods;
mod objects;
mod pods;
mod render;

use std::{pin::Pin, sync::Arc};

use api::{StatusError, status::Reason};
use client::fence::{Guard, HEADER};
use futures::{Stream, TryStreamExt};
use tonic::{Response, Status, metadata::MetadataMap};

pub(crate) use self::methods::{head, nature};
use crate::{call::Server, pipeline::Fence, request::Asked};

/// The gRPC services. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// Carries out the calls.
    pub server: Arc<Server>,
    /// Ends the watches.
    pub shutdown: daemon::Shutdown,
}

/// Messages for a client.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An answer that is a stream of messages.
fn sent<T>(messages: impl Stream<Item = Result<T, StatusError>> + Send + 'static) -> Response<Answers<T>> {
    Response::new(Box::pin(messages.map_err(Status::from)))
}

/// What the gate knows of the request.
fn asked<T>(request: &tonic::Request<T>) -> Result<Arc<Asked>, StatusError> {
    let asked = request.extensions().get::<Arc<Asked>>().cloned();
    asked.ok_or_else(|| StatusError::new(Reason::Unauthorized, "Unauthorized"))
}

/// The Lease a leader's write depends on.
fn fence(metadata: &MetadataMap) -> Result<Option<Fence>, StatusError> {
    let Some(value) = metadata.get(HEADER) else { return Ok(None) };
    let guard = value.to_str().ok().and_then(|text| text.parse::<Guard>().ok());
    match guard {
        Some(guard) => Ok(Some(Fence(guard))),
        None => {
            Err(StatusError::bad_request(format!("{HEADER}: {value:?} is not of the form NAMESPACE/NAME=HOLDER;TRANSITIONS")))
        }
    }
}
