//! A whole API server over a real etcd and TLS, and clients of it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use api::{Resource, core::v1::Namespace, ferrokube::v1::objects_client::ObjectsClient, json};
use apiserver::Args;
use clap::Parser;
use client::{Api, Client, Config, Transport, config::Token};
use daemon::{
    Kit,
    pki::{self, Ca, Pair, Request, Usage},
    tls::Pem,
};
use serde_json::Value;
use store::testing::EtcdCluster;
use tempfile::TempDir;

pub const HOUR: Duration = Duration::from_secs(3600);
/// Where the API server says that others reach it.
pub const ADVERTISED: &str = "10.0.0.1";

/// The flags alone, as the daemon kit would parse them.
#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// A running API server and the CA of its clients.
pub struct World {
    pub ca: Ca,
    _files: TempDir,
    /// `127.0.0.1:PORT`
    pub address: String,
    pub kit: Kit,
    pub etcd: EtcdCluster,
}

impl World {
    pub async fn new() -> Self {
        Self::with_flags(&[]).await
    }

    /// A world whose API server has these flags beside those that it needs.
    pub async fn with_flags(more: &[&str]) -> Self {
        daemon::tls::install_provider();
        let etcd = EtcdCluster::start(1).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str| files.path().join(name);
        let (ca, _) = Ca::create("ferrokube-test", HOUR).unwrap();
        pki::write_atomic(&file("ca.crt"), ca.certificate_pem().as_bytes(), 0o644).unwrap();
        let serving = Request {
            addresses: vec!["127.0.0.1".parse().unwrap()],
            usage: Usage::Server,
            ..request("kube-apiserver", None, HOUR)
        };
        write(&ca.issue(&serving).unwrap(), files.path(), "server");
        write(&ca.issue(&request("kubelets-client", Some("system:masters"), HOUR)).unwrap(), files.path(), "client");
        write(&pki::signing_key().unwrap(), files.path(), "sa");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = etcd.config().tls.unwrap();
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let needed = [
            "apiserver".to_owned(),
            format!("--etcd-servers={}", etcd.endpoint(0)),
            flag("etcd-cafile", &tls.ca),
            flag("etcd-certfile", &tls.cert),
            flag("etcd-keyfile", &tls.key),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--advertise-address={ADVERTISED}"),
            format!("--secure-port={port}"),
            flag("tls-cert-file", &file("server.crt")),
            flag("tls-private-key-file", &file("server.key")),
            flag("client-ca-file", &file("ca.crt")),
            flag("service-account-signing-key-file", &file("sa.key")),
            flag("service-account-key-file", &file("sa.crt")),
            flag("kubelet-certificate-authority", &file("ca.crt")),
            flag("kubelet-client-certificate", &file("client.crt")),
            flag("kubelet-client-key", &file("client.key")),
        ];
        let flags = Flags::parse_from(needed.into_iter().chain(more.iter().map(|flag| (*flag).to_owned())));
        let kit = Kit::new();
        apiserver::run(flags.args, kit.clone()).await.unwrap();
        let world = Self { ca, _files: files, address: format!("127.0.0.1:{port}"), kit, etcd };
        let namespaces: Api<Namespace> = world.admin().all();
        eventually(async || namespaces.get("kube-system").await.is_ok()).await;
        world
    }

    fn config(&self) -> Config {
        let ca = Pem::Inline(self.ca.certificate_pem().as_bytes().to_vec());
        Config { servers: vec![format!("https://{}", self.address).parse().unwrap()], ..Config::new(ca) }
    }

    pub fn anonymous(&self) -> Client {
        Client::new(self.config()).unwrap()
    }

    pub fn with_pair(&self, pair: &Pair) -> Client {
        let identity = (pem(&pair.public_pem), pem(&pair.private_pem));
        Client::new(Config { identity: Some(identity), ..self.config() }).unwrap()
    }

    /// The generated client of the Objects service, with an administrator's certificate.
    pub fn objects(&self) -> ObjectsClient<Transport> {
        ObjectsClient::new(self.transport())
    }

    /// The way to the server, with an administrator's certificate.
    pub fn transport(&self) -> Transport {
        self.transport_of("kubernetes-admin", Some("system:masters"))
    }

    /// The way to the server, with the certificate of a user.
    pub fn transport_of(&self, name: &str, group: Option<&str>) -> Transport {
        let pair = self.ca.issue(&request(name, group, HOUR)).unwrap();
        let identity = (pem(&pair.public_pem), pem(&pair.private_pem));
        Transport::network(Config { identity: Some(identity), ..self.config() }).unwrap()
    }

    /// The way to the server for an administrator who acts as somebody else.
    pub fn transport_as(&self, impersonate: client::config::Impersonation) -> Transport {
        let pair = self.ca.issue(&request("kubernetes-admin", Some("system:masters"), HOUR)).unwrap();
        let identity = (pem(&pair.public_pem), pem(&pair.private_pem));
        Transport::network(Config { identity: Some(identity), impersonate, ..self.config() }).unwrap()
    }

    /// The way to the server with a token.
    pub fn transport_with_token(&self, token: &str) -> Transport {
        Transport::network(Config { token: Some(Token::Inline(token.to_owned())), ..self.config() }).unwrap()
    }

    pub fn with_certificate(&self, name: &str, group: Option<&str>, lifetime: Duration) -> Client {
        self.with_pair(&self.ca.issue(&request(name, group, lifetime)).unwrap())
    }

    pub fn with_token(&self, token: &str) -> Client {
        Client::new(Config { token: Some(Token::Inline(token.to_owned())), ..self.config() }).unwrap()
    }

    pub fn admin(&self) -> Client {
        self.with_certificate("kubernetes-admin", Some("system:masters"), HOUR)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kit.shutdown.start();
    }
}

pub fn request(name: &str, group: Option<&str>, lifetime: Duration) -> Request {
    Request {
        common_name: name.to_owned(),
        organization: group.map(str::to_owned),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        lifetime,
    }
}

fn write(pair: &Pair, directory: &Path, name: &str) {
    let file = |end: &str| -> PathBuf { directory.join(format!("{name}.{end}")) };
    pair.write(&file("crt"), &file("key")).unwrap();
}

fn pem(text: &str) -> Pem {
    Pem::Inline(text.as_bytes().to_vec())
}

pub fn object<K: Resource>(value: Value) -> K {
    json::from_value(value).unwrap()
}

/// Waits until something holds.
pub async fn eventually(holds: impl AsyncFn() -> bool) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("it does not come to hold");
}
