//! What `describe` says of objects: in full for the kinds people ask about, and for every other from its fields.

mod access;
mod endpoint_slice;
mod environment;
mod events;
mod generic;
mod limits;
mod node;
mod pod;
mod service;
mod template;
mod text;
mod volumes;
mod workload;

use api::{Kind, meta::v1::Time, print};
use jiff::Timestamp;
use serde_json::Value;

pub use self::events::{interval, last_seen};
use self::text::Text;
use crate::{
    Session,
    objects::{list, members, text},
};

/// Describes an object.
///
/// # Errors
/// When what belongs to it cannot be read.
pub async fn describe(session: &Session, kind: &'static Kind, object: &Value, with_events: bool) -> anyhow::Result<String> {
    let now = Timestamp::now();
    let mut out = Text::default();
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => pod::describe(&mut out, object, now),
        ("", "Node") => node::describe(session, &mut out, object, now).await?,
        ("", "Service") => service::describe(session, &mut out, object).await?,
        ("", "Endpoints") => service::endpoints(&mut out, object),
        ("", "ReplicationController") => workload::describe(session, &mut out, object).await?,
        ("", "Namespace") => limits::namespace(session, &mut out, object).await?,
        ("", "ResourceQuota") => limits::quota(&mut out, object),
        ("", "LimitRange") => limits::limit_range(&mut out, object),
        ("", "ServiceAccount") => access::service_account(&mut out, object),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => access::role(&mut out, object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => access::binding(&mut out, object),
        ("", "ConfigMap") => generic::config_map(&mut out, object),
        ("", "Secret") => generic::secret(&mut out, object),
        ("", "Event") => events::event(&mut out, object, now),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice::describe(&mut out, object),
        ("scheduling.k8s.io", "PriorityClass") => limits::priority_class(&mut out, object),
        _ => generic::describe(&mut out, kind, object),
    }
    if with_events && kind.kind != "Event" {
        events::describe(session, &mut out, kind, object, now).await;
    }
    Ok(out.render())
}

/// A moment as people read it, such as `Mon, 01 Jan 2024 10:00:00 +0000`.
fn moment(time: &str) -> String {
    match time.parse::<Time>() {
        Ok(time) => time.utc().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => time.to_owned(),
    }
}

fn age(object: &Value, pointer: &str, now: Timestamp) -> String {
    print::age(text(object, pointer), now)
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// `key=value` of each member.
fn pairs(object: &Value, pointer: &str, between: &str) -> Vec<String> {
    members(object, pointer).into_iter().map(|(key, value)| format!("{key}{between}{}", api::jsonpath::text(value))).collect()
}

/// Labels and annotations, as every object has them.
fn labels_and_annotations(out: &mut Text, object: &Value) {
    out.entries(0, "Labels", pairs(object, "/metadata/labels", "="));
    let mut annotations = pairs(object, "/metadata/annotations", ": ");
    // It repeats the object.
    annotations.retain(|line| !line.starts_with(crate::commands::apply::LAST_APPLIED));
    out.entries(0, "Annotations", annotations);
}

/// `Kind/name` of the owner that controls an object.
fn controller(object: &Value) -> Option<String> {
    let owners = list(object, "/metadata/ownerReferences");
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some(format!("{}/{}", text(owner, "/kind"), text(owner, "/name")))
}
