//! The gRPC skin over the pipeline: reads requests, asks whether they are allowed, writes answers.

pub(crate) mod answers;
mod batches;
mod metrics;
mod nodes;
mod objects;
mod pods;
mod render;

use std::sync::Arc;

use api::{Kind, StatusError, ferrokube::v1::ResourceName, status::Reason};
use client::fence::{Guard, HEADER};
use tonic::metadata::MetadataMap;

pub use self::nodes::{Kubelets, KubeletsConfig};
use crate::{
    auth::{Decision, Identity},
    pipeline::{Fence, Pipeline},
    request::{Request, User, Verb},
};

/// What the services share.
pub struct Server {
    /// Reads and writes.
    pub pipeline: Arc<Pipeline>,
    /// Who asks, and whether they may.
    pub identity: Arc<Identity>,
    /// The way to the nodes.
    pub kubelets: Kubelets,
    /// Ends the watches.
    pub shutdown: daemon::Shutdown,
}

/// The gRPC services. Cheap to clone.
#[derive(Clone)]
pub struct Services(pub Arc<Server>);

impl Server {
    /// Refuses a request that its user may not make.
    async fn authorize(&self, request: &Request) -> Result<(), StatusError> {
        match self.identity.authorize(request).await? {
            Decision::Allow => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(request, &reason)),
        }
    }
}

/// Upstream's words for a request that is not allowed.
fn forbidden(request: &Request, reason: &str) -> StatusError {
    let group = request.kind.group;
    let place = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", request.namespace)
    };
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {group:?} {place}{because}",
        request.user.name,
        request.verb,
        request.resource(),
    );
    StatusError::forbidden(request.kind, &request.name, why)
}

/// The kind a request names.
fn resolve(resource: Option<&ResourceName>) -> Result<&'static Kind, StatusError> {
    let wanted =
        resource.ok_or_else(|| StatusError::bad_request("resource: a kind is wanted here, such as {resource: \"pods\"}"))?;
    let kind =
        Kind::by_resource(&wanted.group, &wanted.resource).filter(|k| wanted.version.is_empty() || k.version == wanted.version);
    kind.ok_or_else(|| {
        let version = if wanted.version.is_empty() { String::new() } else { format!(" in version {:?}", wanted.version) };
        let message = format!(
            "the server has no resource {:?} in API group {:?}{version}; `kctl api-resources` lists what it has",
            wanted.resource, wanted.group
        );
        StatusError::new(Reason::NotFound, message)
    })
}

/// Checks that a namespace is given exactly where the kind has one; `all` allows none, for all namespaces.
fn check_namespace(kind: &Kind, namespace: &str, all: bool) -> Result<(), StatusError> {
    match (kind.namespaced, namespace.is_empty()) {
        (true, true) if !all => {
            Err(StatusError::bad_request(format!("namespace: {} live in a namespace; name one", kind.plural)))
        }
        (false, false) => Err(StatusError::bad_request(format!("namespace: {} live in no namespace", kind.plural))),
        _ => Ok(()),
    }
}

/// Checks that the kind is served with this verb.
fn check_verb(kind: &Kind, verb: Verb, subresource: &str) -> Result<(), StatusError> {
    let served = match subresource {
        "" => kind.verbs.contains(&verb.as_str()),
        part => kind.has_subresource(part) && verb.applies_to(part),
    };
    if served {
        return Ok(());
    }
    let what =
        if subresource.is_empty() { kind.qualified_plural() } else { format!("{}/{subresource}", kind.qualified_plural()) };
    Err(StatusError::new(Reason::MethodNotAllowed, format!("the server does not allow {verb} of {what}")))
}

/// The user that authentication put into the request.
fn user<T>(request: &tonic::Request<T>) -> Result<Arc<User>, StatusError> {
    let user = request.extensions().get::<Arc<User>>().cloned();
    user.ok_or_else(|| StatusError::new(Reason::Unauthorized, "Unauthorized"))
}

/// The Lease a leader's write depends on.
fn fence(metadata: &MetadataMap) -> Result<Option<Fence>, StatusError> {
    let Some(value) = metadata.get(HEADER) else { return Ok(None) };
    let guard = value.to_str().ok().and_then(|text| text.parse::<Guard>().ok());
    match guard {
        Some(guard) => Ok(Some(Fence(guard))),
        None => {
            Err(StatusError::bad_request(format!("{HEADER}: {value:?} is not of the form NAMESPACE/NAME=HOLDER;TRANSITIONS")))
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{Resource, core::v1::Pod};

    use super::*;

    #[test]
    fn a_permission_on_a_stream_opens_no_object() {
        for stream in ["log", "exec", "attach", "portforward"] {
            for verb in [Verb::Get, Verb::Create, Verb::Update, Verb::Patch] {
                assert_eq!(
                    check_verb(Pod::KIND, verb, stream).unwrap_err().reason(),
                    Reason::MethodNotAllowed,
                    "{verb} {stream}"
                );
            }
        }
        for action in ["binding", "eviction"] {
            assert!(check_verb(Pod::KIND, Verb::Create, action).is_ok());
            assert!(check_verb(Pod::KIND, Verb::Update, action).is_err() && check_verb(Pod::KIND, Verb::Get, action).is_err());
        }
        assert!(check_verb(Pod::KIND, Verb::Patch, "status").is_ok() && check_verb(Pod::KIND, Verb::Create, "status").is_err());
        // Of another kind.
        assert!(check_verb(Pod::KIND, Verb::Get, "scale").is_err() && check_verb(Pod::KIND, Verb::Create, "token").is_err());
    }
}
