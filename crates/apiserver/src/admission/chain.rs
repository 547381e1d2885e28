//! Which plugins there are and in which order they run.

use std::{ops::RangeInclusive, sync::Arc};

use store::Store;

use super::{
    Chain, ServiceCidr, cluster_ips::ClusterIps, default_toleration_seconds::DefaultTolerationSeconds, ledger::Ledger,
    limit_ranger::LimitRanger, namespace_lifecycle::NamespaceLifecycle, node_ports::NodePorts, priority::Priority, quota::Quotas,
    service_account::ServiceAccounts,
};

/// What the plugins must be told of the cluster.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Where the ClusterIPs of Services are from.
    pub service_cidr: ServiceCidr,
    /// Where node ports are from; upstream's default is 30000 to 32767.
    pub node_ports: RangeInclusive<u16>,
}

/// The plugins over a store, in upstream's order: what changes objects before what only judges them, quotas last.
pub fn chain(store: &Store, config: &AdmissionConfig) -> Chain {
    let ledger = Arc::new(Ledger::new(store, config));
    Chain::default()
        .with(NamespaceLifecycle::new(store))
        .with(LimitRanger::new(store))
        .with(ServiceAccounts::new(store))
        .with(Priority::new(store))
        .with(DefaultTolerationSeconds)
        .with(ClusterIps(ledger.clone()))
        .with(NodePorts(ledger))
        .with(Quotas::new(store))
}
