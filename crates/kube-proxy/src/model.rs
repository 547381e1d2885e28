//! What the proxy knows of the cluster, in its own small values: services joined with their endpoints, and the node it runs on.
//!
//! Written by [`crate::source`] from API objects and by tests; read by [`crate::plan`]. Nothing here does I/O, and everything is
//! already checked: addresses are parsed, ports are in range, headless and external-name services never get this far.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The address family of a table. One table holds one family, as one service address belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, netfilter's `ip`.
    V4,
    /// IPv6, netfilter's `ip6`.
    V6,
}

/// A transport protocol a Service port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `TCP`, the default.
    Tcp,
    /// `UDP`.
    Udp,
    /// `SCTP`.
    Sctp,
}

/// An address prefix such as `10.244.0.0/16`. Bits past the prefix length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address prefix such as 10.244.0.0/16")]
pub struct CidrError(String);

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
    pub source_ranges: Vec<Cidr>,
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
    pub pod_cidrs: Vec<Cidr>,
    /// The node's `topology.kubernetes.io/zone`, for topology hints.
    pub zone: Option<Arc<str>>,
    /// Addresses of the API servers, which no Service's external address may take.
    pub api_servers: BTreeSet<IpAddr>,
}

// === impl Family ===

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes in an address of this family.
    pub fn address_len(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with an IANA number, if a Service can have it.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol a Service names (`TCP`, `UDP`, `SCTP`; empty is `TCP`).
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The lower-case name used in chain names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

// === impl Cidr ===

impl Cidr {
    /// The prefix of `length` bits that `address` lies in; `None` if the length is too large for the family.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let bits = u8::try_from(Family::of(address).address_len() * 8).ok()?;
        if length > bits {
            return None;
        }
        let mut cidr = Self { address, length };
        let octets: Vec<u8> = octets(address).iter().zip(cidr.mask()).map(|(byte, mask)| byte & mask).collect();
        cidr.address = address_from(&octets)?;
        Some(cidr)
    }

    /// The first address of the prefix.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The family of the prefix.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether the address lies in the prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        self.family() == Family::of(address) && Self::new(address, self.length) == Some(self)
    }

    /// The prefix length as a mask in network order.
    pub fn mask(self) -> Vec<u8> {
        let full = usize::from(self.length);
        (0..self.family().address_len())
            .map(|index| {
                let ones = full.saturating_sub(index * 8).min(8);
                u8::try_from((0xff00_u32 >> ones) & 0xff).unwrap_or(0)
            })
            .collect()
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.trim().parse().map_err(|_| error())?;
        let length: u8 = length.trim().parse().map_err(|_| error())?;
        Self::new(address, length).ok_or_else(error)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
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
    pub fn pod_cidrs(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.pod_cidrs.iter().copied().filter(|cidr| cidr.family() == self.family)
    }

    /// Whether the address is an API server's or a pod's, so that an external address of a Service must not take it. This host's own addresses are
    /// known to the kernel only, which is asked for each packet.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.api_servers.contains(&address) || self.pod_cidrs.iter().any(|cidr| cidr.contains(address))
    }
}

/// The bytes of an address in network order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address with these bytes in network order, if they are 4 or 16.
pub fn address_from(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_cut_to_its_length() {
        let cidr: Cidr = "10.244.3.7/17".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.0.0/17");
        assert_eq!(cidr.mask(), [255, 255, 128, 0]);
        assert_eq!("fd00::1/9".parse::<Cidr>().unwrap().mask()[..3], [255, 128, 0]);
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().mask(), [0; 4]);
    }

    #[test]
    fn a_malformed_prefix_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError(text.to_owned())), "{text}");
        }
    }
}
