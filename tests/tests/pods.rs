//! Nodes and pods as people see them: items 1, 2, 4 and 9 of what the first cluster must show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeSet, time::Duration};

use anyhow::ensure;
use tests::{
    Cluster, command, images,
    kube::{Namespace, busybox, guestbooks},
    wait,
};

fn cluster() -> Cluster {
    Cluster::for_tests().unwrap()
}

/// The columns of a table that `kctl` printed, by their headings.
fn headings(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_node_is_ready_under_its_own_address() {
    let cluster = cluster();
    let table = cluster.kctl(&["get", "nodes", "-o", "wide"]).unwrap();
    assert_eq!(&headings(&table)[..6], ["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"], "{table}");
    for host in cluster.nodes() {
        let row = table.lines().find(|line| line.starts_with(&format!("{} ", host.name))).expect(&table);
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!((words[1], words[5]), ("Ready", host.address.to_string().as_str()), "{table}");
    }
}

#[test]
fn pods_are_listed_with_their_columns_and_named_in_docker() {
    let cluster = cluster();
    let namespace = Namespace::new(&cluster, "names").unwrap();
    namespace.apply(&busybox("one", "")).unwrap();
    let pod = namespace.wait_pod("one").unwrap();
    let table = cluster.kctl(&["get", "pods", "-A", "-o", "wide"]).unwrap();
    assert_eq!(&headings(&table)[..8], ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"], "{table}");
    let row = table.lines().find(|line| line.starts_with(&namespace.name)).expect(&table);
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(&words[1..5], ["one", "1/1", "Running", "0"], "{row}");
    assert_eq!(&words[6..8], [&pod.ip, &pod.node], "{row}");

    let host = pod.host(&cluster).unwrap();
    let names = command::output_of(images::docker(&cluster, &host).args(["ps", "--format", "{{.Names}}"])).unwrap();
    let named = |name: &str| [&namespace.name, &pod.uid, "one", "main"].iter().all(|part| name.contains(*part));
    assert!(names.lines().any(named), "{names}");
}

#[test]
fn containers_of_a_pod_share_network_and_volumes_and_a_new_pod_has_a_new_address() {
    let cluster = cluster();
    let namespace = Namespace::new(&cluster, "shared").unwrap();
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: two}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - {{name: web, image: {web}, volumeMounts: [{{name: data, mountPath: /data}}]}}
  - name: shell
    image: {shell}
    command: [sh, -c, 'echo hello > /data/from-shell; trap exit TERM; while :; do sleep 1; done']
    volumeMounts: [{{name: data, mountPath: /data}}]
  - name: other
    image: {shell}
    command: [sh, -c, 'trap exit TERM; while :; do sleep 1; done']
    volumeMounts: [{{name: data, mountPath: /data}}]
",
        web = images::GUESTBOOK,
        shell = images::BUSYBOX
    );
    namespace.apply(&pod).unwrap();
    let before = namespace.wait_pod("two").unwrap();
    let answer = namespace.exec("two", "shell", &["wget", "-qO-", "http://localhost:8080/healthz"]).unwrap();
    assert_eq!(answer, "ok\n");
    assert_eq!(namespace.exec("two", "other", &["cat", "/data/from-shell"]).unwrap(), "hello\n");

    namespace.kctl(&["delete", "pod", "two"]).unwrap();
    namespace.apply(&pod).unwrap();
    let after = namespace.wait_pod("two").unwrap();
    assert_ne!(before.uid, after.uid);
    assert_ne!(before.ip, after.ip);
}

#[test]
fn a_container_killed_by_hand_restarts_by_its_policy() {
    let cluster = cluster();
    let namespace = Namespace::new(&cluster, "killed").unwrap();
    namespace.apply(&busybox("always", "")).unwrap();
    namespace.apply(&busybox("never", "").replace("spec:", "spec:\n  restartPolicy: Never")).unwrap();
    for name in ["always", "never"] {
        let pod = namespace.wait_pod(name).unwrap();
        let id = pod.containers[0].trim_start_matches("docker://").to_owned();
        command::output_of(images::docker(&cluster, &pod.host(&cluster).unwrap()).args(["kill", &id])).unwrap();
    }
    wait::until("the container to run again", Duration::from_secs(20), || {
        let pod = namespace.pod("always")?;
        ensure!(pod.restarts == 1 && pod.ready, "{pod:?}");
        Ok(())
    })
    .unwrap();
    wait::until("the other pod to have failed", Duration::from_secs(20), || {
        let phase = namespace.get("pod", "never")?["status"]["phase"].clone();
        ensure!(phase == "Failed", "{phase}");
        Ok(())
    })
    .unwrap();
    assert_eq!(namespace.pod("never").unwrap().restarts, 0);
}

#[test]
fn a_failing_liveness_probe_restarts_and_a_failing_readiness_probe_only_unlists() {
    let cluster = cluster();
    let namespace = Namespace::new(&cluster, "probes").unwrap();
    let probe = |kind: &str| {
        format!(
            "{kind}: {{exec: {{command: [test, '!', -e, /tmp/broken]}}, periodSeconds: 1, failureThreshold: 2}}, ports: [{{containerPort: 80}}]"
        )
    };
    namespace.apply(&busybox("live", &probe("livenessProbe"))).unwrap();
    namespace.apply(&busybox("ready", &probe("readinessProbe"))).unwrap();
    namespace.apply(&tests::kube::service("ready", "ready", "")).unwrap();
    namespace.wait_pod("live").unwrap();
    let ready = namespace.wait_pod("ready").unwrap();
    let addresses = || {
        let endpoints = namespace.get("endpoints", "ready")?;
        Ok::<_, anyhow::Error>(endpoints["subsets"][0]["addresses"].to_string())
    };
    wait::until("the pod among the endpoints", Duration::from_secs(5), || {
        let addresses = addresses()?;
        ensure!(addresses.contains(&ready.ip), "{addresses}");
        Ok(())
    })
    .unwrap();

    for name in ["live", "ready"] {
        namespace.exec(name, "main", &["touch", "/tmp/broken"]).unwrap();
    }
    wait::until("the pod to leave the endpoints", Duration::from_secs(10), || {
        let addresses = addresses()?;
        ensure!(!addresses.contains(&ready.ip), "{addresses}");
        Ok(())
    })
    .unwrap();
    wait::until("a restart after failed liveness", Duration::from_secs(20), || {
        let pod = namespace.pod("live")?;
        ensure!(pod.restarts >= 1, "{pod:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(namespace.pod("ready").unwrap().restarts, 0);
}

#[test]
fn pods_of_a_controller_spread_over_all_nodes() {
    let cluster = cluster();
    let namespace = Namespace::new(&cluster, "spread").unwrap();
    namespace.apply(&guestbooks("web", 6)).unwrap();
    let pods = namespace.wait_pods("app=web", 6, tests::kube::PODS_READY).unwrap();
    let nodes: BTreeSet<_> = pods.iter().map(|pod| &pod.node).collect();
    let addresses: BTreeSet<_> = pods.iter().map(|pod| &pod.ip).collect();
    assert_eq!((nodes.len(), addresses.len()), (usize::from(cluster.size.nodes.min(6)), 6), "{pods:?}");
}
