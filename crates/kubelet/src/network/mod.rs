//! The pod network: a bridge that holds the node's pod CIDR, one veth per pod, routes to the other nodes' pods, masquerade towards the outside.
//!
//! Every pod has its address as a /32 and reaches everything, its neighbours on the same bridge too, through the gateway. So all pod traffic is
//! routed, and a Service's answers pass through the connection tracking that must translate them back, whether bridged frames are
//! filtered on this kernel or not.
//!
//! *Invariant:* whatever is made here can be found again by the pod's UID: the veth's name derives from it and its alias carries it
//! whole; the address is a file that holds it. Other nodes are reached directly, so they must share a link; an overlay (VXLAN) for those that
//! do not has its place in [`Bridge::set_peers`].

mod attachment;
mod bridge;
#[cfg(test)]
pub(crate) mod fake;
mod ipam;
mod link;
mod masquerade;
mod netns;
mod range;

use std::path::PathBuf;

use ipnet::Ipv4Net;

pub use self::{
    attachment::{Addresses, AttachError, PodNetwork, Sandbox},
    bridge::{Bridge, Peer},
    netns::in_network_of,
};

/// A failed network operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node has no pod CIDR yet.
    #[error("the node has no pod CIDR assigned yet")]
    NotConfigured,
    /// Every address of the node's pod CIDR is in use.
    #[error("no free address left in the node's pod CIDR {0}")]
    Exhausted(Ipv4Net),
    /// The node's pod CIDR is too small to hold pods.
    #[error("{0} has no room for pods; a pod CIDR has at most 29 bits, such as 10.244.1.0/24")]
    NoRoom(Ipv4Net),
    /// The kernel refused a link, address or route.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that must be there is not.
    #[error("there is no link {0}")]
    NoLink(String),
    /// A namespace, a kernel parameter or an address file could not be opened, read or written.
    #[error("cannot access {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A netlink socket could not be opened or used.
    #[error("cannot talk to the kernel over netlink")]
    Socket(#[source] std::io::Error),
    /// The kernel refused the packet filter rules.
    #[error("cannot install the masquerade rules")]
    Rules(#[source] net::Error),
    /// The runtime is shutting down.
    #[error("the kubelet is shutting down")]
    Cancelled,
}

/// The result of a network operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
