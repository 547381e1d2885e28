//! A cluster's certificates: the CA, what it issues, and the key pair that signs service-account tokens. All keys are ECDSA P-256.
//!
//! Invariant: a private key's file is readable by its owner only, from the moment it has a name.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::FromDer;

/// How far back a certificate's validity begins, for clocks that differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why a certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A CA's certificate or key cannot be used.
    #[error("not a CA's certificate and key")]
    Ca(#[source] rcgen::Error),
    /// A certificate cannot be issued.
    #[error("cannot issue a certificate for {name}")]
    Issue {
        /// The subject's common name.
        name: String,
        /// What went wrong.
        #[source]
        source: rcgen::Error,
    },
    /// A key cannot be generated.
    #[error("cannot generate a key")]
    Key(#[source] rcgen::Error),
    /// Text that should be a PEM certificate is not.
    #[error("not a PEM certificate")]
    Certificate,
}

/// A certificate authority. Holds its private key.
pub struct Ca {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be shown to clients.
    Server,
    /// To be shown to servers.
    Client,
    /// Both, as etcd's members do.
    Both,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Request {
    /// CN: the user's name, or a name for the server.
    pub common_name: String,
    /// O: the user's group. One at most: rcgen writes no more than one attribute of a type.
    pub organization: Option<String>,
    /// Names under which a server is reached.
    pub dns_names: Vec<String>,
    /// Addresses under which a server is reached.
    pub addresses: Vec<IpAddr>,
    /// What it is for.
    pub usage: Usage,
    /// How long it is valid from now.
    pub lifetime: Duration,
}

/// PEM texts of a certificate (or a public key) and its private key.
pub struct Pair {
    /// The certificate, or the public key of a pair that has none.
    pub public_pem: String,
    /// PKCS#8. Never to be logged.
    pub private_pem: String,
}

// === impl Ca ===

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    /// A new, self-signed CA. Also returns its PEM texts, to be kept.
    ///
    /// # Errors
    /// When no key can be generated or the name cannot stand in a certificate.
    pub fn create(common_name: &str, lifetime: Duration) -> Result<(Self, Pair), PkiError> {
        let issue = |source| PkiError::Issue { name: common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(PkiError::Key)?;
        let mut params = params(common_name, None, lifetime).map_err(issue)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(issue)?;
        let pair = Pair { public_pem: certificate.pem(), private_pem: key.serialize_pem() };
        Ok((Self { certificate_pem: certificate.pem(), issuer: Issuer::new(params, key) }, pair))
    }

    /// A CA from PEM texts.
    ///
    /// # Errors
    /// When the texts are not a certificate and its key.
    pub fn from_pem(certificate: &str, private_key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(private_key).map_err(PkiError::Ca)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(PkiError::Ca)?;
        Ok(Self { certificate_pem: certificate.to_owned(), issuer })
    }

    /// A CA from its two PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or does not hold what it should.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, PkiError> {
        let read = |path: &Path| fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.into(), source });
        Self::from_pem(&read(certificate)?, &read(private_key)?)
    }

    /// The CA's certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// When no key can be generated or a name cannot stand in a certificate.
    pub fn issue(&self, request: &Request) -> Result<Pair, PkiError> {
        let issue = |source| PkiError::Issue { name: request.common_name.clone(), source };
        let key = KeyPair::generate().map_err(PkiError::Key)?;
        let mut params = params(&request.common_name, request.organization.as_deref(), request.lifetime).map_err(issue)?;
        for name in &request.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(issue)?));
        }
        params.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(Pair { public_pem: certificate.pem(), private_pem: key.serialize_pem() })
    }
}

fn params(common_name: &str, organization: Option<&str>, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    Ok(params)
}

/// 128 random bits, positive as a serial number must be.
fn random_serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut serial).map_err(|_| rcgen::Error::RemoteKeyError)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// A key pair that signs service-account tokens with ES256: PKCS#8 and SubjectPublicKeyInfo in PEM.
///
/// # Errors
/// When no key can be generated.
pub fn signing_key() -> Result<Pair, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Key)?;
    Ok(Pair { public_pem: key.public_key_pem(), private_pem: key.serialize_pem() })
}

// === impl Pair ===

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pair {
    /// Writes both files, the key first, so that a reader who reloads on either never finds a certificate without its key for long.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, public: &Path, private: &Path) -> Result<(), PkiError> {
        write_atomic(private, self.private_pem.as_bytes(), 0o600)?;
        write_atomic(public, self.public_pem.as_bytes(), 0o644)
    }
}

/// Writes a file so that a reader finds the old or the new contents whole, also after a crash.
///
/// # Errors
/// When the file or its directory cannot be written.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::Write { path: path.into(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // One left by a crash keeps its mode, so it must go first.
    fs::remove_file(&temporary).ok();
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        // The error that matters is the first one.
        fs::remove_file(&temporary).ok();
        failed(source)
    })
}

/// Beginning and end of a PEM certificate's validity.
///
/// # Errors
/// When the text holds no certificate.
pub fn validity(certificate_pem: &[u8]) -> Result<(SystemTime, SystemTime), PkiError> {
    let der = CertificateDer::from_pem_slice(certificate_pem).map_err(|_| PkiError::Certificate)?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| PkiError::Certificate)?;
    let time = |time: x509_parser::time::ASN1Time| UNIX_EPOCH + Duration::from_secs(time.timestamp().max(0).unsigned_abs());
    Ok((time(certificate.validity().not_before), time(certificate.validity().not_after)))
}

/// When a certificate should be renewed: once two thirds of its life are over.
///
/// # Errors
/// When the text holds no certificate.
pub fn renew_at(certificate_pem: &[u8]) -> Result<SystemTime, PkiError> {
    let (begin, end) = validity(certificate_pem)?;
    let lifetime = end.duration_since(begin).unwrap_or_default();
    Ok(begin + lifetime.mul_f64(2.0 / 3.0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tls::PeerIdentity;

    fn request() -> Request {
        Request {
            common_name: "system:node:node-1".into(),
            organization: Some("system:nodes".into()),
            dns_names: vec!["node-1".into()],
            addresses: vec!["172.30.0.11".parse().unwrap()],
            usage: Usage::Both,
            lifetime: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_certificate_says_what_was_asked_for() {
        let (ca, _) = Ca::create("test-ca", Duration::from_secs(7200)).unwrap();
        let pair = ca.issue(&request()).unwrap();
        let der = CertificateDer::from_pem_slice(pair.public_pem.as_bytes()).unwrap();
        let identity = PeerIdentity::from_der(&der).unwrap();
        assert_eq!(identity.common_name, "system:node:node-1");
        assert_eq!(identity.organizations, ["system:nodes"]);
        assert_eq!(identity.dns_names, ["node-1"]);
    }

    #[test]
    fn a_ca_from_disk_issues_as_the_one_that_was_created() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("ca.crt"), dir.path().join("ca.key"));
        let (_, pair) = Ca::create("test-ca", Duration::from_secs(7200)).unwrap();
        pair.write(&cert, &key).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let issued = Ca::load(&cert, &key).unwrap().issue(&request()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.public_pem.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
        let ca_der = CertificateDer::from_pem_slice(pair.public_pem.as_bytes()).unwrap();
        let (_, authority) = x509_parser::certificate::X509Certificate::from_der(&ca_der).unwrap();
        assert_eq!(certificate.issuer(), authority.subject());
    }

    #[test]
    fn a_key_is_never_written_into_a_file_that_others_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("a.key");
        let left = dir.path().join(format!("a.key.{}.tmp", std::process::id()));
        fs::write(&left, "from a crash").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        write_atomic(&key, b"secret", 0o600).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_lifetime() {
        let (ca, _) = Ca::create("test-ca", Duration::from_secs(7200)).unwrap();
        let pair = ca.issue(&request()).unwrap();
        let due = renew_at(pair.public_pem.as_bytes()).unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((2200..2400).contains(&due.as_secs()), "{due:?}");
    }
}
