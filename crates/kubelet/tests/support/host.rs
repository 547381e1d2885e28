//! A node for the whole-kubelet tests: an engine of its own, an API server in memory, and a kubelet between them that can be restarted.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test states its claims by unwrapping")]

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use api::{
    core::v1::{Container, Event, Node, Pod},
    ferrokube::v1::kubelet_client::KubeletClient,
    meta::v1::Time,
};
use client::{Transport, testing::MemoryServer};
use daemon::{
    Kit,
    pki::{Ca, Request, Usage},
    tls::Pem,
};

use super::{Engine, pause_binary};

/// The image of the tests' containers.
pub const IMAGE: &str = "fkkubelet/app:1";

/// A node: an engine, an API server in memory, and a kubelet that can be restarted.
pub struct Host {
    pub engine: Engine,
    pub server: MemoryServer,
    ca: Ca,
    kit: Option<Kit>,
}

impl Host {
    pub async fn new() -> Self {
        daemon::tls::install_provider();
        let engine = Engine::start();
        engine.add_busybox(IMAGE);
        let (ca, pair) = Ca::create("test-ca", Duration::from_secs(3600)).unwrap();
        let dir = engine.path();
        pair.write(&dir.join("ca.crt"), &dir.join("ca.key")).unwrap();
        let request = Request {
            common_name: "node".into(),
            organization: None,
            dns_names: vec!["localhost".into()],
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            usage: Usage::Server,
            lifetime: Duration::from_secs(3600),
        };
        ca.issue(&request).unwrap().write(&dir.join("tls.crt"), &dir.join("tls.key")).unwrap();
        let mut host = Self { engine, server: MemoryServer::new(), ca, kit: None };
        let mut node = Node::default();
        node.metadata_mut().name = "n1".into();
        node.spec_mut().pod_cidr = "10.244.7.0/24".into();
        host.server.put(node);
        host.start_kubelet().await;
        host
    }

    pub async fn start_kubelet(&mut self) {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            args: kubelet::Args,
        }
        let dir = self.engine.path();
        let argv = [
            "kubelet".to_owned(),
            "--hostname-override=n1".to_owned(),
            format!("--docker-socket={}", self.engine.socket().display()),
            format!("--root-dir={}", dir.join("kubelet").display()),
            format!("--pause-binary={}", pause_binary().display()),
            format!("--tls-cert-file={}", dir.join("tls.crt").display()),
            format!("--tls-private-key-file={}", dir.join("tls.key").display()),
            format!("--client-ca-file={}", dir.join("ca.crt").display()),
            // Tests run side by side; one kubelet's sweep must not see another's groups.
            format!("--cgroup-root=/fkkubelet/{}", std::process::id()),
            "--address=127.0.0.1".to_owned(),
        ];
        let args = <Flags as clap::Parser>::parse_from(argv).args;
        let kit = Kit::new();
        kubelet::run_with(args, self.server.client(), Ipv4Addr::LOCALHOST, kit.clone()).await.unwrap();
        self.until("the node to be ready", |host| {
            host.server
                .find::<Node>("", "n1")
                .is_some_and(|n| n.status().conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True"))
        })
        .await;
        self.kit = Some(kit);
    }

    /// Ends the kubelet's tasks in the middle of whatever they do.
    pub async fn stop_kubelet(&mut self) {
        if let Some(kit) = self.kit.take() {
            kit.shutdown.start();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition(self) {
            if Instant::now() > deadline {
                let pods: Vec<_> =
                    self.server.all::<Pod>().into_iter().map(|p| (p.metadata().name.clone(), p.status().clone())).collect();
                let events: Vec<_> =
                    self.server.all::<Event>().into_iter().map(|e| format!("{} {}", e.reason, e.message)).collect();
                panic!("no {what} in time: {pods:#?} {events:#?}\n{}", self.engine.docker_output("ps -a"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A client of the kubelet's service with a certificate of this name.
    pub fn client_as(&self, name: &str) -> KubeletClient<Transport> {
        let request = Request {
            common_name: name.into(),
            organization: None,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            lifetime: Duration::from_secs(3600),
        };
        let dir = self.engine.path();
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        self.ca.issue(&request).unwrap().write(&cert, &key).unwrap();
        let config = client::Config {
            servers: vec!["https://127.0.0.1:10250".parse().unwrap()],
            identity: Some((Pem::File(cert), Pem::File(key))),
            ..client::Config::new(Pem::File(dir.join("ca.crt")))
        };
        KubeletClient::new(Transport::network(config).unwrap())
    }

    pub fn pod(&self, name: &str) -> Pod {
        self.server.find::<Pod>("default", name).unwrap_or_default()
    }

    pub fn is_ready(&self, name: &str) -> bool {
        self.pod(name).status().conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
    }

    pub fn restarts(&self, name: &str) -> i32 {
        self.pod(name).status().container_statuses.first().map_or(0, |c| c.restart_count)
    }

    pub fn exec(&self, container: &str, command: &str) -> String {
        let id = self.engine.docker_output(&format!("ps -q --filter label=io.kubernetes.container.name={container}"));
        self.engine.docker_output(&format!("exec {id} sh -c '{command}'"))
    }

    /// Runs a command in the first container of a pod.
    pub fn exec_in(&self, pod: &str, command: &str) -> String {
        let filters = format!("--filter label=io.kubernetes.pod.name={pod} --filter label=io.kubernetes.container.name=c0");
        let id = self.engine.docker_output(&format!("ps -q {filters}"));
        self.engine.docker_output(&format!("exec {id} sh -c '{command}'"))
    }

    pub async fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.pod(name);
        pod.metadata_mut().deletion_timestamp = Some(Time::now());
        pod.metadata_mut().deletion_grace_period_seconds = Some(grace);
        self.server.put(pod);
        self.until("deletion", |host| host.server.find::<Pod>("default", name).is_none()).await;
    }
}

/// A pod of one container for each shell command.
pub fn pod(name: &str, commands: &[&str]) -> Pod {
    let mut pod = Pod::default();
    let metadata = pod.metadata_mut();
    (metadata.name, metadata.namespace, metadata.uid) = (name.into(), "default".into(), uuid::Uuid::new_v4().to_string());
    let spec = pod.spec_mut();
    (spec.node_name, spec.restart_policy, spec.dns_policy) = ("n1".into(), "Always".into(), "ClusterFirst".into());
    spec.termination_grace_period_seconds = Some(2);
    for (index, command) in commands.iter().enumerate() {
        spec.containers.push(Container {
            name: format!("c{index}"),
            image: IMAGE.into(),
            command: ["sh", "-c", command].map(String::from).into(),
            image_pull_policy: "IfNotPresent".into(),
            termination_message_path: "/dev/termination-log".into(),
            ..Container::default()
        });
    }
    pod
}

/// Sleeps, and ends at once when it is asked to.
pub const IDLE: &str = "trap \"exit 0\" TERM; while true; do sleep 0.2; done";
