//! The node agent: pods on Docker, their network, volumes, probes and status.
//!
//! [`run`] wires it: the API server's pods for this node go to [`manager`], which gives each a task of its own in [`pod`]; those act through
//! [`runtime`] (Docker), [`network`] and [`volumes`] and report through [`cluster`]. [`node`] keeps the node's object and lease, [`server`]
//! answers the API server.

pub mod api_server;
pub mod cgroups;
pub mod cluster;
mod config;
pub mod images;
pub mod manager;
pub mod metrics;
pub mod network;
pub mod node;
pub mod pod;
pub mod reference;
pub mod running;
pub mod runtime;
pub mod server;
pub mod stats;
pub mod volumes;

mod start;

pub use self::{
    config::Args,
    start::{StartError, run, run_with},
};
