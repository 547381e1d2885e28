//! Labels and annotations that all objects get.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Item, file::Kustomization};
use crate::objects;

type Pairs = BTreeMap<String, String>;

/// Adds them.
pub fn run(kustomization: &Kustomization, items: &mut [Item]) {
    for item in items.iter_mut() {
        label(item, &kustomization.common_labels, true, true);
        for labels in &kustomization.labels {
            label(item, &labels.pairs, labels.include_selectors, labels.include_selectors || labels.include_templates);
        }
        add(&mut item.value, &["metadata", "annotations"], &kustomization.common_annotations);
        let templates = templates(item.kind());
        for template in templates {
            add(&mut item.value, &[*template, &["metadata", "annotations"]].concat(), &kustomization.common_annotations);
        }
    }
}

fn label(item: &mut Item, pairs: &Pairs, selectors: bool, in_templates: bool) {
    add(&mut item.value, &["metadata", "labels"], pairs);
    if in_templates {
        for template in templates(item.kind()) {
            add(&mut item.value, &[*template, &["metadata", "labels"]].concat(), pairs);
        }
    }
    if selectors && let Some((path, always)) = selector(item.kind()) {
        let pointer = format!("/{}", path.join("/"));
        if always || item.value.pointer(&pointer).is_some() {
            add(&mut item.value, path, pairs);
        }
    }
}

/// Where a kind describes its pods.
fn templates(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        "ReplicationController" | "ReplicaSet" | "Deployment" | "DaemonSet" | "StatefulSet" | "Job" => &[&["spec", "template"]],
        "CronJob" => &[&["spec", "jobTemplate"], &["spec", "jobTemplate", "spec", "template"]],
        _ => &[],
    }
}

/// Where a kind selects pods by labels, and whether it always does.
fn selector(kind: &str) -> Option<(&'static [&'static str], bool)> {
    match kind {
        "Service" | "ReplicationController" => Some((&["spec", "selector"], true)),
        "ReplicaSet" | "Deployment" | "DaemonSet" | "StatefulSet" => Some((&["spec", "selector", "matchLabels"], true)),
        "Job" | "PodDisruptionBudget" => Some((&["spec", "selector", "matchLabels"], false)),
        "NetworkPolicy" => Some((&["spec", "podSelector", "matchLabels"], false)),
        _ => None,
    }
}

fn add(value: &mut Value, path: &[&str], pairs: &Pairs) {
    for (key, text) in pairs {
        objects::set(value, &[path, &[key.as_str()]].concat(), text.as_str().into());
    }
}
