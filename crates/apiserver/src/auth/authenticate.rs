//! From credentials to a user.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use api::{
    Resource, StatusError,
    core::v1::{Node, Pod, Secret, ServiceAccount},
    status::Reason,
};
use daemon::tls::PeerIdentity;
use parking_lot::Mutex;
use store::Store;

use super::{
    ANONYMOUS, AUTHENTICATED, Credentials, UNAUTHENTICATED,
    tokens::{Claims, Reference, Tokens, sha256},
};
use crate::{
    reader::{self, Reader},
    request::User,
};

/// For how many seconds a token still counts after the deletion of what it is bound to was to be over.
const DELETION_LEEWAY: i64 = 60;
/// For how long it is remembered that something is gone, and of how many things.
const REMEMBERED: Duration = Duration::from_secs(10);
const MOST_REMEMBERED: usize = 10_000;

/// Keys of `User::extra`, upstream's.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
pub(super) const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// UID of the pod that a token is bound to.
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub(super) const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub(super) const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Finds out who makes a request.
pub(super) struct Authenticator {
    pub(super) tokens: Tokens,
    pub(super) audiences: Vec<String>,
    pub(super) store: Store,
    gone: Gone,
}

/// UIDs that etcd no longer had a moment ago, so that who keeps coming with a token of something deleted does not make etcd be asked each
/// time. Only a restored etcd brings one back.
#[derive(Default)]
struct Gone(Mutex<HashMap<String, Instant>>);

impl Gone {
    fn knows(&self, uid: &str) -> bool {
        self.0.lock().get(uid).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, uid: &str) {
        let mut gone = self.0.lock();
        if gone.len() >= MOST_REMEMBERED {
            gone.clear();
        }
        gone.insert(uid.to_owned(), Instant::now());
    }
}

impl Authenticator {
    pub(super) fn new(tokens: Tokens, audiences: Vec<String>, store: Store) -> Self {
        Self { tokens, audiences, store, gone: Gone::default() }
    }

    /// The user behind the credentials; a certificate counts before a token.
    ///
    /// # Errors
    /// `Unauthorized` if there are credentials and they are not good.
    pub(super) async fn authenticate(&self, credentials: &Credentials) -> Result<User, StatusError> {
        match (&credentials.certificate, &credentials.token) {
            (Some(certificate), _) => user_of_certificate(certificate, now()),
            (None, Some(token)) => self.authenticate_token(token, &self.audiences).await.map(|(user, _)| user),
            (None, None) => Ok(anonymous()),
        }
    }

    /// The user of a token, and the audiences out of those asked about that it is for.
    ///
    /// # Errors
    /// `Unauthorized` if the token is not good.
    pub(super) async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), StatusError> {
        let now = now();
        let claims = self.tokens.verify(token, audiences, now).map_err(unauthorized)?;
        self.check_bound(&claims, now).await?;
        let matching = audiences.iter().filter(|audience| claims.audiences.contains(audience)).cloned().collect();
        Ok((user_of_token(&claims), matching))
    }

    /// Checks that what the token is bound to still is there.
    async fn check_bound(&self, claims: &Claims, now: i64) -> Result<(), StatusError> {
        let bound = &claims.bound;
        self.check::<ServiceAccount>(&bound.namespace, &bound.service_account, now).await?;
        if let Some(pod) = &bound.pod {
            self.check::<Pod>(&bound.namespace, pod, now).await?;
        }
        if let Some(secret) = &bound.secret {
            self.check::<Secret>(&bound.namespace, secret, now).await?;
        }
        // In a pod's token the node is only a remark.
        if let (Some(node), None, None) = (&bound.node, &bound.pod, &bound.secret) {
            self.check::<Node>("", node, now).await?;
        }
        Ok(())
    }

    async fn check<K: Resource>(&self, namespace: &str, reference: &Reference, now: i64) -> Result<(), StatusError> {
        let Reference { name, uid } = reference;
        let is_gone = || unauthorized(format!("the token's {} {name:?} is gone", K::KIND.singular));
        if self.gone.knows(uid) {
            return Err(is_gone());
        }
        let entry = Reader::<K>::new(&self.store).entry_unless_cached(namespace, name, |entry| entry.uid() == uid).await?;
        let gone = match entry.filter(|entry| entry.uid() == uid) {
            None => {
                self.gone.remember(uid);
                true
            }
            Some(entry) => {
                let deleted = reader::decode_metadata(&entry)?.deletion_timestamp;
                deleted.is_some_and(|at| at.seconds + DELETION_LEEWAY < now)
            }
        };
        if gone { Err(is_gone()) } else { Ok(()) }
    }
}

/// The user that a verified certificate says. It may have expired since the connection was made.
fn user_of_certificate(certificate: &PeerIdentity, now: i64) -> Result<User, StatusError> {
    if now > certificate.not_after {
        return Err(unauthorized("the client certificate has expired; get a new one and connect again"));
    }
    if certificate.common_name.is_empty() {
        return Err(unauthorized("the client certificate names no user: its subject has no CN"));
    }
    let mut groups = certificate.organizations.clone();
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let mut id = String::from("X509SHA256=");
    for byte in sha256(&certificate.der) {
        id.extend([byte >> 4, byte & 0xf].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    let extra = [(CREDENTIAL_ID.to_owned(), vec![id])];
    Ok(User { name: certificate.common_name.clone(), uid: String::new(), groups, extra: extra.into() })
}

fn user_of_token(claims: &Claims) -> User {
    let bound = &claims.bound;
    let mut user = service_account_user(&bound.namespace, &bound.service_account.name, &bound.service_account.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if !claims.id.is_empty() {
        extra(CREDENTIAL_ID, &format!("JTI={}", claims.id));
    }
    if let Some(pod) = &bound.pod {
        extra(POD_NAME, &pod.name);
        extra(POD_UID, &pod.uid);
    }
    if let Some(node) = &bound.node {
        extra(NODE_NAME, &node.name);
        extra(NODE_UID, &node.uid);
    }
    user
}

/// A service account as a user.
pub(super) fn service_account_user(namespace: &str, name: &str, uid: &str) -> User {
    User {
        name: super::tokens::username(namespace, name),
        uid: uid.to_owned(),
        groups: [service_account_groups(namespace), vec![AUTHENTICATED.to_owned()]].concat(),
        extra: Default::default(),
    }
}

/// The groups that the service accounts of a namespace are in.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn anonymous() -> User {
    User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
}

fn unauthorized(why: impl std::fmt::Display) -> StatusError {
    StatusError::new(Reason::Unauthorized, format!("Unauthorized: {why}"))
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common_name: &str) -> PeerIdentity {
        PeerIdentity {
            common_name: common_name.to_owned(),
            organizations: vec!["system:nodes".into()],
            uris: Vec::new(),
            dns_names: Vec::new(),
            not_after: 1000,
            der: vec![1, 2, 3].into(),
        }
    }

    #[test]
    fn what_is_gone_is_remembered_and_not_without_bound() {
        let gone = Gone::default();
        assert!(!gone.knows("a"));
        for i in 0..=MOST_REMEMBERED {
            gone.remember(&i.to_string());
        }
        assert!(gone.knows(&MOST_REMEMBERED.to_string()) && !gone.knows("a") && gone.0.lock().len() <= MOST_REMEMBERED);
    }

    #[test]
    fn a_certificate_says_user_and_groups() {
        let user = user_of_certificate(&certificate("system:node:n1"), 1000).unwrap();
        assert_eq!((user.name.as_str(), user.node_name()), ("system:node:n1", Some("n1")));
        assert_eq!(user.groups, ["system:nodes", AUTHENTICATED]);
        let id = &user.extra[CREDENTIAL_ID][0];
        assert_eq!(id, "X509SHA256=039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81");
    }

    #[test]
    fn a_connection_does_not_outlive_its_certificate() {
        let error = user_of_certificate(&certificate("ann"), 1001).unwrap_err();
        assert_eq!(error.reason(), Reason::Unauthorized);
        assert!(error.message().contains("expired"));
    }

    #[test]
    fn a_certificate_without_a_name_is_nobodys() {
        assert_eq!(user_of_certificate(&certificate(""), 0).unwrap_err().reason(), Reason::Unauthorized);
    }
}
