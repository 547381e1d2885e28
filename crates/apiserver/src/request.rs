//! What the server knows of a request before it handles it: who asks, what for, and on which object.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use api::{KindRef, StatusError};

use crate::{
    call::Nature,
    gate::{Queue, Turn},
    subresource::Subresource,
};

/// Who makes a request, as authentication found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name, such as `system:node:node-1` or `system:serviceaccount:default:builder`.
    pub name: String,
    /// UID, where the identity has one (service accounts).
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// What else authentication knows, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// True if the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name, if the user is a kubelet: `system:node:<name>` in `system:nodes`.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix("system:node:").filter(|name| !name.is_empty() && self.in_group("system:nodes"))
    }
}

/// A request as the front end sees it: who makes it and, once that is known, what it does.
#[derive(Debug)]
pub struct Asked {
    /// Who is asking, or is impersonated.
    pub user: Arc<User>,
    action: OnceLock<Action>,
    queue: Option<Queue>,
}

/// What a request does, for metrics.
#[derive(Clone, Debug)]
pub struct Action {
    /// The verb.
    pub verb: Verb,
    /// On objects of which kind.
    pub kind: KindRef,
    /// On which part of them; `None` for the object itself.
    pub subresource: Option<&'static Subresource>,
    /// `resource` for one object, `namespace` for the objects of one, `cluster` for all; upstream's words.
    pub scope: &'static str,
}

impl Asked {
    /// A request of which only the user is known. It waits for no turn.
    pub fn new(user: Arc<User>) -> Self {
        Self { user, action: OnceLock::new(), queue: None }
    }

    /// The same, which takes its turn in this queue.
    pub(crate) fn in_queue(self, queue: Queue) -> Self {
        Self { queue: Some(queue), ..self }
    }

    /// The request's turn to be handled, over when dropped.
    ///
    /// # Errors
    /// `TooManyRequests` when it would have to wait too long.
    pub(crate) async fn turn(&self) -> Result<Option<Turn>, StatusError> {
        match &self.queue {
            Some(queue) => queue.turn().await.map(Some),
            None => Ok(None),
        }
    }

    /// What the request does has become known.
    pub fn does(&self, request: &Request) {
        self.action.get_or_init(|| Action {
            verb: request.verb,
            kind: request.kind.clone(),
            subresource: request.subresource,
            scope: match (request.name.is_empty(), request.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
        });
    }

    /// What the request does, if that is known.
    pub fn action(&self) -> Option<&Action> {
        self.action.get()
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Follow changes.
    Watch,
    /// Store a new object.
    Create,
    /// Replace an object.
    Update,
    /// Change parts of an object.
    Patch,
    /// Delete an object.
    Delete,
    /// Delete many.
    DeleteCollection,
}

impl Verb {
    /// As RBAC rules write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request on objects of one kind.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub user: Arc<User>,
    /// What it does.
    pub verb: Verb,
    /// On objects of which kind.
    pub kind: KindRef,
    /// On which part of the object; `None` for the object itself.
    pub subresource: Option<&'static Subresource>,
    /// Namespace; empty for cluster-scoped kinds and for all namespaces.
    pub namespace: String,
    /// Name; empty for collections and for creation under a generated name.
    pub name: String,
    /// Run every check, but store nothing.
    pub dry_run: bool,
    /// Who makes the change, for the record of who owns which field.
    pub field_manager: String,
    /// Only objects with this `metadata.name` are listed or watched (from the field selector); what a node may do can depend on it.
    pub selected_name: Option<String>,
    /// Only objects with this `spec.nodeName` are listed or watched (from the field selector).
    pub selected_node: Option<String>,
}

impl Request {
    /// A request on an object or, without a name, a collection; on the object itself, for good, and selecting everything.
    pub fn new(user: Arc<User>, verb: Verb, kind: impl Into<KindRef>, namespace: &str, name: &str) -> Self {
        Self {
            user,
            verb,
            kind: kind.into(),
            subresource: None,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            dry_run: false,
            field_manager: String::new(),
            selected_name: None,
            selected_node: None,
        }
    }

    /// Name of the subresource; empty for the object itself.
    pub fn part(&self) -> &'static str {
        self.subresource.map_or("", |subresource| subresource.name)
    }

    /// The kind of what is sent.
    pub fn body_kind(&self) -> &KindRef {
        self.subresource.and_then(|subresource| subresource.body).unwrap_or(&self.kind)
    }

    /// True if it lasts as long as its client likes.
    pub(crate) fn lasts(&self) -> bool {
        Nature::of(self.verb, self.subresource).lasts
    }

    /// `resource` or `resource/subresource`, as RBAC rules write it.
    pub fn resource(&self) -> String {
        match self.part() {
            "" => self.kind.plural.to_string(),
            part => format!("{}/{part}", self.kind.plural),
        }
    }
}
