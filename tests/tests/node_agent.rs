//! What a node does by itself: whom it takes, what nobody notices when its kubelet dies, how fast its figures are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::Value;
use tests::{
    Cluster, Daemon, command,
    kube::{Namespace, busybox},
    wait,
};

/// Every version of an object that a watch shows, one JSON document each, until it is dropped.
struct Watch {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Watch {
    fn new(cluster: &Cluster, args: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut command: Command = cluster.kctl_command();
        let command = command.args(args).args(["-o", "json", "--watch"]);
        let child = command.stdout(Stdio::from(file.reopen().unwrap())).stderr(Stdio::null()).spawn().unwrap();
        Self { child, file }
    }

    fn seen(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file.path()).unwrap();
        serde_json::Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The conditions of an object, without when they were last looked at.
fn conditions(object: &Value) -> BTreeSet<String> {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().map(|c| format!("{}={} {} since {}", c["type"], c["status"], c["reason"], c["lastTransitionTime"])).collect()
}

fn node(cluster: &Cluster, name: &str) -> Value {
    serde_json::from_str(&cluster.kctl(&["get", "node", name, "-o", "json"]).unwrap()).unwrap()
}

#[test]
fn a_kubelet_that_is_killed_and_started_again_goes_unnoticed() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "reborn").unwrap();
    namespace.apply(&busybox("steady", "readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}")).unwrap();
    let pod = namespace.wait_pod("steady").unwrap();
    let host = pod.host(&cluster).unwrap();
    let node_before = conditions(&node(&cluster, &host.name));
    let pod_before = namespace.get("pod", "steady").unwrap();
    let told = || {
        let events = cluster.kctl(&["get", "events", "-A", "-o", "json"]).unwrap();
        let events: Value = serde_json::from_str(&events).unwrap();
        let about = |event: &Value| {
            let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
            (name == host.name || name == "steady").then(|| format!("{} {}", event["reason"], event["count"]))
        };
        events["items"].as_array().unwrap().iter().filter_map(about).collect::<BTreeSet<_>>()
    };
    let events_before = told();
    let nodes = Watch::new(&cluster, &["get", "node", &host.name]);
    let pods = Watch::new(&cluster, &["get", "pod", "steady", "-n", &namespace.name]);
    wait::until("the watches", Duration::from_secs(20), || {
        ensure!(!nodes.seen().is_empty() && !pods.seen().is_empty(), "nothing seen yet");
        Ok(())
    })
    .unwrap();
    for _ in 0..3 {
        cluster.kill(&host, Daemon::Kubelet).unwrap();
        cluster.start(&host, Daemon::Kubelet).unwrap();
        // What a kubelet has to say at its start it says within a few seconds.
        std::thread::sleep(Duration::from_secs(4));
    }
    for seen in nodes.seen() {
        assert_eq!(conditions(&seen), node_before);
    }
    for seen in pods.seen() {
        assert_eq!((conditions(&seen), &seen["status"]), (conditions(&pod_before), &pod_before["status"]));
    }
    assert_eq!(conditions(&node(&cluster, &host.name)), node_before);
    let news: Vec<String> = told().difference(&events_before).cloned().collect();
    assert!(news.iter().all(|event| event.starts_with("\"Starting\"")), "{news:?}");
}

#[test]
fn a_pod_bound_by_hand_must_fit_its_node_too() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "bound").unwrap();
    let name = cluster.nodes().next().unwrap().name;
    let by_hand = |pod: &str, spec: &str, extra: &str| {
        busybox(pod, extra).replace("spec:\n", &format!("spec:\n  nodeName: {name}\n{spec}"))
    };
    namespace.apply(&by_hand("greedy", "", "resources: {requests: {cpu: '5000'}}")).unwrap();
    namespace.apply(&by_hand("picky", "  nodeSelector: {no: such}\n", "")).unwrap();
    namespace.apply(&by_hand("modest", "", "resources: {requests: {cpu: 1m}}")).unwrap();
    namespace.wait_pod("modest").unwrap();
    for (pod, reason, message) in [
        ("greedy", "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 5000000, used: "),
        (
            "picky",
            "NodeAffinity",
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        let status = wait::until("the refusal", Duration::from_secs(20), || {
            let status = namespace.get("pod", pod)?["status"].clone();
            ensure!(status["phase"] == "Failed", "{status}");
            Ok(status)
        })
        .unwrap();
        assert_eq!(status["reason"], reason);
        assert!(status["message"].as_str().unwrap().starts_with(message), "{status}");
        let events = namespace.kctl(&["get", "events"]).unwrap();
        assert!(events.lines().any(|line| line.contains(reason) && line.contains(&format!("pod/{pod}"))), "{events}");
    }
}

#[test]
fn top_answers_at_once_and_only_with_what_is_asked_for() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "figures").unwrap();
    for name in ["one", "two"] {
        namespace.apply(&busybox(name, "")).unwrap();
    }
    for name in ["one", "two"] {
        namespace.wait_pod(name).unwrap();
    }
    let top = |args: &[&str]| {
        let begun = Instant::now();
        let table = namespace.kctl(&[&["top", "pods", "--no-headers"], args].concat()).unwrap();
        let names: Vec<String> = table.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
        (names, begun.elapsed())
    };
    wait::until("figures", Duration::from_secs(20), || {
        let (names, _) = top(&[]);
        ensure!(names == ["one", "two"], "{names:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(top(&["-l", "app=one"]).0, ["one"]);
    assert_eq!(top(&["-l", "app!=one"]).0, ["two"]);
    assert_eq!(top(&["two"]).0, ["two"]);
    // The start of the program is in it, of a build without optimisation: the best of some is what counts.
    let best = (0..5).map(|_| top(&[]).1).min().unwrap();
    assert!(best < Duration::from_millis(500), "{best:?}");
    let other = command::output_of(cluster.kctl_command().args(["get", "nodes.metrics.k8s.io", "-l", "no=such", "-o", "name"]));
    assert_eq!(other.unwrap_or_default().trim(), "");
}
