//! The watch cache.

pub mod list;
pub mod watch;
