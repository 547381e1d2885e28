//! The managers of an object's fields, as `metadata.managedFields` lists them.

use std::{cmp::Ordering, fmt};

use super::{compare::Comparison, set::FieldSet};
use crate::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};

/// Most entries of updates; the oldest are brought together in one.
pub const MAX_UPDATERS: usize = 10;
/// Manager of what the oldest updates wrote.
pub const ANCIENT_CHANGES: &str = "ancient-changes";
/// Manager of what an object had before its first tracked write.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";

const FIELDS_V1: &str = "FieldsV1";

/// How a manager wrote its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By applying its whole configuration.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    /// As `managedFields` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, and how. A manager has one entry for each of these; updates in other versions have their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerId {
    /// Name of the manager.
    pub manager: String,
    /// How it writes.
    pub operation: Operation,
    /// The `apiVersion` in which the fields are named.
    pub api_version: String,
    /// Subresource through which they are written; empty for the object itself.
    pub subresource: String,
}

impl ManagerId {
    /// True if both have one entry.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.manager, self.operation, &self.subresource) == (&other.manager, other.operation, &other.subresource)
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who.
    pub id: ManagerId,
    /// When the set changed last.
    pub time: Option<Time>,
    fields: Fields,
}

/// A set that is decoded only where something must be known of it.
#[derive(Clone, Debug, PartialEq)]
enum Fields {
    Encoded(FieldsV1),
    Decoded(FieldSet),
}

impl Entry {
    /// What the manager owns. A set that cannot be read is empty.
    pub fn fields(&self) -> FieldSet {
        match &self.fields {
            Fields::Encoded(encoded) => FieldSet::decode(&encoded.raw).unwrap_or_default(),
            Fields::Decoded(set) => set.clone(),
        }
    }

    /// True if the manager surely owns all of these.
    fn covers(&self, fields: &FieldSet) -> bool {
        match &self.fields {
            Fields::Encoded(encoded) => FieldSet::common(&encoded.raw, fields) == Some(fields.len()),
            Fields::Decoded(set) => fields.difference(set).is_empty(),
        }
    }

    /// Takes fields away. True if some are left.
    fn lose(&mut self, lost: &FieldSet) -> bool {
        let left = match &self.fields {
            Fields::Encoded(encoded) if FieldSet::common(&encoded.raw, lost) == Some(0) => return true,
            _ => self.fields().difference(lost),
        };
        let some = !left.is_empty();
        self.fields = Fields::Decoded(left);
        some
    }
}

impl fmt::Display for Entry {
    /// The manager in the words of a conflict.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.id.manager)?;
        if !self.id.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.id.subresource)?;
        }
        if self.id.operation == Operation::Update {
            write!(f, " using {}", self.id.api_version)?;
            if let Some(time) = &self.time {
                write!(f, " at {}", time.timestamp())?;
            }
        }
        Ok(())
    }
}

/// The managers of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers {
    entries: Vec<Entry>,
}

impl Managers {
    /// Reads entries that this server wrote. Entries of versions that `is_served` denies are left out.
    ///
    /// # Errors
    /// When an entry is not of the form, with what is wrong with it. The sets themselves are read when they are needed.
    pub fn stored(entries: &[ManagedFieldsEntry], is_served: impl Fn(&str) -> bool) -> Result<Self, String> {
        let served = entries.iter().filter(|entry| is_served(&entry.api_version));
        let read = |entry: &ManagedFieldsEntry| {
            let operation = match entry.operation.as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                other => return Err(format!("operation: {other:?} is neither Apply nor Update")),
            };
            if entry.fields_type != FIELDS_V1 {
                return Err(format!("fieldsType: {:?} is not {FIELDS_V1:?}", entry.fields_type));
            }
            Ok(Entry {
                id: ManagerId {
                    manager: entry.manager.clone(),
                    operation,
                    api_version: entry.api_version.clone(),
                    subresource: entry.subresource.clone(),
                },
                time: entry.time,
                fields: Fields::Encoded(entry.fields_v1.clone().unwrap_or_default()),
            })
        };
        Ok(Self { entries: served.map(read).collect::<Result<_, _>>()? })
    }

    /// Reads entries that a client sent, and checks all of them.
    ///
    /// # Errors
    /// As [`Managers::stored`], and when a set cannot be read.
    pub fn sent(entries: &[ManagedFieldsEntry], is_served: impl Fn(&str) -> bool) -> Result<Self, String> {
        let mut managers = Self::stored(entries, is_served)?;
        for entry in &mut managers.entries {
            if let Fields::Encoded(encoded) = &entry.fields {
                let set = FieldSet::decode(&encoded.raw).map_err(|e| format!("fieldsV1 of {:?}: {e}", entry.id.manager))?;
                entry.fields = Fields::Decoded(set);
            }
        }
        managers.entries.retain(|entry| !entry.fields().is_empty());
        Ok(managers)
    }

    /// The entries in upstream's order.
    pub fn encode(mut self) -> Vec<ManagedFieldsEntry> {
        self.entries.sort_by(in_order);
        let encode = |entry: Entry| ManagedFieldsEntry {
            manager: entry.id.manager,
            operation: entry.id.operation.as_str().to_owned(),
            api_version: entry.id.api_version,
            time: entry.time,
            fields_type: FIELDS_V1.to_owned(),
            fields_v1: Some(match entry.fields {
                Fields::Encoded(encoded) => encoded,
                Fields::Decoded(set) => set.encode(),
            }),
            subresource: entry.id.subresource,
        };
        self.entries.into_iter().map(encode).collect()
    }

    /// True if nobody owns anything that is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What a manager owns.
    pub fn fields_of(&self, id: &ManagerId) -> FieldSet {
        self.entries.iter().find(|entry| entry.id.is_same(id)).map(Entry::fields).unwrap_or_default()
    }

    /// What anyone but this manager owns.
    pub(super) fn fields_of_others(&self, id: &ManagerId) -> FieldSet {
        let others = self.entries.iter().filter(|entry| !entry.id.is_same(id));
        others.fold(FieldSet::default(), |all, entry| all.union(&entry.fields()))
    }

    /// A manager has changed the object by other means than apply: what it wrote is its own, and what it removed is nobody's.
    pub fn update(&mut self, id: &ManagerId, change: Comparison, now: Time) {
        if change.is_empty() {
            return;
        }
        let removed = change.removed.clone();
        let written = change.into_written();
        if self.entries.iter().any(|entry| !entry.id.is_same(id)) {
            self.take_from_others(id, &written.union(&removed));
        }
        match self.entries.iter().find(|entry| entry.id.is_same(id)) {
            None => self.set(id, written, Some(now)),
            Some(own) if removed.is_empty() && own.covers(&written) => {}
            Some(own) => {
                let before = own.fields();
                let after = before.difference(&removed).union(&written);
                if after != before {
                    self.set(id, after, Some(now));
                }
            }
        }
        self.bring_oldest_together();
    }

    /// Gives an applier what an updater of another name wrote to the object itself, as if it had applied it. True if there was such an
    /// updater.
    pub fn hand_over(&mut self, from: &str, to: &ManagerId) -> bool {
        let is_from = |entry: &Entry| {
            (entry.id.manager.as_str(), entry.id.operation) == (from, Operation::Update) && entry.id.subresource == to.subresource
        };
        let (given, kept): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut self.entries).into_iter().partition(is_from);
        self.entries = kept;
        let time = given.iter().filter_map(|entry| entry.time).chain(self.time_of(to)).max_by_key(|time| time.seconds);
        let all = given.iter().fold(self.fields_of(to), |all, entry| all.union(&entry.fields()));
        if !given.is_empty() {
            self.set(to, all, time);
        }
        !given.is_empty()
    }

    /// Makes the set of a manager this one.
    pub(super) fn set(&mut self, id: &ManagerId, fields: FieldSet, time: Option<Time>) {
        self.entries.retain(|entry| !entry.id.is_same(id));
        if !fields.is_empty() {
            self.entries.push(Entry { id: id.clone(), time, fields: Fields::Decoded(fields) });
        }
    }

    /// Takes fields from everyone but this manager.
    pub(super) fn take_from_others(&mut self, id: &ManagerId, lost: &FieldSet) {
        self.entries.retain_mut(|entry| entry.id.is_same(id) || entry.lose(lost));
    }

    /// When the set of a manager changed last.
    pub(super) fn time_of(&self, id: &ManagerId) -> Option<Time> {
        self.entries.iter().find(|entry| entry.id.is_same(id))?.time
    }

    /// Brings the oldest updates of a version together while there are too many.
    fn bring_oldest_together(&mut self) {
        let is_update = |entry: &Entry| entry.id.operation == Operation::Update;
        let mut count = self.entries.iter().filter(|entry| is_update(entry)).count();
        if count <= MAX_UPDATERS {
            return;
        }
        let (mut updates, mut kept): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.entries).into_iter().partition(is_update);
        updates.sort_by(in_order);
        let mut ancient: Vec<Entry> = Vec::new();
        for entry in updates {
            let bucket = ancient.iter_mut().find(|bucket| bucket.id.api_version == entry.id.api_version);
            match bucket {
                _ if count <= MAX_UPDATERS => kept.push(entry),
                // It stays as it is unless another of its version joins it.
                None => ancient.push(entry),
                Some(bucket) => {
                    let id = ManagerId {
                        manager: ANCIENT_CHANGES.to_owned(),
                        operation: Operation::Update,
                        api_version: entry.id.api_version.clone(),
                        subresource: String::new(),
                    };
                    *bucket = Entry { id, time: entry.time, fields: Fields::Decoded(bucket.fields().union(&entry.fields())) };
                    count -= 1;
                }
            }
        }
        kept.extend(ancient);
        self.entries = kept;
    }
}

/// Upstream's order: by operation, time, name, version and subresource.
fn in_order(a: &Entry, b: &Entry) -> Ordering {
    let seconds = |entry: &Entry| entry.time.map_or(0, |time| time.seconds);
    a.id.operation
        .cmp(&b.id.operation)
        .then_with(|| seconds(a).cmp(&seconds(b)))
        .then_with(|| a.id.manager.cmp(&b.id.manager))
        .then_with(|| a.id.api_version.cmp(&b.id.api_version))
        .then_with(|| a.id.subresource.cmp(&b.id.subresource))
}
