//! Requests as data, between the front ends and the pipeline.
//!
//! ```text
//! front end parses ─► Call ─► resolve ─► check ─► authorise ─► turn ─► decode ─► pipeline, action or node ─► Answer ─► front end renders
//! ```
//!
//! A front end turns what it was sent into a [`Call`], passes it to [`Server::call`] and renders the [`Answer`]; what is allowed, checked
//! and done is the same whoever asks in whichever way. *Invariant:* nothing here or below knows how a request came over the wire.

pub(crate) mod actions;
mod dispatch;
mod measure;
mod nature;
mod resolve;
mod stream;

use api::{KindRef, StatusError, ferrokube::v1::LogsRequest, meta::v1::DeleteOptions, patch::PatchType};
use bytes::Bytes;
use store::Watch;
use tokio::time::Duration;

pub use self::dispatch::Server;
pub(crate) use self::nature::Nature;
use crate::{
    decode::FieldValidation,
    kubelets::Link,
    pipeline::{Deleted, Fence, Page, Stored},
    request::Verb,
    subresource::Subresource,
};

/// A request as a front end parsed it: nothing is looked up yet, and nothing decided.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which kind it is about.
    pub resource: ResourceName,
    /// Which part of the object; empty for the object itself.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped kinds, for all namespaces, and for that of the object in the body.
    pub namespace: String,
    /// Name; empty for collections, and for that of the object in the body.
    pub name: String,
    /// What applies to writes of every sort.
    pub options: Options,
    /// The Lease that a write depends on.
    pub fence: Option<Fence>,
    /// What is to be done.
    pub action: Action,
}

/// Names a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceName {
    /// API group; empty for the core group.
    pub group: String,
    /// Version within the group; the preferred one if empty.
    pub version: String,
    /// Lower-case plural.
    pub plural: String,
}

/// What is to be done, with what that takes.
#[derive(Clone, Debug)]
pub enum Action {
    /// Read one object, or one of its subresources.
    Get,
    /// Read many.
    List(Selected, Paging),
    /// Follow changes.
    Watch(Selected, Following),
    /// Store a new object, or do what creating a subresource stands for.
    Create(Body),
    /// Replace an object or a part of it.
    Update(Body),
    /// Change an object or a part of it.
    Patch(PatchType, Bytes),
    /// Delete an object.
    Delete(DeleteOptions),
    /// Delete many.
    DeleteCollection(Selected, DeleteOptions),
    /// Reach a pod or a container of it on its node.
    Connect(Wanted),
}

/// Selectors in text form; empty for everything.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// By labels.
    pub labels: String,
    /// By fields.
    pub fields: String,
}

/// Which part of a list is wanted, and as of when.
#[derive(Clone, Debug, Default)]
pub struct Paging {
    /// Most objects to return; 0 or less for all.
    pub limit: i64,
    /// Where an earlier list that hit its limit stopped.
    pub continue_token: String,
    /// Empty for the newest state, `0` for any, or a revision that the answer must not be older than.
    pub resource_version: String,
}

/// Which changes are wanted, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Following {
    /// Changes after this revision; empty or `0` for what exists and then its changes.
    pub resource_version: String,
    /// What exists comes first, whatever the revision.
    pub initial_events: bool,
    /// Seconds after which the watch ends; 0 for the server's choice.
    pub timeout_seconds: i64,
}

/// Which pod and container are wanted, and what for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// UID that the pod must have; any if empty.
    pub uid: String,
    /// Name of the container; that of the only or the default one if empty.
    pub container: String,
    /// What is to be done with it, where that can be wrong.
    pub purpose: Purpose,
}

/// What a stream is for, as far as it can be wrong.
#[derive(Clone, Debug, Default)]
pub enum Purpose {
    /// A process and its input and output.
    #[default]
    Process,
    /// Output; the pod and container that the message itself names do not count.
    Logs(LogsRequest),
    /// A port of the pod.
    Port(u32),
}

/// What applies to writes of every sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Run every check, but store nothing.
    pub dry_run: bool,
    /// Who makes the change, for the record of who owns which field.
    pub field_manager: String,
    /// What becomes of unknown fields.
    pub validation: FieldValidation,
}

/// An object as it was sent.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// None was.
    #[default]
    Missing,
    /// Its protobuf encoding.
    Protobuf {
        /// `type_url` of the message; only what follows the last `/` counts.
        type_url: String,
        /// The encoding.
        bytes: Bytes,
    },
    /// JSON.
    Json(Bytes),
    /// It is still to come: of a large request, the head is looked at first.
    Awaited,
}

/// What came of a call.
pub enum Answer {
    /// The object as it is now, with remarks for the person behind the request.
    Object(Stored, Vec<String>),
    /// What became of the object that was to be deleted.
    Deleted(Deleted),
    /// How many objects were deleted or have begun to be.
    DeletedMany(i64),
    /// Stored objects of a kind.
    List(KindRef, Page),
    /// Objects that were computed for this call.
    Computed(Vec<Stored>),
    /// The changes of a kind's objects, and how long they are to be followed.
    Watch(KindRef, Watch, Duration),
    /// The way to the pod.
    Link(Box<Link>),
}

// === impl Call ===

impl Call {
    /// A call on the objects of a kind, with no names and no options.
    pub fn new(resource: ResourceName, action: Action) -> Self {
        let (subresource, namespace, name) = (String::new(), String::new(), String::new());
        Self { resource, subresource, namespace, name, options: Options::default(), fence: None, action }
    }

    /// The same on this object, or on a subresource of it.
    #[must_use]
    pub fn on(self, namespace: String, name: String, subresource: String) -> Self {
        Self { namespace, name, subresource, ..self }
    }

    /// The same on the objects of this namespace.
    #[must_use]
    pub fn within(self, namespace: String) -> Self {
        Self { namespace, ..self }
    }

    /// The same with the options of a write.
    #[must_use]
    pub fn with(self, options: Options, fence: Option<Fence>) -> Self {
        Self { options, fence, ..self }
    }
}

// === impl Answer ===

impl Answer {
    /// The error of a front end that this answers no call of.
    pub fn unexpected(&self) -> StatusError {
        StatusError::internal("the call has an answer of another sort than it can have")
    }
}

// === impl Action ===

impl Action {
    /// The verb that the user must be allowed.
    pub fn verb(&self, subresource: Option<&Subresource>) -> Verb {
        match self {
            Self::Get => Verb::Get,
            Self::List(..) => Verb::List,
            Self::Watch(..) => Verb::Watch,
            Self::Create(_) => Verb::Create,
            Self::Update(_) => Verb::Update,
            Self::Patch(..) => Verb::Patch,
            Self::Delete(_) => Verb::Delete,
            Self::DeleteCollection(..) => Verb::DeleteCollection,
            Self::Connect(_) => subresource.and_then(|s| s.verbs.first()).copied().unwrap_or(Verb::Create),
        }
    }
}
