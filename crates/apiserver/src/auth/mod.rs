//! Who asks, and whether they may.
//!
//! Authentication turns a connection's certificate or a bearer token into a [`User`]; authorisation decides on a [`Request`]. Both run
//! for every request of either front end; there is no way around them.

use std::{future::Future, pin::Pin};

use api::StatusError;

use crate::request::{Request, User};

/// What an authoriser says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request may go on.
    Allow,
    /// This authoriser does not know; another one may allow it. Says why.
    NoOpinion(String),
}

/// One way to decide on requests.
pub trait Authorizer: Send + Sync {
    /// Decides on a request.
    ///
    /// # Errors
    /// When it cannot be decided now, because a part this needs does not answer.
    fn authorize<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = Result<Decision, StatusError>> + Send + 'a>>;
}

/// What a request brings to prove who makes it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The verified client certificate.
    pub certificate: Option<std::sync::Arc<daemon::tls::PeerIdentity>>,
    /// The bearer token.
    pub token: Option<String>,
}

/// Finds out who makes a request.
pub trait Authenticator: Send + Sync {
    /// The user behind the credentials; without credentials, `system:anonymous` in `system:unauthenticated`.
    ///
    /// # Errors
    /// `Unauthorized` if there are credentials and they are not good.
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> Pin<Box<dyn Future<Output = Result<User, StatusError>> + Send + 'a>>;
}
