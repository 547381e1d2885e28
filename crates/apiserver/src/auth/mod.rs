//! Who asks, and whether they may.
//!
//! ```text
//! certificate or token ─► authenticate ─► User ─► authorise: masters, node, RBAC ─► admission: NodeRestriction, RBAC escalation
//! ```
//!
//! Authentication turns a connection's certificate or a bearer token into a [`User`](crate::request::User); authorisation decides on a
//! [`Request`](crate::request::Request). Both run for every request of either front end; there is no way around them and no option that
//! turns them off. [`Identity`] is the face of all of it.
//!
//! *Invariant:* nothing here decides from memory alone that something is gone: what the cache does not have is looked for in etcd
//! before a credential is refused or a relationship denied, because another API server may have written it just now.

mod attributes;
mod authenticate;
mod bootstrap;
mod es256;
mod identity;
mod issue;
mod node;
mod node_restriction;
mod rbac;
mod reviews;
#[cfg(test)]
mod tests;
mod tokens;

pub use self::{
    attributes::{Attributes, ResourceAttributes, Target, Verdict},
    authenticate::{POD_UID, service_account_groups},
    identity::{Identity, IdentityConfig, IdentityError},
    tokens::TokenKeyError,
};

/// Group of everyone whose credentials were good.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone who brought none.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everyone who brought no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group that may do everything, whatever the roles say: the way back in when they are broken.
pub const MASTERS: &str = "system:masters";

/// What authorisation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on.
    Allow,
    /// Nobody allows it. Says why, where there is more to say than that.
    NoOpinion(String),
}

/// What a request brings to prove who makes it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The verified client certificate.
    pub certificate: Option<std::sync::Arc<daemon::tls::PeerIdentity>>,
    /// The bearer token.
    pub token: Option<String>,
}
