//! The face of authentication and authorisation: what the server, the front ends and admission are given.

use std::{path::PathBuf, sync::Arc, time::Duration};

use api::{Object, StatusError, authentication::v1::TokenRequest};
use daemon::Shutdown;
use store::Store;
use tokio::{sync::watch, time::timeout};

use super::{
    Attributes, Credentials, Decision, MASTERS, Target, Verdict,
    authenticate::Authenticator,
    bootstrap,
    node::NodeAuthorizer,
    node_restriction::NodeRestriction,
    rbac::{Escalation, Held, Rbac},
    tokens::{TokenKeyError, Tokens},
};
use crate::{
    admission::Plugin,
    request::{Request, User},
};

/// How long a request waits for the roles to be known after the server started.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before bringing in the default roles is tried again.
const BOOTSTRAP_PAUSE: Duration = Duration::from_secs(1);

/// What identity must be told of the cluster.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Issuer of service-account tokens, a URL.
    pub issuer: String,
    /// Audiences of which a token for the API must have one; tokens are issued for all of them unless asked otherwise.
    pub audiences: Vec<String>,
    /// Private key (P-256, PEM) that signs tokens.
    pub signing_key_file: PathBuf,
    /// Public keys (P-256, PEM) that tokens may be signed with; the signing key's among them.
    pub key_files: Vec<PathBuf>,
}

/// Why identity cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The keys of service-account tokens cannot be used.
    #[error("the keys of service-account tokens cannot be used")]
    Keys(#[from] TokenKeyError),
    /// The store was not given a kind that decisions depend on.
    #[error("{0} are not stored")]
    NotStored(String),
}

/// Authentication, authorisation and what of admission depends on who asks.
pub struct Identity {
    pub(super) store: Store,
    bootstrapped: watch::Sender<bool>,
    pub(super) authenticator: Authenticator,
    pub(super) authority: Arc<Authority>,
}

/// Decides on actions: first `system:masters`, then the node authoriser, then RBAC.
pub(super) struct Authority {
    rbac: Rbac,
    node: NodeAuthorizer,
}

// === impl Identity ===

impl Identity {
    /// Identity over a store. Nothing is read from it yet.
    ///
    /// # Errors
    /// When the keys of service-account tokens cannot be used.
    pub fn new(store: &Store, config: IdentityConfig) -> Result<Self, IdentityError> {
        let tokens = Tokens::new(&config.issuer, &config.signing_key_file, &config.key_files)?;
        Ok(Self {
            store: store.clone(),
            bootstrapped: watch::Sender::new(false),
            authenticator: Authenticator::new(tokens, config.audiences, store.clone()),
            authority: Arc::new(Authority { rbac: Rbac::default(), node: NodeAuthorizer::new(store.clone()) }),
        })
    }

    /// Brings in the default roles, and follows roles and bindings until the shutdown begins.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.started() => {}
            ((), ended) = futures::future::join(self.bootstrap(), self.authority.rbac.run(&self.store)) => {
                if let Err(error) = ended {
                    tracing::error!(error = &error as &dyn std::error::Error, "roles cannot be followed");
                }
            }
        }
    }

    /// Tries until the default roles are in.
    async fn bootstrap(&self) {
        self.store.ready().await;
        while let Err(error) = bootstrap::reconcile(&self.store).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the default roles could not be brought in; trying again");
            tokio::time::sleep(BOOTSTRAP_PAUSE).await;
        }
        self.bootstrapped.send_replace(true);
    }

    /// Waits until all roles are known, the default ones among them.
    pub async fn ready(&self) {
        // The sender is ours, so that waiting cannot fail.
        self.bootstrapped.subscribe().wait_for(|done| *done).await.ok();
        self.authority.rbac.ready().await;
    }

    /// True once all roles are known, the default ones among them.
    pub fn is_ready(&self) -> bool {
        *self.bootstrapped.borrow() && self.authority.rbac.is_ready()
    }

    /// The user behind the credentials; without credentials, `system:anonymous` in `system:unauthenticated`.
    ///
    /// # Errors
    /// `Unauthorized` if there are credentials and they are not good.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<User, StatusError> {
        self.authenticator.authenticate(credentials).await
    }

    /// Decides on a request.
    ///
    /// # Errors
    /// When it cannot be decided now, because etcd does not answer.
    pub async fn authorize(&self, request: &Request) -> Result<Decision, StatusError> {
        let verdict = self.authority.decide(&Attributes::of(request)).await?;
        Ok(if verdict.allowed { Decision::Allow } else { Decision::NoOpinion(verdict.reason) })
    }

    /// Decides on an action and says why.
    ///
    /// # Errors
    /// When it cannot be decided now, because etcd does not answer.
    pub async fn decide(&self, attributes: &Attributes<'_>) -> Result<Verdict, StatusError> {
        self.authority.decide(attributes).await
    }

    /// Answers one of the kinds that are questions about identity.
    ///
    /// # Errors
    /// When the question is malformed or cannot be answered now.
    pub async fn review(&self, request: &Request, object: Box<dyn Object>) -> Result<Box<dyn Object>, StatusError> {
        super::reviews::review(self, request, object).await
    }

    /// Issues a token for the service account that the request names. The request has been authorised.
    ///
    /// # Errors
    /// When the request is not valid, or the service account or the object to bind to does not exist.
    pub async fn issue_token(&self, request: &Request, token: TokenRequest) -> Result<TokenRequest, StatusError> {
        super::issue::issue(self, request, token).await
    }

    /// What of admission depends on who asks.
    pub fn plugins(&self) -> Vec<Box<dyn Plugin>> {
        vec![Box::new(NodeRestriction(self.store.clone())), Box::new(Escalation(self.authority.clone()))]
    }
}

// === impl Authority ===

impl Authority {
    /// Decides on an action.
    pub(super) async fn decide(&self, attributes: &Attributes<'_>) -> Result<Verdict, StatusError> {
        if attributes.user.in_group(MASTERS) {
            return Ok(Verdict::allow(""));
        }
        let node = self.node.authorize(attributes).await?;
        if node.allowed {
            return Ok(node);
        }
        let rbac = self.rbac().await?.authorize(attributes);
        if rbac.allowed || node.reason.is_empty() {
            return Ok(rbac);
        }
        let reasons: Vec<&str> = [&*node.reason, &*rbac.reason].into_iter().filter(|reason| !reason.is_empty()).collect();
        Ok(Verdict::no_opinion(reasons.join(", ")))
    }

    /// What a user may do in a namespace; in the cluster as a whole, if it is empty.
    pub(super) async fn held(&self, user: &User, namespace: &str) -> Result<Held, StatusError> {
        Ok(self.rbac().await?.held(user, namespace))
    }

    /// RBAC, once it knows the roles.
    pub(super) async fn rbac(&self) -> Result<&Rbac, StatusError> {
        if !self.rbac.is_ready() && timeout(PATIENCE, self.rbac.ready()).await.is_err() {
            return Err(StatusError::unavailable("the server is starting: roles are not known yet; please try again"));
        }
        Ok(&self.rbac)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl<'a> Attributes<'a> {
    /// The action on an object or a collection, if it is on one.
    pub(super) fn resource(&self) -> Option<&super::ResourceAttributes<'a>> {
        match &self.target {
            Target::Resource(resource) => Some(resource),
            Target::Path(_) => None,
        }
    }
}
