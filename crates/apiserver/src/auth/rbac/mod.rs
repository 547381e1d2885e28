//! Role-based access control.

pub(super) mod aggregation;
mod escalation;
mod index;
pub(super) mod rules;

use api::{
    Resource, StatusError,
    rbac::v1::{ClusterRole, PolicyRule, RoleRef, Subject},
};
use futures::future::{join, join_all};
use store::{Selection, Store};

pub(super) use self::escalation::Escalation;
use self::index::Index;
use super::{Attributes, IdentityError, Target, Verdict};
use crate::{reader::follow, request::User};

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
        let collection = |kind: &api::Kind| {
            let name = kind.qualified_plural();
            store.collection(&name).ok_or(IdentityError::NotStored(name))
        };
        let followers = self.index.followers();
        let mut tasks = Vec::new();
        for (kind, follower) in &followers {
            tasks.push(follow(collection(kind)?, Selection::all(), &**follower));
        }
        let roles = collection(ClusterRole::KIND)?;
        join(join_all(tasks), aggregation::write_back(&self.index, &roles)).await;
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

#[cfg(test)]
mod tests {
    use api::{
        Object, json,
        rbac::v1::{ClusterRoleBinding, Role, RoleBinding},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::ResourceAttributes;

    fn object<K: Resource>(value: Value) -> Box<dyn Object> {
        Box::new(json::from_value::<K>(value).unwrap())
    }

    fn state() -> index::State {
        index::State::default().with([
            object::<Role>(json!({
                "metadata": {"name": "pods", "namespace": "blue"},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]
            })),
            object::<ClusterRole>(json!({
                "metadata": {"name": "secrets", "labels": {"part": "of-all"}},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]
            })),
            object::<ClusterRole>(json!({
                "metadata": {"name": "all", "labels": {"part": "of-all"}},
                "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "part", "operator": "Exists"}]}]},
                "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
            })),
            object::<RoleBinding>(json!({
                "metadata": {"name": "read", "namespace": "blue"},
                "subjects": [{"kind": "ServiceAccount", "name": "builder"}, {"kind": "User", "name": "ann"}],
                "roleRef": {"kind": "Role", "name": "pods"}
            })),
            object::<RoleBinding>(json!({
                "metadata": {"name": "secrets", "namespace": "blue"},
                "subjects": [{"kind": "Group", "name": "ops"}],
                "roleRef": {"kind": "ClusterRole", "name": "all"}
            })),
            object::<ClusterRoleBinding>(json!({
                "metadata": {"name": "broken"},
                "subjects": [{"kind": "User", "name": "bob"}],
                "roleRef": {"kind": "ClusterRole", "name": "none"}
            })),
        ])
    }

    fn rbac(state: index::State) -> Rbac {
        let rbac = Rbac::default();
        *rbac.index.state.write() = state;
        rbac
    }

    fn ask(rbac: &Rbac, user: &str, groups: &[&str], verb: &str, resource: &str, namespace: &str) -> Verdict {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let user = User { name: user.into(), groups, ..User::default() };
        let target = ResourceAttributes { resource, namespace, name: "x", ..ResourceAttributes::default() };
        rbac.authorize(&Attributes { user: &user, verb, target: Target::Resource(target) })
    }

    #[test]
    fn a_role_binding_reaches_its_subjects_in_its_namespace_only() {
        let rbac = rbac(state());
        let allowed = ask(&rbac, "ann", &[], "get", "pods", "blue");
        assert_eq!(allowed, Verdict::allow(r#"RBAC: allowed by RoleBinding "read/blue" of Role "pods" to User "ann""#));
        // A service account without a namespace is one of the binding's.
        let account = ask(&rbac, "system:serviceaccount:blue:builder", &[], "get", "pods", "blue");
        assert_eq!(account.reason, r#"RBAC: allowed by RoleBinding "read/blue" of Role "pods" to ServiceAccount "builder/blue""#);
        for (user, verb, resource, namespace) in [
            ("ann", "get", "pods", "green"),
            ("ann", "get", "pods", ""),
            ("ann", "delete", "pods", "blue"),
            ("ann", "get", "secrets", "blue"),
            ("bob", "get", "pods", "blue"),
            ("system:serviceaccount:green:builder", "get", "pods", "blue"),
        ] {
            assert!(!ask(&rbac, user, &[], verb, resource, namespace).allowed, "{user} {verb} {resource} {namespace}");
        }
    }

    #[test]
    fn an_aggregated_role_allows_what_its_parts_do_and_not_what_it_says_itself() {
        let rbac = rbac(state());
        let allowed = ask(&rbac, "eve", &["ops"], "get", "secrets", "blue");
        assert_eq!(allowed.reason, r#"RBAC: allowed by RoleBinding "secrets/blue" of ClusterRole "all" to Group "ops""#);
        assert!(!ask(&rbac, "eve", &["ops"], "delete", "secrets", "blue").allowed);
        let rbac = self::rbac(state().without::<ClusterRole>("", "secrets"));
        assert!(!ask(&rbac, "eve", &["ops"], "get", "secrets", "blue").allowed);
    }

    #[test]
    fn a_binding_to_a_role_that_does_not_exist_says_so() {
        let refused = ask(&rbac(state()), "bob", &[], "get", "pods", "blue");
        assert_eq!(refused, Verdict::no_opinion(r#"RBAC: clusterrole.rbac.authorization.k8s.io "none" not found"#));
    }

    #[test]
    fn what_is_deleted_leaves_nothing_behind() {
        let state = state()
            .without::<RoleBinding>("blue", "read")
            .without::<RoleBinding>("blue", "secrets")
            .without::<ClusterRoleBinding>("", "broken");
        assert_eq!(state.subjects(), 0);
        assert!(!ask(&rbac(state), "ann", &[], "get", "pods", "blue").allowed);
    }
}
