//! The whole API server, asked from outside over TLS and gRPC.

// Tests state their claims by unwrapping; clippy.toml's exception covers test functions but not their helpers here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod bad_input;
mod bloat;
mod flood;
mod fuzz;
mod impersonation;
mod json;
mod life;
mod newcomers;
mod reflection;
mod relay;
mod rest;
mod shares;
mod support;
mod writes;
