//! Accepted TLS connections as a stream.
//!
//! Handshakes run beside each other, each bounded in time and in what it may send, all bounded in number (see [`Lobby`]), so that silent,
//! stalled or babbling clients cost the others nothing. What fails before the handshake is done is logged at debug level only: anyone can
//! knock.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::{
    PeerIdentity, PeerInfo, Seat, ServerTls,
    lobby::{Holder, Lobby, Most, Place, Places, origin},
};
use crate::Shutdown;

/// Bytes that a client may send up to the end of its ClientHello, and up to the end of its handshake: what a stalled one can hold.
const MOST_OF_HELLO: usize = 8 << 10;
const MOST_OF_HANDSHAKE: usize = 32 << 10;

/// Bounds on what has not yet shown who it is. Where a number is reached, the client that has made no progress for longest gives way to the
/// next one.
#[derive(Clone, Copy, Debug)]
pub struct IncomingOptions {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many clients may be connected that have not sent their ClientHello.
    pub arrivals: usize,
    /// How many of them may be from one address.
    pub arrivals_per_address: usize,
    /// How many clients may be connected that have sent it and whose handshake is not done.
    pub handshakes: usize,
    /// How many of them may be from one address.
    pub handshakes_per_address: usize,
    /// How many connections there may be over which nobody has shown who it is.
    pub connections: usize,
    /// How many of them may be from one address; the one that has been idle for longest is closed for a further one.
    pub connections_per_address: usize,
    /// How many connections one holder of a certificate or a token may have.
    pub connections_per_holder: usize,
}

/// An established TLS connection with what is known of its peer.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<Metered>,
    peer: PeerInfo,
    seat: Arc<Seat>,
}

/// A client's stream, of which so many bytes may still be read.
#[derive(Debug)]
struct Metered {
    stream: TcpStream,
    left: Arc<AtomicUsize>,
}

/// A client's place among those whose handshake is not done, given back when it is.
struct Waiting {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    place: Place,
}

/// A client that has not had its handshake.
struct Client {
    stream: TcpStream,
    remote: SocketAddr,
    tls: Arc<ServerTls>,
    timeout: Duration,
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
        arrivals: Most { all: options.arrivals, of_address: options.arrivals_per_address },
        handshakes: Most { all: options.handshakes, of_address: options.handshakes_per_address },
        connections: Most { all: options.connections, of_address: options.connections_per_address },
        of_holder: options.connections_per_holder,
    };
    let lobby = Arc::new(Mutex::new(Lobby::<AbortHandle>::new(places)));
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let client = Client { stream, remote, tls: tls.clone(), timeout: options.handshake_timeout };
                welcome(&lobby, client, sender.clone());
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

/// Lets a client have its handshake, in the place of another if need be.
fn welcome(lobby: &Arc<Mutex<Lobby<AbortHandle>>>, client: Client, sender: mpsc::Sender<io::Result<Connection>>) {
    let address = origin(client.remote.ip());
    let inside = lobby.clone();
    let task = |place| {
        let mut waiting = Waiting { lobby: inside.clone(), place };
        let task = tokio::spawn(async move {
            let established = client.handshake(&mut waiting, address).await;
            drop(waiting);
            let Some((stream, peer)) = established else { return };
            let holder = match &peer.identity {
                Some(identity) => Holder::Known(format!("{} at {address}", identity.common_name).into()),
                None => Holder::Address(address),
            };
            let Some(seat) = Seat::take(inside, holder) else {
                return tracing::debug!(remote = %peer.remote, "too many connections of this client");
            };
            // The receiver is gone when the server has ended; so is this connection then.
            drop(sender.send(Ok(Connection { peer, stream, seat })).await);
        });
        task.abort_handle()
    };
    let (_, ended) = lobby.lock().arrive(address, task);
    if let Some(ended) = ended {
        ended.abort();
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

// === impl Client ===

impl Client {
    /// The handshake, if it succeeds in time.
    async fn handshake(self, waiting: &mut Waiting, address: IpAddr) -> Option<(TlsStream<Metered>, PeerInfo)> {
        let Self { stream, remote, tls, timeout } = self;
        let established = async {
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?;
            let left = Arc::new(AtomicUsize::new(MOST_OF_HELLO));
            let greeting = LazyConfigAcceptor::new(Acceptor::default(), Metered { stream, left: left.clone() }).await?;
            waiting.progress();
            left.store(MOST_OF_HANDSHAKE, Ordering::Relaxed);
            let turns = waiting.lobby.lock().turns(address);
            let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
            // This makes the signature; what follows waits for the client.
            let mut finishing = pin!(greeting.into_stream(tls.current()));
            let first = futures::poll!(finishing.as_mut());
            drop(turn);
            let stream = match first {
                Poll::Ready(stream) => stream?,
                Poll::Pending => {
                    waiting.progress();
                    finishing.await?
                }
            };
            left.store(usize::MAX, Ordering::Relaxed);
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
}

// === impl IncomingOptions ===

impl Default for IncomingOptions {
    /// Ten seconds; 4,096 arrivals, 1,024 of them from one address; 2,048 handshakes, 512 of them from one address; 2,048 connections of
    /// nobody known, 512 of them from one address; 1,280 of one holder, who may have 1,000 streams and 256 calls, each over one of its own.
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            arrivals: 4096,
            arrivals_per_address: 1024,
            handshakes: 2048,
            handshakes_per_address: 512,
            connections: 2048,
            connections_per_address: 512,
            connections_per_holder: 1280,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// The client has done what is wanted of it.
    fn progress(&mut self) {
        // One that has lost its place ends at its next wait.
        let Some((place, ended)) = self.lobby.lock().progress(self.place) else { return };
        self.place = place;
        if let Some(ended) = ended {
            ended.abort();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lobby.lock().end(self.place);
    }
}

// === impl Metered ===

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == usize::MAX {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let Some(left) = left.checked_sub(buffer.filled().len() - before) else {
            return Poll::Ready(Err(io::Error::other("the client sends more than a handshake has")));
        };
        self.left.store(left, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
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

    /// Its place in the count of whoever holds it.
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
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
