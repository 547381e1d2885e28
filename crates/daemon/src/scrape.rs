//! The scrape port: `/metrics` for collectors on other machines, over TLS and for client certificates of a trusted group only.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

use crate::{
    Health, Metrics, Shutdown,
    admin::admin_router,
    serve::{HttpOptions, serve},
    tls::{self, ClientAuth, IncomingOptions, PeerInfo, Pem, TlsError},
};

/// Group that may do everything.
const MASTERS: &str = "system:masters";

/// Where metrics are served beyond the host, and to whom. The four files and addresses go together.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct ScrapeArgs {
    /// Address that serves /metrics over TLS to other hosts, for client certificates of --metrics-group or system:masters; none
    /// if not set
    #[arg(
        long,
        value_name = "IP:PORT",
        requires_all = ["metrics_tls_cert_file", "metrics_tls_private_key_file", "metrics_client_ca_file"]
    )]
    pub metrics_bind_address: Option<SocketAddr>,
    /// Serving certificate of the scrape port
    #[arg(long, value_name = "FILE", requires = "metrics_bind_address")]
    pub metrics_tls_cert_file: Option<PathBuf>,
    /// Key of the scrape port's certificate
    #[arg(long, value_name = "FILE", requires = "metrics_bind_address")]
    pub metrics_tls_private_key_file: Option<PathBuf>,
    /// CA of the client certificates that may scrape
    #[arg(long, value_name = "FILE", requires = "metrics_bind_address")]
    pub metrics_client_ca_file: Option<PathBuf>,
    /// Group (O of the subject) that a client certificate must have to scrape
    #[arg(long, value_name = "GROUP", default_value = "system:monitoring")]
    pub metrics_group: String,
}

/// Why there is no scrape port.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// A file cannot be used.
    #[error("the scrape port's certificates cannot be used")]
    Tls(#[from] TlsError),
    /// The address is taken, or none of this host.
    #[error("cannot listen on --metrics-bind-address {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A scrape port that listens.
pub(crate) struct Scrape {
    listener: TcpListener,
    tls: Arc<tls::ServerTls>,
    group: Arc<str>,
}

// === impl Scrape ===

impl Scrape {
    /// Listens, if the flags say so.
    ///
    /// # Errors
    /// When a file cannot be used or the address is taken.
    pub(crate) async fn bind(args: &ScrapeArgs) -> Result<Option<Self>, ScrapeError> {
        let files = (&args.metrics_tls_cert_file, &args.metrics_tls_private_key_file, &args.metrics_client_ca_file);
        let (Some(address), (Some(cert), Some(key), Some(ca))) = (args.metrics_bind_address, files) else { return Ok(None) };
        let pem = |path: &PathBuf| Pem::File(path.clone());
        let tls = tls::server_tls(pem(cert), pem(key), pem(ca), ClientAuth::Required)?;
        let listener = TcpListener::bind(address).await.map_err(|source| ScrapeError::Listen { address, source })?;
        Ok(Some(Self { listener, tls, group: args.metrics_group.as_str().into() }))
    }

    /// Serves until the shutdown begins.
    pub(crate) async fn serve(self, health: Health, metrics: Metrics, shutdown: Shutdown) {
        let router = Router::new()
            .fallback_service(admin_router(health, metrics))
            .layer(middleware::from_fn_with_state(self.group.clone(), only_for));
        let incoming = tls::server(self.listener, self.tls.clone(), IncomingOptions::default(), shutdown.clone());
        let reload = async {
            if let Err(error) = self.tls.clone().watch(shutdown.clone()).await {
                tracing::warn!(%error, "the scrape port's certificates are not read again when they change");
                shutdown.started().await;
            }
        };
        tokio::join!(serve(incoming, router, HttpOptions::default(), shutdown.clone()), reload);
    }
}

/// Lets those of the group, whose certificate has not expired since they connected, read the metrics and nothing else.
async fn only_for(State(group): State<Arc<str>>, request: Request, next: Next) -> Response {
    let identity = request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.clone());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let allowed = identity.is_some_and(|identity| {
        let in_time = u64::try_from(identity.not_after).is_ok_and(|end| now <= end);
        in_time && identity.organizations.iter().any(|found| **found == *group || found == MASTERS)
    });
    match (allowed, request.uri().path()) {
        (false, _) => {
            (StatusCode::FORBIDDEN, format!("a valid client certificate of the group {group} is wanted here\n")).into_response()
        }
        (true, "/metrics") => next.run(request).await,
        (true, _) => (StatusCode::NOT_FOUND, "only /metrics is served here\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::ServerName;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::pki::{self, Ca, Usage};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn metrics_are_for_certificates_of_the_group() {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str| files.path().join(name);
        let (ca, pair) = Ca::create("test-ca", HOUR).unwrap();
        pair.write(&file("ca.crt"), &file("ca.key")).unwrap();
        for (name, group) in [("server", None), ("collector", Some("system:monitoring")), ("node", Some("system:nodes"))] {
            let request = pki::Request {
                common_name: name.to_owned(),
                organization: group.map(str::to_owned),
                dns_names: vec!["localhost".to_owned()],
                addresses: Vec::new(),
                usage: Usage::Both,
                lifetime: HOUR,
            };
            ca.issue(&request).unwrap().write(&file(&format!("{name}.crt")), &file(&format!("{name}.key"))).unwrap();
        }
        let args = ScrapeArgs {
            metrics_bind_address: Some("127.0.0.1:0".parse().unwrap()),
            metrics_tls_cert_file: Some(file("server.crt")),
            metrics_tls_private_key_file: Some(file("server.key")),
            metrics_client_ca_file: Some(file("ca.crt")),
            metrics_group: "system:monitoring".to_owned(),
        };
        let scrape = Scrape::bind(&args).await.unwrap().unwrap();
        let (address, shutdown) = (scrape.listener.local_addr().unwrap(), Shutdown::new());
        let server = tokio::spawn(scrape.serve(Health::new(shutdown.clone()), Metrics::new(), shutdown.clone()));
        let get = async |who: &str, path: &str| {
            let identity = (!who.is_empty()).then(|| (file(&format!("{who}.crt")).into(), file(&format!("{who}.key")).into()));
            let tls = tls::client_tls(file("ca.crt").into(), identity).unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let mut config = (*tls.current()).clone();
            config.alpn_protocols.clear();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            String::from_utf8(answer).unwrap()
        };
        assert!(get("collector", "/metrics").await.contains("process_resident_memory_bytes"));
        assert!(get("collector", "/readyz").await.starts_with("HTTP/1.1 404"));
        assert!(get("node", "/metrics").await.starts_with("HTTP/1.1 403"));
        assert_eq!(get("", "/metrics").await, "");
        shutdown.start();
        server.await.unwrap();
    }

    #[test]
    fn an_address_needs_its_files() {
        #[derive(Debug, clap::Args)]
        struct None {}
        let parse = |flags: &[&str]| {
            let argv = std::iter::once("x").chain(flags.iter().copied()).map(std::ffi::OsString::from);
            crate::parse::<None>("x", "127.0.0.1:1", argv).map(|(args, _)| args.scrape.metrics_bind_address)
        };
        assert!(parse(&["--metrics-bind-address=0.0.0.0:9100"]).is_err());
        assert!(parse(&["--metrics-client-ca-file=ca"]).is_err());
        let files = ["--metrics-tls-cert-file=c", "--metrics-tls-private-key-file=k", "--metrics-client-ca-file=ca"];
        let with_files = [&["--metrics-bind-address=0.0.0.0:9100"], &files[..]].concat();
        assert_eq!(parse(&with_files).unwrap().unwrap().port(), 9100);
        assert_eq!(parse(&[]).unwrap(), Option::None);
    }
}
