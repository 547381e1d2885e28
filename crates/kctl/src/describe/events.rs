//! The events about an object.

use api::{Kind, core::v1::Event, print};
use client::ListParams;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::Text;
use crate::{Session, objects::text};

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
        let value = json!(event);
        let cell = |name: &str| cell(&value, name, now);
        let mut age = cell("Last Seen");
        let count = cell("Count").parse::<i64>().unwrap_or(1);
        if count > 1 {
            age = format!("{age} (x{count} over {})", cell("First Seen"));
        }
        let message = event.message.trim().replace(['\n', '\t'], " ");
        out.line(1, format!("{}\t{}\t{age}\t{}\t{message}", event.r#type, event.reason, source(event)));
    }
}

fn cell(event: &Value, column: &str, now: Timestamp) -> String {
    use api::Resource as _;
    let at = Event::KIND.columns.iter().position(|known| known.name == column);
    at.and_then(|at| print::cells(Event::KIND, event, now).into_iter().nth(at)).unwrap_or_default()
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
    let mut events = session.shown("reading events", api.list(&ListParams::default().fields(selector))).await?.items;
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
