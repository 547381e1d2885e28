//! Which plugins there are and in which order they run.

use std::ops::RangeInclusive;

use store::Store;

use super::{Chain, ServiceCidr};

/// What the plugins must be told of the cluster.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Where the ClusterIPs of Services are from.
    pub service_cidr: ServiceCidr,
    /// Where node ports are from; upstream's default is 30000 to 32767.
    pub node_ports: RangeInclusive<u16>,
}

/// The plugins over a store.
pub fn chain(_store: &Store, _config: &AdmissionConfig) -> Chain {
    Chain::default()
}
