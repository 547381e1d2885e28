//! Server-side apply: what becomes of an object when a manager says all that it wants of it.
//!
//! It goes in two steps, since between them the merged document becomes an object and takes its form: [`Managers::merge`] makes the
//! document, [`Managers::apply`] says who owns what of it then, or who is in the way.

use std::fmt;

use serde_json::Value;

use super::{
    FieldPath, FieldSet, Shape,
    compare::{Comparison, fields_of},
    managers::{ManagerId, Managers},
    merge::{merge, remove},
};
use crate::{
    StatusError,
    meta::v1::{StatusCause, Time},
    status::Reason,
};

/// A field that an apply would change and another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, in the words of the refusal.
    pub manager: String,
    /// The field.
    pub path: FieldPath,
}

/// Fields that an apply would change and others own. Invariant: there is at least one, and those of one manager stand together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Conflicts(pub Vec<Conflict>);

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = &self.0[..] {
            return write!(f, "Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
        }
        write!(f, "Apply failed with {} conflicts:", self.0.len())?;
        let mut last = None;
        for conflict in &self.0 {
            if last != Some(&conflict.manager) {
                write!(f, "{}conflicts with {}:", if last.is_none() { " " } else { "\n" }, conflict.manager)?;
                last = Some(&conflict.manager);
            }
            write!(f, "\n- {}", conflict.path)?;
        }
        Ok(())
    }
}

impl From<Conflicts> for StatusError {
    fn from(conflicts: Conflicts) -> Self {
        let refusal = Self::new(Reason::Conflict, conflicts.to_string());
        let cause = |conflict: Conflict| StatusCause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager),
            field: conflict.path.to_string(),
        };
        conflicts.0.into_iter().map(cause).fold(refusal, Self::with_cause)
    }
}

impl Managers {
    /// The document with what the manager's configuration says, and without what the manager applied before, names no more, and nobody
    /// else owns.
    pub fn merge(&self, id: &ManagerId, shape: Shape<'_>, live: &Value, config: &Value) -> Value {
        let merged = merge(shape, live, config);
        let last = self.fields_of(id);
        if last.is_empty() {
            return merged;
        }
        let complete = |set: FieldSet| set.with_fields_on_the_way(shape);
        let last = complete(last);
        let all = complete(fields_of(shape, &merged));
        let owned = complete(self.fields_of_others(id).union(&fields_of(shape, config)));
        // What is left when all of it goes, and what comes back since somebody owns it.
        let bare = complete(fields_of(shape, &remove(shape, &merged, &last)));
        let kept = remove(shape, &merged, &all.difference(&bare.union(&owned)));
        // Of the rest only that goes which the manager had.
        let kept = complete(fields_of(shape, &kept));
        remove(shape, &merged, &all.difference(&kept).intersection(&last))
    }

    /// A manager has applied the configuration that sets these fields, which changes the object so. What it changes is its own; what others
    /// set alike belongs to both.
    ///
    /// # Errors
    /// When the change touches fields of others, but for those in `allowed`; with `force` they lose them instead. Nothing has changed then.
    pub fn apply(
        &mut self,
        id: &ManagerId,
        fields: FieldSet,
        change: &Comparison,
        (force, allowed): (bool, &FieldSet),
        now: Time,
    ) -> Result<(), Conflicts> {
        let written = change.written();
        if !force {
            let conflicts = self.conflicts(id, &written.difference(allowed));
            if !conflicts.is_empty() {
                return Err(Conflicts(conflicts));
            }
        }
        self.take_from_others(id, &written.union(&change.removed));
        let same = change.is_empty() && self.fields_of(id) == fields && self.has_version(id);
        let time = if same { self.time_of(id) } else { Some(now) };
        if !same {
            self.set(id, fields, time);
        }
        Ok(())
    }

    fn has_version(&self, id: &ManagerId) -> bool {
        self.entries().iter().any(|entry| entry.id == *id)
    }

    fn conflicts(&self, id: &ManagerId, written: &FieldSet) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for entry in self.entries().iter().filter(|entry| !entry.id.is_same(id)) {
            let taken = entry.fields().intersection(written).paths();
            conflicts.extend(taken.into_iter().map(|path| Conflict { manager: entry.to_string(), path }));
        }
        conflicts.sort_by(|a, b| a.manager.cmp(&b.manager).then_with(|| a.path.cmp(&b.path)));
        conflicts
    }
}
