//! Errors in a form that every client takes.
//!
//! An error travels in HTTP/2 headers: its message in plain and twice in its details, which hold the causes as well. Clients take some
//! 16 KiB of headers and drop the connection's stream over more, so that the longest list of faults would be no answer at all.

use api::{StatusError, meta::v1::Status, status::Reason};
use axum::response::Response;
use tonic::Code;

/// Most bytes of a message. Each may take three in plain (percent-encoded) and takes nearly three in the details.
const MESSAGE: usize = 2_000;
/// Most bytes of the causes together.
const CAUSES: usize = 2_500;

/// The answer as it can be sent.
pub(crate) fn presentable(response: Response) -> Response {
    let Some(status) = response.extensions().get::<tonic::Status>() else { return response };
    let large = status.message().len() > MESSAGE || status.details().len() > 2 * MESSAGE + CAUSES;
    let ours = !status.details().is_empty();
    match status.code() {
        // What the codec says, before the request comes to us: that it is too large, or no message of its kind.
        Code::OutOfRange if !ours => {
            let message = format!("Request entity too large: {}; split it into several", status.message());
            tonic::Status::from(StatusError::new(Reason::RequestEntityTooLarge, message)).into_http()
        }
        Code::Internal if !ours => {
            let message = format!("the request cannot be read: {}", status.message());
            tonic::Status::from(StatusError::bad_request(message)).into_http()
        }
        _ if large && ours => tonic::Status::from(short(StatusError::from(status.clone()))).into_http(),
        _ => response,
    }
}

fn short(error: StatusError) -> StatusError {
    let mut status: Status = error.status().clone();
    shorten(&mut status.message, MESSAGE);
    if let Some(details) = &mut status.details {
        let mut left = CAUSES;
        details.causes.retain(|cause| {
            let size = cause.reason.len() + cause.message.len() + cause.field.len() + 16;
            let fits = size <= left;
            left -= if fits { size } else { 0 };
            fits
        });
        shorten(&mut details.name, MESSAGE / 4);
    }
    status.into()
}

/// Cuts a text that has more bytes than `most`, and says so.
fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        let length = text.len();
        let end = (0..=most - 40).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!(" … ({} more bytes)", length - end));
    }
}

#[cfg(test)]
mod tests {
    use api::{
        Resource,
        core::v1::Service,
        rules::{FieldErrors, Path},
    };

    use super::*;

    fn size(response: &Response) -> usize {
        response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    fn sent(error: StatusError) -> (Response, StatusError) {
        let response = presentable(tonic::Status::from(error).into_http());
        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        (response, status.into())
    }

    #[test]
    fn the_longest_error_fits_into_the_headers_that_clients_take() {
        for value in ["70000".to_owned(), "\"ä\" ".repeat(5_000)] {
            let mut errors = FieldErrors::default();
            for i in 0..500 {
                errors.invalid(&Path::root().field("spec").field("ports").index(i), &value, "must be between 1 and 65535");
            }
            let error = StatusError::invalid(Service::KIND, "web", &errors);
            let (response, read) = sent(error.clone());
            assert!(size(&response) < 16 << 10, "{}", size(&response));
            assert_eq!(read.reason(), Reason::Invalid);
            assert!(read.message().starts_with("Service \"web\" is invalid: "), "{read}");
            assert!(read.message().contains("more bytes)"), "{read}");
            assert!(read.status().details().causes.len() < 500);
        }
    }

    #[test]
    fn an_ordinary_error_stays_as_it_is() {
        let error = StatusError::not_found(Service::KIND, "web");
        assert_eq!(sent(error.clone()).1, error);
    }
}
