//! What may break, broken under load: items 5 and 6 of what the first cluster must show.
//!
//! Throughout: no acknowledged write is lost, no container restarts because of it, traffic through Services goes on, nothing is orphaned.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::ensure;
use tests::{
    Cluster, Daemon, Host, command, etcd, http, images,
    kube::{self, Namespace, PODS_READY, Pod},
    wait,
};

/// After a break, writes must be taken again within this.
const HEALED: Duration = Duration::from_secs(30);

/// Two workers beside the test: one writes ConfigMaps, one fetches through a node port. Both stop when it is dropped.
struct Load<'a> {
    namespace: &'a Namespace<'a>,
    stop: AtomicBool,
    written: AtomicUsize,
    refused: AtomicUsize,
    fetched: AtomicUsize,
    missed: AtomicUsize,
}

impl<'a> Load<'a> {
    fn new(namespace: &'a Namespace<'a>) -> Self {
        Self {
            namespace,
            stop: AtomicBool::default(),
            written: AtomicUsize::default(),
            refused: AtomicUsize::default(),
            fetched: AtomicUsize::default(),
            missed: AtomicUsize::default(),
        }
    }

    /// Runs `test` under load, then checks that everything acknowledged is there.
    fn around(&self, address: &str, test: impl FnOnce()) {
        let names = thread::scope(|scope| {
            let writer = scope.spawn(|| self.write());
            scope.spawn(|| self.fetch(address));
            let guard = StopOnDrop(&self.stop);
            test();
            // Whatever was broken has healed: writes must be taken again.
            let before = self.written.load(Ordering::SeqCst);
            wait::until("writes after the last fault", HEALED, || {
                ensure!(self.written.load(Ordering::SeqCst) > before + 3, "no write was taken");
                ensure!(self.fetched.load(Ordering::SeqCst) > 20, "too few answers to judge by");
                Ok(())
            })
            .unwrap();
            drop(guard);
            writer.join().unwrap()
        });
        let there = self.namespace.list("configmaps", "load=yes").unwrap();
        let there: BTreeSet<_> = there.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        let lost: Vec<_> = names.iter().filter(|name| !there.contains(name.as_str())).collect();
        assert!(lost.is_empty(), "acknowledged but lost: {lost:?}");
        let (fetched, missed) = (self.fetched.load(Ordering::SeqCst), self.missed.load(Ordering::SeqCst));
        println!("{} writes, {} refused; {fetched} answers, {missed} missed", names.len(), self.refused.load(Ordering::SeqCst));
        assert!(fetched > 20 && missed == 0, "{missed} of {} requests through the Service failed", fetched + missed);
    }

    fn write(&self) -> Vec<String> {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let name = format!("load-{number}");
            let manifest = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {{load: 'yes'}}}}}}");
            if self.namespace.apply(&manifest).is_ok() {
                acknowledged.push(name);
                self.written.fetch_add(1, Ordering::SeqCst);
            } else {
                self.refused.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(100));
            }
        }
        acknowledged
    }

    fn fetch(&self, address: &str) {
        while !self.stop.load(Ordering::SeqCst) {
            match http::get(address, "/", Duration::from_secs(5)) {
                Ok(answer) if answer.status == 200 => self.fetched.fetch_add(1, Ordering::SeqCst),
                other => {
                    eprintln!("missed: {other:?}");
                    self.missed.fetch_add(1, Ordering::SeqCst)
                }
            };
            thread::sleep(Duration::from_millis(50));
        }
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Guestbooks behind a node port; the address is on the first node.
fn application<'a>(cluster: &'a Cluster, name: &str) -> (Namespace<'a>, Vec<Pod>, String) {
    let namespace = Namespace::new(cluster, name).unwrap();
    namespace.apply(&kube::guestbooks("web", 3)).unwrap();
    namespace.apply(&kube::service("web", "web", "type: NodePort")).unwrap();
    let pods = namespace.wait_pods("app=web", 3, PODS_READY).unwrap();
    let port = namespace.get("service", "web").unwrap()["spec"]["ports"][0]["nodePort"].to_string();
    let address = format!("{}:{port}", cluster.host_named("node-1").unwrap().address);
    wait::until("the node port", Duration::from_secs(10), || http::get(&address, "/", Duration::from_secs(2))).unwrap();
    (namespace, pods, address)
}

/// The pods are the same, in the same containers, and still Ready.
fn assert_untouched(namespace: &Namespace<'_>, before: &[Pod]) {
    let after = namespace.wait_pods("app=web", before.len(), Duration::from_secs(20)).unwrap();
    assert_eq!(after, before);
}

/// UIDs in the labels of a node's containers.
fn pod_uids(cluster: &Cluster, host: &Host) -> BTreeSet<String> {
    let format = "{{.Names}}";
    let names = command::output_of(images::docker(cluster, host).args(["ps", "-a", "--format", format])).unwrap();
    names.lines().map(str::to_owned).collect()
}

#[test]
fn each_daemon_killed_under_load_comes_back_and_nothing_else_notices() {
    let cluster = Cluster::for_tests().unwrap();
    let (namespace, pods, address) = application(&cluster, "killed");
    Load::new(&namespace).around(&address, || {
        for daemon in [Daemon::Apiserver, Daemon::Scheduler, Daemon::ControllerManager, Daemon::Kubelet, Daemon::KubeProxy] {
            for host in cluster.hosts_of(daemon) {
                cluster.kill(&host, daemon).unwrap();
                cluster.start(&host, daemon).unwrap();
            }
        }
    });
    assert_untouched(&namespace, &pods);

    // All of them still do their work.
    namespace.kctl(&["scale", "rc", "web", "--replicas=5"]).unwrap();
    namespace.wait_pods("app=web", 5, PODS_READY).unwrap();
    namespace.kctl(&["scale", "rc", "web", "--replicas=0"]).unwrap();
    namespace.wait_pods("app=web", 0, PODS_READY).unwrap();
    wait::until("containers to be gone from Docker", Duration::from_secs(20), || {
        for host in cluster.nodes() {
            let left: Vec<_> = pod_uids(&cluster, &host).into_iter().filter(|name| name.contains(&namespace.name)).collect();
            ensure!(left.is_empty(), "{}: {left:?}", host.name);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_loss_of_the_etcd_leader_and_of_a_members_disk_loses_no_write() {
    let cluster = Cluster::for_tests().unwrap();
    let (namespace, pods, address) = application(&cluster, "etcd");
    Load::new(&namespace).around(&address, || {
        let leader = etcd::leader(&cluster).unwrap();
        cluster.kill(&leader, Daemon::Etcd).unwrap();
        let next = wait::until("another leader", HEALED, || {
            let next = etcd::leader(&cluster)?;
            ensure!(next != leader, "still the old one");
            Ok(next)
        })
        .unwrap();
        cluster.start(&leader, Daemon::Etcd).unwrap();
        etcd::wipe(&cluster, &next).unwrap();
        etcd::rejoin(&cluster, &next).unwrap();
    });
    assert_untouched(&namespace, &pods);
}

#[test]
fn pods_of_a_host_cut_off_are_recreated_elsewhere_and_gone_when_it_is_back() {
    let cluster = Cluster::for_tests().unwrap();
    let (namespace, pods, _) = application(&cluster, "cut");
    // The last node: the Service's other users fetch through the first.
    let host = cluster.nodes().last().unwrap();
    let ready = |wanted: &str| {
        let node = cluster.kctl_json(&["get", "node", &host.name])?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let status =
            conditions.iter().find(|condition| condition["type"] == "Ready").map(|condition| condition["status"].to_string());
        ensure!(status.as_deref() == Some(wanted), "{status:?}");
        Ok(())
    };
    let lost: Vec<_> = pods.iter().filter(|pod| pod.node == host.name).cloned().collect();
    assert!(!lost.is_empty(), "no pod is on {}: {pods:?}", host.name);

    struct Reconnect<'a>(&'a Cluster, &'a Host);
    impl Drop for Reconnect<'_> {
        fn drop(&mut self) {
            if let Err(error) = self.0.reconnect(self.1) {
                eprintln!("{error:#}");
            }
        }
    }
    cluster.cut_off(&host).unwrap();
    let reconnect = Reconnect(&cluster, &host);
    wait::until("the node to be NotReady", Duration::from_secs(90), || ready("\"Unknown\"")).unwrap();
    wait::until("the pods elsewhere", Duration::from_secs(60), || {
        let good: Vec<_> = namespace.pods("app=web")?.into_iter().filter(|pod| pod.ready && pod.node != host.name).collect();
        ensure!(good.len() == 3, "{good:?}");
        Ok(())
    })
    .unwrap();
    drop(reconnect);
    wait::until("the node to be Ready again", Duration::from_secs(60), || ready("\"True\"")).unwrap();
    wait::until("the old pods to be gone from Docker", Duration::from_secs(60), || {
        let names = pod_uids(&cluster, &host);
        let left: Vec<_> = lost.iter().filter(|pod| names.iter().any(|name| name.contains(&pod.uid))).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
    namespace.wait_pods("app=web", 3, Duration::from_secs(30)).unwrap();
}

#[test]
fn a_host_that_lost_power_runs_its_pods_again() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "power").unwrap();
    namespace.apply(&kube::guestbooks("web", 3)).unwrap();
    let before = namespace.wait_pods("app=web", 3, PODS_READY).unwrap();
    let host = before[0].host(&cluster).unwrap();
    cluster.power_off(&host).unwrap();
    cluster.power_on(&host).unwrap();
    wait::until("every pod to run again", Duration::from_secs(60), || {
        let pods = namespace.pods("app=web")?;
        let on_host = pods.iter().filter(|pod| pod.node == host.name);
        ensure!(pods.iter().filter(|pod| pod.ready).count() == 3, "{pods:?}");
        for pod in on_host {
            let answer = http::get_within(&host, format!("{}:8080", pod.ip), "/healthz", Duration::from_secs(2))?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_engine_that_is_killed_takes_no_pod_with_it() {
    let cluster = Cluster::for_tests().unwrap();
    let (namespace, pods, address) = application(&cluster, "engine");
    let host = pods[0].host(&cluster).unwrap();
    Load::new(&namespace).around(&address, || {
        cluster.kill(&host, Daemon::Dockerd).unwrap();
        cluster.start(&host, Daemon::Dockerd).unwrap();
    });
    assert_untouched(&namespace, &pods);
}
