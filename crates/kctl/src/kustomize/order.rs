//! The order in which objects can be created.

use serde_json::Value;

use crate::objects::text;

/// What other objects need.
const FIRST: [&str; 22] = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
/// What would stand in the way of others.
const LAST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Orders objects: what others need first, then by kind, namespace and name.
pub fn sort(values: &mut [Value]) {
    values.sort_by_cached_key(|value| {
        let kind = text(value, "/kind");
        let place = match (FIRST.iter().position(|first| *first == kind), LAST.contains(&kind)) {
            (Some(place), _) => place,
            (None, false) => FIRST.len(),
            (None, true) => FIRST.len() + 1,
        };
        let owned = |pointer| text(value, pointer).to_owned();
        (place, owned("/kind"), owned("/apiVersion"), owned("/metadata/namespace"), owned("/metadata/name"))
    });
}
