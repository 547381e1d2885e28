//! How much an object uses of what quotas limit.

use std::collections::BTreeMap;

use api::{
    Kind, Object, Resource,
    core::v1::{ConfigMap, Container, Pod, PodSpec, ReplicationController, ResourceQuota, Secret, Service},
    quantity::Quantity,
};

use crate::{
    admission::pod_resources::{self, Amounts},
    strategies::is_terminal,
};

/// Resources of which each container must say how much, if a quota limits them.
const DEMANDED: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What the object uses.
pub(super) fn of(object: &dyn Object) -> Amounts {
    let mut usage = Amounts::from([(format!("count/{}", object.kind().qualified_plural()), Quantity::from_value(1))]);
    let mut count = |name: &str, number: usize| {
        usage.insert(name.to_owned(), Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX)));
    };
    let counted: [&Kind; 4] = [Secret::KIND, ConfigMap::KIND, ReplicationController::KIND, ResourceQuota::KIND];
    if counted.contains(&object.kind()) {
        count(object.kind().plural, 1);
    }
    if let Some(service) = object.downcast_ref::<Service>() {
        let spec = service.spec();
        let given = spec.ports.iter().filter(|port| port.node_port != 0).count();
        count("services", 1);
        match spec.r#type.as_str() {
            "NodePort" => count("services.nodeports", spec.ports.len()),
            "LoadBalancer" => {
                let all = spec.allocate_load_balancer_node_ports != Some(false);
                count("services.nodeports", if all { spec.ports.len() } else { given });
                count("services.loadbalancers", 1);
            }
            _ => {}
        }
    }
    // What has ended uses nothing, though the object is still there.
    if let Some(pod) = object.downcast_ref::<Pod>().filter(|pod| !is_terminal(pod)) {
        count("pods", 1);
        compute(&pod_resources::requests(pod.spec()), &pod_resources::limits(pod.spec()), &mut usage);
    }
    usage
}

/// Puts requests and limits under the names that quotas have for them.
fn compute(requests: &Amounts, limits: &Amounts, usage: &mut Amounts) {
    for (name, amount) in requests {
        usage.insert(format!("requests.{name}"), *amount);
        // Other vendors' resources are limited by request only.
        if !name.contains('/') {
            usage.insert(name.clone(), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
}

/// What containers of the pod fail to say of limited resources, as `limits.cpu for: a,b; …`; empty if nothing.
pub(super) fn unspecified<'a>(spec: &PodSpec, limited: impl Iterator<Item = &'a String>) -> String {
    let limited: Vec<&String> = limited.filter(|name| DEMANDED.contains(&name.as_str())).collect();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(&spec.init_containers) {
        let given = of_container(container);
        for name in limited.iter().filter(|name| !given.contains_key(name.as_str())) {
            missing.entry(name).or_default().push(&container.name);
        }
    }
    let parts: Vec<String> = missing.iter().map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
    parts.join("; ")
}

fn of_container(container: &Container) -> Amounts {
    let (resources, mut usage) = (container.resources(), Amounts::new());
    compute(&pod_resources::amounts(&resources.requests), &pod_resources::amounts(&resources.limits), &mut usage);
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str, phase: &str) -> Pod {
        let json = format!(
            r#"{{"spec": {{"containers": [{{"name": "a", "resources": {resources}}}]}}, "status": {{"phase": "{phase}"}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn text(usage: &Amounts) -> String {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_pod_uses_what_it_asks_for_until_it_has_ended() {
        let resources = r#"{"requests": {"cpu": "1", "a.io/gpu": "2"}, "limits": {"memory": "1Gi"}}"#;
        assert_eq!(
            text(&of(&pod(resources, "Running"))),
            "count/pods=1,cpu=1,limits.memory=1Gi,pods=1,requests.a.io/gpu=2,requests.cpu=1"
        );
        assert_eq!(text(&of(&pod(resources, "Succeeded"))), "count/pods=1");
    }

    #[test]
    fn a_service_uses_node_ports_by_its_type() {
        let service = |kind: &str| -> Service {
            serde_json::from_str(&format!(r#"{{"spec": {{"type": "{kind}", "ports": [{{"port": 1}}, {{"port": 2}}]}}}}"#))
                .unwrap()
        };
        assert_eq!(text(&of(&service("ClusterIP"))), "count/services=1,services=1");
        assert_eq!(text(&of(&service("NodePort"))), "count/services=1,services=1,services.nodeports=2");
        assert_eq!(
            text(&of(&service("LoadBalancer"))),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let limited = ["limits.cpu".to_owned(), "pods".to_owned(), "memory".to_owned()];
        let pod = pod(r#"{"requests": {"memory": "1Gi"}}"#, "Pending");
        assert_eq!(unspecified(pod.spec(), limited.iter()), "limits.cpu for: a");
    }
}
