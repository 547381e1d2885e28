//! Who owns which field of an object: the sets of fields that `managedFields` keeps for each manager, and server-side apply, which merges
//! a manager's configuration into an object by these sets.
//!
//! Everything is by the schema's list types, map keys and atomic places, as upstream's structured merge has it. What is compared, merged
//! and removed is said by a [`Shape`], of the compiled schema or of one made at run time.
//!
//! Invariant: a set is encoded in one way only, so that two managers' sets are equal where their bytes are.

mod apply;
mod compare;
mod document;
mod encode;
mod managers;
mod merge;
mod path;
mod set;
mod shape;
#[cfg(test)]
mod tests;

pub use apply::{Conflict, Conflicts};
pub use compare::{Comparison, fields_of};
pub use managers::{ANCIENT_CHANGES, BEFORE_FIRST_APPLY, Entry, MAX_UPDATERS, ManagerId, Managers, Operation};
pub use merge::{ConfigurationError, check, merge, remove};
pub use path::{FieldPath, Name, Step};
pub use set::FieldSet;
pub use shape::{Place, Shape};
