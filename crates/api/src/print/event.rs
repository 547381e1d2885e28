//! An event's row, for events with a count and for those with a series.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, number, text};

pub(super) fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = text(event, "/firstTimestamp");
    age(if first.is_empty() { text(event, "/eventTime") } else { first }, now)
}

pub(super) fn last_seen(event: &Value, now: Timestamp) -> String {
    if event.get("series").is_some_and(Value::is_object) {
        return age(text(event, "/series/lastObservedTime"), now);
    }
    match text(event, "/lastTimestamp") {
        "" => first_seen(event, now),
        last => age(last, now),
    }
}

pub(super) fn count(event: &Value) -> i64 {
    match event.get("series") {
        Some(series @ Value::Object(_)) => number(series, "/count"),
        _ => number(event, "/count").max(1),
    }
}

/// `pod/web`.
pub(super) fn object(event: &Value) -> String {
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    match text(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

/// Who says so, and where.
pub(super) fn source(event: &Value) -> String {
    let first = |a, b| if text(event, a).is_empty() { text(event, b) } else { text(event, a) };
    let component = first("/source/component", "/reportingComponent");
    match first("/source/host", "/reportingInstance") {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
