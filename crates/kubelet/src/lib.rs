//! The node agent: pods on Docker, their network, volumes, probes and status.

pub mod network;
pub mod runtime;
