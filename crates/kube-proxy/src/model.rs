//! What the proxy knows of the cluster, in its own small values: services joined with their endpoints, and the node it runs on.
//!
//! Written by [`crate::source`] from API objects and by tests; read by [`crate::plan`]. Nothing here does I/O, and everything is
//! already checked: addresses are parsed, ports are in range, headless and external-name services never get this far.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
pub use net::{Family, Protocol};

/// The namespace and name of a Service: the key of all work the proxy does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
}

/// Where a connection is sent: a pod's (or a host's) address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The pod's address.
    pub address: IpAddr,
    /// The port on it.
    pub port: u16,
}

/// A backend with the conditions of its EndpointSlice entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and target port.
    pub backend: Backend,
    /// Takes new connections.
    pub ready: bool,
    /// Passes its readiness probe, even when it is terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Zones whose clients it is meant for (topology hints); empty means all.
    pub zones: Vec<Arc<str>>,
}

/// One port of a Service with the endpoints behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port on every node, if the Service has one.
    pub node_port: Option<u16>,
    /// Everything the slices list for this port, of every condition.
    pub endpoints: Vec<Endpoint>,
}

/// A Service that has addresses to answer on, joined with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// The allocated addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The load balancer's addresses that are routed to nodes unchanged (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Clients allowed to use the load-balancer addresses; empty means all.
    pub source_ranges: Vec<IpNet>,
    /// `sessionAffinity: ClientIP` and how long a client is remembered after its last connection.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// The ports.
    pub ports: Vec<Port>,
}

/// What the rules need to know about the node they are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The family of the table.
    pub family: Family,
    /// Where this node's pods' traffic comes from. Traffic to a ClusterIP from elsewhere is masqueraded. Empty: none is.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's `topology.kubernetes.io/zone`, for topology hints.
    pub zone: Option<Arc<str>>,
    /// Addresses of the API servers, which no Service's external address may take.
    pub api_servers: BTreeSet<IpAddr>,
}

// === impl Backend ===

impl From<SocketAddr> for Backend {
    fn from(at: SocketAddr) -> Self {
        Self { address: at.ip(), port: at.port() }
    }
}

impl From<Backend> for SocketAddr {
    fn from(backend: Backend) -> Self {
        Self::new(backend.address, backend.port)
    }
}

// === impl ServiceKey ===

impl ServiceKey {
    /// The key of a Service.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Node ===

impl Node {
    /// The pod prefixes of the table's family.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pod_cidrs.iter().copied().filter(|cidr| Family::of(cidr.addr()) == self.family)
    }

    /// Whether the address is an API server's or a pod's, so that an external address of a Service must not take it. This host's own addresses are
    /// known to the kernel only, which is asked for each packet.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.api_servers.contains(&address) || self.pod_cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}
