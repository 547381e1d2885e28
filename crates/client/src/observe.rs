//! Calls as they go by, for whoever looks for what goes wrong: `kctl -v`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use api::Bytes;
use http::{HeaderMap, Uri};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

/// Length of what comes before each message: a flag, and four bytes of its length.
const PREFIX: usize = 5;
/// Longest message that is told of, bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// Is told of calls over the network. Values of headers that are marked sensitive are credentials and must not be shown.
pub trait Observer: Send + Sync + 'static {
    /// A request leaves.
    fn sent(&self, uri: &Uri, headers: &HeaderMap);

    /// Its answer begins.
    fn answered(&self, uri: &Uri, headers: &HeaderMap);

    /// Its answer has ended with this code, so long after the request left.
    fn ended(&self, uri: &Uri, code: Code, after: Duration);

    /// A message went by, protobuf; `answer` is true of those that came.
    fn message(&self, uri: &Uri, answer: bool, encoded: &[u8]);

    /// Whether messages are told of.
    fn wants_messages(&self) -> bool;
}

/// One call.
#[derive(Clone)]
pub(crate) struct Call {
    observer: Arc<dyn Observer>,
    uri: Uri,
    start: Instant,
}

impl Call {
    pub fn new(observer: &Arc<dyn Observer>, request: &http::Request<Body>) -> Self {
        observer.sent(request.uri(), request.headers());
        Self { observer: observer.clone(), uri: request.uri().clone(), start: Instant::now() }
    }

    /// The request's body, watched.
    pub fn outward(&self, body: Body) -> Body {
        if self.observer.wants_messages() { Body::new(Watched::new(self.clone(), body, false)) } else { body }
    }

    /// The answer, watched to its end.
    pub fn inward(self, answer: http::Response<Body>) -> http::Response<Body> {
        self.observer.answered(&self.uri, answer.headers());
        if let Some(code) = code(answer.headers()) {
            // It has no body.
            self.ended(code);
            return answer;
        }
        answer.map(|body| Body::new(Watched::new(self, body, true)))
    }

    /// There is no answer.
    pub fn ended(&self, code: Code) {
        self.observer.ended(&self.uri, code, self.start.elapsed());
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

struct Watched {
    call: Call,
    body: Body,
    answer: bool,
    /// The beginning of a message.
    pending: Vec<u8>,
    ended: bool,
}

// === impl Watched ===

impl Watched {
    fn new(call: Call, body: Body, answer: bool) -> Self {
        Self { call, body, answer, pending: Vec::new(), ended: false }
    }

    fn add(&mut self, bytes: &[u8]) {
        if !self.call.observer.wants_messages() {
            return;
        }
        self.pending.extend_from_slice(bytes);
        while let Some((prefix, rest)) = self.pending.split_first_chunk::<PREFIX>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if length <= MAX_MESSAGE && rest.len() < length {
                return;
            }
            if length > MAX_MESSAGE {
                self.pending.clear();
                return;
            }
            self.call.observer.message(&self.call.uri, self.answer, &rest[..length]);
            self.pending.drain(..PREFIX + length);
        }
    }

    fn end(&mut self, code: Code) {
        if self.answer && !std::mem::replace(&mut self.ended, true) {
            self.call.ended(code);
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.add(bytes);
                }
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.end(code);
                }
            }
            Some(Err(status)) => self.end(status.code()),
            None => self.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Nobody waits for the rest.
        self.end(Code::Cancelled);
    }
}
