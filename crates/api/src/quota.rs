//! What an object counts in a resource quota: the one answer that admission (before a write) and the controller manager (afterwards) share.

use std::{collections::BTreeMap, ops::ControlFlow};

use crate::{
    Kind, Object, Resource,
    core::v1::{Pod, ResourceQuotaSpec, ResourceRequirements, ScopedResourceSelectorRequirement, Service},
    quantity::{self, Quantity},
    resource::Quantity as Message,
};

/// Amounts by name, as a quota counts them.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds that are counted under their plain plural too.
const PLAIN_COUNTS: &[&str] =
    &["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// What the object counts, by the names that may stand in a quota. `now` is in seconds since 1970.
pub fn usage(object: &dyn Object, now: i64) -> Usage {
    let kind = object.kind();
    let mut usage = Usage::from([(format!("count/{}", kind.qualified_plural()), Quantity::from_value(1))]);
    if kind.group.is_empty() && PLAIN_COUNTS.contains(&kind.plural) {
        usage.insert(kind.plural.to_owned(), Quantity::from_value(1));
    }
    if let Some(pod) = object.downcast_ref::<Pod>() {
        if is_counted(pod, now) {
            pod_usage(pod, &mut usage);
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
    match kind.plural {
        _ if !kind.group.is_empty() => false,
        "pods" => {
            matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage")
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

/// What a pod's containers ask for together: what runs at once, or what an init container needs alone if that is more, plus overhead.
/// Sidecars, which are init containers that restart always, run beside all that come after them.
pub fn pod_requests(pod: &Pod) -> Usage {
    pod_total(pod, |resources| &resources.requests)
}

/// The sum of the limits of a pod's containers, reckoned as [`pod_requests`].
pub fn pod_limits(pod: &Pod) -> Usage {
    pod_total(pod, |resources| &resources.limits)
}

fn pod_total(pod: &Pod, amounts: impl Fn(&ResourceRequirements) -> &BTreeMap<String, Message>) -> Usage {
    let spec = pod.spec();
    let (mut running, mut peak) = (Usage::new(), Usage::new());
    for container in &spec.init_containers {
        let wanted = parsed(amounts(container.resources()));
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &wanted);
            raise(&mut peak, &running);
        } else {
            let mut alone = running.clone();
            add(&mut alone, &wanted);
            raise(&mut peak, &alone);
        }
    }
    for container in &spec.containers {
        add(&mut running, &parsed(amounts(container.resources())));
    }
    raise(&mut running, &peak);
    let mut overhead = parsed(&spec.overhead);
    overhead.retain(|name, _| running.contains_key(name));
    add(&mut running, &overhead);
    running
}

fn parsed(amounts: &BTreeMap<String, Message>) -> Usage {
    amounts.keys().filter_map(|name| Some((name.clone(), quantity::get(amounts, name)?))).collect()
}

/// Adds amounts name by name.
pub fn add(sum: &mut Usage, amounts: &Usage) {
    for (name, amount) in amounts {
        sum.entry(name.clone()).and_modify(|sum| *sum += *amount).or_insert(*amount);
    }
}

fn raise(most: &mut Usage, amounts: &Usage) {
    for (name, amount) in amounts {
        most.entry(name.clone()).and_modify(|most| *most = (*most).max(*amount)).or_insert(*amount);
    }
}

/// A pod that has ended, or should have, holds nothing any more.
fn is_counted(pod: &Pod, now: i64) -> bool {
    let meta = Resource::metadata(pod);
    let overdue = meta.deletion_timestamp.as_ref().is_some_and(|at| at.seconds < now);
    !overdue && !matches!(pod.status().phase.as_str(), "Succeeded" | "Failed")
}

fn pod_usage(pod: &Pod, usage: &mut Usage) {
    usage.insert("pods".to_owned(), Quantity::from_value(1));
    for (name, amount) in pod_requests(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service_usage(service: &Service, usage: &mut Usage) {
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
        "Terminating" => spec.active_deadline_seconds.is_some(),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
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
        (scope, "DoesNotExist") => !in_scope(pod, scope),
        (scope, _) => in_scope(pod, scope),
    }
}

/// No container asks for, or is limited in, CPU or memory.
fn is_best_effort(pod: &Pod) -> bool {
    let spec = pod.spec();
    let mut containers = spec.init_containers.iter().chain(&spec.containers);
    let found = containers.try_for_each(|container| {
        let resources = container.resources();
        let sets = |amounts: &BTreeMap<String, Message>| {
            ["cpu", "memory"].iter().any(|name| quantity::get(amounts, name).is_some_and(|amount| !amount.is_zero()))
        };
        if sets(&resources.requests) || sets(&resources.limits) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found.is_continue()
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let affinity = pod.spec().affinity();
    let (near, far) = (affinity.pod_affinity(), affinity.pod_anti_affinity());
    let required = near.required_during_scheduling_ignored_during_execution.iter();
    let required = required.chain(&far.required_during_scheduling_ignored_during_execution);
    let preferred = near.preferred_during_scheduling_ignored_during_execution.iter();
    let preferred = preferred.chain(&far.preferred_during_scheduling_ignored_during_execution);
    required
        .chain(preferred.map(|weighted| weighted.pod_affinity_term()))
        .any(|term| !term.namespaces.is_empty() || term.namespace_selector.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{core::v1::Secret, json::from_value};

    fn pod(spec: serde_json::Value, phase: &str) -> Pod {
        from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn shown(usage: &Usage, name: &str) -> Option<String> {
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
    fn services_count_their_node_ports() {
        let ports = json!([{"port": 1}, {"port": 2}]);
        let service: Service = from_value(json!({"spec": {"type": "NodePort", "ports": ports}})).unwrap();
        let usage = usage(&service, 0);
        assert_eq!(shown(&usage, "services.nodeports").as_deref(), Some("2"));
        assert_eq!(shown(&usage, "services").as_deref(), Some("1"));
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
