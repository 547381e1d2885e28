//! Why a request did not do what was asked.

use api::{Kind, StatusError, json, kind::DecodeError};

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused; what it says is meant for people.
    #[error("{0}")]
    Api(#[from] StatusError),
    /// No server answered, or the connection broke before the answer. The request may or may not have taken effect.
    #[error("no answer from the API server")]
    Transport(#[source] Box<tonic::Status>),
    /// The server's answer is not what the schema says.
    #[error("the server's answer is no {expected}")]
    Decode {
        /// What was expected, as `apiVersion/kind`.
        expected: String,
        /// What the decoder said; nothing if the answer is of another kind.
        #[source]
        source: Option<DecodeError>,
    },
    /// One object of several cannot be read; what comes after it can.
    #[error("cannot read the {kind} {key}")]
    Unreadable {
        /// Its kind, as `apiVersion/kind`.
        kind: String,
        /// Which one; empty if not even that can be read.
        key: crate::ObjectKey,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// Whether an object is gone is not known, since one that exists cannot be read.
    #[error("{key} may exist and be unreadable, so it does not count as gone")]
    InDoubt {
        /// Which one.
        key: crate::ObjectKey,
    },
    /// An object has no JSON form, or JSON is not an object.
    #[error("cannot convert between JSON and an object")]
    Json(#[source] json::Error),
    /// This process no longer leads, so it must not write.
    #[error("lost the lease {lease}, so nothing is written")]
    NotLeader {
        /// The lease, as `namespace/name`.
        lease: String,
    },
}

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Error ===

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        // Only a status made on this side has a source; one from the wire has details.
        if std::error::Error::source(&status).is_some() { Self::Transport(Box::new(status)) } else { Self::Api(status.into()) }
    }
}

impl Error {
    pub(crate) fn decode(kind: &Kind, source: impl Into<Option<DecodeError>>) -> Self {
        Self::Decode { expected: format!("{kind:?}"), source: source.into() }
    }

    /// The server's status, if it answered.
    pub fn status(&self) -> Option<&StatusError> {
        if let Self::Api(status) = self { Some(status) } else { None }
    }

    /// True if the object or kind does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(StatusError::is_not_found)
    }

    /// True if an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(StatusError::is_already_exists)
    }

    /// True if the object changed meanwhile: read it again and decide anew.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(StatusError::is_conflict)
    }

    /// True if a watch or a chunked list is too old to go on and must start anew.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(StatusError::is_expired)
    }

    /// True if the server could not do in time what was asked, such as reach a revision.
    pub fn is_timeout(&self) -> bool {
        self.status().is_some_and(|status| status.reason() == api::status::Reason::Timeout)
    }

    /// True if the server refused for want of rights.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|status| status.reason() == api::status::Reason::Forbidden)
    }

    /// True if nothing can be created in the namespace any more, since it is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status()
            .is_some_and(|status| status.status().details().causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// True if the request took longer than the configuration allows.
    pub(crate) fn is_out_of_time(&self) -> bool {
        matches!(self, Self::Transport(status) if crate::transport::is_out_of_time(status))
    }

    /// True if the same request may succeed a little later: no answer, or a server that is busy or going down.
    pub fn is_unavailable(&self) -> bool {
        use api::status::Reason::{ServiceUnavailable, Timeout, TooManyRequests};
        match self {
            Self::Transport(_) => true,
            Self::Api(status) => matches!(status.reason(), ServiceUnavailable | Timeout | TooManyRequests),
            _ => false,
        }
    }
}
