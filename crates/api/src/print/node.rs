//! A node's row.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NONE, flag, list, or, text};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

/// `Ready`, `NotReady` or `Unknown`, and whether it is cordoned.
pub(super) fn status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").rfind(|c| text(c, "/type") == "Ready").map(|c| text(c, "/status"));
    let ready = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if flag(node, "/spec/unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{ready}{cordoned}")
}

/// The roles that the node's labels name.
pub(super) fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == ROLE_LABEL => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> = labels.into_iter().flatten().filter_map(role).filter(|r| !r.is_empty()).collect();
    or(&roles.into_iter().collect::<Vec<_>>().join(","), NONE)
}

/// The node's first address of a type.
pub(super) fn address(node: &Value, kind: &str) -> String {
    let found = list(node, "/status/addresses").find(|a| text(a, "/type") == kind);
    or(found.map_or("", |a| text(a, "/address")), NONE)
}
