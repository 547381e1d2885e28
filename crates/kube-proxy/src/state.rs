//! The whole desired table and the steps from one state of it to the next.
//!
//! [`Ruleset`] is written only by [`crate::sync`]. Its work is proportional to the services that changed: it keeps every owner's
//! [`Fragment`] and, for elements that several owners may claim (an external IP, a pod that backs two services), who claims what.
//! *Invariant:* the claim of the smallest owner is the one in the table, so the result does not depend on the order of events.
//!
//! [`Contents`] is the same table as the kernel shows it, rules reduced to fingerprints; [`adopt`] gets from any contents to a
//! ruleset and is needed at start-up and after a failure only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::ServiceKey;
use crate::ruleset::{Chain, ElementId, Fragment, Hook, Name, Rule, SetKind, Verdict};

/// The desired table.
#[derive(Debug, Default)]
pub struct Ruleset {
    base: Fragment,
    services: HashMap<ServiceKey, Fragment>,
    claims: HashMap<ElementId, BTreeMap<Owner, Verdict>>,
    rules: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    Base,
    Service(ServiceKey),
}

/// The steps from one state of the table to another, applied as one transaction in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Drop the whole table first.
    pub reset: bool,
    /// Sets to make.
    pub new_sets: BTreeMap<Name, SetKind>,
    /// Chains to make, empty.
    pub new_chains: BTreeMap<Name, Option<Hook>>,
    /// Chains, new or old, whose rules become these.
    pub rules: BTreeMap<Name, Vec<Rule>>,
    /// Chains to empty and delete.
    pub old_chains: BTreeSet<Name>,
    /// Elements to delete, with what they said; one that is also in `new_elements` changes what it says.
    pub old_elements: BTreeMap<ElementId, Verdict>,
    /// Elements to add.
    pub new_elements: BTreeMap<ElementId, Verdict>,
    /// Sets to delete.
    pub old_sets: BTreeSet<Name>,
}

/// What the kernel's table holds, as far as it matters. Elements of affinity sets are left out: they are the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Whether there is a table at all.
    pub exists: bool,
    /// Something in it cannot be ours or be changed in place, so it must go as a whole.
    pub foreign: bool,
    /// Chains by name.
    pub chains: BTreeMap<Name, ChainContents>,
    /// Sets by name.
    pub sets: BTreeMap<Name, SetKind>,
    /// Elements of the static sets.
    pub elements: BTreeMap<ElementId, Verdict>,
}

/// A chain of [`Contents`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainContents {
    /// Its hook if it is a base chain.
    pub hook: Option<Hook>,
    /// The fingerprints of its rules; `None` for a rule that carries none.
    pub rules: Vec<Option<u64>>,
}

// === impl Ruleset ===

impl Ruleset {
    /// The table with nothing but its frame.
    pub fn new(base: Fragment) -> Self {
        let mut ruleset = Self { rules: base.rule_count(), ..Self::default() };
        for (id, verdict) in &base.elements {
            ruleset.claims.entry(*id).or_default().insert(Owner::Base, verdict.clone());
        }
        ruleset.base = base;
        ruleset
    }

    /// Puts new fragments in place of the services' old ones; an empty fragment removes a service. Returns what that changes.
    pub fn update(&mut self, changes: impl IntoIterator<Item = (ServiceKey, Fragment)>) -> Delta {
        let mut delta = Delta::default();
        let mut touched: BTreeMap<ElementId, Option<Verdict>> = BTreeMap::new();
        for (key, new) in changes {
            let old = self.services.remove(&key).unwrap_or_default();
            self.rules = self.rules + new.rule_count() - old.rule_count();
            delta.chains(&old.chains, &new.chains);
            delta.sets(&old.sets, &new.sets);
            self.claim(&key, &old, &new, &mut touched);
            if new != Fragment::default() {
                self.services.insert(key, new);
            }
        }
        for (id, before) in touched {
            delta.element(id, before, self.verdict(&id).cloned());
        }
        delta
    }

    /// The fragment a service has now.
    pub fn service(&self, key: &ServiceKey) -> Option<&Fragment> {
        self.services.get(key)
    }

    /// The services with anything in the table.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Fragment)> {
        self.services.iter()
    }

    /// Rules in the table.
    pub fn rule_count(&self) -> usize {
        self.rules
    }

    /// Elements in the static sets.
    pub fn element_count(&self) -> usize {
        self.claims.len()
    }

    fn claim(&mut self, key: &ServiceKey, old: &Fragment, new: &Fragment, touched: &mut BTreeMap<ElementId, Option<Verdict>>) {
        let changed = |id: &ElementId| old.elements.get(id) != new.elements.get(id);
        let ids: BTreeSet<ElementId> = old.elements.keys().chain(new.elements.keys()).copied().filter(|id| changed(id)).collect();
        for id in ids {
            let before = self.verdict(&id).cloned();
            touched.entry(id).or_insert(before);
            let owner = Owner::Service(key.clone());
            let claims = self.claims.entry(id).or_default();
            match new.elements.get(&id) {
                Some(verdict) => claims.insert(owner, verdict.clone()),
                None => claims.remove(&owner),
            };
            if claims.is_empty() {
                self.claims.remove(&id);
            }
        }
    }

    fn verdict(&self, id: &ElementId) -> Option<&Verdict> {
        self.claims.get(id)?.first_key_value().map(|(_, verdict)| verdict)
    }

    fn fragments(&self) -> impl Iterator<Item = &Fragment> {
        std::iter::once(&self.base).chain(self.services.values())
    }

    fn elements(&self) -> BTreeMap<ElementId, Verdict> {
        self.claims.iter().filter_map(|(id, claims)| Some((*id, claims.first_key_value()?.1.clone()))).collect()
    }
}

/// The steps from what the kernel has to what is desired. `fingerprint` tells rules apart as the kernel stores them.
pub fn adopt(found: &Contents, desired: &Ruleset, fingerprint: impl Fn(&Rule) -> u64) -> Delta {
    let mut chains: BTreeMap<&Name, &Chain> = BTreeMap::new();
    let mut sets: BTreeMap<&Name, SetKind> = BTreeMap::new();
    for fragment in desired.fragments() {
        chains.extend(&fragment.chains);
        sets.extend(fragment.sets.iter().map(|(name, kind)| (name, *kind)));
    }
    let nothing = Contents::default();
    let in_place = found.exists
        && !found.foreign
        && found.chains.iter().all(|(name, c)| chains.get(name).is_none_or(|d| d.hook == c.hook))
        && found.sets.iter().all(|(name, kind)| sets.get(name).is_none_or(|desired| desired == kind));
    let from = if in_place { found } else { &nothing };

    let mut delta = Delta { reset: !in_place, ..Delta::default() };
    for (&name, &chain) in &chains {
        let had = from.chains.get(name);
        if had.is_none() {
            delta.new_chains.insert(name.clone(), chain.hook);
        }
        let wanted = chain.rules.iter().map(|rule| Some(fingerprint(rule)));
        if !wanted.eq(had.map(|c| c.rules.as_slice()).unwrap_or_default().iter().copied()) {
            delta.rules.insert(name.clone(), chain.rules.clone());
        }
    }
    delta.old_chains = from.chains.keys().filter(|name| !chains.contains_key(name)).cloned().collect();
    delta.new_sets =
        sets.iter().filter(|(name, _)| !from.sets.contains_key(**name)).map(|(name, kind)| ((*name).clone(), *kind)).collect();
    delta.old_sets = from.sets.keys().filter(|name| !sets.contains_key(name)).cloned().collect();
    let wanted = desired.elements();
    for id in from.elements.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
        delta.element(*id, from.elements.get(id).cloned(), wanted.get(id).cloned());
    }
    delta
}

// === impl Delta ===

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn chains(&mut self, old: &BTreeMap<Name, Chain>, new: &BTreeMap<Name, Chain>) {
        for (name, chain) in new {
            let had = old.get(name);
            if had.is_none() {
                self.new_chains.insert(name.clone(), chain.hook);
            }
            if had.map(|c| c.rules.as_slice()).unwrap_or_default() != chain.rules {
                self.rules.insert(name.clone(), chain.rules.clone());
            }
        }
        self.old_chains.extend(old.keys().filter(|name| !new.contains_key(*name)).cloned());
    }

    fn sets(&mut self, old: &BTreeMap<Name, SetKind>, new: &BTreeMap<Name, SetKind>) {
        let missing = new.iter().filter(|(name, _)| !old.contains_key(*name));
        self.new_sets.extend(missing.map(|(name, kind)| (name.clone(), *kind)));
        self.old_sets.extend(old.keys().filter(|name| !new.contains_key(*name)).cloned());
    }

    fn element(&mut self, id: ElementId, before: Option<Verdict>, after: Option<Verdict>) {
        if before == after {
            return;
        }
        if let Some(verdict) = before {
            self.old_elements.insert(id, verdict);
        }
        if let Some(verdict) = after {
            self.new_elements.insert(id, verdict);
        }
    }
}

// === impl Contents ===

impl Contents {
    /// What a table with these contents holds after the delta, or which step the kernel would refuse. This is the kernel of the
    /// tests and of [`crate::dataplane::Recorder`]; it is as strict as the real one about what exists and what is referred to.
    ///
    /// # Errors
    /// What the kernel would refuse, and why.
    pub fn after(&self, delta: &Delta, fingerprint: impl Fn(&Rule) -> u64) -> Result<Self, String> {
        let mut next = if delta.reset { Self::default() } else { self.clone() };
        next.exists = true;
        for (name, kind) in &delta.new_sets {
            if next.sets.insert(name.clone(), *kind).is_some() {
                return Err(format!("set {name} exists"));
            }
        }
        for (name, hook) in &delta.new_chains {
            if next.chains.insert(name.clone(), ChainContents { hook: *hook, rules: vec![] }).is_some() {
                return Err(format!("chain {name} exists"));
            }
        }
        for (name, rules) in &delta.rules {
            let chain = next.chains.get_mut(name).ok_or_else(|| format!("no chain {name} for rules"))?;
            chain.rules = rules.iter().map(|rule| Some(fingerprint(rule))).collect();
        }
        for (id, verdict) in &delta.old_elements {
            if next.elements.remove(id).as_ref() != Some(verdict) {
                return Err(format!("no element {id} to delete"));
            }
        }
        for (id, verdict) in &delta.new_elements {
            if let Verdict::Goto(chain) = verdict
                && !next.chains.contains_key(chain)
            {
                return Err(format!("element {id} leads to the missing chain {chain}"));
            }
            if next.elements.insert(*id, verdict.clone()).is_some() {
                return Err(format!("element {id} exists"));
            }
        }
        for name in &delta.old_chains {
            if next.chains.remove(name).is_none() {
                return Err(format!("no chain {name} to delete"));
            }
            if next.elements.values().any(|verdict| *verdict == Verdict::Goto(name.clone())) {
                return Err(format!("chain {name} is in use"));
            }
        }
        for name in &delta.old_sets {
            if next.sets.remove(name).is_none() {
                return Err(format!("no set {name} to delete"));
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Backend, Endpoint, Family, Node, Port, Protocol, Service};
    use crate::plan;

    fn fingerprint(rule: &Rule) -> u64 {
        let mut hasher = DefaultHasher::new();
        rule.hash(&mut hasher);
        hasher.finish()
    }

    fn node() -> Node {
        Node { family: Family::V4, pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()], zone: None, api_servers: BTreeSet::new() }
    }

    fn key(index: u8) -> ServiceKey {
        ServiceKey::new("default", &format!("s{index}"))
    }

    prop_compose! {
        fn endpoint()(last in 1u8..6, ready: bool, serving: bool, terminating: bool) -> Endpoint {
            let backend = Backend { address: [10, 244, 0, last].into(), port: 8080 };
            Endpoint { backend, ready, serving, terminating, local: last < 3, zones: vec![] }
        }
    }

    prop_compose! {
        fn port()(udp: bool, number in 80u16..82, node_port in prop::option::of(30000u16..30003),
                  endpoints in prop::collection::vec(endpoint(), 0..4)) -> Port {
            Port { protocol: if udp { Protocol::Udp } else { Protocol::Tcp }, port: number, node_port, endpoints }
        }
    }

    prop_compose! {
        // Few addresses and ports, so that services collide on them.
        fn service()(cluster in 1u8..5, external in prop::option::of(1u8..3), balancer in prop::option::of(1u8..3),
                     affinity: bool, internal_local: bool, external_local: bool, guarded: bool,
                     ports in prop::collection::vec(port(), 0..3)) -> Service {
            Service {
                cluster_ips: vec![[10, 96, 0, cluster].into()],
                external_ips: external.map(|n| [203, 0, 113, n].into()).into_iter().collect(),
                load_balancer_ips: balancer.map(|n| [203, 0, 113, n].into()).into_iter().collect(),
                source_ranges: if guarded { vec!["198.51.100.0/24".parse().unwrap()] } else { vec![] },
                affinity: affinity.then_some(Duration::from_secs(10)),
                internal_local,
                external_local,
                ports,
            }
        }
    }

    type World = BTreeMap<u8, Service>;

    fn world() -> impl Strategy<Value = World> {
        prop::collection::btree_map(0u8..5, service(), 0..5)
    }

    fn fragments(world: &World) -> impl Iterator<Item = (ServiceKey, Fragment)> + '_ {
        world.iter().map(|(index, s)| (key(*index), plan::service(&key(*index), s, &node())))
    }

    fn built(world: &World) -> Ruleset {
        let mut ruleset = Ruleset::new(plan::base(&node()));
        ruleset.update(fragments(world));
        ruleset
    }

    fn contents(ruleset: &Ruleset) -> Contents {
        let nothing = Contents::default();
        nothing.after(&adopt(&nothing, ruleset, fingerprint), fingerprint).unwrap()
    }

    proptest! {
        #[test]
        fn adopting_any_state_gives_the_desired_one(a in world(), b in world()) {
            let (from, to) = (contents(&built(&a)), built(&b));
            let delta = adopt(&from, &to, fingerprint);
            prop_assert!(!delta.reset);
            prop_assert_eq!(from.after(&delta, fingerprint).unwrap(), contents(&to));
        }

        #[test]
        fn updates_service_by_service_give_the_same_as_building_anew(a in world(), b in world(), batch: bool) {
            let mut ruleset = built(&a);
            let mut table = contents(&ruleset);
            let gone = a.keys().filter(|index| !b.contains_key(index)).map(|index| (key(*index), Fragment::default()));
            let changes: Vec<_> = fragments(&b).chain(gone).collect();
            let batches = if batch { vec![changes] } else { changes.into_iter().map(|change| vec![change]).collect() };
            for changes in batches {
                let delta = ruleset.update(changes);
                table = table.after(&delta, fingerprint).unwrap();
            }
            prop_assert_eq!(&table, &contents(&built(&b)));
            prop_assert_eq!(ruleset.rule_count(), table.chains.values().map(|c| c.rules.len()).sum::<usize>());
            prop_assert_eq!(ruleset.element_count(), table.elements.len());
        }

        #[test]
        fn nothing_changed_is_nothing_to_do(a in world()) {
            let mut ruleset = built(&a);
            prop_assert!(ruleset.update(fragments(&a)).is_empty());
            prop_assert!(adopt(&contents(&ruleset), &ruleset, fingerprint).is_empty());
        }
    }

    #[test]
    fn a_table_that_cannot_be_changed_in_place_is_replaced_whole() {
        let desired = built(&World::new());
        let good = contents(&desired);
        let mut moved_hook = good.clone();
        moved_hook.chains.get_mut("nat-output").unwrap().hook = None;
        let mut other_kind = good.clone();
        other_kind.sets.insert("services".into(), SetKind::NodePorts);
        let foreign = Contents { foreign: true, ..good.clone() };
        for broken in [moved_hook, other_kind, foreign, Contents::default()] {
            let delta = adopt(&broken, &desired, fingerprint);
            assert!(delta.reset);
            assert_eq!(broken.after(&delta, fingerprint).unwrap(), good);
        }
    }
}
