//! Errors of the API: a `meta.v1.Status` with its reason, and the gRPC status it travels as.
//!
//! The reason decides both codes, in one table; nothing is ever read back from the text.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use tonic::Code;

use crate::{
    google::{protobuf::Any, rpc},
    kind::Kind,
    meta::v1::{Status, StatusCause, StatusDetails},
    rules::FieldErrors,
};

/// Most bytes of a `Status` on the wire. gRPC carries it in header fields, in base64 and beside the message; of those, clients take 16 KiB
/// together by default.
const WIRE_MAX: usize = 6 << 10;
/// Most bytes of the message that stands beside it, where each may take three.
const WIRE_MESSAGE_MAX: usize = 1 << 10;
/// Most bytes of a message, and of a cause's, in a status that must be cut.
const CUT_MESSAGE: usize = 2 << 10;
const CUT_CAUSE: usize = 256;

const STATUS_TYPE_URL: &str = "type.googleapis.com/k8s.io.apimachinery.pkg.apis.meta.v1.Status";

/// Why a request failed, as upstream's `reason` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request cannot be understood.
    BadRequest,
    /// No valid credentials came with the request.
    Unauthorized,
    /// The user may not do this.
    Forbidden,
    /// The object or kind does not exist.
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// The object changed meanwhile, or its state does not allow this.
    Conflict,
    /// What was asked for was here once, but no longer.
    Gone,
    /// The revision is too old to serve from.
    Expired,
    /// The object is not valid.
    Invalid,
    /// The object is too large.
    RequestEntityTooLarge,
    /// The body is in a form that is not taken here.
    UnsupportedMediaType,
    /// The kind does not support this verb.
    MethodNotAllowed,
    /// Too much was asked; try again later.
    TooManyRequests,
    /// A part that this needs does not answer.
    ServiceUnavailable,
    /// The request took too long; it may or may not have taken effect.
    Timeout,
    /// The server did not expect this.
    InternalError,
}

/// Reason, upstream's name, HTTP code, gRPC code.
const REASONS: &[(Reason, &str, i32, Code)] = &[
    (Reason::BadRequest, "BadRequest", 400, Code::InvalidArgument),
    (Reason::Unauthorized, "Unauthorized", 401, Code::Unauthenticated),
    (Reason::Forbidden, "Forbidden", 403, Code::PermissionDenied),
    (Reason::NotFound, "NotFound", 404, Code::NotFound),
    (Reason::MethodNotAllowed, "MethodNotAllowed", 405, Code::Unimplemented),
    (Reason::AlreadyExists, "AlreadyExists", 409, Code::AlreadyExists),
    (Reason::Conflict, "Conflict", 409, Code::Aborted),
    (Reason::Gone, "Gone", 410, Code::OutOfRange),
    (Reason::Expired, "Expired", 410, Code::OutOfRange),
    (Reason::RequestEntityTooLarge, "RequestEntityTooLarge", 413, Code::InvalidArgument),
    (Reason::UnsupportedMediaType, "UnsupportedMediaType", 415, Code::InvalidArgument),
    (Reason::Invalid, "Invalid", 422, Code::InvalidArgument),
    (Reason::TooManyRequests, "TooManyRequests", 429, Code::ResourceExhausted),
    (Reason::InternalError, "InternalError", 500, Code::Internal),
    (Reason::ServiceUnavailable, "ServiceUnavailable", 503, Code::Unavailable),
    (Reason::Timeout, "Timeout", 504, Code::DeadlineExceeded),
];

impl Reason {
    fn row(self) -> &'static (Self, &'static str, i32, Code) {
        REASONS.iter().find(|r| r.0 == self).unwrap_or(&REASONS[13])
    }

    /// Upstream's name of the reason.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusError(Box<Status>);

impl StatusError {
    /// An error with a message and nothing else.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.as_str().to_owned(),
            code: reason.row().2,
            ..Status::default()
        }))
    }

    fn about(reason: Reason, kind: &Kind, name: &str, message: String) -> Self {
        let mut error = Self::new(reason, message);
        error.0.details = Some(StatusDetails {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            ..StatusDetails::default()
        });
        error
    }

    /// What an HTTP status code stands for, with a message.
    pub fn of_code(code: u16, message: impl Into<String>) -> Self {
        let code = i32::from(code);
        let reason = REASONS.iter().find(|row| row.2 == code).map_or(Reason::InternalError, |row| row.0);
        Self::new(reason, message)
    }

    /// The request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// The server did not expect this.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, message)
    }

    /// A part that this needs does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// The object does not exist.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(Reason::NotFound, kind, name, format!("{} \"{name}\" not found", kind.qualified_plural()))
    }

    /// An object of that name exists.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, kind, name, format!("{} \"{name}\" already exists", kind.qualified_plural()))
    }

    /// The object changed meanwhile, or its state does not allow this.
    pub fn conflict(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified_plural());
        Self::about(Reason::Conflict, kind, name, message)
    }

    /// The object changed since it was read.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(kind, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// Admission or authorisation says no.
    pub fn forbidden(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        let subject = if name.is_empty() { kind.qualified_plural() } else { format!("{} \"{name}\"", kind.qualified_plural()) };
        Self::about(Reason::Forbidden, kind, name, format!("{subject} is forbidden: {why}"))
    }

    /// The object is not valid.
    pub fn invalid(kind: &Kind, name: &str, errors: &FieldErrors) -> Self {
        let qualified = if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut error = Self::about(Reason::Invalid, kind, name, format!("{qualified} \"{name}\" is invalid: {errors}"));
        let details = error.0.details_mut();
        details.kind = kind.kind.to_string();
        details.causes = errors.causes();
        error
    }

    /// The user asks too much; try again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        let mut error = Self::new(Reason::TooManyRequests, message);
        error.0.details_mut().retry_after_seconds = retry_after_seconds;
        error
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, cause: StatusCause) -> Self {
        self.0.details_mut().causes.push(cause);
        self
    }

    /// Why it failed.
    pub fn reason(&self) -> Reason {
        REASONS.iter().find(|r| r.1 == self.0.reason).map_or(Reason::InternalError, |r| r.0)
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The whole status.
    pub fn status(&self) -> &Status {
        &self.0
    }

    /// True if the object or kind does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Reason::NotFound
    }

    /// True if an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Reason::AlreadyExists
    }

    /// True if the object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Reason::Conflict
    }

    /// True if a watch or list must start anew.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason(), Reason::Expired | Reason::Gone)
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for StatusError {}

impl From<Status> for StatusError {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl From<StatusError> for tonic::Status {
    fn from(error: StatusError) -> Self {
        let code = error.reason().row().3;
        let message = cut(&error.0.message, WIRE_MESSAGE_MAX);
        let status = for_wire(*error.0);
        let any = Any { type_url: STATUS_TYPE_URL.to_owned(), value: status.encode_to_vec().into() };
        let details = rpc::Status { code: code as i32, message: String::new(), details: vec![any] };
        Self::with_details(code, message, Bytes::from(details.encode_to_vec()))
    }
}

/// The status, with what does not fit on the wire cut off: causes from the end, and the tails of long texts.
fn for_wire(mut status: Status) -> Status {
    if status.encoded_len() <= WIRE_MAX {
        return status;
    }
    status.message = cut(&status.message, CUT_MESSAGE);
    let Some(details) = &mut status.details else { return status };
    details.name = cut(&details.name, CUT_CAUSE);
    let (mut room, all) = (WIRE_MAX - CUT_MESSAGE - 4 * CUT_CAUSE, details.causes.len());
    for cause in &mut details.causes {
        (cause.message, cause.field) = (cut(&cause.message, CUT_CAUSE), cut(&cause.field, CUT_CAUSE));
    }
    let fits = |cause: &StatusCause| {
        let left = room.checked_sub(cause.encoded_len() + 4);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let kept: Vec<StatusCause> = std::mem::take(&mut details.causes).into_iter().take_while(fits).collect();
    let more = all - kept.len();
    details.causes = kept;
    if more > 0 {
        status.message.push_str(&format!(" (and more; {more} of {all} causes are not listed)"));
    }
    status
}

/// The text, or as much of it as fits into so many bytes with a mark that there was more.
fn cut(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    format!("{}{MARK}", &text[..text.floor_char_boundary(max - MARK.len())])
}

impl From<tonic::Status> for StatusError {
    fn from(status: tonic::Status) -> Self {
        let carried = rpc::Status::decode(status.details()).ok().and_then(|rich| {
            let any = rich.details.into_iter().find(|any| any.type_url == STATUS_TYPE_URL)?;
            Status::decode(any.value).ok()
        });
        if let Some(status) = carried {
            return status.into();
        }
        let reason = REASONS.iter().find(|r| r.3 == status.code()).map_or(Reason::InternalError, |r| r.0);
        let reason =
            if status.code() == Code::Cancelled || status.code() == Code::Unknown { Reason::ServiceUnavailable } else { reason };
        Self::new(reason, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, core::v1::Pod};

    #[test]
    fn a_status_survives_grpc() {
        let error = StatusError::not_found(Pod::KIND, "web");
        let wire: tonic::Status = error.clone().into();
        assert_eq!(wire.code(), Code::NotFound);
        assert_eq!(wire.message(), "pods \"web\" not found");
        assert_eq!(StatusError::from(wire), error);
    }

    #[test]
    fn an_error_of_any_length_fits_into_the_headers_of_a_response() {
        let pod = |count: usize, length: usize| {
            let mut errors = FieldErrors::default();
            let (root, value) = (crate::rules::Path::root(), "é".repeat(length));
            let spec = root.field("spec");
            let list = spec.field("containers");
            (0..count).for_each(|i| errors.invalid(&list.index(i), &value, "is wrong"));
            StatusError::invalid(Pod::KIND, "web", &errors)
        };
        for error in [pod(2000, 3), pod(1, 1 << 20), pod(300, 300), StatusError::bad_request("\u{1}".repeat(100_000))] {
            let wire = tonic::Status::from(error.clone());
            let headers = wire.clone().into_http::<()>().headers().clone();
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(size < 15 << 10, "{size}");
            let read = StatusError::from(wire);
            assert_eq!(read.reason(), error.reason());
            let shown: String = error.message().chars().take(500).collect();
            assert!(read.message().starts_with(&shown), "{read}");
            if let Some(first) = error.status().details().causes.first() {
                assert_eq!(read.status().details().causes[0].field, first.field);
            }
        }
        let many = StatusError::from(tonic::Status::from(pod(2000, 3)));
        assert!(many.message().ends_with("of 500 causes are not listed)"), "{many}");
    }

    #[test]
    fn reasons_that_share_a_code_stay_apart() {
        let (gone, expired) = (StatusError::new(Reason::Gone, ""), StatusError::new(Reason::Expired, ""));
        assert_eq!(StatusError::from(tonic::Status::from(gone)).reason(), Reason::Gone);
        assert_eq!(StatusError::from(tonic::Status::from(expired)).reason(), Reason::Expired);
    }
}
