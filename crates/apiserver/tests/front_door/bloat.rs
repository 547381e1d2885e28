//! What a client can make the server hold or do without getting anywhere.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use api::{
    core::v1::{ConfigMap, Namespace},
    ferrokube::v1::{ListRequest, ResourceName},
    rbac::v1::{Role, RoleBinding},
};
use bytes::{BufMut as _, BytesMut};
use client::{Api, ListParams};
use http_body_util::BodyExt as _;
use prost::Message as _;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    flood::{Finished, P99, call, connect_as, p99, raise_open_files, resident},
    support::{HOUR, World, eventually, object},
};

/// A connection without a certificate, on which anything can be said.
async fn knock(world: &World, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls_pki_types::pem::PemObject::from_pem_slice(world.ca.certificate_pem().as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(world.address.parse::<SocketAddr>().unwrap()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap()
}

/// The beginning of an HTTP/2 connection, and a head in so many pieces of 16 KiB whose end does not come.
fn endless_head(pieces: usize) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for i in 0..pieces {
        let kind = if i == 0 { 1 } else { 9 };
        bytes.extend([0, 0x40, 0, kind, 0, 0, 0, 0, 1]);
        // A literal without a name of its own in the table, its value as long as the frame.
        let mut field = vec![0, 1, b'a', 0x7f, 0xfc, 0x7e];
        field.resize(0x4000, b'x');
        bytes.extend(field);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_hold_little() {
    const CLIENTS: usize = 700;
    raise_open_files();
    let world = World::new().await;
    let admin = world.admin();
    let before = resident();
    let http1 = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(500 << 10)).into_bytes();
    for (protocol, head) in [(&b"http/1.1"[..], http1), (b"h2", endless_head(2)), (b"h2", endless_head(40))] {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = knock(&world, protocol).await;
            // Past its limit the server hangs up.
            tokio::time::timeout(Duration::from_millis(20), stream.write_all(&head)).await.ok();
            clients.push(stream);
        }
        let slowest = p99(&admin).await;
        let grown = resident().saturating_sub(before) >> 20;
        eprintln!("{CLIENTS} heads of {} KiB: p99 {slowest:?}, {grown} MiB more", head.len() >> 10);
        assert!(slowest < P99, "{slowest:?}");
        // The test's own half of each connection is in it.
        assert!(grown < 192, "{grown} MiB more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_takes_ends_its_connection() {
    let world = World::new().await;
    let mut stream = knock(&world, b"h2").await;
    // A window of nothing for each stream, then a health check as gRPC has it.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0".to_vec();
    let mut head = vec![0x83, 0x87];
    let path = "/grpc.health.v1.Health/Check";
    for (name, value) in [(":path", path), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")] {
        head.extend([&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat());
    }
    bytes.extend([&[0, 0, head.len() as u8, 1, 4, 0, 0, 0, 1][..], &head, &[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]].concat());
    stream.write_all(&bytes).await.unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect("it is still connected").ok();
    assert!(begun.elapsed() > Duration::from_secs(5) && !answer.is_empty(), "{:?} {answer:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lists_without_end_delays_nobody() {
    let world = World::new().await;
    let admin = world.admin();
    let maps: Api<ConfigMap> = admin.namespaced("default");
    for i in 0..200 {
        let map =
            json!({"metadata": {"name": format!("m-{i}"), "labels": {"i": i.to_string()}}, "data": {"k": "v".repeat(10_000)}});
        maps.create(&object(map)).await.unwrap();
    }
    let rules = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}]);
    admin.namespaced::<Role>("default").create(&object(json!({"metadata": {"name": "lists"}, "rules": rules}))).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "lists"},
        "subjects": [{"kind": "User", "name": "mallory", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lists"}
    }));
    admin.namespaced::<RoleBinding>("default").create(&binding).await.unwrap();
    let before = resident();
    let mallory = world.with_certificate("mallory", None, HOUR);
    let lists: Api<ConfigMap> = mallory.namespaced("default");
    eventually(async || lists.list(&ListParams::default()).await.is_ok()).await;
    let values: Vec<_> = (0..2_000).map(|i| i.to_string()).collect();
    let list = ListRequest {
        resource: Some(ResourceName { resource: "configmaps".to_owned(), ..ResourceName::default() }),
        namespace: "default".to_owned(),
        label_selector: format!("i in ({})", values.join(",")),
        ..ListRequest::default()
    };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(list.encoded_len() as u32);
    list.encode(&mut message).unwrap();
    let message = message.freeze();
    let mut listing = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let connection = connect_as(&world, Some(("mallory", None)), 1 << 20).await;
        for _ in 0..100 {
            let (mut connection, message) = (connection.clone(), message.clone());
            listing.spawn(async move {
                loop {
                    let request = call("List", [message.clone()]).map(|body| Finished(body.0));
                    let Ok(answer) = connection.send_request(request).await else { return };
                    // Taken, and not looked at.
                    answer.into_body().collect().await.ok();
                }
            });
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slowest = p99(&admin).await;
    let grown = resident().saturating_sub(before) >> 20;
    eprintln!("beside two hundred lists at once: p99 {slowest:?}, {grown} MiB more");
    assert!(slowest < P99, "{slowest:?}");
    listing.shutdown().await;
    admin.all::<Namespace>().get("default").await.unwrap();
}
