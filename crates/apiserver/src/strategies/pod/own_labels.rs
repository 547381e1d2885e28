//! `matchLabelKeys` and `mismatchLabelKeys`: labels of the pod itself by which a rule selects. What they come to is written into the rule's
//! selector when the pod is created, as upstream does, so that who reads the selector needs to know nothing of them.

use std::collections::BTreeMap;

use api::{
    core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm},
    meta::v1::{LabelSelector, LabelSelectorRequirement},
};

/// Writes what the pod's own labels come to into its rules about other pods.
pub(super) fn merge(pod: &mut Pod) {
    let labels = pod.metadata().labels.clone();
    let Some(spec) = &mut pod.spec else { return };
    if let Some(affinity) = &mut spec.affinity {
        let near = affinity.pod_affinity.iter_mut().flat_map(|rules| {
            terms(
                &mut rules.required_during_scheduling_ignored_during_execution,
                &mut rules.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let away = affinity.pod_anti_affinity.iter_mut().flat_map(|rules| {
            terms(
                &mut rules.required_during_scheduling_ignored_during_execution,
                &mut rules.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for term in near.chain(away) {
            add(&mut term.label_selector, &term.match_label_keys, "In", &labels);
            add(&mut term.label_selector, &term.mismatch_label_keys, "NotIn", &labels);
        }
    }
    for constraint in &mut spec.topology_spread_constraints {
        add(&mut constraint.label_selector, &constraint.match_label_keys, "In", &labels);
    }
}

fn terms<'a>(
    required: &'a mut [PodAffinityTerm],
    preferred: &'a mut [WeightedPodAffinityTerm],
) -> impl Iterator<Item = &'a mut PodAffinityTerm> {
    required.iter_mut().chain(preferred.iter_mut().filter_map(|weighted| weighted.pod_affinity_term.as_mut()))
}

/// A rule without a selector selects nothing, and keys that the pod does not have ask nothing.
fn add(selector: &mut Option<LabelSelector>, keys: &[String], operator: &str, labels: &BTreeMap<String, String>) {
    let Some(selector) = selector else { return };
    let own = keys.iter().filter_map(|key| Some((key, labels.get(key)?)));
    selector.match_expressions.extend(own.map(|(key, value)| LabelSelectorRequirement {
        key: key.clone(),
        operator: operator.to_owned(),
        values: vec![value.clone()],
    }));
}
