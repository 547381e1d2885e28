//! The roles and who has them, decoded and indexed by subject.
//!
//! Four tasks (see [`Index::run`]) follow the four kinds and are the only writers; every decision reads under the read lock, which is
//! never held over an await. *Invariant:* `by_user` and `by_group` hold exactly the subjects of the bindings in `by_name`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use api::{
    Resource,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use parking_lot::RwLock;
use store::{Entry, EventKind, WatchEvent};
use tokio::sync::watch;

use crate::reader::Follower;

/// Bits of the gate: a kind's first list is in.
const ROLES: u8 = 1;
const CLUSTER_ROLES: u8 = 2;
const ROLE_BINDINGS: u8 = 4;
const CLUSTER_ROLE_BINDINGS: u8 = 8;
const ALL: u8 = 15;

/// All roles and bindings.
pub(super) struct Index {
    pub(super) state: RwLock<State>,
    filled: watch::Sender<u8>,
    /// Told when a cluster role changes.
    changed: watch::Sender<()>,
}

/// What the index holds.
#[derive(Default)]
pub(super) struct State {
    /// By namespace and name.
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    cluster_roles: HashMap<String, Arc<ClusterRole>>,
    /// What cluster roles that are made of others allow; made anew when any cluster role changes.
    aggregated: HashMap<String, Arc<[PolicyRule]>>,
    /// By namespace; those for the whole cluster under the empty one.
    bindings: HashMap<String, Bindings>,
}

/// The bindings of one namespace, or of the cluster.
#[derive(Default)]
struct Bindings {
    by_name: BTreeMap<String, Arc<Binding>>,
    by_user: HashMap<String, BTreeSet<String>>,
    by_group: HashMap<String, BTreeSet<String>>,
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Debug)]
pub(super) struct Binding {
    /// Empty for a ClusterRoleBinding.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) role: RoleRef,
    pub(super) subjects: Vec<Subject>,
}

/// A role that a binding names but that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}.rbac.authorization.k8s.io \"{name}\" not found")]
pub(super) struct RoleMissing {
    kind: String,
    name: String,
}

// === impl Index ===

impl Default for Index {
    fn default() -> Self {
        Self { state: RwLock::default(), filled: watch::Sender::new(0), changed: watch::Sender::new(()) }
    }
}

impl Index {
    /// True once every kind's first list is in.
    pub(super) fn is_ready(&self) -> bool {
        *self.filled.borrow() == ALL
    }

    /// Waits until every kind's first list is in.
    pub(super) async fn ready(&self) {
        // The sender is ours, so that waiting cannot fail.
        self.filled.subscribe().wait_for(|bits| *bits == ALL).await.ok();
    }

    /// Tells when a cluster role changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The followers, one a kind.
    pub(super) fn followers(&self) -> [(&'static api::Kind, Box<dyn Follower + '_>); 4] {
        [
            (Role::KIND, Box::new(Following::<Role>::new(self, ROLES))),
            (ClusterRole::KIND, Box::new(Following::<ClusterRole>::new(self, CLUSTER_ROLES))),
            (RoleBinding::KIND, Box::new(Following::<RoleBinding>::new(self, ROLE_BINDINGS))),
            (ClusterRoleBinding::KIND, Box::new(Following::<ClusterRoleBinding>::new(self, CLUSTER_ROLE_BINDINGS))),
        ]
    }
}

/// Keeps one kind in the index.
struct Following<'a, K> {
    index: &'a Index,
    bit: u8,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<'a, K: Indexed> Following<'a, K> {
    fn new(index: &'a Index, bit: u8) -> Self {
        Self { index, bit, kind: std::marker::PhantomData }
    }

    fn tell(&self) {
        if K::KIND == ClusterRole::KIND {
            self.index.changed.send_replace(());
        }
    }
}

impl<K: Indexed> Follower for Following<'_, K> {
    fn replace(&self, entries: &[Arc<Entry>]) {
        let objects: Vec<K> = entries.iter().filter_map(|entry| decode(entry)).collect();
        let mut state = self.index.state.write();
        <K as Indexed>::clear(&mut state);
        objects.into_iter().for_each(|object| object.insert(&mut state));
        K::finish(&mut state);
        drop(state);
        self.index.filled.send_modify(|bits| *bits |= self.bit);
        self.tell();
    }

    fn apply(&self, events: &[WatchEvent]) {
        let mut state = self.index.state.write();
        for WatchEvent { kind, entry } in events {
            // One that cannot be read must not keep what it said before.
            K::remove(&mut state, entry.namespace(), entry.name());
            if *kind != EventKind::Deleted
                && let Some(object) = decode::<K>(entry)
            {
                object.insert(&mut state);
            }
        }
        K::finish(&mut state);
        drop(state);
        self.tell();
    }
}

fn decode<K: Resource>(entry: &Entry) -> Option<K> {
    let decoded = crate::reader::decode(entry);
    decoded.inspect_err(|error| tracing::error!(%error, "this counts for nothing until it is repaired")).ok()
}

/// A kind that the index holds.
trait Indexed: Resource {
    fn clear(state: &mut State);
    fn insert(self, state: &mut State);
    fn remove(state: &mut State, namespace: &str, name: &str);
    /// Runs after a row of changes.
    fn finish(_state: &mut State) {}
}

impl Indexed for Role {
    fn clear(state: &mut State) {
        state.roles.clear();
    }

    fn insert(self, state: &mut State) {
        let (namespace, name) = (self.namespace().to_owned(), self.name().to_owned());
        state.roles.entry(namespace).or_default().insert(name, self.rules.into());
    }

    fn remove(state: &mut State, namespace: &str, name: &str) {
        if let Some(roles) = state.roles.get_mut(namespace) {
            roles.remove(name);
            if roles.is_empty() {
                state.roles.remove(namespace);
            }
        }
    }
}

impl Indexed for ClusterRole {
    fn clear(state: &mut State) {
        state.cluster_roles.clear();
    }

    fn insert(mut self, state: &mut State) {
        let mut metadata = std::mem::take(self.metadata_mut());
        self.metadata = Some(api::meta::v1::ObjectMeta {
            name: metadata.name.clone(),
            labels: std::mem::take(&mut metadata.labels),
            ..Default::default()
        });
        state.cluster_roles.insert(metadata.name, Arc::new(self));
    }

    fn remove(state: &mut State, _: &str, name: &str) {
        state.cluster_roles.remove(name);
    }

    fn finish(state: &mut State) {
        state.aggregated = super::aggregation::aggregate(&state.cluster_roles);
    }
}

impl Indexed for RoleBinding {
    fn clear(state: &mut State) {
        state.bindings.retain(|namespace, _| namespace.is_empty());
    }

    fn insert(self, state: &mut State) {
        let (namespace, name) = (self.namespace().to_owned(), self.name().to_owned());
        state.bind(Binding { namespace, name, role: self.role_ref.unwrap_or_default(), subjects: self.subjects });
    }

    fn remove(state: &mut State, namespace: &str, name: &str) {
        state.unbind(namespace, name);
    }
}

impl Indexed for ClusterRoleBinding {
    fn clear(state: &mut State) {
        state.bindings.remove("");
    }

    fn insert(self, state: &mut State) {
        let name = self.name().to_owned();
        let role = self.role_ref.unwrap_or_default();
        state.bind(Binding { namespace: String::new(), name, role, subjects: self.subjects });
    }

    fn remove(state: &mut State, _: &str, name: &str) {
        state.unbind("", name);
    }
}

// === impl State ===

impl State {
    /// What a role allows. `namespace` is that of the binding which names it.
    pub(super) fn rules(&self, namespace: &str, role: &RoleRef) -> Result<&Arc<[PolicyRule]>, RoleMissing> {
        let found = match role.kind.as_str() {
            "Role" => self.roles.get(namespace).and_then(|roles| roles.get(&role.name)),
            "ClusterRole" => self.aggregated.get(&role.name),
            _ => None,
        };
        found.ok_or_else(|| RoleMissing { kind: role.kind.to_lowercase(), name: role.name.clone() })
    }

    /// The roles made of others whose stored rules are not what they are made of, with what they should be.
    pub(super) fn outdated(&self) -> Vec<(String, Arc<[PolicyRule]>)> {
        let made = self.cluster_roles.iter().filter(|(_, role)| role.aggregation_rule.is_some());
        let pairs = made.filter_map(|(name, role)| Some((name, role, self.aggregated.get(name)?)));
        pairs
            .filter(|(_, role, rules)| role.rules[..] != rules[..])
            .map(|(name, _, rules)| (name.clone(), rules.clone()))
            .collect()
    }

    /// The bindings that a user or one of these groups is a subject of: the cluster's, then the namespace's, in order of their names.
    pub(super) fn bindings_of<'a>(
        &'a self,
        user: &str,
        groups: &[String],
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Binding>> {
        let mut found: Vec<&Arc<Binding>> = Vec::new();
        let scopes = [Some(""), Some(namespace).filter(|namespace| !namespace.is_empty())];
        for scope in scopes.into_iter().flatten() {
            let Some(bindings) = self.bindings.get(scope) else { continue };
            let groups = groups.iter().filter_map(|group| bindings.by_group.get(group));
            let names: BTreeSet<&String> = bindings.by_user.get(user).into_iter().chain(groups).flatten().collect();
            found.extend(names.into_iter().filter_map(|name| bindings.by_name.get(name)));
        }
        found.into_iter()
    }

    fn bind(&mut self, binding: Binding) {
        let bindings = self.bindings.entry(binding.namespace.clone()).or_default();
        let name = binding.name.clone();
        for subject in &binding.subjects {
            if let Some((map, key)) = bindings.place(subject, &binding.namespace) {
                map.entry(key).or_default().insert(name.clone());
            }
        }
        bindings.by_name.insert(name, Arc::new(binding));
    }

    fn unbind(&mut self, namespace: &str, name: &str) {
        let Some(bindings) = self.bindings.get_mut(namespace) else { return };
        let Some(binding) = bindings.by_name.remove(name) else { return };
        for subject in &binding.subjects {
            if let Some((map, key)) = bindings.place(subject, namespace)
                && let Some(names) = map.get_mut(&key)
            {
                names.remove(name);
                if names.is_empty() {
                    map.remove(&key);
                }
            }
        }
        if bindings.by_name.is_empty() {
            self.bindings.remove(namespace);
        }
    }
}

impl Bindings {
    /// Where a subject is kept, and under what.
    fn place(&mut self, subject: &Subject, namespace: &str) -> Option<(&mut HashMap<String, BTreeSet<String>>, String)> {
        match subject.kind.as_str() {
            "Group" => Some((&mut self.by_group, subject.name.clone())),
            _ => user_of(subject, namespace).map(|name| (&mut self.by_user, name)),
        }
    }
}

/// The name of the user that a subject is, unless it is a group. A service account without a namespace is one of the binding's.
pub(super) fn user_of(subject: &Subject, binding_namespace: &str) -> Option<String> {
    match subject.kind.as_str() {
        "User" => Some(subject.name.clone()),
        "ServiceAccount" => {
            let namespace = if subject.namespace.is_empty() { binding_namespace } else { &subject.namespace };
            (!namespace.is_empty()).then(|| format!("system:serviceaccount:{namespace}:{}", subject.name))
        }
        _ => None,
    }
}

#[cfg(test)]
impl State {
    /// Puts an object in, as its follower would.
    pub(super) fn with(mut self, objects: impl IntoIterator<Item = Box<dyn api::Object>>) -> Self {
        for object in objects {
            let object = &*object;
            if let Some(role) = object.downcast_ref::<Role>() {
                role.clone().insert(&mut self);
            } else if let Some(role) = object.downcast_ref::<ClusterRole>() {
                role.clone().insert(&mut self);
            } else if let Some(binding) = object.downcast_ref::<RoleBinding>() {
                binding.clone().insert(&mut self);
            } else if let Some(binding) = object.downcast_ref::<ClusterRoleBinding>() {
                binding.clone().insert(&mut self);
            }
        }
        ClusterRole::finish(&mut self);
        self
    }

    /// Takes an object out, as its follower would.
    pub(super) fn without<K: Resource>(mut self, namespace: &str, name: &str) -> Self {
        match &*K::KIND.plural {
            "roles" => Role::remove(&mut self, namespace, name),
            "clusterroles" => ClusterRole::remove(&mut self, namespace, name),
            _ => self.unbind(namespace, name),
        }
        ClusterRole::finish(&mut self);
        self
    }

    /// How many subjects are kept; 0 when nothing is bound.
    pub(super) fn subjects(&self) -> usize {
        self.bindings.values().map(|b| b.by_user.len() + b.by_group.len()).sum()
    }
}
