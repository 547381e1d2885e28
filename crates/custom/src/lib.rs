//! Kinds defined at run time: what `CustomResourceDefinition`s say, as pure functions.
//!
//! A version's `JSONSchemaProps` becomes a [`schema::Schema`]; [`definition`] says what is wrong with a definition. Nothing does I/O.
//! Every walk over a schema or a value is bounded by the depth of what was read, and every rule by a budget.

pub mod cel;
pub mod definition;
pub mod kind;
pub mod schema;
