//! Services: item 3 of what the first cluster must show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tests::{
    Cluster, http,
    kube::{self, Namespace, PODS_READY},
    wait,
};

const LIMIT: Duration = Duration::from_secs(3);

/// The pod that answered, from the guestbook's first line.
fn who(body: &str) -> String {
    body.trim_start_matches("Hello from ").split(',').next().unwrap_or_default().to_owned()
}

fn cluster_ip(namespace: &Namespace<'_>, service: &str) -> anyhow::Result<String> {
    let ip = namespace.get("service", service)?["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    ensure!(!ip.is_empty(), "no clusterIP");
    Ok(ip)
}

fn endpoint_ips(namespace: &Namespace<'_>, service: &str) -> anyhow::Result<Vec<String>> {
    let endpoints = namespace.get("endpoints", service)?;
    let addresses = endpoints["subsets"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    Ok(addresses.filter_map(|address| address["ip"].as_str().map(str::to_owned)).collect())
}

fn wait_endpoints(namespace: &Namespace<'_>, service: &str, count: usize) {
    wait::until("endpoints", Duration::from_secs(10), || {
        let ips = endpoint_ips(namespace, service)?;
        ensure!(ips.len() == count, "{ips:?}");
        Ok(())
    })
    .unwrap();
}

/// Twelve answers over six pods: each pod twice, the second round in the order of the first.
fn assert_in_turn(answers: &[String]) {
    assert_eq!(answers.len(), 12);
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_insert(0) += 1;
    }
    assert!(counts.len() == 6 && counts.values().all(|count| *count == 2), "{counts:?}");
    assert_eq!(answers[..6], answers[6..]);
}

#[test]
fn requests_reach_every_pod_evenly_and_in_turn_or_one_pod_with_affinity() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "turns").unwrap();
    namespace.apply(&kube::guestbooks("web", 6)).unwrap();
    namespace.apply(&kube::service("web", "web", "")).unwrap();
    namespace.apply(&kube::service("sticky", "web", "sessionAffinity: ClientIP")).unwrap();
    namespace.apply(&kube::busybox("client", "")).unwrap();
    namespace.wait_pods("app=web", 6, PODS_READY).unwrap();
    namespace.wait_pod("client").unwrap();
    let (web, sticky) = (cluster_ip(&namespace, "web").unwrap(), cluster_ip(&namespace, "sticky").unwrap());
    wait_endpoints(&namespace, "web", 6);
    wait_endpoints(&namespace, "sticky", 6);

    let from_pod = |ip: &str| {
        let script = format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do timeout 3 wget -qO- http://{ip}/; done");
        let text = namespace.exec("client", "main", &["sh", "-c", &script])?;
        Ok::<_, anyhow::Error>(text.lines().map(who).collect::<Vec<_>>())
    };
    let host = cluster.host_named("node-1").unwrap();
    let from_host = |ip: &str| {
        let fetch = |_| Ok(who(&http::get_within(&host, format!("{ip}:80"), "/", LIMIT)?.body));
        (0..12).map(fetch).collect::<anyhow::Result<Vec<_>>>()
    };
    // The rules may follow the endpoints by a moment.
    wait::until("the Service to answer", Duration::from_secs(5), || from_pod(&web)).unwrap();
    wait::until("the Service to answer a host", Duration::from_secs(5), || from_host(&web)).unwrap();

    assert_in_turn(&from_pod(&web).unwrap());
    assert_in_turn(&from_host(&web).unwrap());
    for answers in [from_pod(&sticky).unwrap(), from_host(&sticky).unwrap()] {
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
}

#[test]
fn endpoints_follow_a_label_within_a_second_and_the_address_stays() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "labels").unwrap();
    namespace.apply(&kube::guestbooks("web", 2)).unwrap();
    namespace.apply(&kube::service("web", "web", "")).unwrap();
    let pods = namespace.wait_pods("app=web", 2, PODS_READY).unwrap();
    let address = cluster_ip(&namespace, "web").unwrap();
    wait_endpoints(&namespace, "web", 2);

    namespace.kctl(&["label", "pod", &pods[0].name, "app=retired", "--overwrite"]).unwrap();
    let changed = Instant::now();
    wait::until("the pod to leave the endpoints", Duration::from_secs(5), || {
        let ips = endpoint_ips(&namespace, "web")?;
        ensure!(!ips.contains(&pods[0].ip), "{ips:?}");
        Ok(())
    })
    .unwrap();
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());

    namespace.kctl(&["delete", "pods", "-l", "app=web"]).unwrap();
    namespace.wait_pods("app=web", 2, PODS_READY).unwrap();
    assert_eq!(cluster_ip(&namespace, "web").unwrap(), address);
    let host = cluster.host_named("node-1").unwrap();
    wait::until("the Service to answer again", Duration::from_secs(10), || {
        http::get_within(&host, format!("{address}:80"), "/", LIMIT)
    })
    .unwrap();
}

#[test]
fn a_node_port_answers_on_every_node_from_outside() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "nodeport").unwrap();
    namespace.apply(&kube::guestbooks("web", 1)).unwrap();
    namespace.apply(&kube::service("web", "web", "type: NodePort")).unwrap();
    namespace.wait_pods("app=web", 1, PODS_READY).unwrap();
    let port = namespace.get("service", "web").unwrap()["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port), "{port}");
    for host in cluster.nodes() {
        let answer = wait::until("the node port to answer", Duration::from_secs(10), || {
            http::get(&format!("{}:{port}", host.address), "/", LIMIT)
        });
        assert_eq!(answer.unwrap().status, 200, "{}", host.name);
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "hairpin").unwrap();
    let httpd = "ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";
    let pod = kube::busybox("self", httpd).replace("trap exit TERM; while :; do sleep 1; done", "exec httpd -f -p 8080 -h /etc");
    namespace.apply(&pod).unwrap();
    namespace.apply(&kube::service("self", "self", "")).unwrap();
    namespace.wait_pod("self").unwrap();
    let ip = cluster_ip(&namespace, "self").unwrap();
    let fetch = ["timeout", "2", "wget", "-qO-", &format!("http://{ip}/passwd")];
    let text = wait::until("the pod's own Service", Duration::from_secs(10), || namespace.exec("self", "main", &fetch));
    assert!(text.unwrap().contains("root"));
}
