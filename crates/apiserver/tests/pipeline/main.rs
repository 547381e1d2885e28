//! The pipeline with strategies and admission over a real etcd, without front end and identity.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

mod admission;
mod bad_input;
mod bad_objects;
mod bootstrap;
mod calls;
mod deletion;
mod services;
mod support;
mod upstream;
mod writes;
