//! Whether a pod that was assigned to this node may run on it: a pure function of the node, the pods that it has taken and the pod.
//!
//! The scheduler asks the same before it assigns a pod. The node asks again, for a pod can be bound by hand, and what the scheduler saw may be
//! out of date. A pod is asked about once: what has been taken stays, whatever becomes of the node's labels and taints or of the kubelet.

use std::borrow::Cow;

use api::{
    Resource as _,
    amounts::{self, Amounts},
    core::v1::{Node, Pod},
    pod::{self, HostPort},
    quantity::Quantity,
    selector::{NodeSelector, Selector},
    taint::tolerated_by,
};

use super::unsupported;

/// Resources that every node has, whatever its status lists; what is named otherwise is an extended one if it carries a domain.
const NATIVE_DOMAIN: &str = "kubernetes.io/";

/// Why a pod is not run here at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs: upstream's, such as `OutOfcpu` or `NodeAffinity`.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
}

/// Why the node does not take the pod beside those that it has `taken`; `None` if it does. Of several reasons the first is given, in upstream's order.
///
/// `node` has what may be given to pods in `status.allocatable`. A pod of `taken` that has ended counts for nothing, nor does the pod itself.
pub fn refusal<'a>(node: &Node, taken: impl IntoIterator<Item = &'a Pod>, pod: &Pod) -> Option<Rejection> {
    if let Some(rejection) = unsupported::rejection(pod) {
        return Some(Rejection { reason: rejection.reason.into(), message: rejection.message });
    }
    let counts = |other: &&Pod| other.metadata().uid != pod.metadata().uid && !pod::is_terminal(other);
    let others: Vec<&Pod> = taken.into_iter().filter(counts).collect();
    let shortage = shortage(node, &others, pod).map(|(resource, message)| (Cow::from(format!("OutOf{resource}")), message));
    let unmet = || {
        let (plugin, why) = unmet(node, &others, pod)?;
        Some((plugin.into(), format!("Predicate {plugin} failed: {why}")))
    };
    let (reason, message) = shortage.or_else(unmet)?;
    Some(Rejection { reason, message: format!("Pod was rejected: {message}") })
}

/// The first resource of which less is left than the pod asks for.
fn shortage(node: &Node, others: &[&Pod], pod: &Pod) -> Option<(String, String)> {
    let allocatable = amounts::read(&node.status().allocatable);
    let mut used = Amounts::new();
    for other in others {
        amounts::add(&mut used, &pod::requests(other.spec()));
    }
    let short = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message =
            format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
        (requested > 0 && requested > capacity.saturating_sub(used)).then(|| (name.to_owned(), message))
    };
    let places = allocatable.get("pods").map_or(0, |amount| amount.value());
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(full) = short("pods", 1, count, places) {
        return Some(full);
    }
    let units = |amounts: &Amounts, name: &str| {
        let amount = amounts.get(name).copied().unwrap_or(Quantity::ZERO);
        if name == "cpu" { amount.milli_value() } else { amount.value() }
    };
    let wanted = pod::requests(pod.spec());
    // What the kubelet itself hands out comes first, then the rest by name.
    let basic = ["cpu", "memory", "ephemeral-storage"];
    let rest = wanted.keys().map(String::as_str).filter(|name| !basic.contains(name) && *name != "pods");
    let rest = rest.filter(|name| allocatable.contains_key(*name) || !is_extended(name));
    basic
        .into_iter()
        .chain(rest)
        .find_map(|name| short(name, units(&wanted, name), units(&used, name), units(&allocatable, name)))
}

/// A resource that somebody else manages for the whole cluster may be one that no node lists.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| !format!("{domain}/").ends_with(NATIVE_DOMAIN))
}

/// The first other condition that the node does not meet: the plugin that asks for it, and what it says.
fn unmet(node: &Node, others: &[&Pod], pod: &Pod) -> Option<(&'static str, &'static str)> {
    let spec = pod.spec();
    if !is_selected(node, pod) {
        return Some(("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if !spec.node_name.is_empty() && spec.node_name != node.name() {
        return Some(("NodeName", "node(s) didn't match the requested node name"));
    }
    let ports = pod::host_ports(spec);
    let taken: Vec<HostPort> = others.iter().flat_map(|other| pod::host_ports(other.spec())).collect();
    if ports.iter().any(|port| taken.iter().any(|other| port.conflicts(other))) {
        return Some(("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    // The others keep pods from being assigned; one that is assigned all the same may stay.
    let mut evicting = node.spec().taints.iter().filter(|taint| taint.effect == "NoExecute");
    if evicting.any(|taint| tolerated_by(taint, &spec.tolerations).is_none()) {
        return Some(("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    None
}

/// Whether the pod's node selector and required node affinity allow the node. One that cannot be read allows none.
fn is_selected(node: &Node, pod: &Pod) -> bool {
    let labels = &node.metadata().labels;
    let affinity = pod.spec().affinity().node_affinity();
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
    let wanted = |selector| {
        NodeSelector::new(selector).is_ok_and(|wanted| wanted.matches(node.name(), |key| labels.get(key).map(String::as_str)))
    };
    Selector::from_map(&pod.spec().node_selector).matches_map(labels) && required.is_none_or(wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: Value, allocatable: Value) -> Node {
        let metadata = json!({"name": "n1", "labels": {"disk": "ssd", "cores": "8"}});
        api::json::read(json!({"metadata": metadata, "spec": spec, "status": {"allocatable": allocatable}})).unwrap()
    }

    fn plenty() -> Value {
        json!({"cpu": "4", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "3"})
    }

    fn pod(uid: &str, spec: Value) -> Pod {
        api::json::read(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec})).unwrap()
    }

    fn asking(uid: &str, requests: Value) -> Pod {
        pod(uid, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn reason(node: &Node, taken: &[Pod], pod: &Pod) -> String {
        refusal(node, taken, pod).map_or_else(|| "taken".to_owned(), |rejection| rejection.reason.into_owned())
    }

    #[test]
    fn what_does_not_fit_is_refused_by_the_resource() {
        let node = node(json!({}), plenty());
        let taken = [asking("a", json!({"cpu": "3", "memory": "512Mi"}))];
        for (requests, expected) in [
            (json!({"cpu": "1"}), "taken"),
            (json!({"cpu": "1001m"}), "OutOfcpu"),
            (json!({"cpu": "5000"}), "OutOfcpu"),
            (json!({"memory": "512Mi"}), "taken"),
            (json!({"memory": "513Mi"}), "OutOfmemory"),
            (json!({"ephemeral-storage": "2Gi"}), "OutOfephemeral-storage"),
        ] {
            assert_eq!(reason(&node, &taken, &asking("b", requests.clone())), expected, "{requests}");
        }
        let rejection = refusal(&node, &taken, &asking("b", json!({"cpu": "2"}))).unwrap();
        let message = "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000";
        assert_eq!(rejection.message, message);
    }

    #[test]
    fn places_are_counted_and_those_of_pods_that_have_ended_are_free() {
        let node = node(json!({}), plenty());
        let mut taken = [asking("a", json!({"cpu": "4"})), asking("b", json!({})), asking("c", json!({}))];
        let one = asking("d", json!({}));
        let rejection = refusal(&node, &taken, &one).unwrap();
        let message = "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        assert_eq!((rejection.reason.as_ref(), rejection.message.as_str()), ("OutOfpods", message));
        assert_eq!(reason(&node, &taken, &taken[2]), "taken", "a pod is not counted beside itself");
        taken[0].status_mut().phase = "Succeeded".into();
        assert_eq!(reason(&node, &taken, &asking("d", json!({"cpu": "4"}))), "taken");
    }

    #[test]
    fn a_resource_that_no_node_lists_is_not_the_nodes_to_refuse() {
        assert!(is_extended("example.com/gpu") && !is_extended("hugepages-2Mi") && !is_extended("requests.kubernetes.io/x"));
        let wants = asking("a", json!({"example.com/gpu": "2"}));
        assert_eq!(shortage(&node(json!({}), plenty()), &[], &wants), None);
        let mut listed = plenty();
        listed["example.com/gpu"] = json!("1");
        assert_eq!(shortage(&node(json!({}), listed), &[], &wants).unwrap().0, "example.com/gpu");
    }

    #[test]
    fn selectors_names_ports_and_taints_are_looked_at() {
        let tainted =
            json!({"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "gone", "value": "v", "effect": "NoExecute"}]});
        let (plain, tainted) = (node(json!({}), plenty()), node(tainted, plenty()));
        let affinity = |key: &str, operator: &str, values: Value| {
            let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
        };
        let port = |ip: &str| {
            let ports = json!([{"hostPort": 80, "containerPort": 80, "hostIP": ip}]);
            json!({"hostNetwork": true, "containers": [{"name": "c", "ports": ports}]})
        };
        let taken = [pod("server", port("192.0.2.1"))];
        for (node, spec, expected) in [
            (&plain, json!({"nodeSelector": {"disk": "ssd"}}), "taken"),
            (&plain, json!({"nodeSelector": {"disk": "tape"}}), "NodeAffinity"),
            (&plain, affinity("cores", "Gt", json!(["4"])), "taken"),
            (&plain, affinity("cores", "Lt", json!(["4"])), "NodeAffinity"),
            (&plain, affinity("cores", "Near", json!(["4"])), "NodeAffinity"),
            (&plain, json!({"nodeName": "n2"}), "NodeName"),
            (&plain, port("192.0.2.2"), "taken"),
            (&plain, port(""), "NodePorts"),
            (&tainted, json!({}), "TaintToleration"),
            (&tainted, json!({"tolerations": [{"key": "gone", "operator": "Exists"}]}), "taken"),
            (&tainted, json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}), "taken"),
        ] {
            assert_eq!(reason(node, &taken, &pod("p", spec.clone())), expected, "{spec}");
        }
        let rejection = refusal(&plain, &taken, &pod("p", json!({"nodeSelector": {"disk": "tape"}}))).unwrap();
        let message = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        assert_eq!(rejection.message, message);
    }

    #[test]
    fn what_the_kubelet_cannot_do_is_refused_first() {
        let spec = json!({"nodeSelector": {"disk": "tape"}, "os": {"name": "windows"}});
        assert_eq!(reason(&node(json!({}), plenty()), &[], &pod("p", spec)), "PodOSNotSupported");
    }

    proptest! {
        /// Whatever comes in whatever order, what has been taken never adds up to more than there is, and one that fits is never turned away.
        #[test]
        fn the_node_is_never_promised_twice(asked in proptest::collection::vec((0..3000_i64, 0..600_i64), 0..20)) {
            let node = node(json!({}), json!({"cpu": "4", "memory": "1Gi", "ephemeral-storage": "1Gi", "pods": "8"}));
            let mut taken: Vec<Pod> = Vec::new();
            let (mut cpu, mut memory) = (0, 0);
            for (index, (milli, mebi)) in asked.into_iter().enumerate() {
                let pod = asking(&index.to_string(), json!({"cpu": format!("{milli}m"), "memory": format!("{mebi}Mi")}));
                let fits = cpu + milli <= 4000 && memory + mebi <= 1024 && taken.len() < 8;
                prop_assert_eq!(refusal(&node, &taken, &pod).is_none(), fits);
                if fits {
                    (cpu, memory) = (cpu + milli, memory + mebi);
                    taken.push(pod);
                }
            }
        }
    }
}
