//! Finds objects by their labels, and those whose selectors match given labels, without going through all of them.

use std::collections::{HashMap, HashSet};

use api::{
    meta::v1::ObjectMeta,
    selector::{Operator, Requirement, Selector},
};

use crate::ObjectKey;

type Keys = HashSet<ObjectKey>;

/// Keys of objects by namespace, label and value.
#[derive(Debug, Default)]
pub(super) struct Labels(HashMap<String, HashMap<String, HashMap<String, Keys>>>);

/// Keys of objects that select others, by namespace and one label that they ask for.
#[derive(Debug, Default)]
pub(super) struct Selectors(HashMap<String, Selecting>);

/// The selecting objects of a namespace. Each stands in one place: under what it asks for, or among those that ask for nothing in particular.
#[derive(Debug, Default)]
struct Selecting {
    /// Those that ask for one of some values of a label, under each of them.
    values: HashMap<String, HashMap<String, Keys>>,
    /// Those that ask for a label, whatever its value.
    labels: HashMap<String, Keys>,
    /// Those that only say which labels must not be there, or nothing.
    others: Keys,
}

/// What a requirement leaves to look through.
enum Asks<'a> {
    /// A label with one of these values.
    Values(&'a str, &'a [String]),
    /// A label.
    Label(&'a str),
}

/// What must be there for the requirement to hold; `None` if it holds where nothing is.
fn asks(requirement: &Requirement) -> Option<Asks<'_>> {
    match requirement.operator() {
        Operator::Equals | Operator::DoubleEquals | Operator::In => Some(Asks::Values(requirement.key(), requirement.values())),
        Operator::Exists | Operator::GreaterThan | Operator::LessThan => Some(Asks::Label(requirement.key())),
        Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist => None,
    }
}

/// Takes a key out of one of several sets, and the set out of them when it is empty.
fn remove(sets: &mut HashMap<String, Keys>, name: &str, key: &ObjectKey) {
    if let Some(keys) = sets.get_mut(name) {
        keys.remove(key);
        if keys.is_empty() {
            sets.remove(name);
        }
    }
}

// === impl Labels ===

impl Labels {
    pub(super) fn insert(&mut self, key: &ObjectKey, meta: &ObjectMeta) {
        for (label, value) in &meta.labels {
            let labels = self.0.entry(key.namespace.clone()).or_default();
            labels.entry(label.clone()).or_default().entry(value.clone()).or_default().insert(key.clone());
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, meta: &ObjectMeta) {
        let Some(labels) = self.0.get_mut(&key.namespace) else { return };
        for (label, value) in &meta.labels {
            let Some(values) = labels.get_mut(label) else { continue };
            remove(values, value, key);
            if values.is_empty() {
                labels.remove(label);
            }
        }
        if labels.is_empty() {
            self.0.remove(&key.namespace);
        }
    }

    /// The keys among which all are whose labels match: those of the requirement that leaves fewest. `None` if no requirement rules any out.
    pub(super) fn candidates(&self, namespace: &str, selector: &Selector) -> Option<Vec<&ObjectKey>> {
        let labels = self.0.get(namespace);
        let sets = |asked: Asks<'_>| -> Vec<&Keys> {
            let values = |label: &str| labels.and_then(|labels| labels.get(label));
            match asked {
                Asks::Values(label, wanted) => {
                    values(label).map_or_else(Vec::new, |values| wanted.iter().filter_map(|value| values.get(value)).collect())
                }
                Asks::Label(label) => values(label).map_or_else(Vec::new, |values| values.values().collect()),
            }
        };
        let choices = selector.requirements().iter().filter_map(asks).map(sets);
        let fewest = choices.min_by_key(|sets| sets.iter().map(|keys| keys.len()).sum::<usize>())?;
        Some(fewest.into_iter().flatten().collect())
    }
}

// === impl Selectors ===

impl Selectors {
    pub(super) fn insert(&mut self, key: &ObjectKey, selector: &Selector) {
        if selector.is_nothing() {
            return;
        }
        let selecting = self.0.entry(key.namespace.clone()).or_default();
        match selector.requirements().iter().find_map(asks) {
            Some(Asks::Values(label, values)) => {
                let by_value = selecting.values.entry(label.to_owned()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().insert(key.clone());
                }
            }
            Some(Asks::Label(label)) => drop(selecting.labels.entry(label.to_owned()).or_default().insert(key.clone())),
            None => drop(selecting.others.insert(key.clone())),
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, selector: &Selector) {
        let Some(selecting) = self.0.get_mut(&key.namespace) else { return };
        match selector.requirements().iter().find_map(asks) {
            Some(Asks::Values(label, values)) => {
                let Some(by_value) = selecting.values.get_mut(label) else { return };
                values.iter().for_each(|value| remove(by_value, value, key));
                if by_value.is_empty() {
                    selecting.values.remove(label);
                }
            }
            Some(Asks::Label(label)) => remove(&mut selecting.labels, label, key),
            None => drop(selecting.others.remove(key)),
        }
        if selecting.values.is_empty() && selecting.labels.is_empty() && selecting.others.is_empty() {
            self.0.remove(&key.namespace);
        }
    }

    /// The keys among which all are whose selectors match the labels.
    pub(super) fn candidates<'a>(&'a self, meta: &'a ObjectMeta) -> impl Iterator<Item = &'a ObjectKey> {
        let selecting = self.0.get(&meta.namespace);
        let by_label = selecting.into_iter().flat_map(|selecting| {
            meta.labels.iter().flat_map(|(label, value)| {
                let by_value = selecting.values.get(label).and_then(|by_value| by_value.get(value));
                by_value.into_iter().chain(selecting.labels.get(label)).flatten()
            })
        });
        by_label.chain(selecting.into_iter().flat_map(|selecting| &selecting.others))
    }
}
