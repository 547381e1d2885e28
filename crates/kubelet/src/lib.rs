//! The node agent: pods on Docker, their network, volumes, probes and status.

pub mod api_server;
pub mod cgroups;
pub mod cluster;
pub mod images;
pub mod manager;
pub mod network;
pub mod node;
pub mod pod;
pub mod runtime;
pub mod volumes;
