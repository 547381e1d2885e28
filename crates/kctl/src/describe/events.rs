//! The events about an object.

use api::{Kind, Resource as _, core::v1::Event, print};
use client::ListParams;
use jiff::Timestamp;
use serde_json::Value;

use super::{labels_and_annotations, text::Text};
use crate::{
    Session,
    objects::{members, number, text},
};

/// Adds the events about an object, oldest first. That they cannot be read is said and no error.
pub async fn describe(session: &Session, out: &mut Text, kind: &Kind, object: &Value, now: Timestamp) {
    let events = match of(session, kind, object).await {
        Ok(events) => events,
        Err(error) => {
            out.line(0, format!("Events:\t<unavailable: {error:#}>"));
            return;
        }
    };
    if events.is_empty() {
        out.line(0, "Events:\t<none>");
        return;
    }
    out.line(0, "Events:");
    out.line(1, "Type\tReason\tAge\tFrom\tMessage");
    out.line(1, "----\t------\t----\t----\t-------");
    for event in &events {
        let value = match serde_json::to_value(event) {
            Ok(value) => value,
            Err(error) => {
                out.line(1, format!("<event {} cannot be shown: {error}>", event.name()));
                continue;
            }
        };
        let age = interval(&value, now);
        let message = event.message.trim().replace(['\n', '\t'], " ");
        out.line(1, format!("{}\t{}\t{age}\t{}\t{message}", event.r#type, event.reason, source(event)));
    }
}

/// Describes an event.
pub fn event(out: &mut Text, event: &Value, now: Timestamp) {
    out.field(0, "Name", text(event, "/metadata/name"));
    out.field(0, "Namespace", text(event, "/metadata/namespace"));
    labels_and_annotations(out, event);
    let cell = |name: &str| cell(event, name, now);
    for (key, column) in [
        ("Type", "Type"),
        ("Reason", "Reason"),
        ("Message", "Message"),
        ("Source", "Source"),
        ("First Seen", "First Seen"),
        ("Last Seen", "Last Seen"),
        ("Count", "Count"),
    ] {
        out.field(0, key, cell(column));
    }
    for (title, pointer) in [("Involved Object", "/involvedObject"), ("Related", "/related")] {
        let about = members(event, pointer);
        if !about.is_empty() {
            out.line(0, format!("{title}:"));
            about.into_iter().for_each(|(key, value)| out.field(1, &super::generic::title(key), api::jsonpath::text(value)));
        }
    }
}

fn cell(event: &Value, column: &str, now: Timestamp) -> String {
    let at = Event::KIND.columns.iter().position(|known| known.name == column);
    at.and_then(|at| print::cells(Event::KIND, event, now).into_iter().nth(at)).unwrap_or_default()
}

/// How long ago an event was seen; of one that was seen again also how often, and in what time.
pub fn interval(event: &Value, now: Timestamp) -> String {
    let cell = |name: &str| cell(event, name, now);
    let many = event.get("series").is_some_and(Value::is_object) || number(event, "/count") > 1;
    if many { format!("{} (x{} over {})", cell("Last Seen"), cell("Count"), cell("First Seen")) } else { cell("Last Seen") }
}

fn source(event: &Event) -> &str {
    let component = &event.source().component;
    if component.is_empty() { &event.reporting_component } else { component }
}

/// The events about an object, oldest first.
///
/// # Errors
/// Whatever the server says.
pub async fn of(session: &Session, kind: &Kind, object: &Value) -> anyhow::Result<Vec<Event>> {
    let namespace = text(object, "/metadata/namespace");
    // Events about cluster-scoped objects are in the default namespace.
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let mut selector = format!("involvedObject.kind={},involvedObject.name={}", kind.kind, text(object, "/metadata/name"));
    let uid = text(object, "/metadata/uid");
    // Nodes report about themselves with their name for a UID.
    if !uid.is_empty() && kind.kind != "Node" {
        selector += &format!(",involvedObject.uid={uid}");
    }
    let api = session.client()?.namespaced::<Event>(namespace);
    let mut events = session.list(&api, &ListParams::default().fields(selector)).await?.items;
    events.sort_by_key(last_seen);
    Ok(events)
}

/// When an event was last seen, for sorting.
pub fn last_seen(event: &Event) -> i64 {
    let times = [
        event.series().last_observed_time().seconds,
        event.last_timestamp().seconds,
        event.event_time().seconds,
        event.metadata().creation_timestamp().seconds,
    ];
    times.into_iter().find(|seconds| *seconds != 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_says_what_happened_to_what() {
        let mut out = Text::default();
        let about = json!({"kind": "Pod", "name": "p", "apiVersion": "v1"});
        let found = json!({"metadata": {"name": "e", "namespace": "d"}, "type": "Warning", "reason": "BackOff", "count": 3,
            "message": "no", "source": {"component": "kubelet", "host": "n"}, "involvedObject": about,
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:01:00Z"});
        event(&mut out, &found, "2024-01-01T00:01:10Z".parse().unwrap());
        let text = out.render();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        assert_eq!((value("Reason:"), value("Count:"), value("Last Seen:")), (Some("BackOff"), Some("3"), Some("10s")), "{text}");
        assert!(text.ends_with("Involved Object:\n  API Version:  v1\n  Kind:         Pod\n  Name:         p\n"), "{text}");
    }
}
