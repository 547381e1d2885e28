//! The schema as Rust: generated types, JSON and YAML, quantities, selectors, patches, validation and defaults.
//!
//! Everything here follows from `proto/` or is a pure function on it; nothing does I/O.

/// Types and service stubs generated from `proto/`, laid out by protobuf package. Use the shorter paths below.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::large_futures)]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

#[allow(clippy::all)]
mod tables {
    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}

#[allow(clippy::all, unused_imports)]
mod generated_rules {
    include!(concat!(env!("OUT_DIR"), "/rules.rs"));
}

pub mod amounts;
pub mod cidr;
pub mod duration;
pub mod endpoints;
pub mod error;
pub mod finalizers;
pub mod intstr;
pub mod json;
pub mod kind;
pub mod mask;
pub mod names;
pub mod ownership;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod quote;
pub mod references;
pub mod registry;
pub mod resource;
pub mod rules;
pub mod schema;
pub mod status;
pub mod strict;
pub mod taint;
#[cfg(test)]
mod testing;
pub mod time;
mod tree;
pub mod unstructured;
pub mod unsupported;
pub mod volume;

pub mod jsonpath;
pub mod patch;
pub mod print;
pub mod sample;
pub mod selector;
pub mod yaml;

pub use bytes::Bytes;
pub use generated::k8s::io::api::{
    authentication, authorization, autoscaling, coordination, core, discovery, policy, rbac, scheduling,
};
pub use generated::k8s::io::apiextensions_apiserver::pkg::apis::apiextensions;
pub use generated::{ferrokube, google, k8s::io::apimachinery::pkg::apis::meta, k8s::io::metrics::pkg::apis::metrics};
pub use kind::{Kind, KindRef};
pub use registry::Registry;
pub use resource::{Object, Resource, SharedDefault};
pub use status::StatusError;
pub use tables::{KINDS, MESSAGES};
pub use unstructured::Unstructured;

/// The types around stored bytes and raw JSON.
pub mod runtime {
    pub use crate::generated::k8s::io::apimachinery::pkg::runtime::{RawExtension, TypeMeta, Unknown};
}

/// The schema as a serialised `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The Kubernetes API level that is served.
pub const API_LEVEL: &str = "v1.33";
