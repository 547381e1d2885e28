//! HTTP probes: which request is sent, and what its answer means. The rules are upstream's.

use std::{net::SocketAddr, pin::pin};

use api::core::v1::HttpHeader;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use url::Url;

use super::tls::accept_any_certificate;

/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// How much of an answer's body is read, in bytes.
const BODY_MAX: usize = 10 << 10;

/// What an HTTP probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All is well.
    Fine,
    /// All is well as far as could be seen: the answer leads to another host, where nobody asks. The text says so.
    LedAway(String),
}

/// Asks an address and follows where it leads on the same host.
///
/// # Errors
/// What is wrong, as the probe's output.
pub(super) async fn get(url: &str, headers: &[HttpHeader]) -> Result<Found, String> {
    let failed = |error: String| format!("Get {url:?}: {error}");
    let first = Url::parse(url).map_err(|error| failed(error.to_string()))?;
    let (headers, host) = request_headers(headers).map_err(failed)?;
    let mut host = host.unwrap_or_else(|| HeaderValue::from_static(""));
    let mut place = first.clone();
    for _ in 0..REDIRECTS {
        let (status, answer) =
            ask(&place, &headers, &host).await.map_err(|error| format!("Get {:?}: {error}", place.as_str()))?;
        let Some(location) = location(status, &answer) else { return judge(status, &answer.body) };
        let next =
            place.join(&location).map_err(|error| failed(format!("failed to parse Location header {location:?}: {error}")))?;
        if next.host_str() != first.host_str() {
            return judge(status, &answer.body);
        }
        if Url::parse(&location).is_ok() {
            // A whole address says itself whom it means.
            host = HeaderValue::from_static("");
        }
        place = next;
    }
    Err(format!("Get {:?}: stopped after {REDIRECTS} redirects", place.as_str()))
}

/// An answer, as far as it matters.
struct Answer {
    location: Option<String>,
    body: String,
}

/// Where an answer leads.
fn location(status: u16, answer: &Answer) -> Option<String> {
    if matches!(status, 301 | 302 | 303 | 307 | 308) { answer.location.clone().filter(|text| !text.is_empty()) } else { None }
}

fn judge(status: u16, body: &str) -> Result<Found, String> {
    match status {
        200..300 => Ok(Found::Fine),
        300..400 => Ok(Found::LedAway(format!("Probe terminated redirects, Response body: {body}"))),
        status => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// The headers of a request, and the name of the host that it is for, if the pod says one. Of what there can be one of, the first counts.
fn request_headers(given: &[HttpHeader]) -> Result<(HeaderMap, Option<HeaderValue>), String> {
    let mut headers = HeaderMap::new();
    for header in given {
        let name: HeaderName = header.name.parse().map_err(|_| format!("invalid header name {:?}", header.name))?;
        let value: HeaderValue = header.value.parse().map_err(|_| format!("invalid value of header {:?}", header.name))?;
        headers.append(name, value);
    }
    let host = headers.remove(HOST);
    // An empty value means that nothing is sent.
    for (name, default) in
        [(USER_AGENT, format!("kube-probe/{}", api::API_LEVEL.trim_start_matches('v'))), (ACCEPT, "*/*".into())]
    {
        let first = match headers.remove(&name) {
            Some(first) => first,
            None => HeaderValue::from_str(&default).map_err(|error| error.to_string())?,
        };
        if !first.is_empty() {
            headers.insert(name, first);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok((headers, host))
}

async fn ask(place: &Url, headers: &HeaderMap, host: &HeaderValue) -> Result<(u16, Answer), String> {
    let name = place.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let secure = match place.scheme() {
        "https" => true,
        "http" => false,
        other => return Err(format!("unsupported protocol scheme {other:?}")),
    };
    let port = place.port_or_known_default().unwrap_or(80);
    let path = match place.query() {
        Some(query) => format!("{}?{query}", place.path()),
        None => place.path().to_owned(),
    };
    let mut request = Request::get(path).body(Empty::new()).map_err(|error| error.to_string())?;
    request.headers_mut().clone_from(headers);
    let own = || HeaderValue::from_str(&authority(name, port)).map_err(|error| error.to_string());
    request.headers_mut().insert(HOST, if host.is_empty() { own()? } else { host.clone() });
    let stream = connect(name, port).await?;
    if secure {
        send(accept_any_certificate(stream, name).await.map_err(|error| error.to_string())?, request).await
    } else {
        send(stream, request).await
    }
}

/// Host and port as an address is written.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects over TCP.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let refused = |error: std::io::Error| format!("dial tcp {}: connect: {}", authority(host, port), plain(&error));
    match host.parse() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(refused),
        Err(_) => TcpStream::connect((host, port)).await.map_err(refused),
    }
}

/// An error without the number that Rust appends.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<(u16, Answer), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut connection = pin!(connection);
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        Ok((response.status().as_u16(), read(response).await))
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

/// Reads some of the body, so that the server can finish its answer.
async fn read(mut response: Response<Incoming>) -> Answer {
    let mut body = Vec::new();
    while let Some(Ok(frame)) = response.body_mut().frame().await {
        let data = frame.data_ref().map_or(&[][..], |data| data);
        let room = BODY_MAX - body.len();
        body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room {
            break;
        }
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Answer { location, body: String::from_utf8_lossy(&body).into_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A server that answers each path with a status and a Location, and remembers what it was asked.
    struct Server {
        port: u16,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        async fn start(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
            let log = asked.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let mut lines = BufReader::new(stream);
                    let mut request = String::new();
                    while lines.read_line(&mut request).await.unwrap() > 2 {}
                    let (status, location) = answer(request.split(' ').nth(1).unwrap_or_default());
                    log.lock().push(request.to_lowercase());
                    let text = format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\nok");
                    lines.get_mut().write_all(text.as_bytes()).await.unwrap();
                }
            });
            Self { port, asked }
        }

        async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Found, String> {
            let header = |(name, value): &(&str, &str)| HttpHeader { name: (*name).into(), value: (*value).into() };
            let headers: Vec<HttpHeader> = headers.iter().map(header).collect();
            get(&format!("http://127.0.0.1:{}{path}", self.port), &headers).await
        }

        /// The values of a header in the request that was asked last.
        fn header(&self, name: &str) -> Vec<String> {
            let asked = self.asked.lock();
            let lines = asked.last().unwrap().lines();
            lines.filter_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned())).collect()
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only_and_not_for_ever() {
        let server = Server::start(|path| match path {
            "/loc" => (302, "/bad".into()),
            "/near" => (307, "deep?x=1".into()),
            "/ext" => (302, "http://198.51.100.99/x".into()),
            "/other" => (301, "//198.51.100.99/x".into()),
            "/bad" => (500, String::new()),
            "/loop" => (302, "/loop".into()),
            "/lost" => (302, String::new()),
            "/choice" => (300, "/bad".into()),
            path if path.starts_with("/ten/") => {
                let left: u32 = path[5..].parse().unwrap();
                if left == 0 { (200, String::new()) } else { (302, format!("/ten/{}", left - 1)) }
            }
            _ => (200, String::new()),
        })
        .await;
        let away = Ok(Found::LedAway("Probe terminated redirects, Response body: ok".into()));
        assert_eq!(server.get("/loc", &[]).await, Err("HTTP probe failed with statuscode: 500".into()));
        assert_eq!(server.get("/near", &[]).await, Ok(Found::Fine));
        assert!(server.asked.lock().last().unwrap().starts_with("get /deep?x=1 "));
        for path in ["/ext", "/other", "/lost", "/choice"] {
            assert_eq!(server.get(path, &[]).await, away, "{path}");
        }
        assert_eq!(server.get("/ten/9", &[]).await, Ok(Found::Fine));
        let endless = server.get("/loop", &[]).await.unwrap_err();
        assert!(endless.ends_with("stopped after 10 redirects"), "{endless}");
    }

    #[tokio::test]
    async fn each_header_is_sent_as_the_pod_says_and_once() {
        let server = Server::start(|path| if path == "/to" { (302, "/".into()) } else { (200, String::new()) }).await;
        server.get("/", &[]).await.unwrap();
        assert_eq!(server.header("host"), [format!("127.0.0.1:{}", server.port)]);
        assert_eq!((server.header("accept"), server.header("user-agent").len()), (vec!["*/*".to_owned()], 1));
        let given = [
            ("Host", "a.example.org"),
            ("host", "b.example.org"),
            ("User-Agent", "mine"),
            ("user-agent", "yours"),
            ("Accept", ""),
            ("X-Two", "1"),
            ("X-Two", "2"),
        ];
        for path in ["/", "/to"] {
            server.get(path, &given).await.unwrap();
            assert_eq!(server.header("host"), ["a.example.org"], "{path}");
            assert_eq!((server.header("user-agent"), server.header("accept")), (vec!["mine".to_owned()], vec![]));
            assert_eq!(server.header("x-two"), ["1", "2"]);
        }
        assert!(server.get("/", &[("a b", "c")]).await.is_err());
    }
}
