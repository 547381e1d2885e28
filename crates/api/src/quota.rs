//! What an object counts in a resource quota: the one answer that admission (before a write) and the controller manager (afterwards) share.

use std::collections::BTreeMap;

use crate::{
    Kind, Object, Resource,
    amounts::{self, Amounts},
    core::v1::{Container, Pod, PodAffinityTerm, PodSpec, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service},
    pod::{self, Qos},
    quantity::Quantity,
};

/// Kinds that are counted under their plain plural too.
const PLAIN_COUNTS: &[&str] =
    &["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// Resources of a pod that count under their plain name and have a limit.
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Resources of which each container must say how much, if a quota limits them.
const DEMANDED: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What the object counts, by the names that may stand in a quota. `now` is in seconds since 1970.
pub fn usage(object: &dyn Object, now: i64) -> Amounts {
    let kind = object.kind();
    let mut usage = Amounts::from([(format!("count/{}", kind.qualified_plural()), Quantity::from_value(1))]);
    if kind.group.is_empty() && PLAIN_COUNTS.contains(&&*kind.plural) {
        usage.insert(kind.plural.to_string(), Quantity::from_value(1));
    }
    if let Some(pod) = object.downcast_ref::<Pod>() {
        if is_counted(pod, now) {
            usage.insert("pods".to_owned(), Quantity::from_value(1));
            usage.append(&mut named(pod::requests(pod.spec()), pod::limits(pod.spec())));
        }
    } else if let Some(service) = object.downcast_ref::<Service>() {
        service_usage(service, &mut usage);
    }
    usage
}

/// True if objects of the kind can count under this name.
pub fn concerns(kind: &Kind, name: &str) -> bool {
    if let Some(counted) = name.strip_prefix("count/") {
        return counted == kind.qualified_plural();
    }
    match &*kind.plural {
        _ if !kind.group.is_empty() => false,
        "pods" => {
            name == "pods"
                || COMPUTE.contains(&name)
                || ["requests.", "limits.", "hugepages-"].iter().any(|prefix| name.starts_with(prefix))
                    && name != "requests.storage"
        }
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        plural => PLAIN_COUNTS.contains(&plural) && name == plural,
    }
}

/// True if the quota's scopes select the object. Only pods have scopes; a quota with scopes selects nothing else.
pub fn selects(spec: &ResourceQuotaSpec, object: &dyn Object) -> bool {
    let expressions = &spec.scope_selector().match_expressions;
    if spec.scopes.is_empty() && expressions.is_empty() {
        return true;
    }
    let Some(pod) = object.downcast_ref::<Pod>() else { return false };
    spec.scopes.iter().all(|scope| in_scope(pod, scope)) && expressions.iter().all(|wanted| meets(pod, wanted))
}

/// What containers of the pod fail to say of resources that a quota limits, as `limits.cpu for: a,b; …`; empty if nothing.
pub fn unspecified<'a>(spec: &PodSpec, limited: impl Iterator<Item = &'a String>) -> String {
    let limited: Vec<&String> = limited.filter(|name| DEMANDED.contains(&name.as_str())).collect();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(&spec.init_containers) {
        let given = said(container);
        for name in limited.iter().filter(|name| !given.contains_key(name.as_str())) {
            missing.entry(name).or_default().push(&container.name);
        }
    }
    let parts: Vec<String> = missing.iter().map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
    parts.join("; ")
}

fn said(container: &Container) -> Amounts {
    let resources = container.resources();
    named(amounts::read(&resources.requests), amounts::read(&resources.limits))
}

/// A pod that has ended, or should have long since (on a node that is lost), holds nothing any more.
fn is_counted(pod: &Pod, now: i64) -> bool {
    let meta = Resource::metadata(pod);
    let grace = meta.deletion_grace_period_seconds;
    let overdue = meta.deletion_timestamp.as_ref().zip(grace).is_some_and(|(at, grace)| now > at.seconds.saturating_add(grace));
    !overdue && !pod::is_terminal(pod)
}

/// Requests and limits under the names that quotas have for them.
fn named(requests: Amounts, limits: Amounts) -> Amounts {
    let mut usage = Amounts::new();
    for (name, amount) in requests {
        usage.insert(format!("requests.{name}"), amount);
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            usage.insert(name, amount);
        }
    }
    let limits = limits.into_iter().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
    usage.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
    usage
}

fn service_usage(service: &Service, usage: &mut Amounts) {
    let spec = service.spec();
    let ports = &spec.ports;
    let node_ports = match spec.r#type.as_str() {
        "NodePort" => ports.len(),
        "LoadBalancer" if spec.allocate_load_balancer_node_ports != Some(false) => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| port.node_port != 0).count(),
        _ => 0,
    };
    let balancers = i64::from(spec.r#type == "LoadBalancer");
    usage.insert("services.nodeports".to_owned(), Quantity::from_value(i64::try_from(node_ports).unwrap_or(i64::MAX)));
    usage.insert("services.loadbalancers".to_owned(), Quantity::from_value(balancers));
}

fn in_scope(pod: &Pod, scope: &str) -> bool {
    let spec = pod.spec();
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
        "NotTerminating" => !in_scope(pod, "Terminating"),
        "BestEffort" => Qos::of(spec) == Qos::BestEffort,
        "NotBestEffort" => !in_scope(pod, "BestEffort"),
        "PriorityClass" => !spec.priority_class_name.is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn meets(pod: &Pod, wanted: &ScopedResourceSelectorRequirement) -> bool {
    let class = &pod.spec().priority_class_name;
    match (wanted.scope_name.as_str(), wanted.operator.as_str()) {
        ("PriorityClass", "In") => wanted.values.contains(class),
        ("PriorityClass", "NotIn") => !wanted.values.contains(class),
        ("PriorityClass", "DoesNotExist") => class.is_empty(),
        // Validation lets the other scopes have Exists only.
        (scope, _) => in_scope(pod, scope),
    }
}

/// True if the pod's affinity looks at pods of other namespaces.
fn crosses_namespaces(pod: &Pod) -> bool {
    let term = |term: &PodAffinityTerm| !term.namespaces.is_empty() || term.namespace_selector.is_some();
    let (near, far) = (pod.spec().affinity().pod_affinity(), pod.spec().affinity().pod_anti_affinity());
    let preferred = near.preferred_during_scheduling_ignored_during_execution.iter();
    let mut preferred = preferred.chain(&far.preferred_during_scheduling_ignored_during_execution);
    near.required_during_scheduling_ignored_during_execution.iter().any(term)
        || far.required_during_scheduling_ignored_during_execution.iter().any(term)
        || preferred.any(|weighted| term(weighted.pod_affinity_term()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{core::v1::Secret, json::from_value};

    fn pod(spec: serde_json::Value, phase: &str) -> Pod {
        from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn shown(usage: &Amounts, name: &str) -> Option<String> {
        usage.get(name).map(ToString::to_string)
    }

    #[test]
    fn a_pod_counts_what_runs_at_once_or_an_init_container_alone() {
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}});
        let spec = json!({
            "containers": [{"name": "a", "resources": cpu("100m")}, {"name": "b", "resources": cpu("200m")}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": cpu("50m")},
                {"name": "i", "resources": cpu("400m")},
            ],
        });
        let usage = usage(&pod(spec, "Running"), 0);
        assert_eq!(shown(&usage, "requests.cpu").as_deref(), Some("450m"));
        assert_eq!(shown(&usage, "cpu").as_deref(), Some("450m"));
        assert_eq!(shown(&usage, "limits.memory").as_deref(), Some("3Gi"));
        assert_eq!(shown(&usage, "pods").as_deref(), Some("1"));
    }

    #[test]
    fn a_pod_that_ended_is_only_an_object() {
        let usage = usage(&pod(json!({"containers": []}), "Failed"), 0);
        assert_eq!((shown(&usage, "count/pods").as_deref(), shown(&usage, "pods")), (Some("1"), None));
    }

    #[test]
    fn a_pod_that_should_have_ended_long_since_is_only_an_object() {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}), "Running");
        pod.metadata_mut().deletion_timestamp = Some(crate::meta::v1::Time { seconds: 100, nanos: 0 });
        pod.metadata_mut().deletion_grace_period_seconds = Some(30);
        assert!(usage(&pod, 130).contains_key("pods") && !usage(&pod, 131).contains_key("pods"));
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let limited = ["limits.cpu".to_owned(), "pods".to_owned(), "memory".to_owned()];
        let pod = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "b"}]}), "");
        assert_eq!(unspecified(pod.spec(), limited.iter()), "limits.cpu for: a,b; memory for: b");
    }

    #[test]
    fn services_count_their_node_ports() {
        let counted = |kind: &str, allocate: bool| {
            let ports = json!([{"port": 1, "nodePort": 30000}, {"port": 2}]);
            let spec = json!({"type": kind, "ports": ports, "allocateLoadBalancerNodePorts": allocate});
            let usage = usage(&from_value::<Service>(json!({ "spec": spec })).unwrap(), 0);
            ["services", "services.nodeports", "services.loadbalancers"].map(|name| usage[name].value())
        };
        assert_eq!(counted("ClusterIP", true), [1, 0, 0]);
        assert_eq!(counted("NodePort", true), [1, 2, 0]);
        assert_eq!(counted("LoadBalancer", true), [1, 2, 1]);
        assert_eq!(counted("LoadBalancer", false), [1, 1, 1]);
    }

    #[test]
    fn every_name_that_is_counted_concerns_its_kind() {
        let spec = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "x.io/gpu": 1, "hugepages-2Mi": "2Mi"}}}]});
        let pod = pod(spec, "Running");
        for name in usage(&pod, 0).keys() {
            assert!(concerns(Pod::KIND, name), "{name}");
        }
        for name in usage(&Secret::default(), 0).keys() {
            assert!(concerns(Secret::KIND, name) && !concerns(Pod::KIND, name), "{name}");
        }
    }

    #[test]
    fn scopes_select_pods() {
        let (idle, busy) = (
            pod(json!({"containers": [{"name": "a"}], "priorityClassName": "high"}), ""),
            pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}], "activeDeadlineSeconds": 5}), ""),
        );
        let quota = |spec| from_value::<crate::core::v1::ResourceQuota>(json!({ "spec": spec })).unwrap().spec().clone();
        let best_effort = quota(json!({"scopes": ["BestEffort"]}));
        assert!(selects(&best_effort, &idle) && !selects(&best_effort, &busy) && !selects(&best_effort, &Secret::default()));
        let high = quota(
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
        );
        assert!(selects(&high, &idle) && !selects(&high, &busy));
        assert!(selects(&quota(json!({"scopes": ["Terminating"]})), &busy));
        assert!(selects(&quota(json!({})), &Secret::default()));
    }
}
