//! The cells of the tables that `get` prints, from an object's JSON.
//!
//! The schema names each column and where its cell comes from: a path, or `=` and a printer function of this module. Cells, words
//! and durations are upstream's. Printers take objects as they come and never fail: what is missing has its word.

mod duration;
mod event;
mod node;
mod pod;
mod service;

use std::{cell::OnceCell, collections::BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    jsonpath::{self, Template},
    kind::Kind,
    meta::v1::Time,
    schema::{Cardinality, FieldType, Message},
};

pub use duration::human_duration;

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

/// The cells of an object's row after its name, one for each of the kind's columns.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<String> {
    let row = Row { kind, object, now, pod: OnceCell::new() };
    kind.columns.iter().map(|column| row.cell(&column.path)).collect()
}

/// How long ago a time in RFC 3339 was, as the AGE column has it.
pub fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Time>() {
        Ok(then) => human_duration(now.duration_since(then.timestamp())),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// One object on its way into a table.
struct Row<'a> {
    kind: &'a Kind,
    object: &'a Value,
    now: Timestamp,
    /// What several of a pod's columns need.
    pod: OnceCell<pod::Summary>,
}

impl Row<'_> {
    fn cell(&self, path: &str) -> String {
        let Some(printer) = path.strip_prefix('=') else { return self.field(path) };
        let (name, argument) = printer.split_once(' ').unwrap_or((printer, ""));
        self.call(name, argument).unwrap_or_default()
    }

    /// `None` if there is no such printer.
    fn call(&self, name: &str, argument: &str) -> Option<String> {
        let (o, now) = (self.object, self.now);
        let pod = || self.pod.get_or_init(|| pod::Summary::new(o, now));
        Some(match name {
            "age" => age(text(o, "/metadata/creationTimestamp"), now),
            "since" => age(&self.path(argument), now),
            "jsonPath" => self.path(argument),
            "count" => count(o.pointer(&pointer(argument))).to_string(),
            "orUnknown" => or(&self.field(argument), UNKNOWN),
            "podReady" => pod().ready.clone(),
            "podStatus" => pod().status.clone(),
            "podRestarts" => pod().restarts.clone(),
            "podIP" => or(text(o, "/status/podIPs/0/ip"), NONE),
            "podNode" => or(text(o, "/spec/nodeName"), NONE),
            "podNominatedNode" => or(text(o, "/status/nominatedNodeName"), NONE),
            "podReadinessGates" => pod::readiness_gates(o),
            "templateContainers" => join(list(o, self.template("/spec/containers")).map(|c| text(c, "/name"))),
            "templateImages" => join(list(o, self.template("/spec/containers")).map(|c| text(c, "/image"))),
            "templateLabels" => labels(o.pointer(self.template("/metadata/labels"))),
            "nodeStatus" => node::status(o),
            "nodeRoles" => node::roles(o),
            "nodeInternalIP" => node::address(o, "InternalIP"),
            "nodeExternalIP" => node::address(o, "ExternalIP"),
            "serviceClusterIP" => service::cluster_ip(o),
            "serviceExternalIP" => service::external_ip(o),
            "servicePorts" => service::ports(o),
            "selector" => labels(o.pointer("/spec/selector")),
            "endpoints" => service::endpoints(o),
            "slicePorts" => service::slice_ports(o),
            "sliceEndpoints" => service::slice_endpoints(o),
            "eventLastSeen" => event::last_seen(o, now),
            "eventFirstSeen" => event::first_seen(o, now),
            "eventObject" => event::object(o),
            "eventSource" => event::source(o),
            "eventMessage" => text(o, "/message").trim().to_owned(),
            "eventCount" => event::count(o).to_string(),
            "bindingRole" => format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")),
            "bindingUsers" => subjects(o, "User"),
            "bindingGroups" => subjects(o, "Group"),
            "bindingServiceAccounts" => subjects(o, "ServiceAccount"),
            "configMapData" => (count(o.get("data")) + count(o.get("binaryData"))).to_string(),
            "quotaRequests" => quota(o, false),
            "quotaLimits" => quota(o, true),
            _ => return None,
        })
    }

    /// What a JSON path finds first; nothing if the path is none.
    fn path(&self, path: &str) -> String {
        let Ok(path) = Template::parse_relaxed(path) else { return String::new() };
        let found = path.allow_missing(true).values(self.object).unwrap_or_default();
        found.first().map(|value| jsonpath::text(value)).unwrap_or_default()
    }

    /// Where the pod template stands: a controller's is in its spec.
    fn template(&self, below: &'static str) -> &'static str {
        let in_spec = self.object.pointer("/spec/template").is_some();
        match (in_spec, below) {
            (true, "/spec/containers") => "/spec/template/spec/containers",
            (true, _) => "/spec/template/metadata/labels",
            (false, "/spec/containers") => "/template/spec/containers",
            (false, _) => "/template/metadata/labels",
        }
    }

    /// The value at a path such as `.spec.replicas`; where there is none, what its type has for nothing.
    fn field(&self, path: &str) -> String {
        match self.object.pointer(&pointer(path)) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => self.kind.message().map_or("", |message| nothing(message, path)).to_owned(),
            Some(other) => other.to_string(),
        }
    }
}

/// What a missing field prints as.
fn nothing(message: &Message, path: &str) -> &'static str {
    let mut here = Some(message);
    let mut ty = None;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let field = here.and_then(|m| m.field(name)).filter(|f| f.cardinality == Cardinality::Singular);
        ty = field.map(|f| f.ty);
        here = if let Some(FieldType::Message(m)) = ty { Some(m) } else { None };
    }
    match ty {
        Some(FieldType::I32 | FieldType::I64 | FieldType::F64) => "0",
        Some(FieldType::Bool) => "false",
        Some(FieldType::Time) => UNKNOWN,
        _ => "",
    }
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl DoubleEndedIterator<Item = &'a Value> + ExactSizeIterator + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter()
}

fn or(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn count(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// `a=b,c=d`, sorted.
fn labels(value: Option<&Value>) -> String {
    let pairs: BTreeSet<String> = value
        .and_then(Value::as_object)
        .map(|map| map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect())
        .unwrap_or_default();
    or(&pairs.into_iter().collect::<Vec<_>>().join(","), NONE)
}

fn subjects(binding: &Value, kind: &str) -> String {
    let of_kind = list(binding, "/subjects").filter(|s| text(s, "/kind") == kind);
    let name = |s: &Value| match kind {
        "ServiceAccount" => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
        _ => text(s, "/name").to_owned(),
    };
    of_kind.map(name).collect::<Vec<_>>().join(", ")
}

fn quota(quota: &Value, limits: bool) -> String {
    let hard = quota.pointer("/status/hard").and_then(Value::as_object);
    let mut names: Vec<&String> = hard.map(|map| map.keys().collect()).unwrap_or_default();
    names.sort();
    let shown = names.into_iter().filter(|name| name.starts_with("limits.") == limits);
    let amount = |list: &str, name: &str| {
        let found = quota.pointer(list).and_then(|map| map.get(name)).and_then(Value::as_str);
        found.unwrap_or("0").to_owned()
    };
    let cell = |name: &String| format!("{name}: {}/{}", amount("/status/used", name), amount("/status/hard", name));
    shown.map(cell).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
