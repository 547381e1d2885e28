//! ES256, the one algorithm of our tokens, by ring, which does TLS's cryptography too; and its keys from PEM.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{oid_registry, prelude::FromDer, x509::SubjectPublicKeyInfo};

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

struct Es256Signer(EcdsaKeyPair);

struct Es256Verifier(Vec<u8>);

/// Makes this the cryptography of all tokens. It must have been called before the first is signed or verified; again is no harm.
pub(super) fn install() {
    PROVIDER.install_default().ok();
}

/// Reads a P-256 private key (PKCS #8, with its public key inside, as `openssl genpkey` writes it).
///
/// # Errors
/// When there is none.
pub(super) fn private_key(pem: &[u8]) -> Result<EncodingKey, Error> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| ErrorKind::InvalidKeyFormat)?;
    let key = EncodingKey::from_ec_der(der.secret_pkcs8_der());
    signer(&Algorithm::ES256, &key).map(|_| key)
}

/// Reads a P-256 public key (SubjectPublicKeyInfo), and its DER.
///
/// # Errors
/// When there is none.
pub(super) fn public_key(pem: &[u8]) -> Result<(DecodingKey, Vec<u8>), Error> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| ErrorKind::InvalidKeyFormat)?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| ErrorKind::InvalidKeyFormat)?;
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if info.algorithm.algorithm != oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(oid_registry::OID_EC_P256) {
        return Err(ErrorKind::InvalidEcdsaKey.into());
    }
    Ok((DecodingKey::from_ec_der(&info.subject_public_key.data), der.to_vec()))
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    if (*algorithm, key.family()) != (Algorithm::ES256, AlgorithmFamily::Ec) {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_bytes(), &SystemRandom::new());
    Ok(Box::new(Es256Signer(pair.map_err(|_| ErrorKind::InvalidEcdsaKey)?)))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if (*algorithm, key.family()) != (Algorithm::ES256, AlgorithmFamily::Ec) {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Es256Verifier(key.try_get_as_bytes()?.to_vec())))
}

impl Signer<Vec<u8>> for Es256Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| signature::Error::new())?;
        Ok(signature.as_ref().to_vec())
    }
}

impl JwtSigner for Es256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

impl Verifier<Vec<u8>> for Es256Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0);
        key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Es256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token of RFC 7515, appendix A.3, with its key: made by others, so that not only we understand ourselves.
    #[test]
    fn the_standards_own_example_verifies_and_a_changed_one_does_not() {
        install();
        let key = DecodingKey::from_ec_components(
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        )
        .unwrap();
        let message =
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let verify = |message: &str| jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, Algorithm::ES256).unwrap();
        assert!(verify(message));
        assert!(!verify(&message.replace("eyJpc3M", "eyJpc4M")));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(private_key(pair.serialize_pem().as_bytes()).is_ok() && public_key(pair.public_key_pem().as_bytes()).is_ok());
        for other in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let pair = rcgen::KeyPair::generate_for(other).unwrap();
            assert!(private_key(pair.serialize_pem().as_bytes()).is_err());
            assert!(public_key(pair.public_key_pem().as_bytes()).is_err());
        }
        assert!(private_key(b"").is_err() && public_key(b"no PEM").is_err());
    }
}
