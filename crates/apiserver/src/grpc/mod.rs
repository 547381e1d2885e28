//! The gRPC skin over the pipeline: reads requests, asks whether they are allowed, writes answers.

pub(crate) mod answers;
mod batches;
mod head;
mod metrics;
mod nodes;
mod objects;
mod pods;
mod render;

use std::sync::Arc;

use api::{
    Kind, KindRef, Resource, StatusError, coordination::v1::Lease, ferrokube::v1::ResourceName, registry::Kinds, status::Reason,
};
use client::fence::{Guard, HEADER};
use tonic::metadata::MetadataMap;

pub(crate) use self::head::authorize_head;
pub use self::nodes::{Kubelets, KubeletsConfig};
use crate::{
    auth::{Decision, Identity},
    pipeline::{Fence, Pipeline},
    request::{Asked, Request, Verb},
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
    /// The kind a request names.
    fn resolve(&self, resource: Option<&ResourceName>) -> Result<KindRef, StatusError> {
        resolve(&self.pipeline.kinds(), resource)
    }

    /// Refuses a request that its user may not make.
    async fn authorize(&self, asked: &Asked, request: &Request) -> Result<(), StatusError> {
        asked.does(request);
        match self.identity.authorize(request).await? {
            Decision::Allow => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(request, &reason)),
        }
    }

    /// Refuses a write that its user may not make, or may not make depend on this Lease: its refusal would tell who holds it.
    async fn authorize_write(&self, asked: &Asked, request: &Request, fence: Option<&Fence>) -> Result<(), StatusError> {
        self.authorize(asked, request).await?;
        match fence {
            None => Ok(()),
            Some(Fence(lease)) => {
                let read = objects::request(asked.user.clone(), Verb::Get, Lease::KIND, &lease.namespace, &lease.name);
                self.authorize(asked, &read).await
            }
        }
    }
}

/// Upstream's words for a request that is not allowed.
fn forbidden(request: &Request, reason: &str) -> StatusError {
    let group = &request.kind.group;
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
    StatusError::forbidden(&request.kind, &request.name, why)
}

/// The kind a request names.
fn resolve(kinds: &Kinds, resource: Option<&ResourceName>) -> Result<KindRef, StatusError> {
    let wanted =
        resource.ok_or_else(|| StatusError::bad_request("resource: a kind is wanted here, such as {resource: \"pods\"}"))?;
    kinds.resource(&wanted.group, &wanted.version, &wanted.resource).cloned().map_err(|unknown| {
        let message = format!("{unknown}; `kctl api-resources` lists what it has");
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
    if !subresource.is_empty() && !kind.has_subresource(subresource) {
        let message = format!(
            "the server has no subresource {subresource:?} of {}; `kctl api-resources` lists what it has",
            kind.qualified_plural()
        );
        return Err(StatusError::new(Reason::NotFound, message));
    }
    let served = match subresource {
        "" => kind.verbs.iter().any(|served| served == verb.as_str()),
        part => verb.applies_to(part),
    };
    if served {
        return Ok(());
    }
    let what =
        if subresource.is_empty() { kind.qualified_plural() } else { format!("{}/{subresource}", kind.qualified_plural()) };
    Err(StatusError::new(Reason::MethodNotAllowed, format!("the server does not allow {verb} of {what}")))
}

/// What the gate knows of the request.
fn asked<T>(request: &tonic::Request<T>) -> Result<Arc<Asked>, StatusError> {
    let asked = request.extensions().get::<Arc<Asked>>().cloned();
    asked.ok_or_else(|| StatusError::new(Reason::Unauthorized, "Unauthorized"))
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
    use api::core::v1::Pod;

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
        // Of another kind, and of none.
        for (verb, subresource) in [(Verb::Get, "scale"), (Verb::Create, "token"), (Verb::Get, "nothing")] {
            assert_eq!(check_verb(Pod::KIND, verb, subresource).unwrap_err().reason(), Reason::NotFound, "{verb} {subresource}");
        }
    }
}
