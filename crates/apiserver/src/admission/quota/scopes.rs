//! Which quotas an object counts against.

use api::{
    Object,
    core::v1::{Pod, PodAffinityTerm, ResourceQuotaSpec, ScopedResourceSelectorRequirement, WeightedPodAffinityTerm},
};

use crate::strategies::qos;

/// True if the quota's scopes all pick the object. A quota without scopes picks everything.
pub(super) fn pick(spec: &ResourceQuotaSpec, object: &dyn Object) -> bool {
    let selectors = &spec.scope_selector().match_expressions;
    if spec.scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    let Some(pod) = object.downcast_ref::<Pod>() else { return false };
    spec.scopes.iter().all(|scope| in_scope(scope, pod)) && selectors.iter().all(|selector| selected(selector, pod))
}

fn in_scope(scope: &str, pod: &Pod) -> bool {
    let spec = pod.spec();
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
        "NotTerminating" => !in_scope("Terminating", pod),
        "BestEffort" => qos::class(spec) == "BestEffort",
        "NotBestEffort" => !in_scope("BestEffort", pod),
        "PriorityClass" => !spec.priority_class_name.is_empty(),
        "CrossNamespacePodAffinity" => looks_elsewhere(pod),
        _ => false,
    }
}

fn selected(selector: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let class = &pod.spec().priority_class_name;
    match (selector.scope_name.as_str(), selector.operator.as_str()) {
        ("PriorityClass", "In") => selector.values.contains(class),
        ("PriorityClass", "NotIn") => !selector.values.contains(class),
        ("PriorityClass", "DoesNotExist") => class.is_empty(),
        (scope, _) => in_scope(scope, pod),
    }
}

/// True if the pod's affinity looks at pods of other namespaces.
fn looks_elsewhere(pod: &Pod) -> bool {
    let term = |term: &PodAffinityTerm| !term.namespaces.is_empty() || term.namespace_selector.is_some();
    let weighted = |preferred: &WeightedPodAffinityTerm| term(preferred.pod_affinity_term());
    let (near, far) = (pod.spec().affinity().pod_affinity(), pod.spec().affinity().pod_anti_affinity());
    near.required_during_scheduling_ignored_during_execution.iter().any(term)
        || far.required_during_scheduling_ignored_during_execution.iter().any(term)
        || near.preferred_during_scheduling_ignored_during_execution.iter().any(weighted)
        || far.preferred_during_scheduling_ignored_during_execution.iter().any(weighted)
}

#[cfg(test)]
mod tests {
    use api::core::v1::Service;

    use super::*;

    fn picks(spec: &str, pod: &str) -> bool {
        let pod: Pod = serde_json::from_str(&format!(r#"{{"spec": {pod}}}"#)).unwrap();
        pick(&serde_json::from_str(spec).unwrap(), &pod)
    }

    #[test]
    fn scopes_pick_pods_by_what_they_are() {
        assert!(picks("{}", "{}"));
        assert!(picks(r#"{"scopes": ["BestEffort", "NotTerminating"]}"#, "{}"));
        assert!(!picks(r#"{"scopes": ["BestEffort", "Terminating"]}"#, "{}"));
        assert!(picks(r#"{"scopes": ["Terminating"]}"#, r#"{"activeDeadlineSeconds": 5}"#));
        let high =
            r#"{"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}"#;
        assert!(picks(high, r#"{"priorityClassName": "high"}"#));
        assert!(!picks(high, "{}"));
    }

    #[test]
    fn only_pods_have_scopes() {
        let spec: ResourceQuotaSpec = serde_json::from_str(r#"{"scopes": ["NotTerminating"]}"#).unwrap();
        assert!(!pick(&spec, &Service::default()));
    }
}
