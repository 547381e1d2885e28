//! Paths of Kubernetes' HTTP API answered over gRPC: `get --raw` and `proxy` ask so.
//!
//! What there is: `/version`, `/api`, `/apis` and what they lead to, objects, lists, watches, subresources, and a pod's `log`; `/livez`,
//! `/readyz`, `/healthz` and `/metrics` are asked of the server as they are. Everything else is answered as the server's own 404 would be.

mod discovery;
mod write;

use api::{
    Bytes, Kind, Resource as _, StatusError,
    core::v1::Pod,
    ferrokube::v1::{LogsRequest, PodRef},
    google::protobuf::Timestamp as ProtoTime,
    meta::v1::{ListMeta, Time},
    status::Reason,
};
use client::{Api, Change, Client, Dynamic, ListParams, WatchParams};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds;

/// Bookmarks that end the initial events carry this.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A request of the HTTP API.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// The path, not decoded.
    pub path: String,
    /// Keys and values of the query, decoded.
    pub query: Vec<(String, String)>,
    /// Media type of the body, without parameters.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// An answer.
pub enum Answer {
    /// A status code and JSON.
    Json(u16, Value),
    /// A status code and text.
    Text(u16, String),
    /// Events of a watch, one JSON object each.
    Watch(BoxStream<'static, Value>),
    /// What a container has written.
    Log(BoxStream<'static, client::Result<Bytes>>),
}

/// What a path names.
#[derive(Debug)]
struct Place {
    kind: &'static Kind,
    namespace: String,
    name: String,
    subresource: String,
}

/// Asks the server what the path says.
///
/// # Errors
/// What the server refuses, and what there is not, as errors of the API.
pub async fn answer(client: &Client, request: &Request) -> client::Result<Answer> {
    let segments: Vec<String> = request.path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if request.method == "GET"
        && let Some(answer) = discovery::answer(client, request, &segments).await?
    {
        return Ok(answer);
    }
    let place = place(&segments)?;
    match request.method.as_str() {
        "GET" => read(client, request, &place).await,
        "POST" | "PUT" | "PATCH" | "DELETE" => write::answer(client, request, &place).await,
        other => Err(StatusError::new(Reason::MethodNotAllowed, format!("{other} is not served")).into()),
    }
}

// === impl Request ===

impl Request {
    /// A request for a path with a query.
    pub fn get(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (target, path) = (target.to_owned(), path.to_owned());
        Self { method: "GET".to_owned(), target, path, query: parse_query(query), ..Self::default() }
    }

    fn value(&self, key: &str) -> &str {
        self.query.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.value(key), "true" | "1")
    }

    fn number(&self, key: &str) -> client::Result<Option<i64>> {
        match self.value(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| bad(format!("{key}: \"{text}\" is no whole number"))),
        }
    }
}

fn bad(message: impl Into<String>) -> client::Error {
    StatusError::bad_request(message).into()
}

fn not_found() -> client::Error {
    StatusError::new(Reason::NotFound, "the server could not find the requested resource").into()
}

/// Keys and values of a query.
pub fn parse_query(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// A text with `%41` as `A`; what is no such thing stays.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What the segments of a path name.
fn place(segments: &[&str]) -> client::Result<Place> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(not_found()),
    };
    let (namespace, rest) = match rest {
        // A namespace's own subresources are two; anything longer is in the namespace.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(not_found()),
    };
    let kind = kinds::known().resource(group, version, plural).ok().map(|kind| kind.forever());
    let kind = kind.filter(|kind| kind.namespaced || namespace.is_empty()).ok_or_else(not_found)?;
    if kind.namespaced && namespace.is_empty() && !name.is_empty() {
        return Err(not_found());
    }
    let owned = |text: &str| text.to_owned();
    Ok(Place { kind, namespace: owned(namespace), name: owned(name), subresource: owned(subresource) })
}

// === impl Place ===

impl Place {
    fn api(&self, client: &Client) -> Api<Dynamic> {
        client.dynamic(self.kind, &self.namespace)
    }
}

fn json_of(object: &Dynamic) -> client::Result<Value> {
    object.to_value().map_err(client::Error::Json)
}

async fn read(client: &Client, request: &Request, place: &Place) -> client::Result<Answer> {
    let api = place.api(client);
    if place.name.is_empty() {
        return if request.flag("watch") { watch(&api, request).await } else { list(&api, request).await };
    }
    match (place.kind == Pod::KIND, place.subresource.as_str()) {
        (true, "log") => log(client, request, place).await,
        (true, "exec" | "attach" | "portforward" | "proxy") => Err(bad(format!(
            "pods/{} is a stream in both directions, which this path does not carry: use `kctl exec`, `attach` or `port-forward`",
            place.subresource
        ))),
        (_, "") if request.flag("watch") => {
            let mut request = request.clone();
            request.query.push(("fieldSelector".to_owned(), format!("metadata.name={}", place.name)));
            watch(&api, &request).await
        }
        (_, "") => Ok(Answer::Json(200, json_of(&api.get(&place.name).await?)?)),
        (_, subresource) => Ok(Answer::Json(200, json_of(&api.get_subresource(&place.name, subresource).await?)?)),
    }
}

fn selectors(request: &Request) -> ListParams {
    ListParams::default().labels(request.value("labelSelector")).fields(request.value("fieldSelector"))
}

async fn list(api: &Api<Dynamic>, request: &Request) -> client::Result<Answer> {
    let params = ListParams {
        limit: request.number("limit")?.unwrap_or(0),
        continue_token: request.value("continue").to_owned(),
        resource_version: request.value("resourceVersion").to_owned(),
        ..selectors(request)
    };
    let list = api.list(&params).await?;
    let mut items = list.items.iter().map(json_of).collect::<client::Result<Vec<_>>>()?;
    // The list says what they are.
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.remove("apiVersion");
        item.remove("kind");
    }
    let ListMeta { resource_version, r#continue, remaining_item_count, .. } = list.metadata;
    let mut metadata = json!({"resourceVersion": resource_version});
    if !r#continue.is_empty() {
        metadata["continue"] = r#continue.into();
    }
    if let Some(count) = remaining_item_count {
        metadata["remainingItemCount"] = count.into();
    }
    let kind = api.kind();
    let list =
        json!({"kind": format!("{}List", kind.kind), "apiVersion": &*kind.api_version, "metadata": metadata, "items": items});
    Ok(Answer::Json(200, list))
}

async fn watch(api: &Api<Dynamic>, request: &Request) -> client::Result<Answer> {
    let (from, told) = (request.value("resourceVersion"), request.flag("sendInitialEvents"));
    let from_now = matches!(from, "" | "0");
    let params = WatchParams {
        resource_version: if from_now { String::new() } else { from.to_owned() },
        initial_events: told || from_now,
        timeout_seconds: request.number("timeoutSeconds")?.unwrap_or(0),
        ..WatchParams::default()
    };
    let ListParams { label_selector, field_selector, .. } = selectors(request);
    let stream = api.watch(&params.labels(label_selector).fields(field_selector)).await?;
    let (kind, bookmarks) = (api.kind().forever(), request.flag("allowWatchBookmarks"));
    let events = stream.filter_map(move |event| async move {
        let object = |what: &str, object: &Dynamic| match json_of(object) {
            Ok(object) => json!({"type": what, "object": object}),
            Err(error) => failed(&error),
        };
        match event {
            Ok(event) => match event.change {
                Change::Added(added) => Some(object("ADDED", &added)),
                Change::Modified(modified) => Some(object("MODIFIED", &modified)),
                Change::Deleted(deleted) => Some(object("DELETED", &deleted)),
                Change::Bookmark { initial_events_end } if bookmarks => {
                    let mut metadata = json!({"resourceVersion": event.revision.to_string(), "creationTimestamp": null});
                    if initial_events_end && told {
                        metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
                    }
                    let object = json!({"kind": &*kind.kind, "apiVersion": &*kind.api_version, "metadata": metadata});
                    Some(json!({"type": "BOOKMARK", "object": object}))
                }
                Change::Bookmark { .. } => None,
            },
            Err(error) => Some(failed(&error)),
        }
    });
    Ok(Answer::Watch(events.boxed()))
}

fn failed(error: &client::Error) -> Value {
    json!({"type": "ERROR", "object": status(error)})
}

async fn log(client: &Client, request: &Request, place: &Place) -> client::Result<Answer> {
    let since = match (request.number("sinceSeconds")?, request.value("sinceTime")) {
        (Some(seconds), _) => Some(Timestamp::now().as_second().saturating_sub(seconds)),
        (None, "") => None,
        (None, text) => match text.parse::<Time>() {
            Ok(time) => Some(time.seconds),
            Err(error) => return Err(bad(format!("sinceTime: {error}"))),
        },
    };
    let request = LogsRequest {
        pod: Some(PodRef { namespace: place.namespace.clone(), name: place.name.clone(), ..PodRef::default() }),
        container: request.value("container").to_owned(),
        follow: request.flag("follow"),
        previous: request.flag("previous"),
        since: since.map(|seconds| ProtoTime { seconds, nanos: 0 }),
        tail_lines: request.number("tailLines")?,
        timestamps: request.flag("timestamps"),
        limit_bytes: request.number("limitBytes")?.unwrap_or(0),
    };
    let mut pieces = client.pods().logs(request).await?;
    // What is wrong with the request comes with the first piece.
    let first = pieces.try_next().await?;
    Ok(Answer::Log(futures::stream::iter(first.map(Ok)).chain(pieces).boxed()))
}

/// An error as `meta.v1.Status`.
pub fn status(error: &client::Error) -> Value {
    let own;
    let status = match error.status() {
        Some(status) => status,
        None => {
            own = StatusError::unavailable(api::error::chain(error));
            &own
        }
    };
    let mut value = serde_json::to_value(status.status()).unwrap_or_default();
    value["kind"] = "Status".into();
    value["apiVersion"] = "v1".into();
    value
}

#[cfg(test)]
mod tests;
