//! What the codec says of a request before it comes to us, in words and with a reason of our own.

use api::{StatusError, status::Reason};
use axum::response::Response;
use tonic::Code;

/// The HTTP code that upstream would answer with.
pub(crate) fn code(response: &Response) -> u16 {
    let status = response.extensions().get::<tonic::Status>().filter(|status| status.code() != Code::Ok);
    let code = status.map_or(200, |status| StatusError::from(status.clone()).status().code);
    u16::try_from(code).unwrap_or(500)
}

/// The answer as every client understands it.
pub(crate) fn presentable(response: Response) -> Response {
    let Some(status) = response.extensions().get::<tonic::Status>().filter(|status| status.details().is_empty()) else {
        return response;
    };
    match status.code() {
        Code::OutOfRange => {
            let message = format!("Request entity too large: {}; split it into several", status.message());
            tonic::Status::from(StatusError::new(Reason::RequestEntityTooLarge, message)).into_http()
        }
        Code::Internal => {
            let message = format!("the request cannot be read: {}", status.message());
            tonic::Status::from(StatusError::bad_request(message)).into_http()
        }
        _ => response,
    }
}
