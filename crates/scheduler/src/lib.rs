//! The scheduler: a snapshot in, a decision out.
