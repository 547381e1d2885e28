//! Subresources: what each one is, in one place. The option `subresources` of a kind names those that the kind has; verbs, body,
//! authorisation, dispatch, metrics and limits are read from here.
//!
//! To add one: a descriptor in [`ALL`], and its name in the option of the kinds that have it.

use api::{
    KindRef, Object, Resource, StatusError, authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding,
    policy::v1::Eviction,
};
use futures::future::BoxFuture;

use crate::{
    call::{Server, actions},
    pipeline::Fence,
    request::{Request, Verb},
    strategies::{namespace, pod, scale},
};

/// What a subresource is.
pub struct Subresource {
    /// Its name in URLs, in RBAC rules (`pods/NAME`) and in the option of its kinds.
    pub name: &'static str,
    /// The verbs that it is served with; for a stream, the one that its user must be allowed.
    pub verbs: &'static [Verb],
    /// Kind of what is sent to it and read from it; the object's own if `None`.
    pub body: Option<&'static KindRef>,
    /// What serves it.
    pub handler: Handler,
}

/// What serves a subresource.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Its body is the whole object, of which an update changes a part: the function makes the object to be from the one that was sent and
    /// the stored one.
    Part(Part),
    /// Its body is an object of its own kind that shows a part of the object and can be written back.
    View(View),
    /// It is only created; its body says how to change the object.
    Apply(Apply),
    /// It is only created; its body says what to do, and comes back with what was done.
    Run(Run),
    /// It lasts, and the object's node serves it.
    Stream(Stream),
}

/// Makes the object to be from the one that was sent and the stored one.
pub type Part = fn(sent: Box<dyn Object>, stored: &dyn Object) -> Box<dyn Object>;

/// Changes an object as a body says.
pub type Apply = fn(body: &dyn Object, object: &mut dyn Object) -> Result<(), StatusError>;

/// A part of an object as an object of its own.
#[derive(Clone, Copy)]
pub struct View {
    /// Shows the part; `None` for an object that has none.
    pub read: fn(object: &dyn Object) -> Option<Box<dyn Object>>,
    /// Writes the part.
    pub write: Apply,
}

/// Carries out what a body says. The request has been authorised, and names the object.
pub type Run = for<'a> fn(
    server: &'a Server,
    request: &'a Request,
    body: Box<dyn Object>,
    fence: Option<&'a Fence>,
) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>>;

/// What a stream is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The client sends as well, for as long as it likes.
    pub both_ways: bool,
    /// It is with one container of the pod, not with the pod as a whole.
    pub of_container: bool,
}

const CHANGED: &[Verb] = &[Verb::Get, Verb::Update, Verb::Patch];
const CREATED: &[Verb] = &[Verb::Create];

/// What is observed of the object.
pub static STATUS: Subresource =
    Subresource { name: "status", verbs: CHANGED, body: None, handler: Handler::Part(crate::pipeline::with_status_of) };
/// How many replicas there are to be, of whatever kind.
pub static SCALE: Subresource = Subresource {
    name: "scale",
    verbs: CHANGED,
    body: Some(Scale::HANDLE),
    handler: Handler::View(View { read: scale::read, write: scale::write }),
};
/// Containers that are added to a running pod.
pub static EPHEMERAL_CONTAINERS: Subresource = Subresource {
    name: "ephemeralcontainers",
    verbs: CHANGED,
    body: None,
    handler: Handler::Part(pod::with_ephemeral_containers_of),
};
/// What holds a namespace back.
pub static FINALIZE: Subresource =
    Subresource { name: "finalize", verbs: &[Verb::Update], body: None, handler: Handler::Part(namespace::with_finalizers_of) };
/// Puts a pod on a node.
pub static BINDING: Subresource =
    Subresource { name: "binding", verbs: CREATED, body: Some(Binding::HANDLE), handler: Handler::Apply(pod::bind) };
/// Deletes a pod if that is allowed now.
pub static EVICTION: Subresource =
    Subresource { name: "eviction", verbs: CREATED, body: Some(Eviction::HANDLE), handler: Handler::Run(actions::evict) };
/// A token of a service account.
pub static TOKEN: Subresource =
    Subresource { name: "token", verbs: CREATED, body: Some(TokenRequest::HANDLE), handler: Handler::Run(actions::issue_token) };
/// A container's output.
pub static LOG: Subresource = stream("log", &[Verb::Get], Stream { both_ways: false, of_container: true });
/// A command in a container.
pub static EXEC: Subresource = stream("exec", CREATED, Stream { both_ways: true, of_container: true });
/// A container's main process.
pub static ATTACH: Subresource = stream("attach", CREATED, Stream { both_ways: true, of_container: true });
/// A port of a pod.
pub static PORT_FORWARD: Subresource = stream("portforward", CREATED, Stream { both_ways: true, of_container: false });

/// The subresources that this server serves.
pub static ALL: &[&Subresource] =
    &[&STATUS, &SCALE, &EPHEMERAL_CONTAINERS, &FINALIZE, &BINDING, &EVICTION, &TOKEN, &LOG, &EXEC, &ATTACH, &PORT_FORWARD];

// === impl Subresource ===

impl Subresource {
    /// What the stream is like, if it is one.
    pub fn stream(&self) -> Option<Stream> {
        match self.handler {
            Handler::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The part of the object that it shows as an object of its own, if it does.
    pub(crate) fn read(&self, object: &dyn Object) -> Option<Box<dyn Object>> {
        match self.handler {
            Handler::View(view) => (view.read)(object),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Subresource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn stream(name: &'static str, verbs: &'static [Verb], stream: Stream) -> Subresource {
    Subresource { name, verbs, body: None, handler: Handler::Stream(stream) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subresource_that_a_kind_names_is_described_once() {
        for kind in api::Registry::compiled().kinds().resources() {
            for name in kind.subresources.iter() {
                let found = ALL.iter().filter(|subresource| subresource.name == name).count();
                assert_eq!(found, 1, "{}/{name}", kind.plural);
            }
        }
    }
}
