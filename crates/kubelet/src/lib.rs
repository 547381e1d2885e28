//! The node agent: pods on Docker, their network, volumes, probes and status.

pub mod cgroups;
pub mod cluster;
pub mod images;
pub mod network;
pub mod pod;
pub mod runtime;
pub mod volumes;
