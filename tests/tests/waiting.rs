//! What waits for something and must be told when it comes: pods for other pods, Services for endpoints that a person writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::time::Duration;

use anyhow::ensure;
use tests::{
    Cluster, http,
    kube::{self, Namespace},
    wait,
};

const LIMIT: Duration = Duration::from_secs(3);

#[test]
fn a_pod_that_must_be_near_another_is_placed_once_that_one_is() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "near").unwrap();
    let near = "spec:\n  affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: back}}}]}}";
    namespace.apply(&kube::busybox("front", "").replacen("spec:", near, 1)).unwrap();
    wait::until("the pod to be refused", Duration::from_secs(10), || {
        let pod = namespace.get("pod", "front")?;
        ensure!(pod["status"]["conditions"][0]["reason"] == "Unschedulable", "{}", pod["status"]);
        Ok(())
    })
    .unwrap();
    namespace.apply(&kube::busybox("back", "")).unwrap();
    let back = namespace.wait_pod("back").unwrap();
    let front = wait::until("the pod to be placed too", Duration::from_secs(11), || {
        let front = namespace.pod("front")?;
        ensure!(!front.node.is_empty(), "it waits");
        Ok(front)
    });
    assert_eq!(front.unwrap().node, back.node);
}

#[test]
fn endpoints_written_by_hand_answer_and_those_of_a_lost_selector_go_on() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "by-hand").unwrap();
    namespace.apply(&kube::guestbooks("web", 1)).unwrap();
    namespace.apply(&kube::service("web", "web", "")).unwrap();
    let pod = namespace.wait_pods("app=web", 1, kube::PODS_READY).unwrap().remove(0);
    let service = namespace.get("service", "web").unwrap();
    let port = namespace.get("endpoints", "web").unwrap()["subsets"][0]["ports"][0]["port"].clone();
    let manual = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: manual}}\nspec: {{ports: [{{port: 80, targetPort: {port}}}]}}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {{name: manual}}\n\
         subsets: [{{addresses: [{{ip: {}}}], ports: [{{port: {port}}}]}}]\n",
        pod.ip
    );
    namespace.apply(&manual).unwrap();
    let host = cluster.host_named("node-1").unwrap();
    let answers = |service: &serde_json::Value| {
        let address = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap_or_default());
        wait::until("the Service to answer", Duration::from_secs(10), || http::get_within(&host, address.clone(), "/", LIMIT))
    };
    answers(&namespace.get("service", "manual").unwrap()).unwrap();
    let slices = namespace.list("endpointslices", "kubernetes.io/service-name=manual").unwrap();
    let manager = &slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    assert_eq!((slices.len(), manager.as_str()), (1, Some("endpointslicemirroring-controller.k8s.io")));

    answers(&service).unwrap();
    namespace.kctl(&["patch", "service", "web", "--type=merge", "-p", r#"{"spec":{"selector":null}}"#]).unwrap();
    // Long enough for whoever would take the endpoints away.
    std::thread::sleep(Duration::from_secs(2));
    answers(&service).unwrap();
    assert!(!namespace.list("endpointslices", "kubernetes.io/service-name=web").unwrap().is_empty());
}
