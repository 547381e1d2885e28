//! What is special about each kind, one file a kind. Kinds without a file have nothing special.
//!
//! The form of single fields is checked from the schema's options; here is what looks at several fields, at the old object, or depends
//! on the state an object is in.

pub mod metadata;

use crate::strategy::Strategies;

/// The strategies of all kinds.
pub fn all() -> Strategies {
    Strategies::default()
}
