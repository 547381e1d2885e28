//! The life of a pod.
pub mod backoff;
pub mod env;
pub mod fields;
pub mod files;
pub mod plan;
pub mod probe;
pub mod qos;
pub mod spec;
pub mod state;
pub mod status;
mod tls;
