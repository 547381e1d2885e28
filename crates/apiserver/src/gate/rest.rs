//! Answers to what is no gRPC call: health and metrics; for the rest there is no REST yet, and clients are told so in a form they show.

use api::{StatusError, status::Reason};
use axum::{body::Body, response::Response};
use http::{HeaderMap, StatusCode, header};

/// What clients are told.
const MESSAGE: &str = "this API server does not serve REST yet: use kctl, or gRPC with the services that reflection lists";

/// What is answered without gRPC, to those who may `get` the path.
pub(super) const PATHS: &[&str] = &["/livez", "/readyz", "/healthz", "/metrics"];

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
