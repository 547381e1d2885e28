//! Accepted TLS connections as a stream.
//!
//! Handshakes run beside each other, each bounded in time and all bounded in number, so that a silent or babbling client costs the
//! others nothing. What fails before the handshake is done is logged at debug level only: anyone can knock.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::{PeerIdentity, PeerInfo, ServerTls};
use crate::Shutdown;

/// Bounds on what has not yet shown who it is.
#[derive(Clone, Copy, Debug)]
pub struct IncomingOptions {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many handshakes may run at once; further clients wait in the listener's backlog.
    pub handshakes: usize,
}

/// An established TLS connection with what is known of its peer.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
}

/// The stream of established connections. Dropping it closes the listener.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<io::Result<Connection>>,
    _acceptor: AbortOnDropHandle<()>,
}

/// Accepts TLS connections on `listener` until the shutdown begins or the stream is dropped.
///
/// Must be called inside a runtime.
pub fn server(listener: TcpListener, tls: Arc<ServerTls>, options: IncomingOptions, shutdown: Shutdown) -> Incoming {
    let (sender, connections) = mpsc::channel(64);
    let acceptor = tokio::spawn(async move {
        tokio::select! {
            () = shutdown.started() => {}
            () = accept(listener, tls, options, sender) => {}
        }
    });
    Incoming { connections, _acceptor: AbortOnDropHandle::new(acceptor) }
}

async fn accept(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    options: IncomingOptions,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let permits = Arc::new(Semaphore::new(options.handshakes));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let handshake = handshake(stream, remote, tls.clone(), options.handshake_timeout, permit, sender.clone());
                tokio::spawn(handshake);
            }
            Err(error) if is_connection_error(&error) => {
                tracing::debug!(%error, "client gone before it was accepted")
            }
            Err(error) => {
                // Out of descriptors or memory: others must finish first.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Arc<ServerTls>,
    timeout: Duration,
    permit: OwnedSemaphorePermit,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let established = async {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let stream = TlsAcceptor::from(tls.current()).accept(stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let identity = match leaf {
            None => None,
            Some(der) => {
                Some(Arc::new(PeerIdentity::from_der(der).ok_or_else(|| io::Error::other("unreadable client certificate"))?))
            }
        };
        Ok::<_, io::Error>(Connection { peer: PeerInfo { remote, local, identity }, stream })
    };
    let outcome = tokio::time::timeout(timeout, established).await;
    drop(permit);
    match outcome {
        // The receiver is gone when the server has ended; so is this connection then.
        Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
        Ok(Err(error)) => tracing::debug!(%remote, %error, "TLS handshake failed"),
        Err(_) => {
            tracing::debug!(%remote, seconds = timeout.as_secs_f32(), "TLS handshake timed out")
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

// === impl IncomingOptions ===

impl Default for IncomingOptions {
    /// Ten seconds, 512 at once.
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(10), handshakes: 512 }
    }
}

// === impl Incoming ===

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(context)
    }
}

// === impl Connection ===

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
