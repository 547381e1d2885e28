//! The HTTP server under axum routes and tonic services on one TLS port.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt;
use hyper::body::Body;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tower::{Service, ServiceExt};

use crate::{
    Shutdown,
    tls::{Busy, Incoming},
};

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Streams a client that showed a certificate may have open at once over one HTTP/2 connection: a kubelet has a watch for each
    /// object that its pods use.
    pub max_streams: u32,
    /// Streams any other client may have open at once over one HTTP/2 connection.
    pub max_streams_without_certificate: u32,
    /// HTTP/2 receive window of one stream, bytes.
    pub stream_window: u32,
    /// HTTP/2 receive window of one connection, bytes.
    pub connection_window: u32,
    /// What one stream may have queued for sending, bytes.
    pub send_buffer: usize,
    /// Head of one request, bytes: what a client that sends half of it can hold.
    pub head: u32,
    /// Silence after which a client is pinged; it is dropped after as long again.
    pub keep_alive: Duration,
    /// How long a client may be connected without asking for anything: whoever does, asks at once.
    pub first_request: Duration,
}

// === impl HttpOptions ===

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            max_streams: 2048,
            max_streams_without_certificate: 256,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            send_buffer: 128 << 10,
            head: 32 << 10,
            keep_alive: Duration::from_secs(20),
            first_request: Duration::from_secs(30),
        }
    }
}

/// Serves `service`, such as an `axum::Router` with tonic's routes in it, on every connection of `incoming`, over HTTP/1.1 or HTTP/2
/// with upgrades. Each request carries a [`crate::tls::PeerInfo`] and an
/// `Arc` of its connection's [`crate::tls::Seat`] as extensions.
///
/// Once the shutdown begins no connection is accepted and clients are told to go; returns when the last request has ended. Requests
/// that never end by themselves, such as watches, must follow the shutdown too.
pub async fn serve<S, B>(mut incoming: Incoming, service: S, options: HttpOptions, shutdown: Shutdown)
where
    S: Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(shutdown.started());
    loop {
        let connection = tokio::select! {
            () = &mut stop => break,
            next = incoming.next() => match next {
                Some(Ok(connection)) => connection,
                Some(Err(error)) => { tracing::debug!(%error, "connection lost"); continue }
                None => break,
            },
        };
        let peer = connection.peer().clone();
        let remote = peer.remote;
        let builder = builder(options, peer.identity.is_some());
        let service = service.clone();
        let asked = Arc::new(AtomicBool::new(false));
        let silent = silent(options.first_request, asked.clone());
        let seat = connection.seat().clone();
        let activity = seat.activity().clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(seat.clone());
            let (busy, connects) = (seat.activity().begin(), request.method() == http::Method::CONNECT);
            let answer = service.clone().oneshot(request);
            async move {
                let answer = answer.await?;
                let status = answer.status();
                let busy = if status == http::StatusCode::SWITCHING_PROTOCOLS || (connects && status.is_success()) {
                    busy.for_good();
                    None
                } else {
                    Some(busy)
                };
                Ok::<_, Infallible>(answer.map(|body| Answering { body, _busy: busy }))
            }
        });
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(connection), service);
            tokio::select! {
                ended = watcher.watch(connection.into_owned()) => if let Err(error) = ended {
                    tracing::debug!(%remote, error, "connection ended");
                },
                () = activity.closed() => tracing::debug!(%remote, "idle connection closed for another of its address"),
                () = silent => tracing::debug!(%remote, "client asked for nothing"),
            }
        });
    }
    drop(incoming);
    graceful.shutdown().await;
}

/// The body of an answer; its request is done when this is gone.
struct Answering<B> {
    body: B,
    _busy: Option<Busy>,
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Ends when a client has asked for nothing for so long; never if it has.
async fn silent(bound: Duration, asked: Arc<AtomicBool>) {
    tokio::time::sleep(bound).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn builder(options: HttpOptions, has_certificate: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).max_buf_size(options.head as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(if has_certificate { options.max_streams } else { options.max_streams_without_certificate })
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_send_buf_size(options.send_buffer)
        .max_header_list_size(options.head)
        .keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.keep_alive);
    builder
}
