//! Accepted TLS connections as a stream.
//!
//! Handshakes run beside each other, each bounded in time, all bounded in number, altogether and by address, as are those that wait for
//! theirs (see [`Lobby`]), so that silent or babbling clients cost the others nothing. A client with a certificate never finds the
//! connections of its address used up: only those without one are counted. What fails before the handshake is done is logged at debug level only: anyone can
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
    time::{Duration, Instant},
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;

use super::{
    Activity, PeerIdentity, PeerInfo, ServerTls,
    lobby::{Full, Lobby, Places, origin},
};
use crate::Shutdown;

/// Bounds on what has not yet shown who it is.
#[derive(Clone, Copy, Debug)]
pub struct IncomingOptions {
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many clients may be connected whose handshake is not done; a further one gets the place of the oldest that has said nothing
    /// for a second, or is refused.
    pub arrivals: usize,
    /// How many of them may be from one address.
    pub arrivals_per_address: usize,
    /// How many handshakes may run at once; further clients wait.
    pub handshakes: usize,
    /// How many of them may be from one address.
    pub handshakes_per_address: usize,
    /// How many connections without a certificate one address may have; the one that has been idle for longest is closed for a further
    /// one.
    pub connections_per_address: usize,
}

/// An established TLS connection with what is known of its peer.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
    activity: Arc<Activity>,
    /// None if it has a certificate.
    _place: Option<Place>,
}

/// The place of a connection without a certificate in the count of its address, given back when it ends.
#[derive(Debug)]
struct Place {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    address: IpAddr,
    activity: Arc<Activity>,
}

/// A client's place among those whose handshake is not done, given back when it is.
struct Waiting {
    lobby: Arc<Mutex<Lobby<AbortHandle>>>,
    id: u64,
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
        arrivals: options.arrivals,
        arrivals_per_address: options.arrivals_per_address,
        handshakes_per_address: options.handshakes_per_address,
        connections_per_address: options.connections_per_address,
    };
    let lobby = Arc::new(Mutex::new(Lobby::<AbortHandle>::new(places)));
    let handshakes = Arc::new(Semaphore::new(options.handshakes));
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let client = Client { stream, remote, tls: tls.clone(), timeout: options.handshake_timeout };
                if welcome(&lobby, client, handshakes.clone(), sender.clone()).is_err() {
                    tracing::debug!(%remote, "too many clients wait for their handshake");
                }
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
fn welcome(
    lobby: &Arc<Mutex<Lobby<AbortHandle>>>,
    client: Client,
    handshakes: Arc<Semaphore>,
    sender: mpsc::Sender<io::Result<Connection>>,
) -> Result<(), Full> {
    let (address, now) = (origin(client.remote.ip()), Instant::now());
    let mut locked = lobby.lock();
    if let Some(oldest) = locked.make_room(address, now)? {
        oldest.abort();
    }
    let (turns, spoke) = (locked.turns(address), Arc::new(AtomicBool::new(false)));
    // Its number is known only once it runs; it waits for it.
    let (begun, number) = tokio::sync::oneshot::channel();
    let (inside, of_address, speaks) = (lobby.clone(), turns.clone(), spoke.clone());
    let task = tokio::spawn(async move {
        let Ok(id) = number.await else { return };
        let waiting = Waiting { lobby: inside.clone(), id };
        if !client.speaks(&speaks).await {
            return;
        }
        // They are never closed.
        let (Ok(turn), Ok(handshake)) = (of_address.acquire().await, handshakes.acquire().await) else { return };
        let established = client.handshake().await;
        drop((turn, handshake, waiting));
        let Some((stream, peer)) = established else { return };
        let activity = Arc::new(Activity::default());
        let place = match peer.identity {
            Some(_) => None,
            None => match Place::take(inside, address, activity.clone()) {
                Some(place) => Some(place),
                None => return tracing::debug!(remote = %peer.remote, "too many connections from this address"),
            },
        };
        // The receiver is gone when the server has ended; so is this connection then.
        drop(sender.send(Ok(Connection { peer, stream, activity, _place: place })).await);
    });
    let id = locked.begin(address, now, spoke, turns, task.abort_handle());
    // The task waits for it and cannot be gone.
    begun.send(id).ok();
    Ok(())
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

// === impl Client ===

impl Client {
    /// Waits until the client has sent something; false if it does not in time.
    async fn speaks(&self, spoke: &AtomicBool) -> bool {
        // A peek, as a stream may be called readable when it is not.
        let said = tokio::time::timeout(self.timeout, self.stream.peek(&mut [0])).await;
        let speaks = matches!(said, Ok(Ok(1..)));
        spoke.store(speaks, Ordering::Relaxed);
        if !speaks {
            tracing::debug!(remote = %self.remote, "client said nothing");
        }
        speaks
    }

    /// The handshake, if it succeeds in time.
    async fn handshake(self) -> Option<(TlsStream<TcpStream>, PeerInfo)> {
        let Self { stream, remote, tls, timeout } = self;
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
    /// Ten seconds; 4,096 arrivals, 1,024 of them from one address; 512 handshakes at once, 64 of them from one address, which may have
    /// 1,024 connections without a certificate.
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            arrivals: 4096,
            arrivals_per_address: 1024,
            handshakes: 512,
            handshakes_per_address: 64,
            connections_per_address: 1024,
        }
    }
}

// === impl Place ===

impl Place {
    fn take(lobby: Arc<Mutex<Lobby<AbortHandle>>>, address: IpAddr, activity: Arc<Activity>) -> Option<Self> {
        let fits = lobby.lock().connect(address, activity.clone());
        fits.then(|| Self { lobby, address, activity })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().disconnect(self.address, &self.activity);
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

    /// What it is busy with, as whoever serves it tells.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
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
