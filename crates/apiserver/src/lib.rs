//! The API server: one pipeline per verb over etcd, served as gRPC.

pub mod admission;
mod args;
pub mod auth;
pub mod bootstrap;
pub mod call;
pub mod decode;
mod gate;
pub mod grpc;
pub mod kubelets;
pub mod layout;
mod metrics;
pub mod pipeline;
pub mod reader;
pub mod request;
mod server;
pub mod strategies;
pub mod strategy;
pub mod subresource;

pub use args::Args;
pub use server::run;
