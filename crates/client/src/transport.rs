//! One HTTP/2 connection over TLS 1.3 to one of several equal API servers, made anew when it breaks or our certificate changes. Requests
//! that ask for it get another one each.
//!
//! Invariant: a request is sent again by itself only if it surely never left. Everything else is the caller's decision.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use daemon::tls::{ClientTls, client_tls};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::BodyExt as _;
use hyper::{
    client::conn::http2::{Builder, SendRequest},
    rt::Executor as _,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Status, body::Body};
use tower::{Service, util::BoxCloneSyncService};
use tracing::Instrument;

use crate::{
    config::{Config, ConfigError, Token},
    observe::{Call, Observer},
};

/// Largest frame we take: long lists come in fewer pieces.
const FRAME: u32 = 1 << 20;
/// Silence after which the server is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long it may take to answer that.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Head start of one server before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(300);
/// How old a token may be before its file is read again.
const TOKEN_AGE: Duration = Duration::from_secs(10);

/// What requests go out through: the network, or a server in this process. A tonic client of any service can be put over it. Cheap to
/// clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct Transport(BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>);

/// As an extension of a request: it gets a connection of its own, which is closed when its answer has ended or is dropped. For streams that
/// the server may leave unread: on a shared connection what is under way of them holds up all others, and while it waits for room hyper
/// does not see that nobody wants the answer any more.
#[derive(Clone, Copy, Debug)]
pub struct OwnConnection;

/// Why no request can be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("cannot connect to {server}")]
    Connect {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer from {server} within {seconds} s")]
    ConnectTimeout { server: String, seconds: f32 },
    #[error("{server} does not speak HTTP/2")]
    Http {
        server: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the connection to {server} broke")]
    Broken {
        server: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the token in {path} cannot be used: {reason}")]
    Token { path: String, reason: String },
    #[error("the server did not answer within {} s, as --request-timeout allows", .0.as_secs_f32())]
    RequestTimeout(Duration),
    #[error("{0}")]
    Earlier(String),
}

#[derive(Clone)]
struct Network(Arc<Shared>);

struct Shared {
    config: Config,
    tls: Arc<ClientTls>,
    user_agent: HeaderValue,
    /// Whom to act as.
    impersonation: HeaderMap,
    state: Mutex<State>,
    /// Held while connecting, so that many waiting requests make one connection.
    connecting: tokio::sync::Mutex<()>,
    token: Mutex<Option<(HeaderValue, Instant)>>,
    /// Is told of every request.
    observer: Option<Arc<dyn Observer>>,
    _reload: Option<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Index of the server to try first.
    preferred: usize,
    /// Failed rounds of connecting so far, and what the last one said.
    failures: u64,
    last_failure: String,
}

#[derive(Clone)]
struct Live {
    sender: SendRequest<Body>,
    server: Uri,
    /// What the handshake used: once it is no longer current, new requests go over a new connection.
    tls: Arc<ClientConfig>,
}

/// Runs the tasks of a connection until it is cancelled. Cancelling only the future that hyper returns would leave the socket open as long
/// as a request's body is on its way.
#[derive(Clone)]
struct Tasks(CancellationToken);

pin_project_lite::pin_project! {
    /// An answer that fails if it has not ended in time.
    struct Bounded {
        #[pin]
        body: Body,
        #[pin]
        sleep: tokio::time::Sleep,
        bound: Duration,
    }
}

// === impl Transport ===

impl Transport {
    pub(crate) fn new<S>(service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Status> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(service))
    }

    /// Connects when the first request comes. Must be called inside a runtime.
    ///
    /// # Errors
    /// When certificates cannot be read or used.
    pub fn network(config: Config) -> Result<Self, ConfigError> {
        Self::observed(config, None)
    }

    pub(crate) fn observed(config: Config, observer: Option<Arc<dyn Observer>>) -> Result<Self, ConfigError> {
        let impersonation = config.impersonate.headers()?;
        let tls = client_tls(config.ca.clone(), config.identity.clone())?;
        let reload = tokio::spawn({
            let tls = tls.clone();
            async move {
                if let Err(error) = tls.watch(daemon::Shutdown::new()).await {
                    tracing::warn!(%error, "certificates are not watched for changes");
                }
            }
        });
        let user_agent = HeaderValue::from_str(&config.user_agent).unwrap_or(HeaderValue::from_static("ferrokube"));
        // Clients spread over the servers.
        let preferred = rand::random_range(0..config.servers.len().max(1));
        Ok(Self::new(Network(Arc::new(Shared {
            config,
            tls,
            user_agent,
            impersonation,
            state: Mutex::new(State { preferred, ..State::default() }),
            connecting: tokio::sync::Mutex::default(),
            token: Mutex::default(),
            observer,
            _reload: Some(AbortOnDropHandle::new(reload)),
        }))))
    }
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

// === impl Network ===

impl Service<http::Request<Body>> for Network {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let Some(bound) = shared.config.request_timeout else { return shared.send(request).await };
            let deadline = tokio::time::Instant::now() + bound;
            let late = |_| Status::from(TransportError::RequestTimeout(bound));
            let response = tokio::time::timeout_at(deadline, shared.send(request)).await.map_err(late)??;
            Ok(response.map(|body| Body::new(Bounded { body, sleep: tokio::time::sleep_until(deadline), bound })))
        })
    }
}

// === impl Shared ===

impl Shared {
    async fn send(&self, mut request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        request.headers_mut().insert(header::USER_AGENT, self.user_agent.clone());
        request.headers_mut().extend(self.impersonation.clone());
        if let Some(token) = self.authorization()? {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let Some(observer) = &self.observer else { return Ok(self.attempt(request).await?) };
        let preferred = self.state.lock().preferred % self.config.servers.len().max(1);
        if let Some(server) = self.config.servers.get(preferred) {
            lead_to(server, &mut request);
        }
        let call = Call::new(observer, &request);
        match self.attempt(request.map(|body| call.outward(body))).await {
            Ok(answer) => Ok(call.inward(answer)),
            Err(error) => {
                let status = Status::from(error);
                call.ended(status.code());
                Err(status)
            }
        }
    }

    async fn attempt(&self, mut request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        if request.extensions_mut().remove::<OwnConnection>().is_some() {
            return self.attempt_alone(request).await;
        }
        loop {
            let mut live = self.live().await?;
            lead_to(&live.server, &mut request);
            match live.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(Body::new)),
                Err(mut error) => match error.take_message() {
                    // The connection ended before the request left.
                    Some(unsent) => request = unsent,
                    None => {
                        return Err(TransportError::Broken { server: live.server.to_string(), source: error.into_error() });
                    }
                },
            }
        }
    }

    /// Sends a request over a connection of its own.
    async fn attempt_alone(&self, mut request: http::Request<Body>) -> Result<http::Response<Body>, TransportError> {
        let tasks = Tasks(CancellationToken::new());
        let open = tasks.0.clone().drop_guard();
        let (_, mut live) = self.connect(&tasks).await?;
        lead_to(&live.server, &mut request);
        let broken = |source| TransportError::Broken { server: live.server.to_string(), source };
        let response = live.sender.send_request(request).await.map_err(broken)?;
        // The connection is closed with the answer.
        let held = move |frame| {
            let _open = &open;
            frame
        };
        Ok(response.map(|body| Body::new(body.map_frame(held))))
    }

    /// An open connection; a new one if need be.
    async fn live(&self) -> Result<Live, TransportError> {
        let failures = match self.current() {
            Ok(live) => return Ok(live),
            Err(failures) => failures,
        };
        let _connecting = self.connecting.lock().await;
        match self.current() {
            Ok(live) => return Ok(live),
            // Somebody else tried while we waited; trying again at once would only make the others wait longer.
            Err(now) if now != failures => return Err(TransportError::Earlier(self.state.lock().last_failure.clone())),
            Err(_) => {}
        }
        // Never cancelled: it ends by itself once no request and no sender is left.
        let connected = self.connect(&Tasks(CancellationToken::new())).await;
        let mut state = self.state.lock();
        match connected {
            Ok((index, live)) => {
                state.preferred = index;
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                state.preferred += 1;
                state.failures += 1;
                state.last_failure = error.to_string();
                Err(error)
            }
        }
    }

    fn current(&self) -> Result<Live, u64> {
        let state = self.state.lock();
        let tls = self.tls.current();
        let usable = state.live.as_ref().filter(|live| !live.sender.is_closed() && Arc::ptr_eq(&live.tls, &tls));
        usable.cloned().ok_or(state.failures)
    }

    /// Connects to the preferred server, and beside it to the others if it takes its time. The first that answers wins.
    async fn connect(&self, tasks: &Tasks) -> Result<(usize, Live), TransportError> {
        if let Err(error) = self.tls.reload() {
            tracing::warn!(%error, "certificates cannot be read again");
        }
        let (count, first) = (self.config.servers.len(), self.state.lock().preferred);
        let mut attempts: FuturesUnordered<_> = (0..count)
            .map(|nth| async move {
                let index = (first + nth) % count;
                tokio::time::sleep(HEAD_START * u32::try_from(nth).unwrap_or(u32::MAX)).await;
                (index, self.connect_to(&self.config.servers[index], tasks).await)
            })
            .collect();
        let mut failed = TransportError::Earlier("no API server is configured".to_owned());
        while let Some((index, outcome)) = attempts.next().await {
            match outcome {
                Ok(live) => return Ok((index, live)),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "API server passed over");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    async fn connect_to(&self, server: &Uri, tasks: &Tasks) -> Result<Live, TransportError> {
        let timeout = self.config.connect_timeout;
        tokio::time::timeout(timeout, self.handshake(server, tasks)).await.unwrap_or_else(|_| {
            Err(TransportError::ConnectTimeout { server: server.to_string(), seconds: timeout.as_secs_f32() })
        })
    }

    async fn handshake(&self, server: &Uri, tasks: &Tasks) -> Result<Live, TransportError> {
        let failed = |source| TransportError::Connect { server: server.to_string(), source };
        let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, server.port_u16().unwrap_or(443))).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let expected = self.config.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(expected).map_err(|error| failed(std::io::Error::other(error)))?;
        let tls = self.tls.current();
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(failed)?;
        let (sender, connection) = Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.config.windows.stream)
            .initial_connection_window_size(self.config.windows.connection)
            .max_frame_size(FRAME)
            .max_send_buf_size(1 << 20)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| TransportError::Http { server: server.to_string(), source })?;
        let task = async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
            }
        };
        tasks.execute(task.instrument(tracing::debug_span!("connection", %server)));
        tracing::debug!(%server, "connected");
        Ok(Live { sender, server: server.clone(), tls })
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, TransportError> {
        let Some(token) = &self.config.token else { return Ok(None) };
        let mut cached = self.token.lock();
        if let Some((value, read)) = &*cached
            && (matches!(token, Token::Inline(_)) || read.elapsed() < TOKEN_AGE)
        {
            return Ok(Some(value.clone()));
        }
        let (text, path) = match token {
            Token::Inline(text) => (Ok(text.clone()), "the configuration".to_owned()),
            Token::File(path) => (std::fs::read_to_string(path), path.display().to_string()),
        };
        let value = match text {
            Ok(text) => HeaderValue::try_from(format!("Bearer {}", text.trim())).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match (value, &*cached) {
            (Ok(mut value), _) => {
                value.set_sensitive(true);
                *cached = Some((value.clone(), Instant::now()));
                Ok(Some(value))
            }
            // It may be between two versions; the former one is good for a while.
            (Err(_), Some((former, _))) => Ok(Some(former.clone())),
            (Err(reason), None) => Err(TransportError::Token { path, reason }),
        }
    }
}

// === impl Tasks ===

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}

// === impl Bounded ===

impl http_body::Body for Bounded {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Status>>> {
        let this = self.project();
        match this.body.poll_frame(context) {
            Poll::Pending if this.sleep.poll(context).is_ready() => {
                Poll::Ready(Some(Err(TransportError::RequestTimeout(*this.bound).into())))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Addresses a request to a server.
fn lead_to(server: &Uri, request: &mut http::Request<Body>) {
    let mut parts = server.clone().into_parts();
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

impl From<TransportError> for Status {
    fn from(error: TransportError) -> Self {
        let mut status = Self::unavailable(api::error::chain(&error));
        status.set_source(Arc::new(error));
        status
    }
}

/// True if a request took longer than the configuration allows.
pub(crate) fn is_out_of_time(status: &Status) -> bool {
    let cause = std::error::Error::source(status).and_then(|source| source.downcast_ref());
    matches!(cause, Some(TransportError::RequestTimeout(_)))
}

#[cfg(test)]
mod tests;
