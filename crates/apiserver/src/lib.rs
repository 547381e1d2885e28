//! The API server: one pipeline per verb over etcd, served as gRPC.

pub mod admission;
pub mod auth;
pub mod decode;
pub mod layout;
pub mod pipeline;
pub mod request;
pub mod strategies;
pub mod strategy;
