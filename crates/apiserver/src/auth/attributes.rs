//! What authorisation looks at: who wants to do what with what. Unlike a [`Request`], the kind need not be one that is served and
//! the verb may be one that only roles know (`bind`, `escalate`), because access reviews ask about those as well.

use crate::request::{Request, User, Verb};

/// An action, as roles describe it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who wants it.
    pub user: &'a User,
    /// The verb, such as `get`.
    pub verb: &'a str,
    /// With what.
    pub target: Target<'a>,
}

/// What an action is on.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// An object or a collection.
    Resource(ResourceAttributes<'a>),
    /// A URL path outside the resources.
    Path(&'a str),
}

/// An object or a collection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResourceAttributes<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural of the kind.
    pub resource: &'a str,
    /// Subresource; empty for none.
    pub subresource: &'a str,
    /// Namespace; empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Name; empty for collections and for creation. A list or watch of the one object of this name has it as well.
    pub name: &'a str,
    /// The one `spec.nodeName` that a list or watch selects.
    pub selected_node: Option<&'a str>,
}

/// What authorisation found, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// True if it is allowed.
    pub allowed: bool,
    /// Which binding allows it, or why nobody does; may be empty.
    pub reason: String,
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// Those of a request.
    pub fn of(request: &'a Request) -> Self {
        let many = matches!(request.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        let selected = request.selected_name.as_deref().filter(|_| many && request.name.is_empty());
        let target = ResourceAttributes {
            group: &request.kind.group,
            resource: &request.kind.plural,
            subresource: request.part(),
            namespace: &request.namespace,
            name: selected.unwrap_or(&request.name),
            selected_node: request.selected_node.as_deref().filter(|_| many),
        };
        Self { user: &request.user, verb: request.verb.as_str(), target: Target::Resource(target) }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Allowed, because of this.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into() }
    }

    /// Not allowed here, because of this.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self { allowed: false, reason: reason.into() }
    }
}
