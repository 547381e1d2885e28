//! Every daemon killed again and again, and stopped in its tracks, under load: no acknowledged write is lost, watchers are told of every change
//! once and in order, no request through a Service goes unanswered, no pod notices.
//!
//! `FERROKUBE_KILLS` is how many times something is killed (100 unless it is set, 200 with `scripts/test --full`), `FERROKUBE_SEED` repeats an order.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use tests::{
    Cluster, Daemon, Host, daemons, etcd, http,
    kube::{self, Namespace, PODS_READY, Pod},
    load, wait,
};

/// A leader that does nothing is replaced within its lease of 15 s and the next attempt to take it.
const REPLACED: Duration = Duration::from_secs(40);
/// How long an etcd member or an API server stays stopped: longer than etcd's election and a client's patience with a server.
const STOPPED: Duration = Duration::from_secs(5);
const READY: Duration = Duration::from_secs(60);

struct Application<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    pods: Vec<Pod>,
    /// The node ports of all nodes, and the Service's own address from inside a node.
    addresses: Vec<(Option<Host>, String)>,
}

impl<'a> Application<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        // A test that failed before may have left some without its turn.
        cluster.hosts().iter().for_each(|host| cluster.power_on(host).unwrap());
        let namespace = Namespace::new(cluster, name).unwrap();
        namespace.apply(&kube::guestbooks("web", 3)).unwrap();
        namespace.apply(&kube::service("web", "web", "type: NodePort")).unwrap();
        let pods = namespace.wait_pods("app=web", 3, PODS_READY).unwrap();
        let service = namespace.get("service", "web").unwrap();
        let port = &service["spec"]["ports"][0]["nodePort"];
        let mut addresses: Vec<_> = cluster.nodes().map(|host| (None, format!("{}:{port}", host.address))).collect();
        addresses.push((cluster.nodes().last(), format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap())));
        for (from, address) in &addresses {
            wait::until("the Service", Duration::from_secs(10), || match from {
                Some(host) => http::get_within(host, address.clone(), "/", Duration::from_secs(2)),
                None => http::get(address, "/", Duration::from_secs(2)),
            })
            .unwrap();
        }
        Self { cluster, namespace, pods, addresses }
    }

    /// When each node became Ready.
    fn ready_since(&self) -> BTreeMap<String, String> {
        let nodes = self.cluster.kctl_json(&["get", "nodes"]).unwrap();
        let since = |node: &Value| {
            let ready = node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")?;
            Some((node["metadata"]["name"].to_string(), format!("{} {}", ready["status"], ready["lastTransitionTime"])))
        };
        nodes["items"].as_array().into_iter().flatten().filter_map(since).collect()
    }

    /// Runs the test under load; the pods it began with are as they were, and no node was ever not Ready.
    fn under_load(&self, test: impl FnOnce()) {
        let ready_since = self.ready_since();
        let account = load::around(self.cluster, &self.namespace, &self.addresses, test).unwrap();
        println!("{account:?}");
        assert!(account.writes > 50 && account.answers > 200, "too little was done to judge by: {account:?}");
        let after = self.namespace.wait_pods("app=web", self.pods.len(), READY).unwrap();
        assert_eq!(after, self.pods);
        assert_eq!(self.ready_since(), ready_since);
    }

    /// Scheduler, controller manager and kubelets do their work: a new pod runs, and is gone again.
    fn works(&self) {
        let pod = kube::busybox("works", "");
        wait::until("the API to take a pod", READY, || self.namespace.apply(&pod)).unwrap();
        wait::until("a new pod to be Ready", READY, || {
            let pod = self.namespace.pod("works")?;
            ensure!(pod.ready, "{pod:?}");
            Ok(())
        })
        .unwrap();
        self.namespace.kctl(&["delete", "pod", "works", "--timeout=60s"]).unwrap();
    }
}

/// Lets go on what was stopped, whatever happens meanwhile.
struct Stopped<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    daemon: Daemon,
}

impl<'a> Stopped<'a> {
    fn new(cluster: &'a Cluster, host: &'a Host, daemon: Daemon) -> Self {
        println!("stopping {daemon} on {}", host.name);
        cluster.pause(host, daemon).unwrap();
        Self { cluster, host, daemon }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.resume(self.host, self.daemon) {
            eprintln!("{error:#}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn nothing_is_lost_however_often_a_daemon_is_killed() {
    let cluster = Cluster::for_tests().unwrap();
    let (kills, seed) =
        (number("FERROKUBE_KILLS").unwrap_or(100), number("FERROKUBE_SEED").unwrap_or_else(|| rand::rng().random()));
    println!("{kills} kills, FERROKUBE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let everything: Vec<_> =
        Daemon::ALL.into_iter().flat_map(|daemon| cluster.hosts_of(daemon).into_iter().map(move |host| (host, daemon))).collect();
    let application = Application::new(&cluster, "kills");
    application.under_load(|| {
        let mut round = Vec::new();
        for _ in 0..kills {
            if round.is_empty() {
                round.clone_from(&everything);
                round.shuffle(&mut random);
            }
            let (host, daemon) = round.pop().unwrap();
            cluster.kill(&host, daemon).unwrap();
            // Sometimes at once, sometimes after everybody has noticed.
            thread::sleep(Duration::from_millis(random.random_range(0..500)));
            cluster.start(&host, daemon).unwrap();
        }
        application.works();
    });
}

/// Who leads, by the identity in the Lease, which stands in the log of one of the candidates.
fn leader(cluster: &Cluster, daemon: Daemon) -> anyhow::Result<Host> {
    let lease = format!("kube-{daemon}");
    let lease = cluster.kctl_json(&["get", "lease", "-n", "kube-system", &lease])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(!holder.is_empty(), "nobody leads");
    let logged =
        |host: &Host| fs::read(cluster.log(daemon, host)).is_ok_and(|log| String::from_utf8_lossy(&log).contains(holder));
    cluster.hosts_of(daemon).into_iter().find(logged).with_context(|| format!("no log of a {daemon} names {holder}"))
}

#[test]
fn a_leader_that_is_stopped_is_replaced_and_does_no_harm_when_it_goes_on() {
    let cluster = Cluster::for_tests().unwrap();
    let application = Application::new(&cluster, "leaders");
    application.under_load(|| {
        for daemon in [Daemon::Scheduler, Daemon::ControllerManager] {
            let former = wait::until("a leader", READY, || leader(&cluster, daemon)).unwrap();
            let stopped = Stopped::new(&cluster, &former, daemon);
            let next = wait::until(&format!("another {daemon} to lead"), REPLACED, || {
                let next = leader(&cluster, daemon)?;
                ensure!(next != former, "{} still leads", former.name);
                Ok(next)
            })
            .unwrap();
            application.works();
            let process = cluster.process(&former, daemon).unwrap();
            drop(stopped);
            // It sees that it has lost the lease and ends; systemd would start it again, here we do.
            process.wait_end(READY).unwrap();
            cluster.start(&former, daemon).unwrap();
            application.works();
            assert_eq!(leader(&cluster, daemon).unwrap(), next);
        }
    });
}

#[test]
fn an_etcd_member_or_api_server_that_is_stopped_holds_nobody_up_for_long() {
    let cluster = Cluster::for_tests().unwrap();
    let application = Application::new(&cluster, "stopped");
    application.under_load(|| {
        // The leader of etcd first, then all the others.
        let mut members = cluster.hosts_of(Daemon::Etcd);
        let first = etcd::leader(&cluster).unwrap();
        members.sort_by_key(|host| host.name != first.name);
        let servers = cluster.hosts_of(Daemon::Apiserver);
        let all = members.iter().map(|host| (host, Daemon::Etcd)).chain(servers.iter().map(|host| (host, Daemon::Apiserver)));
        for (host, daemon) in all {
            let stopped = Stopped::new(&cluster, host, daemon);
            thread::sleep(STOPPED);
            drop(stopped);
            wait::until(&format!("{daemon} on {}", host.name), READY, || daemons::ready(&cluster, host, daemon)).unwrap();
        }
        application.works();
    });
}
