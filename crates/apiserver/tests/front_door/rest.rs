//! Clients that speak REST get an answer that they can show.

use std::{process::Command, sync::Arc};

use api::{authentication::v1::TokenRequest, core::v1::ServiceAccount, rbac::v1::ClusterRoleBinding};
use client::Api;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{World, eventually, object};

/// What is answered to a request over HTTP/1.1.
async fn ask(world: &World, request: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls_pki_types::pem::PemObject::from_pem_slice(world.ca.certificate_pem().as_bytes());
    roots.add(ca.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(&world.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server need not close the session before the connection.
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_grpc_gets_a_status() {
    let world = World::new().await;
    for path in ["/api", "/apis?timeout=32s", "/api/v1/namespaces/default/pods", "/livez/", "/"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
        let answer = ask(&world, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 406") && head.contains("content-type: application/json"), "{head}");
        let status: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&status["kind"], &status["apiVersion"], &status["status"]),
            (&json!("Status"), &json!("v1"), &json!("Failure"))
        );
        assert!(status["message"].as_str().unwrap().contains("does not serve REST yet: use kctl"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_to_everyone_and_metrics_to_those_who_may_read_them() {
    let world = World::new().await;
    let get = async |path: &str, more: &str| {
        ask(&world, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n")).await
    };
    for path in ["/livez", "/readyz", "/healthz"] {
        assert!(get(path, "").await.ends_with("\r\n\r\nok"), "{path}");
    }
    assert!(get("/readyz?verbose", "").await.contains("[+]etcd ok\n"));
    // Single checks are for those who may read more than whether it is well.
    assert!(get("/readyz/etcd", "").await.starts_with("HTTP/1.1 403"));
    let refused = get("/metrics", "").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("forbidden: User \\\"system:anonymous\\\" cannot get path \\\"/metrics\\\""), "{refused}");

    let accounts: Api<ServiceAccount> = world.admin().namespaced("default");
    accounts.create(&object(json!({"metadata": {"name": "scraper"}}))).await.unwrap();
    let token: TokenRequest = accounts.create_subresource("scraper", "token", &TokenRequest::default()).await.unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", token.status().token);
    assert!(get("/metrics", &bearer).await.starts_with("HTTP/1.1 403"));
    let binding = object(json!({
        "metadata": {"name": "scraper"},
        "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:monitoring"}
    }));
    world.admin().all::<ClusterRoleBinding>().create(&binding).await.unwrap();
    eventually(async || get("/metrics", &bearer).await.starts_with("HTTP/1.1 200")).await;
    assert!(get("/readyz/etcd", &bearer).await.ends_with("\r\n\r\nok"));
    assert!(get("/readyz/none", &bearer).await.starts_with("HTTP/1.1 404"));
    assert!(get("/metrics", &bearer).await.contains("apiserver_request_total{verb=\"POST\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_is_told_as_upstream_tells_it() {
    let world = World::new().await;
    for path in ["/version", "/version/"] {
        let answer = ask(&world, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
        let version: Value = serde_json::from_str(body).unwrap();
        let keys: Vec<_> = version.as_object().unwrap().keys().map(String::as_str).collect();
        let upstream = "buildDate compiler gitCommit gitTreeState gitVersion goVersion major minor platform";
        assert_eq!(keys.join(" "), upstream);
        let level = format!("v{}.{}.0+", version["major"].as_str().unwrap(), version["minor"].as_str().unwrap());
        assert!(version["gitVersion"].as_str().unwrap().starts_with(&level), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_prints_it() {
    if let Err(error) = Command::new("kubectl").args(["version", "--client"]).output() {
        eprintln!("skipped: no kubectl on this machine: {error}");
        return;
    }
    let world = World::new().await;
    let home = tempfile::tempdir().unwrap();
    let (server, path) = (format!("--server=https://{}", world.address), home.path().to_owned());
    let kubectl = async |words: &'static [&str]| {
        let (server, path) = (server.clone(), path.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let flags = [&server, "--insecure-skip-tls-verify", "--request-timeout=10s", "--username=x", "--password=x"];
            Command::new("kubectl").args(flags).args(words).env("HOME", path).env("KUBECONFIG", "/dev/null").output().unwrap()
        });
        asked.await.unwrap()
    };
    let output = kubectl(&["get", "pods"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("does not serve REST yet: use kctl"), "{said}");
    let output = kubectl(&["version"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let ours = format!("+ferrokube-{}", env!("CARGO_PKG_VERSION"));
    assert!(said.contains("Server Version:") && said.contains(&ours), "{said} {}", String::from_utf8_lossy(&output.stderr));
}
