//! The life of a pod.
pub mod backoff;
pub mod env;
pub mod fields;
pub mod files;
pub mod qos;
