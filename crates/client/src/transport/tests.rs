use std::{net::SocketAddr, path::Path};

use api::core::v1::ConfigMap;
use daemon::{
    Shutdown,
    pki::{Ca, Request, Usage},
    serve::{HttpOptions, serve},
    tls::{ClientAuth, IncomingOptions, Pem, server, server_tls},
};
use futures::TryStreamExt;

use super::*;
use crate::{Client, ListParams, WatchParams, testing::MemoryServer};

const HOUR: Duration = Duration::from_secs(3600);

/// A server on a real port, which can be ended as kill -9 ends one.
struct Running {
    runtime: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    fn start(ca: &Ca, objects: &MemoryServer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shutdown = Shutdown::new();
        let pair = issue(ca, "api", Usage::Server);
        let pem = |text: &str| Pem::Inline(text.as_bytes().to_vec());
        let tls =
            server_tls(pem(&pair.public_pem), pem(&pair.private_pem), pem(ca.certificate_pem()), ClientAuth::Optional).unwrap();
        let entered = runtime.enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let options = IncomingOptions { handshake_timeout: Duration::from_secs(5), ..IncomingOptions::default() };
        let incoming = server(listener, tls, options, shutdown.clone());
        runtime.spawn(serve(incoming, objects.service(), HttpOptions::default(), shutdown.clone()));
        drop(entered);
        Self { runtime: Some(runtime), address, shutdown }
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    fn url(&self) -> Uri {
        format!("https://{}", self.address).parse().unwrap()
    }
}

fn issue(ca: &Ca, name: &str, usage: Usage) -> daemon::pki::Pair {
    let request = Request {
        common_name: name.to_owned(),
        organization: None,
        dns_names: Vec::new(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        usage,
        lifetime: HOUR,
    };
    ca.issue(&request).unwrap()
}

fn config(ca: &Ca, directory: &Path, servers: &[&Running]) -> Config {
    let (certificate, key) = (directory.join("c.crt"), directory.join("c.key"));
    issue(ca, "me", Usage::Client).write(&certificate, &key).unwrap();
    Config {
        servers: servers.iter().map(|server| server.url()).collect(),
        identity: Some((Pem::File(certificate), Pem::File(key))),
        ..Config::new(Pem::Inline(ca.certificate_pem().as_bytes().to_vec()))
    }
}

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata_mut().namespace = "d".into();
    map.metadata_mut().name = name.into();
    map
}

fn set_up() -> (Ca, MemoryServer, tempfile::TempDir) {
    daemon::tls::install_provider();
    (Ca::create("test", HOUR).unwrap().0, MemoryServer::new(), tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn when_a_server_is_killed_another_takes_over_within_a_second() {
    let (ca, objects, directory) = set_up();
    let (mut first, second) = (Running::start(&ca, &objects), Running::start(&ca, &objects));
    let client = Client::new(config(&ca, directory.path(), &[&first, &second])).unwrap();
    objects.put(map("a"));
    let maps = client.namespaced::<ConfigMap>("d");
    maps.get("a").await.unwrap();
    first.kill();
    let begun = Instant::now();
    maps.get("a").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(second);
    let begun = Instant::now();
    assert!(maps.get("a").await.unwrap_err().is_unavailable());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_drains_ends_watches_and_requests_go_on_elsewhere() {
    let (ca, objects, directory) = set_up();
    let server = Running::start(&ca, &objects);
    let client = Client::new(config(&ca, directory.path(), &[&server])).unwrap();
    let maps = client.namespaced::<ConfigMap>("d");
    let mut watch = maps.watch(&WatchParams::from_now()).await.unwrap();
    watch.try_next().await.unwrap().unwrap();
    server.shutdown.start();
    objects.disconnect();
    assert!(watch.try_next().await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_request_that_takes_longer_than_allowed_fails_and_is_not_tried_again() {
    let (ca, objects, directory) = set_up();
    let server = Running::start(&ca, &objects);
    let bound = Some(Duration::from_millis(300));
    let client = Client::new(Config { request_timeout: bound, ..config(&ca, directory.path(), &[&server]) }).unwrap();
    let maps = client.namespaced::<ConfigMap>("d");
    objects.put(map("a"));
    maps.get("a").await.unwrap();
    let begun = Instant::now();
    let mut watch = maps.watch(&WatchParams::from_now()).await.unwrap();
    let error = loop {
        if let Err(error) = watch.try_next().await {
            break error;
        }
    };
    assert!(error.is_out_of_time() && error.is_unavailable(), "{error:?}");
    // Somebody who takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = vec![format!("https://{}", silent.local_addr().unwrap()).parse().unwrap()];
    let client = Client::new(Config { request_timeout: bound, servers, ..config(&ca, directory.path(), &[&server]) }).unwrap();
    let error = client.namespaced::<ConfigMap>("d").get("a").await.unwrap_err();
    assert!(error.is_out_of_time(), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_new_requests_and_open_streams_go_on() {
    let (ca, objects, directory) = set_up();
    let server = Running::start(&ca, &objects);
    let client = Client::new(config(&ca, directory.path(), &[&server])).unwrap();
    let maps = client.namespaced::<ConfigMap>("d");
    let mut watch = maps.watch(&WatchParams::from_now()).await.unwrap();
    watch.try_next().await.unwrap().unwrap();
    config(&ca, directory.path(), &[&server]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    maps.create(&map("a")).await.unwrap();
    assert!(watch.try_next().await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_of_another_cluster_is_refused() {
    let (ca, objects, directory) = set_up();
    let server = Running::start(&ca, &objects);
    let (other, _) = Ca::create("other", HOUR).unwrap();
    let mut config = config(&ca, directory.path(), &[&server]);
    config.ca = Pem::Inline(other.certificate_pem().as_bytes().to_vec());
    config.identity = None;
    let error = Client::new(config).unwrap().namespaced::<ConfigMap>("d").create(&map("a")).await.unwrap_err();
    let crate::Error::Transport(status) = error else { panic!("{error}") };
    assert!(status.message().contains("certificate"), "{status}");
}

#[tokio::test]
async fn many_waiting_requests_share_one_failed_attempt() {
    let (ca, objects, directory) = set_up();
    let mut server = Running::start(&ca, &objects);
    let client = Client::new(config(&ca, directory.path(), &[&server])).unwrap();
    server.kill();
    let begun = Instant::now();
    let maps = client.namespaced::<ConfigMap>("d");
    let creates = (0..200).map(|n| {
        let maps = maps.clone();
        async move { maps.create(&map(&n.to_string())).await.unwrap_err().is_unavailable() }
    });
    assert!(futures::future::join_all(creates).await.into_iter().all(|unavailable| unavailable));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_long_list_comes_over_the_wire_whole() {
    let (ca, objects, directory) = set_up();
    let server = Running::start(&ca, &objects);
    for n in 0..3000 {
        let mut map = map(&format!("m{n}"));
        map.data.insert("k".into(), "x".repeat(4000));
        objects.put(map);
    }
    let client = Client::new(config(&ca, directory.path(), &[&server])).unwrap();
    let list = client.all::<ConfigMap>().list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 3000);
}
