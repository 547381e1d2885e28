//! Accepted TLS connections as a stream.
//!
//! Handshakes run beside each other, each bounded in time, all bounded in number, altogether and by address (see [`Lobby`]), so that
//! silent or babbling clients cost the others nothing. What fails before the handshake is done is logged at debug level only: anyone can
//! knock.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::{
    PeerIdentity, PeerInfo, ServerTls,
    lobby::{Lobby, Places, origin},
};
use crate::Shutdown;

/// Bounds on what has not yet shown who it is.
#[derive(Clone, Copy, Debug)]
pub struct IncomingOptions {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many handshakes may run at once; a further client gets the place of the oldest that has said nothing.
    pub handshakes: usize,
    /// How many of them may be from one address.
    pub handshakes_per_address: usize,
    /// How many connections one address may have; further ones are closed at once.
    pub connections_per_address: usize,
}

/// An established TLS connection with what is known of its peer.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
    _place: Place,
}

/// A connection's place in the count of its address, given back when it ends.
#[derive(Debug)]
struct Place {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    address: IpAddr,
}

/// A handshake's place among those that run, given back when it ends.
struct Waiting {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    id: u64,
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
    let places = Places {
        handshakes: options.handshakes,
        handshakes_per_address: options.handshakes_per_address,
        connections_per_address: options.connections_per_address,
    };
    let lobby = Arc::new(Mutex::new(Lobby::<AbortHandle>::new(places)));
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match Place::take(&lobby, remote) {
                Some(place) => {
                    let spoke = Arc::new(AtomicBool::new(false));
                    let handshake = handshake(stream, remote, tls.clone(), options.handshake_timeout, spoke.clone());
                    welcome(&lobby, place, spoke, handshake, sender.clone());
                }
                None => tracing::debug!(%remote, "too many connections from this address"),
            },
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

/// Runs a handshake, in the place of another client's if need be.
fn welcome(
    lobby: &Arc<Mutex<Lobby<AbortHandle>>>,
    place: Place,
    spoke: Arc<AtomicBool>,
    handshake: impl Future<Output = Option<(TlsStream<TcpStream>, PeerInfo)>> + Send + 'static,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let mut locked = lobby.lock();
    if let Some(oldest) = locked.make_room(place.address) {
        oldest.abort();
    }
    let address = place.address;
    // Its number is known only once it runs; it waits for it.
    let (begun, number) = tokio::sync::oneshot::channel();
    let inside = lobby.clone();
    let task = tokio::spawn(async move {
        let Ok(id) = number.await else { return };
        let waiting = Waiting { lobby: inside, id };
        let established = handshake.await;
        drop(waiting);
        if let Some((stream, peer)) = established {
            // The receiver is gone when the server has ended; so is this connection then.
            drop(sender.send(Ok(Connection { peer, stream, _place: place })).await);
        }
    });
    let id = locked.begin(address, spoke, task.abort_handle());
    // The task waits for it and cannot be gone.
    begun.send(id).ok();
}

/// The handshake, if it succeeds in time.
async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Arc<ServerTls>,
    timeout: Duration,
    spoke: Arc<AtomicBool>,
) -> Option<(TlsStream<TcpStream>, PeerInfo)> {
    let established = async {
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        stream.readable().await?;
        spoke.store(true, Ordering::Relaxed);
        let stream = TlsAcceptor::from(tls.current()).accept(stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let identity = match leaf {
            None => None,
            Some(der) => {
                Some(Arc::new(PeerIdentity::from_der(der).ok_or_else(|| io::Error::other("unreadable client certificate"))?))
            }
        };
        Ok::<_, io::Error>((stream, PeerInfo { remote, local, identity }))
    };
    match tokio::time::timeout(timeout, established).await {
        Ok(Ok(established)) => return Some(established),
        Ok(Err(error)) => tracing::debug!(%remote, %error, "TLS handshake failed"),
        Err(_) => {
            tracing::debug!(%remote, seconds = timeout.as_secs_f32(), "TLS handshake timed out")
        }
    }
    None
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

// === impl IncomingOptions ===

impl Default for IncomingOptions {
    /// Ten seconds; 512 handshakes at once, 64 of them from one address, which may have 1,024 connections.
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            handshakes: 512,
            handshakes_per_address: 64,
            connections_per_address: 1024,
        }
    }
}

// === impl Place ===

impl Place {
    fn take(lobby: &Arc<Mutex<Lobby<AbortHandle>>>, remote: SocketAddr) -> Option<Self> {
        let address = origin(remote.ip());
        lobby.lock().connect(address).then(|| Self { lobby: lobby.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().disconnect(self.address);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lobby.lock().end(self.id);
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
