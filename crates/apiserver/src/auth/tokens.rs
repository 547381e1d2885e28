//! Service-account tokens: JWTs signed with ES256, in upstream's form.
//!
//! This is the part that needs no other objects: keys, signing, and checking a signature and what the token says of itself. A bounded
//! cache keeps the claims of tokens whose signature was good, so that a request costs a hash and not a signature check.
//! *Invariant:* a cached token is checked against the clock each time; only the signature is believed.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::es256;

/// By how many seconds clocks may differ.
const LEEWAY: i64 = 10;
/// How many verified tokens are remembered: one for each of as many pods and clients.
const REMEMBERED: usize = 4096;
/// Longest token that is looked at, in bytes. Ours have some 900.
const MAX_TOKEN: usize = 16 << 10;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no P-256 key in PEM.
    #[error("{path} holds no P-256 {what} key in PEM")]
    Key {
        /// The file.
        path: PathBuf,
        /// `private` or `public`.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
    /// Tokens that are signed here would not be accepted here.
    #[error("none of the public keys belongs to the private key in {path}: add its public key to them")]
    Unmatched {
        /// The private key's file.
        path: PathBuf,
    },
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// It is no JWT of ours: wrong form, algorithm, key, issuer, or not of a service account.
    #[error("the token was not issued by this cluster")]
    Foreign,
    /// Its time is over.
    #[error("the token has expired; get a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet; is the clock right?")]
    TooEarly,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// What a token says. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "aud", deserialize_with = "one_or_more")]
    pub(super) audiences: Vec<String>,
    #[serde(rename = "exp")]
    pub(super) expires: i64,
    #[serde(rename = "iat")]
    pub(super) issued: i64,
    #[serde(rename = "iss")]
    pub(super) issuer: String,
    #[serde(rename = "jti", default)]
    pub(super) id: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) bound: Bound,
    #[serde(rename = "nbf")]
    pub(super) not_before: i64,
    #[serde(rename = "sub")]
    pub(super) subject: String,
}

/// The objects that a token ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Reference>,
    #[serde(rename = "serviceaccount")]
    pub(super) service_account: Reference,
}

/// An object by name and UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
}

/// The keys of the cluster's tokens and the tokens seen lately. The keys are read once: a new one is introduced by adding its public
/// key to every API server first, then signing with it.
pub(super) struct Tokens {
    issuer: String,
    signing: EncodingKey,
    signing_id: String,
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
    seen: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

// === impl Claims ===

impl Claims {
    /// The user name of the service account.
    pub(super) fn username(&self) -> String {
        username(&self.bound.namespace, &self.bound.service_account.name)
    }
}

/// The user name of a service account.
pub(super) fn username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// `aud` may be one text instead of a list.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audiences {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Audiences::deserialize(deserializer)? {
        Audiences::One(audience) => vec![audience],
        Audiences::Several(audiences) => audiences,
    })
}

// === impl Tokens ===

impl Tokens {
    /// Reads the keys.
    ///
    /// # Errors
    /// When a file cannot be read or holds no key, or the keys do not belong together.
    pub(super) fn new(issuer: &str, signing: &Path, verifying: &[PathBuf]) -> Result<Self, TokenKeyError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TokenKeyError::Read { path: path.into(), source });
        let key_error = |path: &Path, what, source| TokenKeyError::Key { path: path.into(), what, source };
        es256::install();
        let mut keys = Vec::new();
        for path in verifying {
            let pem = read(path)?;
            let (key, der) = es256::public_key(&pem).map_err(|e| key_error(path, "public", e))?;
            keys.push((URL_SAFE_NO_PAD.encode(sha256(&der)), key));
        }
        let pem = read(signing)?;
        let private = es256::private_key(&pem).map_err(|e| key_error(signing, "private", e))?;
        let mut validation = Validation::new(Algorithm::ES256);
        // Times, issuer and audience are checked here, where the reason can be told and the cache can share the rest.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let mut tokens = Self {
            issuer: issuer.to_owned(),
            signing: private,
            signing_id: String::new(),
            verifying: keys,
            validation,
            seen: Mutex::default(),
        };
        let probe = tokens.sign(&Claims::probe()).map_err(|e| key_error(signing, "private", e))?;
        let own = tokens.verifying.iter().find(|(_, key)| tokens.decode(&probe, key).is_ok());
        let own = own.ok_or_else(|| TokenKeyError::Unmatched { path: signing.into() })?;
        tokens.signing_id = own.0.clone();
        Ok(tokens)
    }

    /// The issuer of our tokens.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When the key cannot sign; it could at start.
    pub(super) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let header = Header { kid: Some(self.signing_id.clone()), typ: None, ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// Checks a token's signature and what it says of itself, at `now` in seconds since 1970. Says nothing of the objects it is bound to.
    ///
    /// # Errors
    /// Says why the token is not accepted.
    pub(super) fn verify(&self, token: &str, audiences: &[String], now: i64) -> Result<Arc<Claims>, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Foreign);
        }
        let hash = sha256(token.as_bytes());
        let known = self.seen.lock().get(&hash).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.check_signature(token)?);
                self.remember(hash, claims.clone(), now);
                claims
            }
        };
        if now > claims.expires + LEEWAY {
            return Err(TokenError::Expired);
        }
        if now + LEEWAY < claims.not_before || now + LEEWAY < claims.issued {
            return Err(TokenError::TooEarly);
        }
        if !claims.audiences.iter().any(|audience| audiences.contains(audience)) {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }

    fn check_signature(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Foreign)?;
        let mut keys = self.verifying.iter().filter(|(id, _)| header.kid.as_ref().is_none_or(|kid| kid == id));
        let claims = keys.find_map(|(_, key)| self.decode(token, key).ok()).ok_or(TokenError::Foreign)?;
        if claims.issuer != self.issuer || claims.subject != claims.username() {
            return Err(TokenError::Foreign);
        }
        Ok(claims)
    }

    fn decode(&self, token: &str, key: &DecodingKey) -> Result<Claims, jsonwebtoken::errors::Error> {
        jsonwebtoken::decode(token, key, &self.validation).map(|data| data.claims)
    }

    fn remember(&self, hash: [u8; 32], claims: Arc<Claims>, now: i64) {
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            seen.retain(|_, claims| claims.expires >= now);
        }
        if seen.len() >= REMEMBERED
            && let Some(any) = seen.keys().next().copied()
        {
            seen.remove(&any);
        }
        seen.insert(hash, claims);
    }
}

impl Claims {
    /// Claims that no request is ever made with.
    fn probe() -> Self {
        Self {
            audiences: Vec::new(),
            expires: 0,
            issued: 0,
            issuer: String::new(),
            id: String::new(),
            bound: Bound::default(),
            not_before: 0,
            subject: String::new(),
        }
    }
}

/// The SHA-256 hash of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
    const NOW: i64 = 1_800_000_000;

    /// Keys in files of their own: a server's tokens and those of another cluster with the same issuer.
    fn tokens(directory: &Path, name: &str) -> Tokens {
        let (public, private) = (directory.join(format!("{name}.pub")), directory.join(format!("{name}.key")));
        daemon::pki::signing_key().unwrap().write(&public, &private).unwrap();
        Tokens::new(ISSUER, &private, &[public]).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            audiences: vec![ISSUER.into()],
            expires: NOW + 3600,
            issued: NOW,
            issuer: ISSUER.into(),
            id: "id".into(),
            bound: Bound {
                namespace: "default".into(),
                service_account: Reference { name: "builder".into(), uid: "u1".into() },
                ..Bound::default()
            },
            not_before: NOW,
            subject: "system:serviceaccount:default:builder".into(),
        }
    }

    fn audiences() -> Vec<String> {
        vec![ISSUER.into()]
    }

    #[test]
    fn a_token_is_what_was_signed_for_as_long_as_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(directory.path(), "a");
        let token = tokens.sign(&claims()).unwrap();
        // The second time it comes out of the cache.
        for _ in 0..2 {
            assert_eq!(*tokens.verify(&token, &audiences(), NOW).unwrap(), claims());
            assert!(matches!(tokens.verify(&token, &audiences(), NOW + 3700), Err(TokenError::Expired)));
            assert!(matches!(tokens.verify(&token, &audiences(), NOW - 60), Err(TokenError::TooEarly)));
            assert!(matches!(tokens.verify(&token, &["vault".into()], NOW), Err(TokenError::Audience)));
        }
    }

    #[test]
    fn tokens_that_are_not_ours_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (tokens(directory.path(), "a"), tokens(directory.path(), "b"));
        let good = ours.sign(&claims()).unwrap();
        let foreign = theirs.sign(&claims()).unwrap();
        let other_issuer = ours.sign(&Claims { issuer: "https://elsewhere".into(), ..claims() }).unwrap();
        let other_subject = ours.sign(&Claims { subject: "system:serviceaccount:default:other".into(), ..claims() }).unwrap();
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{none}.{}.", parts[1]);
        let hmac_header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let hmac = format!("{hmac_header}.{}.{}", parts[1], parts[2]);
        let changed = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Claims { expires: NOW * 2, ..claims() }).unwrap());
        parts[1] = &changed;
        let changed = parts.join(".");
        let long = "a".repeat(1 << 20);
        let all = [&foreign, &other_issuer, &other_subject, &unsigned, &hmac, &changed, &long];
        for token in all.into_iter().map(String::as_str).chain(["", ".", "..", "garbage", "a.b.c", &good[..good.len() - 8]]) {
            let refused = ours.verify(token, &audiences(), NOW);
            assert!(matches!(refused, Err(TokenError::Foreign)), "{}", &token[..token.len().min(80)]);
        }
    }

    #[test]
    fn a_former_key_still_verifies_but_a_private_key_without_its_public_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let former = tokens(directory.path(), "a");
        let token = former.sign(&claims()).unwrap();
        tokens(directory.path(), "b");
        let file = |name: &str| directory.path().join(name);
        let both = Tokens::new(ISSUER, &file("b.key"), &[file("a.pub"), file("b.pub")]).unwrap();
        assert!(both.verify(&token, &audiences(), NOW).is_ok());
        assert!(both.verify(&both.sign(&claims()).unwrap(), &audiences(), NOW).is_ok());
        let unmatched = Tokens::new(ISSUER, &file("b.key"), &[file("a.pub")]);
        assert!(matches!(unmatched, Err(TokenKeyError::Unmatched { .. })));
        assert!(matches!(Tokens::new(ISSUER, &file("a.pub"), &[file("a.pub")]), Err(TokenKeyError::Key { .. })));
    }

    #[test]
    fn the_cache_of_tokens_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = tokens(directory.path(), "a");
        let claims = Arc::new(claims());
        for i in 0..=REMEMBERED as u64 {
            tokens.remember(sha256(&i.to_le_bytes()), claims.clone(), NOW);
        }
        assert_eq!(tokens.seen.lock().len(), REMEMBERED);
        tokens.remember([0; 32], claims, NOW + 7200);
        assert_eq!(tokens.seen.lock().len(), 1);
    }
}
