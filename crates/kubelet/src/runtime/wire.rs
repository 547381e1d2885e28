//! Plain HTTP to the engine, for what a client library would interpret or hold in memory: streams whose bytes are a container's.
//!
//! *Invariant:* nothing here holds more of an answer than [`ANSWER_MAX`] bytes.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::UnixStream,
};
use tracing::debug;

use super::{Error, Result};

/// Bound on the engine's first words to a call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes of an answer that is read whole: errors, versions, exit codes.
const ANSWER_MAX: usize = 64 << 10;

/// Where the engine is, and which API is spoken with it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub socket: PathBuf,
    /// `/v1.41`, or nothing before the version is known.
    pub prefix: String,
}

/// What a connection has become that is no HTTP any more.
pub(super) type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

// === impl Wire ===

impl Wire {
    /// Asks and reads the whole answer, which must be short.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Bytes> {
        self.read(self.send(method, path, Bytes::new(), false).await?).await
    }

    /// Turns a connection into a stream of bytes in both directions.
    pub(super) async fn hijack(&self, path: &str, body: Bytes) -> Result<(ReadHalf<Hijacked>, WriteHalf<Hijacked>)> {
        let answer = self.send(Method::POST, path, body, true).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.read(answer).await?;
            return Err(Error::Incomplete("the change of protocol"));
        }
        let stream = hyper::upgrade::on(answer).await.map_err(Error::transport)?;
        Ok(tokio::io::split(TokioIo::new(stream)))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes, upgrade: bool) -> Result<Response<Incoming>> {
        let sending = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(Error::unreachable)?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.map_err(Error::unreachable)?;
            // It ends when the answer's body, or the stream that it became, is dropped.
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    debug!(%error, "a connection to the Docker Engine broke");
                }
            });
            let request = Request::builder()
                .method(method)
                .uri(format!("{}{path}", self.prefix))
                .header(HOST, "docker")
                .header(CONTENT_TYPE, "application/json");
            let request = if upgrade { request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp") } else { request };
            let request = request.body(Full::new(body)).map_err(Error::transport)?;
            sender.send_request(request).await.map_err(Error::unreachable)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, sending).await.map_err(Error::unreachable)?
    }

    /// Reads a short answer, or the error that it is.
    async fn read(&self, answer: Response<Incoming>) -> Result<Bytes> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(Error::unreachable)?.to_bytes();
        if status.is_client_error() || status.is_server_error() {
            let message = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.message);
            return Err(Error::refused(status.as_u16(), message.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned())));
        }
        Ok(body)
    }
}
