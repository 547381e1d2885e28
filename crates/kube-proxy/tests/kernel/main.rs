//! The rules against a real kernel, in network namespaces of their own. Run as root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests state their claims by unwrapping, as tests do")]

mod adoption;
mod daemon;
mod net;
mod traffic;
