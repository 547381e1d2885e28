//! Who gets in: the whole API server over a real etcd and TLS, with good and bad credentials.

// Tests state their claims by unwrapping; clippy.toml's exception covers test functions but not their helpers here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use api::{
    Resource,
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Pod, Secret, ServiceAccount},
    json,
    rbac::v1::{Role, RoleBinding},
    status::Reason,
};
use apiserver::Args;
use clap::Parser;
use client::{Api, Client, Config, Error, ListParams, config::Token};
use daemon::{
    Kit,
    pki::{self, Ca, Pair, Request, Usage},
    tls::Pem,
};
use serde_json::{Value, json};
use store::testing::EtcdCluster;
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);

/// The flags alone, as the daemon kit would parse them.
#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

/// A running API server and the CA of its clients.
struct World {
    ca: Ca,
    _files: TempDir,
    address: String,
    kit: Kit,
    _etcd: EtcdCluster,
}

impl World {
    async fn new() -> Self {
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
        let flags = Flags::parse_from([
            "apiserver".to_owned(),
            format!("--etcd-servers={}", etcd.endpoint(0)),
            flag("etcd-cafile", &tls.ca),
            flag("etcd-certfile", &tls.cert),
            flag("etcd-keyfile", &tls.key),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            flag("tls-cert-file", &file("server.crt")),
            flag("tls-private-key-file", &file("server.key")),
            flag("client-ca-file", &file("ca.crt")),
            flag("service-account-signing-key-file", &file("sa.key")),
            flag("service-account-key-file", &file("sa.crt")),
            flag("kubelet-certificate-authority", &file("ca.crt")),
            flag("kubelet-client-certificate", &file("client.crt")),
            flag("kubelet-client-key", &file("client.key")),
        ]);
        let kit = Kit::new();
        apiserver::run(flags.args, kit.clone()).await.unwrap();
        let world = Self { ca, _files: files, address: format!("https://127.0.0.1:{port}"), kit, _etcd: etcd };
        let namespaces: Api<Namespace> = world.admin().all();
        eventually(async || namespaces.get("kube-system").await.is_ok()).await;
        world
    }

    fn config(&self) -> Config {
        let ca = Pem::Inline(self.ca.certificate_pem().as_bytes().to_vec());
        Config { servers: vec![self.address.parse().unwrap()], ..Config::new(ca) }
    }

    fn anonymous(&self) -> Client {
        Client::new(self.config()).unwrap()
    }

    fn with_pair(&self, pair: &Pair) -> Client {
        let identity = (pem(&pair.public_pem), pem(&pair.private_pem));
        Client::new(Config { identity: Some(identity), ..self.config() }).unwrap()
    }

    fn with_certificate(&self, name: &str, group: Option<&str>, lifetime: Duration) -> Client {
        self.with_pair(&self.ca.issue(&request(name, group, lifetime)).unwrap())
    }

    fn with_token(&self, token: &str) -> Client {
        Client::new(Config { token: Some(Token::Inline(token.to_owned())), ..self.config() }).unwrap()
    }

    fn admin(&self) -> Client {
        self.with_certificate("kubernetes-admin", Some("system:masters"), HOUR)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kit.shutdown.start();
    }
}

fn request(name: &str, group: Option<&str>, lifetime: Duration) -> Request {
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

fn object<K: Resource>(value: Value) -> K {
    json::from_value(value).unwrap()
}

/// Waits until something holds.
async fn eventually(holds: impl AsyncFn() -> bool) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("it does not come to hold");
}

/// Why a list of pods is refused; `None` if it is not, `Some(None)` if there is no connection at all.
async fn refused(client: &Client) -> Option<Option<Reason>> {
    match client.namespaced::<Pod>("default").list(&ListParams::default()).await {
        Ok(_) => None,
        Err(Error::Api(status)) => Some(Some(status.reason())),
        Err(_) => Some(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_anonymous_but_version_and_health() {
    let world = World::new().await;
    let anonymous = world.anonymous();
    assert_eq!(anonymous.version().await.unwrap().api_level, api::API_LEVEL);
    assert_eq!(refused(&anonymous).await, Some(Some(Reason::Unauthorized)));
    assert!(anonymous.kinds().await.is_err());
    assert_eq!(refused(&world.admin()).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates_do_not_get_in() {
    let world = World::new().await;
    // Of another CA: refused in the handshake.
    let (foreign, _) = Ca::create("foreign", HOUR).unwrap();
    let pair = foreign.issue(&request("kubernetes-admin", Some("system:masters"), HOUR)).unwrap();
    assert_eq!(refused(&world.with_pair(&pair)).await, Some(None));

    // One that expires while the connection lives, then for a new connection.
    let pair = world.ca.issue(&request("kubernetes-admin", Some("system:masters"), Duration::from_secs(3))).unwrap();
    let brief = world.with_pair(&pair);
    assert_eq!(refused(&brief).await, None);
    eventually(async || refused(&brief).await.is_some()).await;
    assert_eq!(refused(&brief).await, Some(Some(Reason::Unauthorized)));
    eventually(async || refused(&world.with_pair(&pair)).await == Some(None)).await;

    // Good, but nobody gave its user anything; nor can one make oneself a node.
    assert_eq!(refused(&world.with_certificate("ann", None, HOUR)).await, Some(Some(Reason::Forbidden)));
    assert_eq!(refused(&world.with_certificate("system:node:n1", None, HOUR)).await, Some(Some(Reason::Forbidden)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_can_do_what_roles_grant_and_nothing_else() {
    let world = World::new().await;
    let admin = world.admin();
    let accounts: Api<ServiceAccount> = admin.namespaced("default");
    accounts.create(&object(json!({"metadata": {"name": "reader"}}))).await.unwrap();
    let token: TokenRequest = accounts.create_subresource("reader", "token", &TokenRequest::default()).await.unwrap();
    let reader = world.with_token(&token.status().token);
    assert_eq!(refused(&reader).await, Some(Some(Reason::Forbidden)));

    let rules = json!([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]);
    let role = object(json!({"metadata": {"name": "pods"}, "rules": rules}));
    admin.namespaced::<Role>("default").create(&role).await.unwrap();
    let binding = object(json!({
        "metadata": {"name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"}
    }));
    admin.namespaced::<RoleBinding>("default").create(&binding).await.unwrap();
    eventually(async || refused(&reader).await.is_none()).await;

    let error = reader.namespaced::<Secret>("default").list(&ListParams::default()).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" \
         in the namespace \"default\""
    );
    let all = reader.all::<Pod>().list(&ListParams::default()).await.err().unwrap();
    assert!(all.to_string().ends_with("cannot list resource \"pods\" in API group \"\" at the cluster scope"), "{all}");

    // Damaged, it is nobody's; and it ends with its account.
    let mut damaged = token.status().token.clone();
    damaged.truncate(damaged.len() - 4);
    for bad in [damaged.as_str(), "garbage", "a.b.c"] {
        assert_eq!(refused(&world.with_token(bad)).await, Some(Some(Reason::Unauthorized)), "{bad}");
    }
    accounts.delete("reader", &Default::default()).await.unwrap();
    eventually(async || refused(&reader).await == Some(Some(Reason::Unauthorized))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelets_certificate_cannot_read_what_only_another_nodes_pods_use() {
    let world = World::new().await;
    let admin = world.admin();
    let secrets: Api<Secret> = admin.namespaced("default");
    let accounts: Api<ServiceAccount> = admin.namespaced("default");
    let account = object(json!({"metadata": {"name": "default"}}));
    if let Err(error) = accounts.create(&account).await {
        assert!(matches!(&error, Error::Api(status) if status.is_already_exists()), "{error}");
    }
    for node in ["n1", "n2"] {
        secrets.create(&object(json!({"metadata": {"name": format!("of-{node}")}}))).await.unwrap();
        let pod = object(json!({
            "metadata": {"name": node},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "secret": {"secretName": format!("of-{node}")}}]
            }
        }));
        admin.namespaced::<Pod>("default").create(&pod).await.unwrap();
    }
    let kubelet = world.with_certificate("system:node:n1", Some("system:nodes"), HOUR);
    let read: Api<Secret> = kubelet.namespaced("default");
    assert!(read.get("of-n1").await.is_ok());
    let error = read.get("of-n2").await.err().unwrap();
    assert!(error.to_string().ends_with("no relationship found between node 'n1' and this object"), "{error}");
    assert!(read.list(&ListParams::default()).await.is_err());
    let pods: Api<Pod> = kubelet.namespaced("default");
    assert!(pods.get("n1").await.is_ok() && pods.get("n2").await.is_err());
    assert!(pods.delete("n2", &Default::default()).await.is_err());
}
