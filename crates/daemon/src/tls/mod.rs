//! TLS 1.3 with certificates that are read again when their files change.
//!
//! [`ServerTls`] and [`ClientTls`] each hold one rustls configuration behind an atomic pointer. New handshakes take what is current;
//! connections that are open keep what they began with. Invariant: a set of files that cannot be used never replaces one that can.

mod activity;
mod identity;
mod incoming;
mod lobby;
mod reload;
mod seat;

use std::{path::PathBuf, sync::Arc};

use rustls::{ClientConfig, RootCertStore, ServerConfig, server::WebPkiClientVerifier, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

pub(crate) use self::activity::Busy;
pub use self::{
    identity::{PeerIdentity, PeerInfo},
    incoming::{Connection, Incoming, IncomingOptions, server},
    lobby::origin,
    reload::Reloading,
    seat::Seat,
};

/// A server's rustls configuration, reloaded.
pub type ServerTls = Reloading<ServerConfig>;
/// A client's rustls configuration, reloaded.
pub type ClientTls = Reloading<ClientConfig>;

/// Where PEM text comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file, watched for changes.
    File(PathBuf),
    /// The text itself, as kubeconfig's `…-data` fields hold it.
    Inline(Vec<u8>),
}

/// Whether a server insists on a client certificate. One that is sent is always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection.
    Required,
    /// A client may authenticate in another way, such as a token.
    Optional,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A source does not hold the PEM section that it should.
    #[error("{path} holds no usable {what}")]
    Pem {
        /// The file, or `inline data`.
        path: String,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A source holds no certificate at all.
    #[error("{path} holds no certificate")]
    NoCertificate {
        /// The file, or `inline data`.
        path: String,
    },
    /// A CA certificate is not usable as a root.
    #[error("{path} holds a certificate that cannot be a root")]
    Root {
        /// The file, or `inline data`.
        path: String,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("certificate {cert} and key {key} cannot be used together")]
    Pair {
        /// The certificate's source.
        cert: String,
        /// The key's source.
        key: String,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The verifier of client certificates cannot be built.
    #[error("{path} cannot verify clients")]
    Verifier {
        /// The CA's source.
        path: String,
        /// What rustls said.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

/// Makes ring the provider of this process. A second call changes nothing.
pub fn install_provider() {
    // An error means that a provider is installed already.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::trace!("a TLS provider is installed already");
    }
}

/// TLS for a server, from the certificate chain and key it shows and the CAs that its clients' certificates come from.
///
/// # Errors
/// When a source cannot be read or used. Later reloads log such errors and keep what they had.
pub fn server_tls(cert: Pem, key: Pem, client_ca: Pem, auth: ClientAuth) -> Result<Arc<ServerTls>, TlsError> {
    let sources = vec![cert.clone(), key.clone(), client_ca.clone()];
    Reloading::new(sources, move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client_ca.roots()?), provider.clone());
        let verifier = match auth {
            ClientAuth::Required => verifier,
            ClientAuth::Optional => verifier.allow_unauthenticated(),
        };
        let verifier = verifier.build().map_err(|source| TlsError::Verifier { path: client_ca.name(), source })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| cert.pair(&key, source))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(cert.certificates()?, key.private_key()?)
            .map_err(|source| cert.pair(&key, source))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    })
}

/// TLS for a client, from the CAs that its servers' certificates come from and, if it has one, its own certificate and key.
///
/// # Errors
/// When a source cannot be read or used. Later reloads log such errors and keep what they had.
pub fn client_tls(ca: Pem, identity: Option<(Pem, Pem)>) -> Result<Arc<ClientTls>, TlsError> {
    let mut sources = vec![ca.clone()];
    sources.extend(identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]));
    Reloading::new(sources, move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| TlsError::Root { path: ca.name(), source })?
            .with_root_certificates(ca.roots()?);
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(cert.certificates()?, key.private_key()?)
                .map_err(|source| cert.pair(key, source))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    })
}

// === impl Pem ===

impl std::fmt::Debug for Pem {
    /// Never shows inline text, which may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&std::path::Path> for Pem {
    fn from(path: &std::path::Path) -> Self {
        Self::File(path.into())
    }
}

impl Pem {
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Inline(_) => "inline data".to_owned(),
        }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        match self {
            Self::File(path) => std::fs::read(path).map_err(|source| TlsError::Read { path: self.name(), source }),
            Self::Inline(text) => Ok(text.clone()),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.read()?)
            .collect::<Result<_, _>>()
            .map_err(|source| TlsError::Pem { path: self.name(), what: "certificate", source })?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { path: self.name() });
        }
        Ok(certificates)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|source| TlsError::Pem {
            path: self.name(),
            what: "private key",
            source,
        })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|source| TlsError::Root { path: self.name(), source })?;
        }
        Ok(roots)
    }

    fn pair(&self, key: &Self, source: rustls::Error) -> TlsError {
        TlsError::Pair { cert: self.name(), key: key.name(), source }
    }
}

#[cfg(test)]
mod tests;
