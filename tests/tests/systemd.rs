//! deploy/README.md, followed to the letter on five hosts with a systemd of their own: what it says works, and goes on working.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::{
    Daemon, Host,
    hosts::{Hosts, Operator, blocks},
    topology::repository,
    wait,
};

/// How long anything may take to work again.
const HEALED: Duration = Duration::from_secs(60);

/// A pod that has one of each volume that the kubelet mounts for itself, and copies what it finds there to where all can be read at once.
const VOLUMES: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: ferrous}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept, labels: {backup: "yes"}}
data: {key: value}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: secret, secret: {secretName: password}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: disk, emptyDir: {}}
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, 'echo fleeting >/memory/word; echo lasting >/disk/word; while :; do sleep 1; done']
    volumeMounts:
    - {name: secret, mountPath: /secret}
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /disk}
"#;

struct Deployment {
    // Dropped in this order.
    operator: Operator,
    hosts: Hosts,
    guide: String,
}

impl Deployment {
    fn new() -> Self {
        let programs = std::env::var_os("FERROKUBE_PROGRAMS").map_or_else(|| repository().join("target/release"), PathBuf::from);
        let hosts = Hosts::boot().unwrap();
        let operator = hosts.operator(&programs).unwrap();
        let guide = fs::read_to_string(repository().join("deploy/README.md")).unwrap();
        Self { operator, hosts, guide }
    }

    /// Does what the guide says below a heading.
    fn follow(&mut self, heading: &str) {
        let blocks = blocks(&self.guide, heading, "sh");
        assert!(!blocks.is_empty(), "deploy/README.md says nothing to do below {heading}");
        println!("{heading}");
        for block in blocks {
            self.operator.run(&block).unwrap();
        }
    }

    fn json(&mut self, words: &str) -> anyhow::Result<Value> {
        // A command that fails in the operator's shell ends it; one that is repeated may.
        let text = self.operator.run(&format!("kctl {words} -o json || true"))?;
        serde_json::from_str(&text).with_context(|| format!("kctl {words}"))
    }

    /// The guide's daemons, and where they run.
    fn units(&self) -> Vec<(Host, Daemon)> {
        let cluster = &self.hosts.cluster;
        let ours = Daemon::ALL.into_iter().filter(|daemon| daemon.admin_port().is_some());
        ours.flat_map(|daemon| cluster.hosts_of(daemon).into_iter().map(move |host| (host, daemon))).collect()
    }

    fn property(&self, host: &Host, unit: &str, name: &str) -> String {
        self.hosts.run(host, &format!("systemctl show -P {name} {unit}")).unwrap().trim().to_owned()
    }

    /// Every daemon is up and says so, and nothing on its host has failed.
    fn wait_ready(&self) {
        for (host, daemon) in self.units() {
            let port = daemon.admin_port().unwrap();
            let ask =
                format!("systemctl is-active ferrokube-{daemon} && curl -sS --fail-with-body http://127.0.0.1:{port}/readyz");
            wait::until(&format!("{daemon} on {}", host.name), HEALED, || self.hosts.run(&host, &ask)).unwrap();
        }
        for host in self.hosts.cluster.hosts() {
            let failed = self.hosts.run(&host, "systemctl list-units --failed --plain --no-legend").unwrap();
            assert_eq!(failed, "", "{}", host.name);
        }
    }

    fn wait_pods(&mut self, selector: &str, count: usize) -> Vec<tests::kube::Pod> {
        wait::until(&format!("{count} pods with {selector}"), HEALED, || {
            let list = self.json(&format!("get pods -l {selector}"))?;
            let pods: Vec<_> = list["items"].as_array().into_iter().flatten().map(tests::kube::Pod::read).collect();
            ensure!(pods.len() == count && pods.iter().all(|pod| pod.ready && !pod.terminating), "{pods:?}");
            Ok(pods)
        })
        .unwrap()
    }

    /// The guestbook answers at every node's port.
    fn wait_guestbook(&mut self, addresses: &[&str]) {
        for address in addresses {
            wait::until("the guestbook", HEALED, || {
                let text = self.operator.run(&format!("curl -s -m 2 http://{address}:30080/ || true"))?;
                ensure!(text.starts_with("Hello from"), "{text}");
                Ok(())
            })
            .unwrap();
        }
    }

    /// What the daemons logged above info since `since`, each line with its host.
    fn complaints(&self, since: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        for (host, daemon) in self.units() {
            let log = self.hosts.run(&host, &format!("journalctl -q -o cat --since '{since}' -u ferrokube-{daemon}")).unwrap();
            let worse = log.lines().filter(|line| ["\"WARN\"", "\"ERROR\"", "panicked"].iter().any(|word| line.contains(word)));
            complaints.extend(worse.map(|line| format!("{daemon} on {}: {line}", host.name)));
        }
        complaints
    }

    fn now(&self) -> String {
        let host = self.hosts.cluster.host_named("cp-1").unwrap();
        self.hosts.run(&host, "date '+%Y-%m-%d %H:%M:%S'").unwrap().trim().to_owned()
    }

    /// The serial number of the certificate that a server shows.
    fn shown(&mut self, address: &str) -> String {
        let ask = format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial || true");
        self.operator.run(&ask).unwrap()
    }

    fn read_volumes(&mut self) {
        let read =
            "cat /secret/word; echo; cat /memory/word /disk/word; wc -c </var/run/secrets/kubernetes.io/serviceaccount/token";
        let text =
            self.operator.run(&format!("kctl exec volumes -- sh -c '{read}; grep -c tmpfs.*/memory /proc/mounts'")).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(
            matches!(words[..], ["ferrous", "fleeting", "lasting", token, "1"] if token.parse::<u32>().unwrap() > 500),
            "{text}"
        );
    }
}

fn containers(pods: &[tests::kube::Pod]) -> BTreeMap<String, Vec<String>> {
    pods.iter().map(|pod| (pod.name.clone(), pod.containers.clone())).collect()
}

#[test]
fn the_deployment_guide_works_as_it_is_written() {
    let mut it = Deployment::new();
    let nodes = ["10.0.0.11", "10.0.0.12"];

    let hosts_file = blocks(&it.guide, "## 2. Certificates and configuration", "").remove(0);
    it.operator.run(&format!("cat >hosts <<'END'\n{hosts_file}END")).unwrap();
    it.follow("## 2. Certificates and configuration");
    it.follow("## 3. Hosts");
    it.wait_ready();
    let since = it.now();
    for host in it.hosts.cluster.nodes().collect::<Vec<_>>() {
        it.hosts.load_busybox(&host).unwrap();
        // What the kubelet mounts, the engine must see.
        let pid = it.property(&host, "ferrokube-kubelet", "MainPID");
        let namespaces = it.hosts.run(&host, &format!("readlink /proc/1/ns/mnt /proc/{pid}/ns/mnt")).unwrap();
        let [init, kubelet] = namespaces.lines().collect::<Vec<_>>()[..] else { panic!("{namespaces}") };
        assert_eq!(init, kubelet, "{}: the kubelet has a mount namespace of its own", host.name);
    }
    it.follow("## 4. Use it");
    it.wait_guestbook(&nodes);
    it.operator.run(&format!("kctl apply -f - <<'END'\n{VOLUMES}END")).unwrap();
    it.operator.run("kctl wait pod volumes --for=condition=Ready --timeout=60s").unwrap();
    it.read_volumes();
    let pods = containers(&it.wait_pods("app=guestbook", 3));

    it.follow("## 5. Keep it");
    certificates_are_renewed(&mut it, &since);

    every_daemon_comes_back(&it);
    it.wait_guestbook(&nodes);
    it.read_volumes();

    backup_and_restore(&mut it);
    it.follow("### Replace a member of etcd");
    it.wait_ready();
    it.operator.run("kctl get configmap kept").unwrap();
    let members = it.operator.run("etcdctl_on cp-1 member list").unwrap();
    assert_eq!(members.lines().filter(|line| line.contains(", started,")).count(), 3, "{members}");
    it.follow("### Upgrade");
    it.wait_ready();
    it.read_volumes();
    assert_eq!(containers(&it.wait_pods("app=guestbook", 3)), pods);

    it.follow("### Add and remove a node");
    it.wait_pods("app=guestbook", 3);
    let left = it.json("get nodes").unwrap();
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "{left}");
    it.wait_guestbook(&nodes[..1]);

    // And back: the steps for all hosts, and those for nodes, for this one only.
    for block in blocks(&it.guide, "## 3. Hosts", "sh").into_iter().filter(|block| block.contains(" node-1 node-2; do")) {
        let lines = block.lines().map(|line| if line.starts_with("for host in ") { "for host in node-2; do" } else { line });
        it.operator.run(&lines.collect::<Vec<_>>().join("\n")).unwrap();
    }
    it.wait_ready();
    it.operator.run("kctl wait nodes --all --for=condition=Ready --timeout=60s && kctl scale rc guestbook --replicas=5").unwrap();
    let pods = it.wait_pods("app=guestbook", 5);
    assert!(pods.iter().any(|pod| pod.node == "node-2"), "{pods:?}");
    it.wait_guestbook(&nodes);

    it.follow("### Add a host to the control plane");
    it.wait_ready();
    // The new one is enough: people, nodes and leaders know it.
    for host in ["cp-1", "cp-2"] {
        let host = it.hosts.cluster.host_named(host).unwrap();
        it.hosts.run(&host, "systemctl stop ferrokube-{apiserver,scheduler,controller-manager}").unwrap();
    }
    it.operator.run("kctl scale rc guestbook --replicas=4").unwrap();
    it.wait_pods("app=guestbook", 4);
    let lease = it.json("get lease kube-scheduler -n kube-system").unwrap();
    assert!(lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder.starts_with("cp-3_")), "{lease}");
}

/// Servers show their new certificates without a restart, nobody has complained of anything since all were ready, and after a restart every
/// daemon can still read its keys.
fn certificates_are_renewed(it: &mut Deployment, since: &str) {
    it.follow("### Renew certificates");
    for (address, file) in [
        ("10.0.0.2:6443", "cp-1/pki/apiserver"),
        ("10.0.0.3:6443", "cp-2/pki/apiserver"),
        ("10.0.0.4:2379", "cp-3/pki/etcd"),
        ("10.0.0.11:10250", "node-1/pki/kubelet-server"),
    ] {
        let renewed = it.operator.run(&format!("openssl x509 -noout -serial -in out/{file}.crt")).unwrap();
        wait::until(&format!("{address} to show {file}.crt"), HEALED, || {
            let shown = it.shown(address);
            ensure!(shown == renewed, "it shows {shown}");
            Ok(())
        })
        .unwrap();
    }
    // Through a kubelet, with the API server's own new certificate.
    it.read_volumes();
    assert_eq!(it.complaints(since), Vec::<String>::new());
    for (host, daemon) in it.units() {
        it.hosts.run(&host, &format!("systemctl restart ferrokube-{daemon}")).unwrap();
    }
    it.wait_ready();
    it.read_volumes();
}

/// All of ours at once, and one each of what they stand on.
fn every_daemon_comes_back(it: &Deployment) {
    let mut units: Vec<_> = it.units().into_iter().map(|(host, daemon)| (host, format!("ferrokube-{daemon}"))).collect();
    for (host, unit) in [("cp-3", "etcd"), ("node-1", "docker")] {
        units.push((it.hosts.cluster.host_named(host).unwrap(), unit.to_owned()));
    }
    for (host, unit) in &units {
        it.hosts.run(host, &format!("systemctl kill --kill-who=main --signal=KILL {unit}")).unwrap();
    }
    for (host, unit) in &units {
        wait::until(&format!("{unit} on {} to be started again", host.name), HEALED, || {
            let restarts = it.property(host, unit, "NRestarts");
            ensure!(restarts == "1", "NRestarts={restarts}");
            Ok(())
        })
        .unwrap();
    }
    it.wait_ready();
}

fn backup_and_restore(it: &mut Deployment) {
    let heading = "### Back up and restore etcd";
    let steps = blocks(&it.guide, heading, "sh");
    let [backup, restore] = &steps[..] else { panic!("{heading}: {} blocks", steps.len()) };
    println!("{heading}");
    it.operator.run(backup).unwrap();
    it.operator.run("kctl delete configmap kept && kctl create configmap later --from-literal=a=b").unwrap();
    it.operator.run(restore).unwrap();
    it.wait_ready();
    it.operator.run("kctl get configmap kept").unwrap();
    let later = it.operator.run("kctl get configmap later --ignore-not-found -o name").unwrap();
    assert_eq!(later, "");
    it.wait_pods("app=guestbook", 3);
    it.read_volumes();
    // What is new gets to the nodes: the watches of all began again.
    it.operator.run("kctl scale rc guestbook --replicas=4").unwrap();
    it.wait_pods("app=guestbook", 4);
    it.operator.run("kctl scale rc guestbook --replicas=3").unwrap();
    it.wait_pods("app=guestbook", 3);
}
