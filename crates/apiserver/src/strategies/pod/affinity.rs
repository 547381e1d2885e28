//! Where a pod may run: affinity, tolerations, spread.

use std::collections::BTreeSet;

use api::{
    core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm},
    meta::v1::LabelSelector,
    rules::{FieldErrors, Path},
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const VALUES_WANTED: &str = "must be specified when `operator` is 'In' or 'NotIn'";
const VALUES_UNWANTED: &str = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";

/// Checks everything that says where the pod may run.
pub(super) fn validate(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    affinity(spec, &at.field("affinity"), errors);
    tolerations(spec, &at.field("tolerations"), errors);
    spread(spec, &at.field("topologySpreadConstraints"), errors);
}

fn affinity(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    let Some(affinity) = &spec.affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        let at = at.field("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            let at = at.field(REQUIRED);
            let list = at.field("nodeSelectorTerms");
            for (i, term) in selector.node_selector_terms.iter().enumerate() {
                node_term(term, &list.index(i), errors);
            }
        }
        let list = at.field(PREFERRED);
        for (i, preferred) in node.preferred_during_scheduling_ignored_during_execution.iter().enumerate() {
            node_term(preferred.preference(), &list.index(i).field("preference"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let at = at.field("podAffinity");
        pod_terms(&pod.required_during_scheduling_ignored_during_execution, &at, errors);
        weighted_terms(&pod.preferred_during_scheduling_ignored_during_execution, &at, errors);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let at = at.field("podAntiAffinity");
        pod_terms(&pod.required_during_scheduling_ignored_during_execution, &at, errors);
        weighted_terms(&pod.preferred_during_scheduling_ignored_during_execution, &at, errors);
    }
}

fn node_term(term: &NodeSelectorTerm, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("matchExpressions");
    for (i, requirement) in term.match_expressions.iter().enumerate() {
        node_requirement(requirement, &list.index(i), errors);
    }
    let list = at.field("matchFields");
    for (i, requirement) in term.match_fields.iter().enumerate() {
        let at = list.index(i);
        if requirement.key != "metadata.name" {
            errors.invalid(&at.field("key"), &requirement.key, "not a valid field selector key");
        }
        if !matches!(requirement.operator.as_str(), "In" | "NotIn") {
            errors.invalid(&at.field("operator"), &requirement.operator, "not a valid selector operator");
        }
        if requirement.values.len() != 1 {
            errors.required_because(
                &at.field("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, at: &Path<'_>, errors: &mut FieldErrors) {
    let at = at.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if requirement.values.is_empty() => errors.required_because(&at, VALUES_WANTED),
        "Exists" | "DoesNotExist" if !requirement.values.is_empty() => errors.forbidden(&at, VALUES_UNWANTED),
        "Gt" | "Lt" if requirement.values.len() != 1 => {
            errors.required_because(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "Gt" | "Lt" if requirement.values[0].parse::<i64>().is_err() => {
            errors.invalid(&at, &requirement.values, "must be an integer when `operator` is 'Lt' or 'Gt'");
        }
        _ => {}
    }
}

fn pod_terms(terms: &[PodAffinityTerm], at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field(REQUIRED);
    for (i, term) in terms.iter().enumerate() {
        pod_term(term, &list.index(i), errors);
    }
}

fn weighted_terms(terms: &[WeightedPodAffinityTerm], at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field(PREFERRED);
    for (i, term) in terms.iter().enumerate() {
        pod_term(term.pod_affinity_term(), &list.index(i).field("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, at: &Path<'_>, errors: &mut FieldErrors) {
    selector(term.label_selector.as_ref(), &at.field("labelSelector"), errors);
    selector(term.namespace_selector.as_ref(), &at.field("namespaceSelector"), errors);
    for (field, keys) in [("matchLabelKeys", &term.match_label_keys), ("mismatchLabelKeys", &term.mismatch_label_keys)] {
        own_labels(keys, term.label_selector.as_ref(), &at.field(field), errors);
    }
    let list = at.field("matchLabelKeys");
    for (i, key) in term.match_label_keys.iter().enumerate().filter(|(_, key)| term.mismatch_label_keys.contains(key)) {
        errors.invalid(&list.index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// Checks keys of the pod's own labels, which creation adds to the end of the selector: what is there before must not be about them.
fn own_labels(keys: &[String], selector: Option<&LabelSelector>, at: &Path<'_>, errors: &mut FieldErrors) {
    if keys.is_empty() {
        return;
    }
    let Some(selector) = selector else {
        return errors.forbidden(at, "must not be specified when labelSelector is not set");
    };
    let mut seen: BTreeSet<&str> = selector.match_labels.keys().map(String::as_str).collect();
    for requirement in &selector.match_expressions {
        let twice = !seen.insert(&requirement.key);
        if let Some(i) = keys.iter().position(|key| *key == requirement.key).filter(|_| twice) {
            errors.invalid(&at.index(i), &requirement.key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Checks that each condition of a label selector has values exactly if its operator takes some.
pub(in crate::strategies) fn selector(selector: Option<&LabelSelector>, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("matchExpressions");
    for (i, requirement) in selector.iter().flat_map(|s| &s.match_expressions).enumerate() {
        let at = list.index(i);
        match (requirement.operator.as_str(), requirement.values.is_empty()) {
            ("In" | "NotIn", true) => errors.required_because(&at.field("values"), VALUES_WANTED),
            ("Exists" | "DoesNotExist", false) => errors.forbidden(&at.field("values"), VALUES_UNWANTED),
            _ => {}
        }
    }
}

fn tolerations(spec: &PodSpec, list: &Path<'_>, errors: &mut FieldErrors) {
    for (i, toleration) in spec.tolerations.iter().enumerate() {
        let at = list.index(i);
        let exists = toleration.operator == "Exists";
        if toleration.key.is_empty() && !exists {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at.field("operator"), &toleration.operator, why);
        }
        if toleration.toleration_seconds.is_some() && toleration.effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&at.field("effect"), &toleration.effect, why);
        }
        if exists && !toleration.value.is_empty() {
            errors.invalid(&at.field("operator"), &toleration.value, "value must be empty when `operator` is 'Exists'");
        }
    }
}

fn spread(spec: &PodSpec, list: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, constraint) in spec.topology_spread_constraints.iter().enumerate() {
        let at = list.index(i);
        let pair = (&constraint.topology_key, &constraint.when_unsatisfiable);
        if !seen.insert(pair) {
            errors.duplicate(&at.field("{topologyKey, whenUnsatisfiable}"), format!("{{{}, {}}}", pair.0, pair.1));
        }
        if let Some(domains) = constraint.min_domains.filter(|_| constraint.when_unsatisfiable == "ScheduleAnyway") {
            let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
            errors.invalid(&at.field("minDomains"), domains, why);
        }
        selector(constraint.label_selector.as_ref(), &at.field("labelSelector"), errors);
        own_labels(&constraint.match_label_keys, constraint.label_selector.as_ref(), &at.field("matchLabelKeys"), errors);
    }
}
