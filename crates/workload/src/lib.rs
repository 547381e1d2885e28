//! What controllers of workloads have in common: an object with a selector, and other objects that it owns.
//!
//! * [`OwnWrites`] — what a process wrote and its informers do not show yet, so that a local copy that lags makes nobody do a thing twice.
//! * [`Claims`] — which objects an owner manages: those it owns and selects, those it adopts, without those it lets go.
//! * [`in_growing_batches`] — many requests of one kind, of which a refusal stops the rest early.

mod batches;
mod claims;
mod own_writes;

pub use self::{
    batches::in_growing_batches,
    claims::{Claims, Owner, controller_of},
    own_writes::OwnWrites,
};
