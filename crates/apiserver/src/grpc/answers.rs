//! What the codec says of a request before it comes to us, in words and with a reason of our own.

use api::{StatusError, status::Reason};
use axum::response::Response;
use tonic::Code;

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
