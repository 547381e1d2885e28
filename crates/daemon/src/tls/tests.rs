//! TLS end to end on loopback: who is let in, who is known, what a reload changes.

use std::{net::SocketAddr, path::Path, time::Duration};

use futures::StreamExt;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    Shutdown,
    pki::{self, Ca, Request, Usage},
};

struct Authority {
    ca: Ca,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca, pair) = Ca::create("test-ca", Duration::from_secs(3600)).unwrap();
        pair.write(&dir.path().join("ca.crt"), &dir.path().join("ca.key")).unwrap();
        Self { ca, dir }
    }

    fn issue(&self, file: &str, common_name: &str, usage: Usage) {
        self.issue_for(file, common_name, usage, Duration::from_secs(3600));
    }

    fn issue_for(&self, file: &str, common_name: &str, usage: Usage, lifetime: Duration) {
        let request = Request {
            common_name: common_name.into(),
            organization: Some("system:nodes".into()),
            dns_names: vec!["localhost".into()],
            addresses: vec![],
            usage,
            lifetime,
        };
        let pair = self.ca.issue(&request).unwrap();
        pair.write(&self.path(&format!("{file}.crt")), &self.path(&format!("{file}.key"))).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pem(&self, name: &str) -> Pem {
        self.path(name).into()
    }

    fn client(&self, identity: Option<&str>) -> Arc<ClientTls> {
        let identity = identity.map(|name| (self.pem(&format!("{name}.crt")), self.pem(&format!("{name}.key"))));
        client_tls(self.pem("ca.crt"), identity).unwrap()
    }

    fn server(&self, auth: ClientAuth) -> Arc<ServerTls> {
        server_tls(self.pem("server.crt"), self.pem("server.key"), self.pem("ca.crt"), auth).unwrap()
    }
}

async fn listen(tls: Arc<ServerTls>, options: IncomingOptions) -> (SocketAddr, Incoming, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    (address, server(listener, tls, options, shutdown.clone()), shutdown)
}

/// Connects and reads one byte, which tells whether the server took the certificate.
async fn connect(address: SocketAddr, tls: &ClientTls) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(tls.current()).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

#[tokio::test]
async fn a_client_certificate_identifies_its_holder() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    authority.issue("node", "system:node:a", Usage::Client);
    let (address, mut incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;

    let _client = connect(address, &authority.client(Some("node"))).await.unwrap();
    let known = incoming.next().await.unwrap().unwrap();
    let identity = known.peer().identity.clone().unwrap();
    assert_eq!(
        (identity.common_name.as_str(), identity.organizations.as_slice()),
        ("system:node:a", &["system:nodes".to_owned()][..])
    );

    let _client = connect(address, &authority.client(None)).await.unwrap();
    assert!(incoming.next().await.unwrap().unwrap().peer().identity.is_none());
}

#[tokio::test]
async fn foreign_missing_and_server_only_certificates_are_refused_where_one_is_required() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.issue("server", "server", Usage::Server);
    theirs.issue("node", "system:node:a", Usage::Client);
    let (address, mut incoming, _shutdown) = listen(ours.server(ClientAuth::Required), IncomingOptions::default()).await;
    let foreign = client_tls(ours.pem("ca.crt"), Some((theirs.pem("node.crt"), theirs.pem("node.key")))).unwrap();
    for client in [foreign, ours.client(None), ours.client(Some("server"))] {
        // TLS 1.3 clients learn of the refusal with their first read.
        let mut stream = connect(address, &client).await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
    ours.issue("node", "system:node:b", Usage::Client);
    let _client = connect(address, &ours.client(Some("node"))).await.unwrap();
    assert_eq!(incoming.next().await.unwrap().unwrap().peer().identity.clone().unwrap().common_name, "system:node:b");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    authority.issue_for("old", "system:node:a", Usage::Both, Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (address, _incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    let mut stream = connect(address, &authority.client(Some("old"))).await.unwrap();
    assert!(stream.read_u8().await.is_err());

    let expired =
        server_tls(authority.pem("old.crt"), authority.pem("old.key"), authority.pem("ca.crt"), ClientAuth::Optional).unwrap();
    let (address, _incoming, _shutdown) = listen(expired, IncomingOptions::default()).await;
    let error = connect(address, &authority.client(None)).await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test]
async fn a_client_that_speaks_only_an_older_tls_is_refused() {
    const PROTOCOL_VERSION_ALERT: u8 = 70;
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let (address, _incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    // A ClientHello of TLS 1.2: version, random, no session, one cipher suite, no compression, two extensions that it must have.
    let extensions = [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &[0, extensions.len() as u8], &extensions].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, message.len() as u8][..], &message].concat();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).await.unwrap();
    assert_eq!((alert[0], alert[6]), (21, PROTOCOL_VERSION_ALERT), "{alert:?}");
}

#[tokio::test]
async fn garbage_and_silence_never_delay_another_client() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let options = IncomingOptions { handshake_timeout: Duration::from_millis(500), ..IncomingOptions::default() };
    let (address, mut incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), options).await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut babbling = TcpStream::connect(address).await.unwrap();
    babbling.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _client =
        tokio::time::timeout(Duration::from_millis(400), connect(address, &authority.client(None))).await.unwrap().unwrap();
    assert!(incoming.next().await.unwrap().is_ok());
}

/// A ClientHello as rustls sends it.
fn hello(tls: &ClientTls) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(tls.current(), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn however_many_are_silent_or_stalled_the_next_client_is_served_at_once() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    authority.issue("node", "system:node:a", Usage::Client);
    let (anonymous, node) = (authority.client(None), authority.client(Some("node")));
    let hello = hello(&anonymous);
    // Silent, with one byte, with all but one, and with all but what follows the server's answer.
    for said in [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello] {
        let options = IncomingOptions { arrivals_per_address: 40, handshakes_per_address: 40, ..IncomingOptions::default() };
        let (address, mut incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), options).await;
        let mut stalled = Vec::new();
        for _ in 0..60 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            stalled.push(stream);
        }
        for client in [&anonymous, &node] {
            let begun = tokio::time::Instant::now();
            tokio::time::timeout(Duration::from_secs(2), connect(address, client)).await.unwrap().unwrap();
            assert!(incoming.next().await.unwrap().is_ok());
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?} beside {} bytes", begun.elapsed(), said.len());
        }
        // The first one was hung up on to make room, the last one was not.
        let (mut first, mut last) = (stalled.swap_remove(0), stalled.pop().unwrap());
        let end = tokio::time::timeout(Duration::from_secs(2), first.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the first of those with {} bytes is connected", said.len());
        let end = tokio::time::timeout(Duration::from_millis(50), last.read_to_end(&mut Vec::new())).await;
        assert!(end.is_err(), "the last of those with {} bytes is not connected", said.len());
    }
}

#[tokio::test]
async fn a_handshake_has_so_many_bytes_and_no_more() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let (address, _incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A ClientHello that says that it has 60,000 bytes, in records of 1,000.
    stream.write_all(&[22, 3, 1, 3, 232, 1, 0, 0xea, 0x60]).await.unwrap();
    stream.write_all(&[0; 996]).await.unwrap();
    for _ in 0..20 {
        // It may have hung up already.
        stream.write_all(&[&[22, 3, 1, 3, 232][..], &[0; 1000]].concat()).await.ok();
    }
    let end = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok(), "the server goes on reading");
}

#[tokio::test]
async fn all_get_in_that_connect_at_once_from_one_address() {
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let (address, incoming, _shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    let accepted = tokio::spawn(incoming.take(400).collect::<Vec<_>>());
    let client = authority.client(None);
    let clients = futures::future::join_all((0..400).map(|_| connect(address, &client))).await;
    assert_eq!(clients.iter().filter(|client| client.is_err()).count(), 0);
    assert!(accepted.await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_certificate_gets_in_however_many_are_idle_without_one() {
    use axum::{Router, routing::get};
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    authority.issue("node", "system:node:a", Usage::Client);
    let options = IncomingOptions { connections_per_address: 20, ..IncomingOptions::default() };
    let (address, incoming, shutdown) = listen(authority.server(ClientAuth::Optional), options).await;
    let router = Router::new().route("/", get(async || "hello")).route("/slow", get(std::future::pending::<()>));
    let serving = tokio::spawn(crate::serve::serve(incoming, router, Default::default(), shutdown.clone()));
    let ask = async |stream: &mut tokio_rustls::client::TlsStream<TcpStream>| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let head = &mut [0; 12];
        tokio::time::timeout(Duration::from_secs(2), stream.read_exact(head)).await.unwrap().map(|_| ())
    };

    let (anonymous, node) = (authority.client(None), authority.client(Some("node")));
    let mut busy = connect(address, &anonymous).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut idle = Vec::new();
    for _ in 1..20 {
        let mut stream = connect(address, &anonymous).await.unwrap();
        ask(&mut stream).await.unwrap();
        idle.push(stream);
    }
    let mut known = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(address, &node).await.unwrap();
        ask(&mut stream).await.unwrap();
        known.push(stream);
    }
    // It cost nobody a connection; another without a certificate costs the one that has been idle for longest.
    ask(&mut idle[0]).await.unwrap();
    let mut further = connect(address, &anonymous).await.unwrap();
    ask(&mut further).await.unwrap();
    let rest = &mut Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(2), idle[1].read_to_end(rest)).await;
    assert!(closed.is_ok(), "the connection that was idle for longest is open");
    let slow = tokio::time::timeout(Duration::from_millis(100), busy.read_u8()).await;
    assert!(slow.is_err(), "a busy connection was closed");

    drop((busy, idle, known, further));
    shutdown.start();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_has_shown_who_it_is_costs_its_address_no_connections() {
    use axum::{Extension, Router, extract::Path as Segment, routing::get};
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let options = IncomingOptions { connections_per_address: 5, connections_per_holder: 5, ..IncomingOptions::default() };
    let (address, incoming, shutdown) = listen(authority.server(ClientAuth::Optional), options).await;
    let claim = async |Extension(seat): Extension<Arc<Seat>>, Segment(name): Segment<String>| match seat.claim(&name) {
        true => std::future::pending::<String>().await,
        false => "full".to_owned(),
    };
    let router = Router::new().route("/", get(async || "hello")).route("/{name}", get(claim));
    let serving = tokio::spawn(crate::serve::serve(incoming, router, Default::default(), shutdown.clone()));
    let client = authority.client(None);
    let ask = async |path: &str| {
        let mut stream = connect(address, &client).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut head = [0; 12];
        let answered = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut head)).await;
        (stream, answered.is_ok_and(|read| read.is_ok()))
    };
    let (mut quiet, answered) = ask("/").await;
    assert!(answered);
    let mut held = Vec::new();
    for name in ["/ann", "/bob"] {
        for _ in 0..5 {
            let (stream, answered) = ask(name).await;
            assert!(!answered, "{name}");
            held.push(stream);
        }
        // A sixth finds no place, and costs nobody else one.
        assert!(ask(name).await.1, "{name}");
    }
    let rest = &mut Vec::new();
    let closed = tokio::time::timeout(Duration::from_millis(100), quiet.read_to_end(rest)).await;
    assert!(closed.is_err(), "a connection from the same address was closed");
    drop((held, quiet));
    shutdown.start();
    // Those requests never end by themselves.
    serving.abort();
}

#[tokio::test]
async fn new_handshakes_use_reloaded_files() {
    let authority = Authority::new();
    authority.issue("server", "before", Usage::Server);
    let tls = authority.server(ClientAuth::Optional);
    let (address, _incoming, shutdown) = listen(tls.clone(), IncomingOptions::default()).await;
    let watching = tokio::spawn(tls.clone().watch(shutdown.clone()));
    let client = authority.client(None);
    assert_eq!(server_name(address, &client).await, "before");

    authority.issue("server", "after", Usage::Server);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server_name(address, &client).await != "after" {
        assert!(tokio::time::Instant::now() < deadline, "never reloaded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shutdown.start();
    watching.await.unwrap().unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_never_replace_those_that_can() {
    let authority = Authority::new();
    authority.issue("server", "good", Usage::Server);
    let tls = authority.server(ClientAuth::Optional);
    let (address, _incoming, _shutdown) = listen(tls.clone(), IncomingOptions::default()).await;
    pki::write_atomic(&authority.path("server.crt"), b"not a certificate", 0o644).unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("server.crt"));
    assert_eq!(server_name(address, &authority.client(None)).await, "good");
}

#[test]
fn errors_name_the_file() {
    let missing = client_tls(Path::new("/nonexistent/ca.crt").into(), None).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /nonexistent/ca.crt");
    let empty = client_tls(Pem::Inline(Vec::new()), None).unwrap_err();
    assert_eq!(empty.to_string(), "inline data holds no certificate");
}

#[tokio::test]
async fn requests_carry_their_peer_over_http2_and_the_server_drains() {
    use axum::{Extension, Router, routing::get};
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    authority.issue("node", "system:node:a", Usage::Client);
    let (address, incoming, shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    let whoami = get(|Extension(peer): Extension<PeerInfo>| async move {
        peer.identity.map(|who| who.common_name.clone()).unwrap_or_default()
    });
    let router = Router::new().route("/whoami", whoami);
    let serving = tokio::spawn(crate::serve::serve(incoming, router, Default::default(), shutdown.clone()));

    let stream = connect(address, &authority.client(Some("node"))).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        http::Request::get("https://localhost/whoami").body(http_body_util::Empty::<hyper::body::Bytes>::new()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    assert_eq!(&body[..], b"system:node:a");

    shutdown.start();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    drop(connection);
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_is_dropped_and_one_that_asked_stays() {
    use axum::{Router, routing::get};
    let authority = Authority::new();
    authority.issue("server", "server", Usage::Server);
    let (address, incoming, shutdown) = listen(authority.server(ClientAuth::Optional), IncomingOptions::default()).await;
    let options = crate::serve::HttpOptions { first_request: Duration::from_millis(300), ..Default::default() };
    let router = Router::new().route("/", get(async || "hello"));
    let serving = tokio::spawn(crate::serve::serve(incoming, router, options, shutdown.clone()));

    let client = authority.client(None);
    let mut silent = connect(address, &client).await.unwrap();
    let mut asking = connect(address, &client).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = [0; 12];
    asking.write_all(request).await.unwrap();
    asking.read_exact(&mut answer).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), silent.read_u8()).await;
    assert!(end.is_ok_and(|read| read.is_err()), "the silent client is still connected");
    asking.write_all(request).await.unwrap();
    asking.read_exact(&mut answer).await.unwrap();

    shutdown.start();
    drop(asking);
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}

async fn server_name(address: SocketAddr, client: &ClientTls) -> String {
    let stream = connect(address, client).await.unwrap();
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    PeerIdentity::from_der(&certificate).unwrap().common_name
}
