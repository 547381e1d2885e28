//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

/// What a verified client certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// CN of the subject: the user's name. Empty if there is none.
    pub common_name: String,
    /// Every O of the subject: the user's groups.
    pub organizations: Vec<String>,
    /// URIs among the subject's alternative names.
    pub uris: Vec<String>,
    /// DNS names among the subject's alternative names.
    pub dns_names: Vec<String>,
    /// End of validity, seconds since the Unix epoch. Long-lived connections outlive it unless someone looks.
    pub not_after: i64,
    /// The certificate itself.
    pub der: CertificateDer<'static>,
}

/// What is known of a connection: an extension of every request that comes over it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The other end.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// The client certificate, if one was shown; verified against the client CA.
    pub identity: Option<Arc<PeerIdentity>>,
}

// === impl PeerIdentity ===

impl PeerIdentity {
    /// Reads a certificate. Nothing is verified here. `None` if it is no X.509 certificate.
    pub fn from_der(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        let mut identity = Self {
            common_name: certificate.subject().iter_common_name().find_map(text).unwrap_or_default(),
            organizations: certificate.subject().iter_organization().filter_map(text).collect(),
            uris: Vec::new(),
            dns_names: Vec::new(),
            not_after: certificate.validity().not_after.timestamp(),
            der: der.clone().into_owned(),
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                    GeneralName::DNSName(dns) => identity.dns_names.push((*dns).to_owned()),
                    _ => {}
                }
            }
        }
        Some(identity)
    }
}
