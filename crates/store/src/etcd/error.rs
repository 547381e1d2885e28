//! etcd's answers as typed errors.

use thiserror::Error;
use tonic::Code;

/// Why a call to etcd failed, as far as a caller can act on it.
#[derive(Debug, Error)]
pub enum EtcdError {
    /// The write may or may not have happened, and reading back could not tell within the deadline.
    #[error("etcd did not answer in time: the write may or may not have happened")]
    Undetermined(#[source] etcd_client::Error),
    /// No member could be reached, or the cluster has no leader. Nothing was written.
    #[error("etcd is not available")]
    Unavailable(#[source] etcd_client::Error),
    /// No member answered in time.
    #[error("etcd did not answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// The request is larger than etcd takes (1.5 MiB unless configured otherwise).
    #[error("the request is larger than etcd accepts")]
    TooLarge(#[source] etcd_client::Error),
    /// The database is full.
    #[error("etcd's database is full")]
    NoSpace(#[source] etcd_client::Error),
    /// The revision is compacted away.
    #[error("the revision is compacted")]
    Compacted,
    /// The lease is unknown or has expired.
    #[error("the lease does not exist")]
    NoLease,
    /// etcd answered something the protocol does not allow here.
    #[error("unexpected answer from etcd: {0}")]
    Protocol(&'static str),
    /// Any other refusal: authentication, an invalid request.
    #[error("etcd refused the request")]
    Refused(#[source] etcd_client::Error),
    /// The error of a request that several reads have shared.
    #[error(transparent)]
    Shared(std::sync::Arc<EtcdError>),
    /// The store is not running: it has been shut down, or was never started.
    #[error("the store is not running")]
    Stopped,
    /// Certificates or addresses cannot be used.
    #[error("invalid etcd configuration: {what}")]
    Config {
        /// The file or address.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a failed attempt says about the request and the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The member did not take the request: another one may, whatever the request is.
    NotSent,
    /// The request may have been carried out.
    Unknown,
    /// The cluster has answered; another member would say the same.
    Final,
}

// etcd tells many of its errors apart by message only; these are the texts of its v3 API.
const TOO_LARGE: &str = "etcdserver: request is too large";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";
const NO_LEADER: &str = "etcdserver: no leader";
const GRPC_TOO_LARGE: &str = "received message larger than max";

// === impl EtcdError ===

impl EtcdError {
    /// The error of a request whose last attempt ended with `error`.
    pub(crate) fn from_last(error: etcd_client::Error, may_have_happened: bool) -> Self {
        match classify(&error) {
            Failure::Final => Self::refusal(error),
            _ if may_have_happened => Self::Undetermined(error),
            _ => Self::Unavailable(error),
        }
    }

    fn refusal(error: etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = &error else {
            return Self::Refused(error);
        };
        match status.message() {
            TOO_LARGE => Self::TooLarge(error),
            NO_SPACE => Self::NoSpace(error),
            COMPACTED => Self::Compacted,
            NO_LEASE => Self::NoLease,
            text if text.contains(GRPC_TOO_LARGE) => Self::TooLarge(error),
            _ => Self::Refused(error),
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_temporary(),
            error => matches!(error, Self::Undetermined(_) | Self::Unavailable(_) | Self::TimedOut(_)),
        }
    }
}

/// Whether the database is full.
pub(crate) fn is_no_space(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message() == NO_SPACE)
}

/// What a failed attempt says about the request and the member.
pub(crate) fn classify(error: &etcd_client::Error) -> Failure {
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
            return Failure::Unknown;
        }
        _ => return Failure::Final,
    };
    match (status.code(), status.message()) {
        (_, TOO_MANY_REQUESTS | NO_LEADER) => Failure::NotSent,
        (Code::Unavailable, _) if never_connected(status) => Failure::NotSent,
        (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal, _) => Failure::Unknown,
        _ => Failure::Final,
    }
}

/// Whether the request failed because no connection could be made.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
