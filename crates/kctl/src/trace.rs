//! `-v=6` and above: the calls that are made, as kubectl tells of its requests.
//!
//! From 6 method, path, code and time; from 7 the headers that are sent; from 8 those that come, and the messages, at 8 and 9 cut
//! short. Credentials are never shown: headers that are sensitive, and fields that hold a token.

use std::time::Duration;

use api::{
    ferrokube::v1::{self as wire},
    google::protobuf::Any,
};
use client::Observer;
use jiff::Timestamp;
use prost::Message;
use serde_json::{Value, json};
use tonic::{
    Code,
    codegen::http::{HeaderMap, Uri},
};

use crate::{console::Console, kinds};

/// Level from which calls are told of.
pub const CALLS: u8 = 6;
const HEADERS: u8 = 7;
const MESSAGES: u8 = 8;
/// What stands for a credential.
const MASKED: &str = "<masked>";

/// Tells of calls on standard error.
pub struct Trace {
    console: Console,
    level: u8,
}

/// The time of day, as each line begins.
fn now() -> impl std::fmt::Display {
    Timestamp::now().strftime("%H:%M:%S.%3fZ")
}

/// Shows what the libraries log in the form of the lines here.
pub struct Clock;

impl tracing_subscriber::fmt::time::FormatTime for Clock {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{}", now())
    }
}

/// What is no gRPC call is a plain question.
fn method(uri: &Uri) -> &'static str {
    let call = uri.path().trim_start_matches('/').contains('.');
    if call { "POST" } else { "GET" }
}

impl Trace {
    /// At this level of verbosity.
    pub fn new(console: Console, level: u8) -> Self {
        Self { console, level }
    }

    fn line(&self, text: &str) {
        self.console.note(format!("{} {text}", now()));
    }

    fn headers(&self, title: &str, headers: &HeaderMap) {
        let mut text = title.to_owned();
        for (name, value) in headers {
            let shown = if value.is_sensitive() || name == "authorization" {
                MASKED.to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            text += &format!("\n    {name}: {shown}");
        }
        self.line(&text);
    }
}

impl Observer for Trace {
    fn sent(&self, uri: &Uri, headers: &HeaderMap) {
        if self.level >= HEADERS {
            self.line(&format!("{} {uri}", method(uri)));
            self.headers("Request Headers:", headers);
        }
    }

    fn answered(&self, _: &Uri, headers: &HeaderMap) {
        if self.level >= MESSAGES {
            self.headers("Response Headers:", headers);
        }
    }

    fn ended(&self, uri: &Uri, code: Code, after: Duration) {
        let code = if code == Code::Ok { "OK".to_owned() } else { format!("{code:?}") };
        self.line(&format!("{} {uri} {code} in {} milliseconds", method(uri), after.as_millis()));
    }

    fn message(&self, uri: &Uri, answer: bool, encoded: &[u8]) {
        let title = if answer { "Response Body" } else { "Request Body" };
        let shown = match message(uri.path(), answer, encoded) {
            Some(mut value) => {
                mask(&mut value);
                value.to_string()
            }
            None => format!("<{} bytes>", encoded.len()),
        };
        self.line(&format!("{title}: {}", cut(&shown, self.level)));
    }

    fn wants_messages(&self) -> bool {
        self.level >= MESSAGES
    }
}

/// As much of a message as kubectl shows at this level.
fn cut(text: &str, level: u8) -> String {
    let most = match level {
        ..=8 => 1024,
        9 => 10_240,
        _ => usize::MAX,
    };
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{} [truncated {} chars]", &text[..at], text[at..].chars().count()),
        None => text.to_owned(),
    }
}

/// Hides what is good for getting in.
fn mask(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "token" && value.is_string() {
                    *value = MASKED.into();
                } else {
                    mask(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// A message as JSON; `None` for the bytes of streams, and of what is not known here.
fn message(path: &str, answer: bool, encoded: &[u8]) -> Option<Value> {
    let (_, method) = path.rsplit_once('/')?;
    if !path.contains(".Objects/") {
        return None;
    }
    Some(match (method, answer) {
        ("Get", false) => {
            let m = wire::GetRequest::decode(encoded).ok()?;
            named(m.resource.as_ref(), &m.namespace, &m.name, &m.subresource, json!({}))
        }
        ("List", false) => {
            let m = wire::ListRequest::decode(encoded).ok()?;
            let more = json!({"labelSelector": m.label_selector, "fieldSelector": m.field_selector, "limit": m.limit,
                "continue": m.continue_token, "metadataOnly": m.metadata_only});
            named(m.resource.as_ref(), &m.namespace, "", "", more)
        }
        ("Watch", false) => {
            let m = wire::WatchRequest::decode(encoded).ok()?;
            let more = json!({"labelSelector": m.label_selector, "fieldSelector": m.field_selector,
                "resourceVersion": m.resource_version, "metadataOnly": m.metadata_only});
            named(m.resource.as_ref(), &m.namespace, "", "", more)
        }
        ("Create" | "Update", false) => {
            // Both have the same fields.
            let m = wire::CreateRequest::decode(encoded).ok()?;
            let body = if m.json.is_empty() { object(m.object.as_ref()) } else { serde_json::from_slice(&m.json).ok()? };
            named(m.resource.as_ref(), &m.namespace, &m.name, &m.subresource, json!({ "object": body }))
        }
        ("Patch", false) => {
            let m = wire::PatchRequest::decode(encoded).ok()?;
            let patch: Value = serde_json::from_slice(&m.patch).ok()?;
            let more = json!({"type": m.r#type().as_str_name(), "patch": patch});
            named(m.resource.as_ref(), &m.namespace, &m.name, &m.subresource, more)
        }
        ("Delete", false) => {
            let m = wire::DeleteRequest::decode(encoded).ok()?;
            named(m.resource.as_ref(), &m.namespace, &m.name, "", json!({ "options": serde_json::to_value(m.options).ok()? }))
        }
        ("Get" | "Create" | "Update" | "Patch", true) => {
            let m = wire::Object::decode(encoded).ok()?;
            if m.json.is_empty() { object(m.object.as_ref()) } else { serde_json::from_slice(&m.json).ok()? }
        }
        ("Delete", true) => object(wire::DeleteResponse::decode(encoded).ok()?.object.as_ref()),
        ("List", true) => {
            let m = wire::ListResponse::decode(encoded).ok()?;
            json!({ "items": m.items.iter().map(|item| object(Some(item))).collect::<Vec<_>>() })
        }
        ("Watch", true) => {
            let m = wire::WatchResponse::decode(encoded).ok()?;
            let event = |event: &wire::WatchEvent| {
                let kind = event.r#type().as_str_name();
                json!({"type": kind, "resourceVersion": event.resource_version, "object": object(event.object.as_ref())})
            };
            json!({ "events": m.events.iter().map(event).collect::<Vec<_>>() })
        }
        ("Version", true) => {
            let m = wire::VersionResponse::decode(encoded).ok()?;
            json!({"gitVersion": m.git_version, "apiLevel": m.api_level, "platform": m.platform})
        }
        ("Version" | "Kinds", false) => json!({}),
        _ => return None,
    })
}

/// What a request is about, and what else it says; what it leaves open is left out.
fn named(resource: Option<&wire::ResourceName>, namespace: &str, name: &str, subresource: &str, more: Value) -> Value {
    let resource = resource.map(|r| format!("{}.{}.{}", r.resource, r.version, r.group)).unwrap_or_default();
    let mut out =
        json!({"resource": resource.trim_end_matches('.'), "namespace": namespace, "name": name, "subresource": subresource});
    if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
        out.extend(more);
        out.retain(|_, value| !(value == "" || value == 0 || value == false || value.is_null()));
    }
    out
}

fn object(any: Option<&Any>) -> Value {
    let Some(any) = any else { return Value::Null };
    let decoded = kinds::known().by_type_url(&any.type_url).and_then(|kind| kind.decode(any.value.clone()).ok());
    let value = decoded.and_then(|object| object.to_value().ok());
    value.unwrap_or_else(|| json!({"@type": any.type_url, "bytes": any.value.len()}))
}

#[cfg(test)]
mod tests {
    use api::{Resource as _, core::v1::Secret};

    use super::*;
    use crate::testing::Bench;

    #[test]
    fn messages_are_shown_as_json_without_tokens() {
        let mut secret = Secret::default();
        secret.metadata_mut().name = "s".into();
        secret.data.insert("token".into(), "top-secret".into());
        let any = Any { type_url: Secret::KIND.type_url.to_string(), value: secret.encode_to_vec().into() };
        let encoded = wire::Object { object: Some(any), ..Default::default() }.encode_to_vec();
        let mut value = message("/ferrokube.v1.Objects/Get", true, &encoded).unwrap();
        mask(&mut value);
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"token": "<masked>"}})
        );
        assert_eq!(message("/ferrokube.v1.Pods/Exec", true, b"x"), None);
        assert_eq!(message("/ferrokube.v1.Objects/Get", true, b"\xff"), None);
    }

    #[test]
    fn each_level_shows_more() {
        let seen = |level: u8| {
            let bench = Bench::new();
            let trace = Trace::new(bench.session(&[]).console, level);
            let uri: Uri = "https://h:6443/ferrokube.v1.Objects/Get".parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("authorization", "Bearer abc".parse().unwrap());
            headers.insert("user-agent", "kctl".parse().unwrap());
            trace.sent(&uri, &headers);
            if trace.wants_messages() {
                let resource = wire::ResourceName { version: "v1".into(), resource: "pods".into(), ..Default::default() };
                let request = wire::GetRequest { resource: Some(resource), name: "p".into(), ..Default::default() };
                trace.message(&uri, false, &request.encode_to_vec());
            }
            trace.ended(&uri, Code::NotFound, Duration::from_millis(7));
            bench.errors()
        };
        assert!(seen(6).ends_with(" POST https://h:6443/ferrokube.v1.Objects/Get NotFound in 7 milliseconds\n"));
        assert_eq!(seen(6).lines().count(), 1);
        assert!(seen(7).contains("    user-agent: kctl\n") && seen(7).contains("    authorization: <masked>\n"), "{}", seen(7));
        assert!(seen(8).contains("Request Body: {\"name\":\"p\",\"resource\":\"pods.v1\"}\n"), "{}", seen(8));
        assert!(!seen(10).contains("abc"));
    }

    #[test]
    fn long_messages_are_cut_as_kubectl_cuts_them() {
        let text = "x".repeat(20_000);
        assert!(cut(&text, 8).ends_with("x [truncated 18976 chars]"));
        assert!(cut(&text, 9).ends_with("x [truncated 9760 chars]"));
        assert_eq!(cut(&text, 10), text);
    }
}
