//! An in-memory API server behind the real client, so that reconcile functions and informers are tested as they run, without a network.
//!
//! It knows revisions, conflicts, watches, selectors, status and other subresources, generated names, finalizers and graceful deletion,
//! and the guard of leaders. It knows no validation, defaults or admission: that is the API server's.

mod selectors;
mod service;
mod state;

use std::{convert::Infallible, sync::Arc, task::Poll};

use api::{
    Kind, Resource, StatusError,
    ferrokube::v1::{objects_server::ObjectsServer, pods_server::PodsServer},
};
use daemon::Kit;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower::Service;

use self::state::State;
use crate::{Client, Informers, transport::Transport};

/// An object with this annotation travels as bytes that cannot be decoded, all but its metadata.
pub const UNREADABLE: &str = "test/unreadable";

/// The server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct MemoryServer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    revision: tokio::sync::watch::Sender<i64>,
    faults: Mutex<Vec<Fault>>,
    writes: Mutex<Vec<String>>,
    connection: Mutex<CancellationToken>,
}

struct Fault {
    verb: &'static str,
    plural: &'static str,
    error: StatusError,
    /// What was asked for is done all the same.
    done: bool,
}

/// Both services in one, by path.
#[derive(Clone)]
struct Routes {
    objects: ObjectsServer<MemoryServer>,
    pods: PodsServer<MemoryServer>,
}

// === impl MemoryServer ===

impl std::fmt::Debug for MemoryServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryServer").field("revision", &*self.0.revision.borrow()).finish_non_exhaustive()
    }
}

impl Default for MemoryServer {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryServer {
    /// A server that holds nothing.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::new()),
            revision: tokio::sync::watch::Sender::new(1),
            faults: Mutex::default(),
            writes: Mutex::default(),
            connection: Mutex::default(),
        }))
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let routes = Routes { objects: self.service(), pods: PodsServer::new(self.clone()) };
        Client::over(Transport::new(routes), "default", "test")
    }

    /// The `Objects` service, to be served on a port.
    pub fn service(&self) -> ObjectsServer<Self> {
        ObjectsServer::new(self.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Informers over this server, in a kit of their own.
    pub fn informers(&self) -> Informers {
        Informers::new(self.client(), Kit::new())
    }

    /// Stores an object exactly as it is, status and all, new or not; what it lacks of UID, creation time and version is added.
    pub fn put<K: Resource>(&self, object: K) -> K {
        let stored = self.0.state.lock().put(Box::new(object));
        self.tell();
        stored.downcast_ref::<K>().cloned().unwrap_or_default()
    }

    /// An object as it is stored.
    pub fn find<K: Resource>(&self, namespace: &str, name: &str) -> Option<K> {
        let state = self.0.state.lock();
        state.get(K::KIND, namespace, name).and_then(|object| object.downcast_ref::<K>().cloned())
    }

    /// All objects of a kind, by namespace and name.
    pub fn all<K: Resource>(&self) -> Vec<K> {
        let state = self.0.state.lock();
        state.list(K::KIND, "").filter_map(|object| object.downcast_ref::<K>().cloned()).collect()
    }

    /// Removes an object at once, whatever its finalizers say.
    pub fn remove<K: Resource>(&self, namespace: &str, name: &str) {
        self.0.state.lock().remove(K::KIND, namespace, name);
        self.tell();
    }

    /// Lets the next request of this verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`) for this plural fail.
    pub fn fail_next(&self, verb: &'static str, plural: &'static str, error: StatusError) {
        self.0.faults.lock().push(Fault { verb, plural, error, done: false });
    }

    /// Lets the next create for this plural succeed and its answer be lost.
    pub fn lose_next_answer(&self, plural: &'static str) {
        let error = StatusError::unavailable("the answer was lost");
        self.0.faults.lock().push(Fault { verb: "create", plural, error, done: true });
    }

    /// Ends every open watch as a lost connection does.
    pub fn disconnect(&self) {
        std::mem::take(&mut *self.0.connection.lock()).cancel();
    }

    /// Forgets all past revisions and ends every open watch, so that watches which resume are told to start anew.
    pub fn compact(&self) {
        self.0.state.lock().compact();
        self.disconnect();
    }

    /// Goes back to the very beginning, as if etcd had been restored from an empty backup, and ends every open watch.
    pub fn start_over(&self) {
        *self.0.state.lock() = State::new();
        self.disconnect();
    }

    /// The writes since the last call, each as `verb plural[/subresource] [namespace/]name`.
    pub fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.0.writes.lock())
    }

    /// Waits until `condition` holds of the stored objects.
    pub async fn eventually(&self, condition: impl Fn(&Self) -> bool) {
        let mut revision = self.0.revision.subscribe();
        let wait = async {
            while !condition(self) {
                // A condition may depend on time too.
                let pause = tokio::time::sleep(std::time::Duration::from_millis(20));
                tokio::select! {
                    changed = revision.changed() => drop(changed),
                    () = pause => {}
                }
            }
        };
        let bound = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(bound, wait).await.is_ok(), "the condition does not come true");
    }

    fn tell(&self) {
        let revision = self.0.state.lock().revision();
        self.0.revision.send_replace(revision);
    }

    fn begin(&self, verb: &'static str, kind: &Kind) -> Result<(), StatusError> {
        self.fault(verb, kind, false)
    }

    fn fault(&self, verb: &'static str, kind: &Kind, done: bool) -> Result<(), StatusError> {
        let mut faults = self.0.faults.lock();
        match faults.iter().position(|fault| (fault.verb, fault.plural, fault.done) == (verb, &*kind.plural, done)) {
            Some(index) => Err(faults.remove(index).error),
            None => Ok(()),
        }
    }

    fn wrote(&self, verb: &str, kind: &Kind, subresource: &str, namespace: &str, name: &str) {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let key = crate::ObjectKey::new(namespace, name);
        self.0.writes.lock().push(format!("{verb} {}{slash}{subresource} {key}", kind.plural));
        self.tell();
    }
}

// === impl Routes ===

impl Service<http::Request<Body>> for Routes {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.method() == http::Method::GET {
            return Box::pin(std::future::ready(Ok(plain(request.uri()))));
        }
        let answer: BoxFuture<'static, Result<Self::Response, Infallible>> =
            if request.uri().path().starts_with("/ferrokube.v1.Pods/") {
                self.pods.call(request)
            } else {
                self.objects.call(request)
            };
        Box::pin(async move { answer.await.map_err(|never| match never {}) })
    }
}

/// What is answered without gRPC.
fn plain(uri: &http::Uri) -> http::Response<Body> {
    let status = |code: u16, reason: &str, message: &str| {
        let status =
            serde_json::json!({"kind": "Status", "apiVersion": "v1", "reason": reason, "message": message, "code": code});
        (code, "application/json", status.to_string())
    };
    let (code, media_type, text) = match (uri.path(), uri.query()) {
        ("/livez" | "/readyz" | "/healthz", Some("verbose")) => (200, "text/plain", "[+]ping ok\ncheck passed\n".to_owned()),
        ("/livez" | "/healthz/ping", _) => (200, "text/plain", "ok".to_owned()),
        ("/readyz", _) => (500, "text/plain", "[-]etcd failed: it is away\nreadyz check failed\n".to_owned()),
        ("/metrics", _) => status(403, "Forbidden", "forbidden: User \"test\" cannot get path \"/metrics\""),
        _ => status(404, "NotFound", "the server could not find the requested resource"),
    };
    let body = http_body_util::Full::new(api::Bytes::from(text)).map_err(|never: Infallible| match never {});
    let mut response = http::Response::new(Body::new(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}
