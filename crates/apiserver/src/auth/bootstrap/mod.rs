//! The roles and bindings that every cluster begins with, brought into the store at start.
//!
//! What is missing is made; what is there is extended by what it lacks and never cut down, unless its annotation says to leave it
//! alone. Each step is one guarded write computed from the newest state, so that several API servers can do this at once and end with
//! the same.

mod policy;

use api::{
    Resource,
    meta::v1::{ObjectMeta, Time},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use futures::{StreamExt, TryStreamExt, stream};
use store::{Change, Store};

use super::rbac::rules::uncovered;

/// Set to `false` by people who want to keep their own version of a role or binding.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Marks what is made here.
const LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// How many objects are looked at at the same time.
const PARALLEL: usize = 8;

/// Why the roles could not be brought in.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    /// The store was not given the kind.
    #[error("{0} are not stored")]
    NotStored(String),
    /// Reading or writing failed.
    #[error("{name} cannot be written")]
    Write {
        /// The object.
        name: String,
        /// What the store said.
        #[source]
        source: store::Error,
    },
    /// What is stored cannot be read.
    #[error("what is stored under {key} cannot be decoded")]
    Decode {
        /// The etcd key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: prost::DecodeError,
    },
}

/// A kind that the policy has objects of.
trait Extend: Resource {
    /// Adds what `wanted` has and this lacks; metadata aside.
    fn extend(&mut self, wanted: &Self);
    /// True if this can never become what is wanted, so that it must be replaced.
    fn must_be_replaced(&self, _wanted: &Self) -> bool {
        false
    }
}

impl Extend for Role {
    fn extend(&mut self, wanted: &Self) {
        self.rules.extend(uncovered(&self.rules, &wanted.rules));
    }
}

impl Extend for ClusterRole {
    fn extend(&mut self, wanted: &Self) {
        if let Some(wanted) = &wanted.aggregation_rule {
            let selectors = &mut self.aggregation_rule_mut().cluster_role_selectors;
            for selector in &wanted.cluster_role_selectors {
                if !selectors.contains(selector) {
                    selectors.push(selector.clone());
                }
            }
        } else if self.aggregation_rule.is_none() {
            self.rules.extend(uncovered(&self.rules, &wanted.rules));
        }
    }
}

impl Extend for RoleBinding {
    fn extend(&mut self, wanted: &Self) {
        let missing: Vec<_> = wanted.subjects.iter().filter(|s| !self.subjects.contains(s)).cloned().collect();
        self.subjects.extend(missing);
    }

    fn must_be_replaced(&self, wanted: &Self) -> bool {
        self.role_ref != wanted.role_ref
    }
}

impl Extend for ClusterRoleBinding {
    fn extend(&mut self, wanted: &Self) {
        let missing: Vec<_> = wanted.subjects.iter().filter(|s| !self.subjects.contains(s)).cloned().collect();
        self.subjects.extend(missing);
    }

    fn must_be_replaced(&self, wanted: &Self) -> bool {
        self.role_ref != wanted.role_ref
    }
}

/// Brings the policy into the store, once.
pub(super) async fn reconcile(store: &Store) -> Result<(), BootstrapError> {
    // Roles first: a binding is of no use before its role.
    all(store, policy::cluster_roles()).await?;
    all(store, policy::roles()).await?;
    all(store, policy::cluster_role_bindings()).await?;
    all(store, policy::role_bindings()).await
}

async fn all<K: Extend>(store: &Store, wanted: Vec<K>) -> Result<(), BootstrapError> {
    stream::iter(wanted).map(Ok).try_for_each_concurrent(PARALLEL, |wanted| one(store, wanted)).await
}

async fn one<K: Extend>(store: &Store, mut wanted: K) -> Result<(), BootstrapError> {
    let kind = K::KIND.qualified_plural();
    let collection = store.collection(&kind).ok_or(BootstrapError::NotStored(kind))?;
    let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
    mark(wanted.metadata_mut());
    loop {
        let mut replace = false;
        let modified = collection.modify(&namespace, &name, |entry| {
            let decoded = K::decode(entry.object());
            let mut object = decoded.map_err(|source| Failure::Decode { key: entry.key().to_owned(), source })?;
            replace = false;
            if object.metadata().annotations.get(AUTO_UPDATE).is_some_and(|v| v == "false") {
                return Ok(Change::Keep);
            }
            if object.must_be_replaced(&wanted) {
                replace = true;
                return Ok(Change::Delete);
            }
            let before = object.clone();
            object.extend(&wanted);
            add_marks(object.metadata_mut(), wanted.metadata());
            if object == before {
                return Ok(Change::Keep);
            }
            object.metadata_mut().resource_version.clear();
            Ok(Change::Put(object.encode_to_vec().into()))
        });
        match modified.await {
            Ok(_) if !replace => return Ok(()),
            Ok(_) | Err(Failure::Store(store::Error::NotFound { .. })) => {}
            Err(Failure::Store(source)) => return Err(BootstrapError::Write { name, source }),
            Err(Failure::Decode { key, source }) => return Err(BootstrapError::Decode { key, source }),
        }
        let mut new = wanted.clone();
        let meta = new.metadata_mut();
        meta.uid = uuid::Uuid::new_v4().to_string();
        meta.creation_timestamp = Some(Time::now());
        match collection.create(&namespace, &name, &new.encode_to_vec()).await {
            Ok(_) => {
                tracing::debug!(kind = &*K::KIND.kind, namespace, name, "created");
                return Ok(());
            }
            // Another API server was faster; what it made is looked at like anything else.
            Err(store::Error::AlreadyExists { .. }) => {}
            Err(source) => return Err(BootstrapError::Write { name, source }),
        }
    }
}

/// Why one object could not be changed.
#[derive(Debug)]
enum Failure {
    Store(store::Error),
    Decode { key: String, source: prost::DecodeError },
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

fn mark(meta: &mut ObjectMeta) {
    meta.labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
    meta.annotations.insert(AUTO_UPDATE.to_owned(), "true".to_owned());
}

fn add_marks(meta: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (key, value) in &wanted.labels {
        meta.labels.insert(key.clone(), value.clone());
    }
    for (key, value) in &wanted.annotations {
        meta.annotations.insert(key.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use api::{Object, rules::FieldErrors};

    use super::*;
    use crate::auth::{
        Attributes, ResourceAttributes, Target,
        rbac::{aggregation::aggregate, rules},
    };
    use crate::request::User;

    #[test]
    fn every_object_of_the_policy_is_valid_and_every_binding_has_its_role() {
        let cluster_roles = policy::cluster_roles();
        let mut errors = FieldErrors::default();
        cluster_roles.iter().for_each(|r| Object::validate(r, None, &mut errors));
        policy::roles().iter().for_each(|r| Object::validate(r, None, &mut errors));
        policy::cluster_role_bindings().iter().for_each(|r| Object::validate(r, None, &mut errors));
        policy::role_bindings().iter().for_each(|r| Object::validate(r, None, &mut errors));
        assert!(errors.is_empty(), "{errors}");

        let names: Vec<&str> = cluster_roles.iter().map(|r| r.name()).collect();
        for binding in policy::cluster_role_bindings() {
            assert!(names.contains(&binding.role_ref().name.as_str()), "{}", binding.name());
        }
        let roles = policy::roles();
        for binding in policy::role_bindings() {
            let found = roles.iter().any(|r| (r.namespace(), r.name()) == (binding.namespace(), &binding.role_ref().name));
            assert!(found, "{}", binding.name());
        }
    }

    fn allows(role: &str, verb: &str, group: &str, resource: &str, subresource: &str) -> bool {
        let roles: HashMap<String, Arc<ClusterRole>> =
            policy::cluster_roles().into_iter().map(|role| (role.name().to_owned(), Arc::new(role))).collect();
        let target = ResourceAttributes { group, resource, subresource, namespace: "default", ..ResourceAttributes::default() };
        let attributes = Attributes { user: &User::default(), verb, target: Target::Resource(target) };
        rules::allow(&attributes, aggregate(&roles)[role].iter())
    }

    #[test]
    fn admin_contains_edit_and_edit_contains_view() {
        for role in ["admin", "edit", "view"] {
            assert!(allows(role, "list", "", "pods", ""), "{role}");
        }
        assert!(allows("admin", "create", "", "pods", "") && allows("edit", "create", "", "pods", ""));
        assert!(!allows("view", "create", "", "pods", "") && !allows("view", "get", "", "secrets", ""));
        assert!(allows("admin", "create", "rbac.authorization.k8s.io", "rolebindings", ""));
        assert!(!allows("edit", "create", "rbac.authorization.k8s.io", "rolebindings", ""));
        assert!(!allows("admin", "update", "", "resourcequotas", "") && !allows("admin", "update", "", "namespaces", ""));
    }

    #[test]
    fn what_is_there_is_extended_and_never_cut_down() {
        let wanted = policy::cluster_roles().into_iter().find(|r| r.name() == "system:node-proxier").unwrap();
        let mut own = wanted.clone();
        let own_rule = rules::tests::rule(&["get"], &["example.com"], &["things"]);
        own.rules = vec![own_rule.clone()];
        own.extend(&wanted);
        assert!(own.rules.contains(&own_rule));
        assert!(uncovered(&own.rules, &wanted.rules).is_empty());
        let once = own.clone();
        own.extend(&wanted);
        assert_eq!(own, once);
    }
}
