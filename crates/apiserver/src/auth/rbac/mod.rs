//! Role-based access control.

pub(super) mod aggregation;
mod escalation;
mod index;
pub(super) mod rules;

use api::{
    StatusError,
    rbac::v1::{PolicyRule, RoleRef, Subject},
};
use futures::future::join_all;
use store::Store;

pub(super) use self::escalation::Escalation;
use self::index::Index;
use super::{Attributes, IdentityError, Target, Verdict, follow};
use crate::request::User;

/// Decides by roles and bindings.
#[derive(Default)]
pub(super) struct Rbac {
    index: Index,
}

/// What a user may do somewhere.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The rules of every role the user has there.
    pub(super) rules: Vec<PolicyRule>,
    /// Roles that are bound but do not exist.
    pub(super) problems: Vec<String>,
}

impl Rbac {
    /// Keeps the index in step with the store. Never ends by itself.
    pub(super) async fn run(&self, store: &Store) -> Result<(), IdentityError> {
        let followers = self.index.followers();
        let mut tasks = Vec::new();
        for (kind, follower) in &followers {
            let name = kind.qualified_plural();
            let collection = store.collection(&name).ok_or(IdentityError::NotStored(name))?;
            tasks.push(follow::follow(collection, &**follower));
        }
        join_all(tasks).await;
        Ok(())
    }

    /// True once all roles and bindings are known.
    pub(super) fn is_ready(&self) -> bool {
        self.index.is_ready()
    }

    /// Waits until all roles and bindings are known.
    pub(super) async fn ready(&self) {
        self.index.ready().await;
    }

    /// Decides on an action.
    pub(super) fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        let (user, namespace) = (attributes.user, namespace(attributes));
        let state = self.index.state.read();
        let mut problems: Vec<String> = Vec::new();
        for binding in state.bindings_of(&user.name, &user.groups, namespace) {
            match state.rules(&binding.namespace, &binding.role) {
                Ok(found) if rules::allow(attributes, found.iter()) => {
                    return Verdict::allow(format!("RBAC: allowed by {}", describe(binding, user)));
                }
                Ok(_) => {}
                Err(missing) => problems.push(missing.to_string()),
            }
        }
        drop(state);
        problems.sort();
        problems.dedup();
        match problems.as_slice() {
            [] => Verdict::no_opinion(""),
            [one] => Verdict::no_opinion(format!("RBAC: {one}")),
            several => Verdict::no_opinion(format!("RBAC: [{}]", several.join(", "))),
        }
    }

    /// What a user may do in a namespace; in the cluster as a whole, if it is empty.
    pub(super) fn held(&self, user: &User, namespace: &str) -> Held {
        let state = self.index.state.read();
        let mut held = Held::default();
        for binding in state.bindings_of(&user.name, &user.groups, namespace) {
            match state.rules(&binding.namespace, &binding.role) {
                Ok(rules) => held.rules.extend(rules.iter().cloned()),
                Err(missing) => held.problems.push(missing.to_string()),
            }
        }
        held
    }

    /// What a role allows.
    ///
    /// # Errors
    /// When it does not exist.
    fn rules_of(&self, namespace: &str, role: &RoleRef) -> Result<Vec<PolicyRule>, StatusError> {
        let state = self.index.state.read();
        let rules = state.rules(namespace, role);
        rules.map(|rules| rules.to_vec()).map_err(|e| StatusError::new(api::status::Reason::NotFound, e.to_string()))
    }
}

fn namespace<'a>(attributes: &Attributes<'a>) -> &'a str {
    match attributes.target {
        Target::Resource(resource) => resource.namespace,
        Target::Path(_) => "",
    }
}

/// A binding and the subject in it that the user is, in upstream's words.
fn describe(binding: &index::Binding, user: &User) -> String {
    let is_user = |subject: &&Subject| match subject.kind.as_str() {
        "Group" => user.in_group(&subject.name),
        _ => index::user_of(subject, &binding.namespace).is_some_and(|name| name == user.name),
    };
    let subject = binding.subjects.iter().find(is_user).map_or_else(String::new, |subject| match subject.kind.as_str() {
        "ServiceAccount" => {
            let namespace = if subject.namespace.is_empty() { &binding.namespace } else { &subject.namespace };
            format!("ServiceAccount \"{}/{namespace}\"", subject.name)
        }
        kind => format!("{kind} {:?}", subject.name),
    });
    let RoleRef { kind, name, .. } = &binding.role;
    match binding.namespace.as_str() {
        "" => format!("ClusterRoleBinding {:?} of {kind} {name:?} to {subject}", binding.name),
        namespace => format!("RoleBinding \"{}/{namespace}\" of {kind} {name:?} to {subject}", binding.name),
    }
}
