//! Rules in CEL (`x-kubernetes-validations`): compiled against the types of a schema, with a bound on what they may cost.
//!
//! The crate `cel` parses. Checking, cost and evaluation are here: its interpreter knows no types, no libraries of Kubernetes and no
//! budget. An expression is compiled on a stack of its own, since parsers recurse, to [`node::Node`]s of limited depth, whose evaluation
//! pays for each step. *Invariant:* no rule, whatever it says, runs for longer or needs more memory than [`RULE_BUDGET`] pays for.

mod compile;
mod escape;
mod eval;
mod fold;
mod functions;
mod library;
mod node;
mod rules;
mod types;
mod value;

#[cfg(test)]
mod tests;

pub use rules::{Rules, check};

/// Most cost of one rule, as upstream estimates it from the largest values that a schema allows.
pub const RULE_COST: u64 = 10_000_000;
/// Most cost of all rules of a schema together.
pub const SCHEMA_COST: u64 = 100_000_000;
/// Steps that one evaluation may take.
pub const RULE_BUDGET: u64 = 1_000_000;
/// Steps that all rules may take for one object.
pub const OBJECT_BUDGET: u64 = 10_000_000;

/// Longest text that an expression makes, in bytes.
const MAX_TEXT: usize = 4 << 20;
/// Longest list that a function makes.
const MAX_LIST: usize = 200_000;

/// What an evaluation may still cost.
#[derive(Debug)]
pub(crate) struct Budget(u64);

impl Budget {
    /// So many steps.
    pub fn new(steps: u64) -> Self {
        Self(steps)
    }

    /// Steps that are left.
    pub fn left(&self) -> u64 {
        self.0
    }

    /// Takes steps.
    ///
    /// # Errors
    /// [`Fault::Budget`] if fewer are left.
    pub fn spend(&mut self, steps: u64) -> Result<(), Fault> {
        self.0 = self.0.checked_sub(steps).ok_or(Fault::Budget)?;
        Ok(())
    }
}

/// Why an evaluation came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It costs too much.
    #[error("operation cancelled: actual cost limit exceeded")]
    Budget,
    /// No function takes these values.
    #[error("no such overload")]
    Overload,
    /// A key, an index, a number is out of range, or a text has not the form it needs.
    #[error("{0}")]
    Other(String),
}

impl Fault {
    fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }
}
