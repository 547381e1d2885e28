//! Paths of the API port that name no objects: health, metrics.

use api::{Bytes, StatusError, meta::v1::Status};
use http::header;
use http_body_util::{BodyExt as _, Limited};
use tonic::body::Body;
use tower::ServiceExt as _;

use crate::{
    Client,
    error::{Error, Result},
};

/// Longest answer that is taken, bytes.
const MAX_ANSWER: usize = 64 << 20;

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathAnswer {
    /// HTTP status code.
    pub code: u16,
    /// Media type, with its parameters; empty if the server names none.
    pub media_type: String,
    /// The text.
    pub body: Bytes,
}

impl Client {
    /// Asks with GET for a path that names no object, such as `/metrics` or `/readyz?verbose`.
    ///
    /// # Errors
    /// When no server answers, the path is none, or the answer is a `Status`: what the server refuses.
    pub async fn get_path(&self, path: &str) -> Result<PathAnswer> {
        let bad = |error: http::Error| Error::Api(StatusError::bad_request(format!("{path}: {error}")));
        self.read(|| async {
            let request = http::Request::get(path).header(header::ACCEPT, "*/*").body(Body::empty()).map_err(bad)?;
            let asked = async {
                let (parts, body) = self.transport().oneshot(request).await?.into_parts();
                let broken = |error| tonic::Status::unavailable(format!("the answer breaks off: {error}"));
                Ok((parts, Limited::new(body, MAX_ANSWER).collect().await.map_err(broken)?.to_bytes()))
            };
            let (parts, body) = self.within(asked).await?;
            let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type = media_type.unwrap_or_default().to_owned();
            if !parts.status.is_success()
                && media_type.starts_with("application/json")
                && let Ok(status) = serde_json::from_slice::<Status>(&body)
            {
                return Err(Error::Api(status.into()));
            }
            Ok(PathAnswer { code: parts.status.as_u16(), media_type, body })
        })
        .await
    }
}
