//! The life of a pod on this node.
//!
//! Each pod has one task ([`worker`]) that goes round: observe, [`plan`], act, report. The plan is a pure function; acting ([`jobs`]) is spawned, so
//! that nothing slow keeps the task from hearing of the next event; the [`status`] is derived. What a pod's task knows lies in [`state`].

pub mod admission;
pub mod backoff;
pub mod env;
pub mod fields;
pub mod files;
mod http;
mod jobs;
mod mailbox;
pub mod plan;
pub mod probe;
mod probing;
mod pull_secrets;
pub mod qos;
pub mod reason;
pub mod spec;
pub mod state;
pub mod status;
mod tls;
pub mod unit;
pub mod unsupported;
mod worker;

use std::sync::Arc;

pub use self::{mailbox::Mailbox, worker::run};
use crate::{
    cgroups::Cgroups, cluster::Cluster, images::Images, metrics::KubeletMetrics, network::PodNetwork, running::Running,
    runtime::Runtime, volumes::Volumes,
};

/// What all pods of the node share.
pub struct Context {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// Volumes.
    pub volumes: Volumes,
    /// Images.
    pub images: Images,
    /// Control groups.
    pub cgroups: Cgroups,
    /// What is counted.
    pub metrics: KubeletMetrics,
    /// What runs.
    pub running: Running,
    /// The node.
    pub node: Arc<fields::NodeFacts>,
    /// Name resolution.
    pub dns: files::Dns,
    /// Reference of the sandbox's image.
    pub pause_image: String,
}
