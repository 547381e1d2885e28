//! Connections to etcd's members: TCP, and TLS 1.3 with certificates that are read again when their files change.

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use super::error::EtcdError;
use crate::config::TlsFiles;

type Stream = Either<TlsStream<TcpStream>, TcpStream>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections for a tonic channel.
#[derive(Clone)]
pub(super) struct Connector {
    tls: Option<Arc<Tls>>,
}

/// The client side of TLS, as of the files' last change.
struct Tls {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    changed: Vec<SystemTime>,
    config: Arc<ClientConfig>,
}

// === impl Connector ===

impl Connector {
    /// # Errors
    /// [`EtcdError::Config`] if the files cannot be used.
    pub(super) fn new(tls: Option<&TlsFiles>) -> Result<Self, EtcdError> {
        let tls = tls.map(Tls::new).transpose()?.map(Arc::new);
        Ok(Self { tls })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(2379))).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = tls else {
                return Ok(TokioIo::new(Either::Right(tcp)));
            };
            let config = tokio::task::spawn_blocking(move || tls.current()).await?;
            let stream = TlsConnector::from(config).connect(ServerName::try_from(host)?, tcp).await?;
            Ok(TokioIo::new(Either::Left(stream)))
        })
    }
}

// === impl Tls ===

impl Tls {
    fn new(files: &TlsFiles) -> Result<Self, EtcdError> {
        let changed = changed(files)?;
        let config = Arc::new(load(files)?);
        Ok(Self { files: files.clone(), loaded: Mutex::new(Loaded { changed, config }) })
    }

    /// The configuration as of the files now; the one before if they cannot be used, as while they are being replaced.
    fn current(&self) -> Arc<ClientConfig> {
        let mut loaded = self.loaded.lock();
        match changed(&self.files) {
            Ok(changed) if changed == loaded.changed => {}
            Ok(changed) => match load(&self.files) {
                Ok(config) => *loaded = Loaded { changed, config: Arc::new(config) },
                Err(error) => tracing::warn!(%error, "keeping the former etcd client certificate"),
            },
            Err(error) => tracing::warn!(%error, "keeping the former etcd client certificate"),
        }
        loaded.config.clone()
    }
}

fn changed(files: &TlsFiles) -> Result<Vec<SystemTime>, EtcdError> {
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).map_err(|e| invalid(path, e));
    [&files.ca, &files.cert, &files.key].into_iter().map(|path| modified(path)).collect()
}

fn load(files: &TlsFiles) -> Result<ClientConfig, EtcdError> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, EtcdError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates: Vec<_> = read.map_err(|e| invalid(path, e))?;
        if certificates.is_empty() {
            return Err(invalid(path, io::Error::new(io::ErrorKind::InvalidData, "no certificate in it")));
        }
        Ok(certificates)
    };
    let mut roots = RootCertStore::empty();
    for ca in certificates(&files.ca)? {
        roots.add(ca).map_err(|e| invalid(&files.ca, e))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| invalid(&files.key, e))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| invalid(&files.ca, e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&files.cert)?, key)
        .map_err(|e| invalid(&files.cert, e))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn invalid(path: &Path, source: impl Into<BoxError>) -> EtcdError {
    EtcdError::Config { what: path.display().to_string(), source: source.into() }
}
