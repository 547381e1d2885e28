//! What each filter says, through [`Algorithm::place`]: the way production asks them.

use std::sync::Arc;

use api::core::v1::{Affinity, ContainerPort, Pod, Toleration};
use serde_json::json;

use crate::{
    algorithm::Algorithm,
    cluster::Cluster,
    testing::{cluster, node, pod},
};

fn place(cluster: &Cluster, pod: crate::pod::PodInfo) -> Result<String, String> {
    Algorithm::default().place(&pod, cluster).map(|p| p.node).map_err(|why| why.to_string())
}

fn affinity(value: serde_json::Value) -> impl FnOnce(&mut Pod) {
    move |pod| pod.spec_mut().affinity = Some(serde_json::from_value::<Affinity>(value).unwrap())
}

fn zones() -> Cluster {
    cluster(["a", "b"].map(|z| node(&format!("n-{z}")).label("zone", z).build()))
}

fn near_or_away(kind: &str) -> serde_json::Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}]}})
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
    let mut cordoned = (*node("n").build()).clone();
    cordoned.spec_mut().unschedulable = true;
    let cluster = cluster([Arc::new(cordoned)]);
    assert_eq!(place(&cluster, pod("p").build()).unwrap_err(), "0/1 nodes are available: 1 node(s) were unschedulable.");
    let tolerates =
        |pod: &mut Pod| pod.spec_mut().tolerations.push(Toleration { operator: "Exists".to_owned(), ..Toleration::default() });
    assert_eq!(place(&cluster, pod("p").with(tolerates).build()).unwrap(), "n");
}

#[test]
fn node_selector_and_affinity_must_both_match() {
    let cluster = zones();
    let wants = |zone: &str| {
        let required = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}});
        pod("p")
            .with(|p| {
                p.spec_mut().node_selector.insert("zone".to_owned(), "b".to_owned());
            })
            .with(affinity(required))
            .build()
    };
    assert_eq!(place(&cluster, wants("b")).unwrap(), "n-b");
    assert_eq!(
        place(&cluster, wants("a")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn a_host_port_is_given_once_per_node_and_address() {
    let mut cluster = cluster([node("n").build()]);
    let with_port = |name: &str, ip: &str| {
        let port = ContainerPort { host_port: 80, container_port: 80, host_ip: ip.to_owned(), ..ContainerPort::default() };
        pod(name).with(|p| p.spec_mut().containers[0].ports.push(port)).build()
    };
    cluster.place(Arc::new(with_port("first", "10.0.0.1")), "n");
    assert_eq!(place(&cluster, with_port("other", "10.0.0.2")).unwrap(), "n");
    assert!(place(&cluster, with_port("any", "")).unwrap_err().contains("didn't have free ports"));
}

#[test]
fn anti_affinity_holds_both_ways() {
    let mut cluster = zones();
    let loner = pod("loner").label("app", "web").with(affinity(near_or_away("podAntiAffinity"))).build();
    cluster.place(Arc::new(loner), "n-a");
    assert_eq!(place(&cluster, pod("web").label("app", "web").build()).unwrap(), "n-b");
    let second = pod("second").label("app", "web").with(affinity(near_or_away("podAntiAffinity"))).build();
    assert_eq!(place(&cluster, second).unwrap(), "n-b");
}

#[test]
fn affinity_lets_the_first_of_a_group_in_and_the_others_follow() {
    let mut cluster = zones();
    let grouped = |name: &str| pod(name).label("app", "web").with(affinity(near_or_away("podAffinity"))).build();
    let first = grouped("first");
    let zone = place(&cluster, grouped("first")).unwrap();
    cluster.place(Arc::new(first), &zone);
    assert_eq!(place(&cluster, grouped("second")).unwrap(), zone);
    let stranger = pod("stranger").with(affinity(near_or_away("podAffinity"))).build();
    assert_eq!(place(&cluster, stranger).unwrap(), zone);
}

#[test]
fn spread_refuses_the_fuller_place() {
    let mut cluster = zones();
    let spread = |name: &str| {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        pod(name)
            .label("app", "web")
            .with(|p| p.spec_mut().topology_spread_constraints.push(serde_json::from_value(constraint).unwrap()))
            .build()
    };
    cluster.place(Arc::new(spread("one")), "n-a");
    assert_eq!(place(&cluster, spread("two")).unwrap(), "n-b");
}
