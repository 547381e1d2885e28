//! Answers to what is no gRPC call: version, health and metrics; for the rest there is no REST yet, and clients are told so in a form they
//! show.

use api::{StatusError, status::Reason};
use axum::{body::Body, response::Response};
use http::{HeaderMap, StatusCode, header};

/// What clients are told.
const MESSAGE: &str = "this API server does not serve REST yet: use kctl, or gRPC with the services that reflection lists";

/// What is answered without gRPC, to those who may `get` the path; health has a path for each check too.
const PATHS: &[&str] = &["/version", "/version/", "/livez", "/readyz", "/healthz", "/metrics"];
const CHECKS: &[&str] = &["/livez/", "/readyz/", "/healthz/"];

/// Whether there is an answer for a path without gRPC.
pub(super) fn is_served(path: &str) -> bool {
    PATHS.contains(&path) || CHECKS.iter().any(|checks| path.strip_prefix(checks).is_some_and(|check| !check.is_empty()))
}

/// Upstream's `version.Info`: the Kubernetes version that clients compare with their own, which ours follows after a `+`.
pub(super) fn version() -> Response {
    let level = api::API_LEVEL.trim_start_matches('v');
    let (major, minor) = level.split_once('.').unwrap_or((level, ""));
    let info = serde_json::json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{level}.0+ferrokube-{}", daemon::VERSION),
        // What is built is not always built from a repository.
        "gitCommit": option_env!("FERROKUBE_GIT_COMMIT").unwrap_or_default(),
        "gitTreeState": option_env!("FERROKUBE_GIT_TREE_STATE").unwrap_or_default(),
        "buildDate": option_env!("FERROKUBE_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        // No part of it is Go; clients want the field.
        "goVersion": "",
        "compiler": "rustc",
        "platform": daemon::platform(),
    });
    answer(StatusCode::OK, "application/json", info.to_string())
}

/// Whether a request is a gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// The `Status` that upstream's clients print. Those that ask for discovery in one document show of an error what is plain text only.
pub(super) fn not_served(headers: &HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match accepted.is_some_and(|accepted| accepted.contains("as=APIGroupDiscoveryList")) {
        true => answer(StatusCode::NOT_ACCEPTABLE, "text/plain", MESSAGE.to_owned()),
        false => status(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", MESSAGE),
    }
}

/// An error as upstream's front end answers it.
pub(super) fn failure(error: &StatusError) -> Response {
    let found = error.status();
    let code = u16::try_from(found.code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &found.reason, error.message())
}

/// The refusal of a path that a user may not read.
pub(super) fn forbidden(user: &str, path: &str) -> StatusError {
    let message = format!("forbidden: User {user:?} cannot get path {path:?}");
    StatusError::new(Reason::Forbidden, message)
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = serde_json::json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    });
    answer(code, "application/json", status.to_string())
}

fn answer(code: StatusCode, kind: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
