//! `kctl proxy`: Kubernetes' HTTP API on a local port.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use api::{Bytes, yaml};
use client::Client;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Frame, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use regex::Regex;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    Session,
    rest::{self, Answer, Request},
};

/// Connections that are open at once; more wait.
const CONNECTIONS: usize = 100;
/// How long a client may take to say what it wants.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Serve the HTTP API on a local port, as you
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl proxy                                      then: curl http://127.0.0.1:8001/api/v1/nodes
  kctl proxy --port=0                             on any free port
  kctl proxy --reject-methods='POST,PUT,PATCH,DELETE' --api-prefix=/k8s

Whoever reaches the port acts as you, so it is on a loopback address only, and only for clients that call it by such a name. What there \
is: objects, lists, watches, subresources, a pod's log, discovery, /version and health. Streams in both directions (exec, attach, \
port-forward) and pods' own web servers are not.")]
pub struct Args {
    /// Port to listen on; 0 for any
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 8001)]
    port: u16,
    /// Loopback address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,
    /// What paths begin with
    #[arg(long, value_name = "PATH", default_value = "/")]
    api_prefix: String,
    /// Regular expressions for hosts that requests may name
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")]
    accept_hosts: Vec<Regex>,
    /// Regular expressions for paths that are served
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = "^.*")]
    accept_paths: Vec<Regex>,
    /// Regular expressions for paths that are not served
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")]
    reject_paths: Vec<Regex>,
    /// Regular expressions for methods that are not served
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = "^$")]
    reject_methods: Vec<Regex>,
    /// Serve whatever is asked for, whoever asks
    #[arg(long)]
    disable_filter: bool,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if !args.address.is_loopback() {
        bail!(
            "--address={}: whoever reaches the port acts as you, so it must be a loopback address such as 127.0.0.1",
            args.address
        );
    }
    let listener = TcpListener::bind((args.address, args.port)).await;
    let listener = listener.with_context(|| format!("cannot listen on {} port {}", args.address, args.port))?;
    if args.disable_filter {
        session.console.note("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
    }
    session.console.line(format!("Starting to serve on {}", listener.local_addr()?))?;
    let (client, args, places) = (session.client()?, Arc::new(args), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let place = places.clone().acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                session.console.note(format!("error: cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (client, args) = (client.clone(), args.clone());
        // Ends with its connection.
        tokio::spawn(async move {
            let serve = service_fn(|request| {
                let (client, args) = (client.clone(), args.clone());
                async move { Ok::<_, Infallible>(serve(&client, &args, request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), serve).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}

impl Args {
    /// True if a request may be served.
    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |patterns: &[Regex], text: &str| patterns.iter().any(|pattern| pattern.is_match(text));
        let refused = any(&self.reject_paths, path) || any(&self.reject_methods, method);
        self.disable_filter || (!refused && any(&self.accept_paths, path) && any(&self.accept_hosts, host))
    }

    /// The path without the prefix, if it has it.
    fn stripped<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.api_prefix.trim_end_matches('/'))?;
        rest.starts_with('/').then_some(rest)
    }
}

/// A host without its port; brackets stay.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    }
}

async fn serve(client: &Client, args: &Args, request: hyper::Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = parts.uri.host().unwrap_or_else(|| without_port(text(header::HOST)));
    let Some(path) = args.stripped(parts.uri.path()) else { return plain(StatusCode::NOT_FOUND, "404 page not found\n") };
    if !args.accepts(parts.method.as_str(), &rest::decode(path), host) {
        return plain(StatusCode::FORBIDDEN, "Forbidden\n");
    }
    let collected = Limited::new(body, yaml::MAX_SIZE).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body cannot be read: {error}\n")),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let media_type = text(header::CONTENT_TYPE);
    let query = parts.uri.query().unwrap_or_default();
    let request = Request {
        method: parts.method.to_string(),
        target: if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") },
        path: path.to_owned(),
        query: rest::parse_query(query),
        content_type: media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        body,
    };
    match rest::answer(client, &request).await {
        Ok(Answer::Json(code, value)) => response(code, "application/json", full(format!("{value}\n"))),
        Ok(Answer::Text(code, text)) => response(code, "text/plain", full(text)),
        Ok(Answer::Watch(events)) => {
            let frames = events.map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            response(200, "application/json", StreamBody::new(frames).boxed_unsync())
        }
        Ok(Answer::Log(pieces)) => {
            // The end of what can be read is the end of the body.
            let frames = pieces.into_stream().take_while(|piece| std::future::ready(piece.is_ok()));
            let frames = frames.map(|piece| Ok(Frame::data(piece.unwrap_or_default())));
            response(200, "text/plain", StreamBody::new(frames).boxed_unsync())
        }
        Err(error) => {
            let status = rest::status(&error);
            let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
            response(code, "application/json", full(format!("{status}\n")))
        }
    }
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    response(code.as_u16(), "text/plain", full(text.to_owned()))
}

fn response(code: u16, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::{Bench, named};

    async fn ask(address: &str, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn objects_are_served_to_local_callers_only() {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(named("a"));
        let session = bench.session(&[]);
        let words = ["proxy", "--port=0", "--api-prefix=/k8s"];
        let serving = tokio::spawn(async move { crate::cli::run_line(session, &words).await });
        bench.output_has("\n").await;
        let output = bench.output();
        let address = output.trim().strip_prefix("Starting to serve on ").unwrap();
        let path = "/k8s/api/v1/namespaces/default/configmaps";
        let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = ask(address, &get("localhost:1", &format!("{path}/a"))).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"name\":\"a\""), "{answer}");
        // A page on another site that has found the port.
        assert!(ask(address, &get("evil.example", path)).await.starts_with("HTTP/1.1 403 "));
        assert!(ask(address, &get("localhost", "/api/v1/nodes")).await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, &get("localhost", "/k8s/api/v1/namespaces/d/pods/p/%65xec")).await.starts_with("HTTP/1.1 403 "));
        let missing = ask(address, &get("127.0.0.1", &format!("{path}/b"))).await;
        assert!(missing.starts_with("HTTP/1.1 404 ") && missing.contains("\"reason\":\"NotFound\""), "{missing}");
        let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}"#;
        let post = format!(
            "POST {path} HTTP/1.1\r\nHost: [::1]:8001\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(ask(address, &post).await.starts_with("HTTP/1.1 201 "));
        assert!(bench.server.find::<ConfigMap>("default", "new").is_some());
        serving.abort();
        assert!(bench.fails("proxy --address=0.0.0.0").await.contains("loopback"));
        assert!(bench.fails("proxy --accept-paths=(").await.contains("accept-paths"));
    }

    #[test]
    fn ports_are_no_part_of_a_host() {
        for (host, name) in [("a:1", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1")] {
            assert_eq!(without_port(host), name);
        }
    }
}
