//! Manifests from URLs.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use api::{Bytes, yaml};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::{Session, progress};

/// How often a server that is busy or cannot be reached is asked.
const ATTEMPTS: u32 = 3;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one answer may take in all.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a server may send us elsewhere.
const REDIRECTS: u32 = 10;

/// Why there is no text.
enum Failure {
    /// Another attempt may do better.
    Passing(anyhow::Error),
    Lasting(anyhow::Error),
}

/// True if a name of a file is a URL.
pub fn is_url(name: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| name.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// What stands at a URL, waited for on this thread. At most one byte more than a manifest may have is read, so that its reader can tell.
///
/// # Errors
/// When it cannot be read.
pub fn fetch(session: &Session, url: &str) -> anyhow::Result<Vec<u8>> {
    let console = session.console.clone();
    // A runtime of its own: the caller's may have but this thread.
    let fetching = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(progress::shown(&console, &format!("reading {url}"), attempts(url)))
    };
    std::thread::scope(|scope| scope.spawn(fetching).join())
        .map_err(|_| anyhow::anyhow!("cannot read {url}: the thread ended"))?
}

async fn attempts(url: &str) -> anyhow::Result<Vec<u8>> {
    for attempt in 1.. {
        let read = tokio::time::timeout(TIMEOUT, follow(url)).await;
        let late = || Failure::Passing(anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs()));
        match read.unwrap_or_else(|_| Err(late())) {
            Ok(text) => return Ok(text),
            Err(Failure::Passing(_)) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Err(Failure::Passing(error) | Failure::Lasting(error)) => {
                return Err(error.context(format!("unable to read URL \"{url}\"")));
            }
        }
    }
    bail!("unable to read URL \"{url}\"")
}

async fn follow(url: &str) -> Result<Vec<u8>, Failure> {
    let mut uri: Uri = url.parse().map_err(|error| Failure::Lasting(anyhow::Error::new(error).context("it is no URL")))?;
    for _ in 0..=REDIRECTS {
        let response = ask(&uri).await.map_err(Failure::Passing)?;
        let status = response.status();
        if status.is_redirection()
            && let Some(place) = response.headers().get(header::LOCATION)
        {
            let place = place.to_str().unwrap_or_default();
            uri = redirected(&uri, place).map_err(Failure::Lasting)?;
            continue;
        }
        if !status.is_success() {
            let error = anyhow::anyhow!("server reported {status}, status code={}", status.as_u16());
            return Err(if status.is_server_error() { Failure::Passing(error) } else { Failure::Lasting(error) });
        }
        // One byte more than is read.
        let body = Limited::new(response.into_body(), yaml::MAX_SIZE + 1).collect().await;
        let too_large = |error| anyhow::anyhow!("its answer breaks off, or has more than {} bytes: {error}", yaml::MAX_SIZE);
        return Ok(body.map_err(|error| Failure::Passing(too_large(error)))?.to_bytes().to_vec());
    }
    Err(Failure::Lasting(anyhow::anyhow!("stopped after {REDIRECTS} redirects")))
}

/// Where a server sends us.
fn redirected(from: &Uri, place: &str) -> anyhow::Result<Uri> {
    let target: Uri = if place.contains("://") {
        place.parse()?
    } else {
        let path = match place.strip_prefix('/') {
            Some(_) => place.to_owned(),
            None => format!("{}/{place}", from.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(path.parse()?);
        Uri::from_parts(parts)?
    };
    if from.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
        bail!("it leads from https to {target}, which is not encrypted");
    }
    Ok(target)
}

async fn ask(uri: &Uri) -> anyhow::Result<Response<Incoming>> {
    let host = uri.host().context("it names no host")?.trim_start_matches('[').trim_end_matches(']');
    let encrypted = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.with_context(|| format!("cannot connect to {host}:{port}"))?;
    if !encrypted {
        return send(TokioIo::new(stream), uri).await;
    }
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} cannot be in a certificate"))?;
    let stream = tokio_rustls::TlsConnector::from(tls()?).connect(name, stream).await;
    send(TokioIo::new(stream.with_context(|| format!("cannot connect to {host}:{port}"))?), uri).await
}

/// Trust in whom the system trusts.
fn tls() -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        bail!(
            "this system has no CA certificates, so no server can be trusted{why}; install ca-certificates or set SSL_CERT_FILE"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

async fn send<S>(stream: S, uri: &Uri) -> anyhow::Result<Response<Incoming>>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await?;
    // Ends with the answer, and with the runtime at the latest.
    tokio::spawn(connection);
    let authority = uri.authority().ok_or_else(|| io::Error::other("it names no host"))?;
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("kctl/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use api::core::v1::ConfigMap;

    use super::*;
    use crate::testing::Bench;

    /// Gives these answers, one a connection.
    fn serve(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn manifests_are_read_from_urls_busy_servers_are_asked_again() {
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";
        let address = serve(vec![
            answer("503 Service Unavailable", "", ""),
            answer("302 Found", "Location: ../b/x.yaml?v=1\r\n", ""),
            answer("200 OK", "", map),
        ]);
        let bench = Bench::new();
        assert_eq!(bench.ok(&format!("apply -f http://{address}/a/x.yaml")).await, "configmap/m created\n");
        assert_eq!(bench.server.all::<ConfigMap>().len(), 1);
        let address = serve(vec![answer("404 Not Found", "", "")]);
        let error = bench.fails(&format!("apply -f http://{address}/x.yaml")).await;
        assert!(error.contains("unable to read URL") && error.contains("status code=404"), "{error}");
        let loops = (0..=REDIRECTS).map(|_| answer("301 Moved", "Location: /again\r\n", "")).collect();
        let error = bench.fails(&format!("apply -f http://{}/x.yaml", serve(loops))).await;
        assert!(error.contains("stopped after 10 redirects"), "{error}");
    }

    #[test]
    fn what_is_encrypted_stays_so() {
        let from: Uri = "https://a/b/c".parse().unwrap();
        assert_eq!(redirected(&from, "/x").unwrap().to_string(), "https://a/x");
        assert_eq!(redirected(&from, "x?y").unwrap().to_string(), "https://a/b/x?y");
        assert!(redirected(&from, "http://a/x").is_err());
        assert!(is_url("HTTPS://a") && !is_url("ftp://a") && !is_url("é"));
    }
}
