//! The API server, seen through a narrow trait: what the pod machine reads from it and tells it.
//!
//! *Invariant:* the machine never waits for the API server to keep containers running; only what a container needs to start (its
//! ConfigMaps, Secrets, tokens) and what others see (status, events) goes through here.

#[cfg(test)]
#[path = "cluster_fake.rs"]
pub(crate) mod fake;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service};
use futures::future::BoxFuture;
use jiff::Timestamp;

/// What the pod machine asks of the API server.
pub trait Cluster: Send + Sync {
    /// A ConfigMap; `None` if there is none.
    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<ConfigMap>>>>;
    /// A Secret; `None` if there is none.
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<Secret>>>>;
    /// A token of the pod's service account, bound to the pod.
    fn token<'a>(&'a self, pod: &'a Pod, request: &'a TokenSpec) -> BoxFuture<'a, Result<Token>>;
    /// All Services; waits until they are known.
    fn services(&self) -> BoxFuture<'_, Vec<Arc<Service>>>;
    /// Writes a pod's status and says at which revision it now stands; `None` if the pod is gone.
    fn write_status<'a>(&'a self, pod: &'a Pod, status: &'a PodStatus) -> BoxFuture<'a, Result<Option<u64>>>;
    /// Takes the object of a pod that has ended off the API server; gone already is no error.
    fn delete_pod<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<()>>;
    /// Records an event about a pod. Never waits; events may be merged or dropped under load.
    fn event(&self, pod: &Pod, event: PodEvent);
    /// Says which ConfigMaps and Secrets are in use, so that their changes are followed and others are not.
    fn follow(&self, references: BTreeSet<Reference>);
}

/// A failed request to the API server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A ConfigMap or Secret that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Which kind.
    pub kind: ReferenceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The kinds that pods refer to by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceKind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

/// Which token a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSpec {
    /// Whom it is for; the API server if empty.
    pub audience: String,
    /// How long it should live, in seconds.
    pub expiration_seconds: i64,
}

/// A service-account token.
#[derive(Clone)]
pub struct Token {
    /// The token itself; secret.
    pub token: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Something worth telling the people who look at a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// Machine-readable reason, such as `Pulled`.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// The container that it is about, if one.
    pub container: Option<String>,
}

// === impl PodEvent ===

impl PodEvent {
    /// An event of type Normal.
    pub fn normal(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), message: message.into(), container: None }
    }

    /// An event of type Warning.
    pub fn warning(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, message) }
    }

    /// The same about a container.
    #[must_use]
    pub fn about(mut self, container: &str) -> Self {
        self.container = Some(container.to_owned());
        self
    }
}

// === impl Token ===

impl Token {
    /// When to ask for the next one: after four fifths of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.expires_at.duration_since(self.issued_at);
        self.issued_at.checked_add(life * 4 / 5).unwrap_or(self.expires_at)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
