//! The bridge network: [`PodNetwork`] over rtnetlink, for one node.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use futures::{FutureExt as _, future::BoxFuture};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    Addresses, AttachError, Error, PodNetwork, Result, Sandbox,
    ipam::Ipam,
    link::{Netlink, PeerRoute, hardware_address},
    masquerade,
    netns::netlink_of,
    range,
};

/// The bridge's name. A host has one pod network.
const BRIDGE: &str = "ferrokube0";
/// Pod veths are called this and the beginning of the pod's UID.
const VETH_PREFIX: &str = "fk";
/// A pod veth's alias is this and the whole UID.
const ALIAS_PREFIX: &str = "pod/";
/// The longest interface name that the kernel takes.
const NAME_MAX: usize = 15;

/// The pod network of one node.
pub struct Bridge {
    netlink: Netlink,
    cluster: Ipv4Net,
    ipam: Mutex<Ipam>,
    node: Mutex<Option<NodeNetwork>>,
    sysctl: PathBuf,
}

/// What is known once the node has its pod CIDR.
#[derive(Clone, Copy, PartialEq, Eq)]
struct NodeNetwork {
    pods: Ipv4Net,
    bridge: u32,
}

/// Another node and the pods behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The node's pod CIDR.
    pub pods: Ipv4Net,
    /// The node's address.
    pub address: Ipv4Addr,
}

// === impl Bridge ===

impl Bridge {
    /// Opens the network in the calling process's network namespace. `state` holds the addresses in use; `cluster` is the network of all pods.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket, or the addresses on disk cannot be read.
    pub fn open(state: &Path, cluster: Ipv4Net) -> Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            cluster,
            ipam: Mutex::new(Ipam::open(&state.join("addresses"))?),
            node: Mutex::new(None),
            sysctl: PathBuf::from("/proc/sys/net/ipv4"),
        })
    }

    /// Sets the node's pod CIDR: bridge, gateway address, forwarding, masquerade. May be repeated; a changed CIDR moves the gateway.
    ///
    /// # Errors
    /// When the network has no room for pods, or the kernel refuses a link, an address, a parameter or the rules.
    pub async fn configure(&self, pods: Ipv4Net) -> Result<()> {
        if range::size(pods) == 0 {
            return Err(Error::NoRoom(pods));
        }
        let bridge = self.netlink.ensure_bridge(BRIDGE, hardware_address(range::gateway(pods))).await?;
        self.netlink.set_only_address(bridge.index, range::gateway(pods), pods.prefix_len()).await?;
        // Pods of one bridge reach each other through the gateway on purpose; telling them of a shorter way would take Service answers past
        // the translation.
        for (parameter, value) in
            [("ip_forward", "1"), ("conf/all/send_redirects", "0"), (&format!("conf/{BRIDGE}/send_redirects"), "0")]
        {
            self.set_sysctl(parameter, value)?;
        }
        let cluster = self.cluster;
        tokio::task::spawn_blocking(move || masquerade::install(pods, cluster))
            .await
            .map_err(|_| Error::Cancelled)?
            .map_err(Error::Rules)?;
        let node = NodeNetwork { pods, bridge: bridge.index };
        if self.node.lock().replace(node) != Some(node) {
            info!(%pods, "pod network ready");
        }
        Ok(())
    }

    /// Makes the routes to the other nodes' pods exactly these, and says how many could not be made. A node that shares no link with this one
    /// cannot be routed to directly; it is reported and left out, and an overlay would take it from here.
    ///
    /// # Errors
    /// When routes cannot be listed or removed; one that cannot be made is only counted.
    pub async fn set_peers(&self, peers: &[Peer]) -> Result<usize> {
        let own = self.node.lock().map(|node| node.pods);
        let wanted: BTreeSet<_> = peers
            .iter()
            .filter(|peer| Some(peer.pods) != own)
            .map(|peer| PeerRoute { cidr: peer.pods, gateway: peer.address })
            .collect();
        let present: BTreeSet<_> = self.netlink.peer_routes().await?.into_iter().collect();
        for route in present.difference(&wanted) {
            // A route to the same network by another way is replaced, not removed first.
            if !wanted.iter().any(|other| other.cidr == route.cidr) {
                self.netlink.delete_peer_route(*route).await?;
            }
        }
        let mut unreachable = 0;
        for route in wanted.difference(&present) {
            match self.netlink.add_peer_route(*route).await {
                Ok(()) => info!(pods = %route.cidr, node = %route.gateway, "route added"),
                Err(error) => {
                    unreachable += 1;
                    warn!(pods = %route.cidr, node = %route.gateway, error = &error as &dyn std::error::Error, "node is not reachable directly")
                }
            }
        }
        Ok(unreachable)
    }

    /// Whether this host holds the address on one of its links.
    ///
    /// # Errors
    /// When the kernel does not list its addresses.
    pub async fn holds(&self, address: Ipv4Addr) -> Result<bool> {
        self.netlink.holds(address).await
    }

    fn set_sysctl(&self, parameter: &str, value: &str) -> Result<()> {
        let path = self.sysctl.join(parameter);
        let current = fs::read_to_string(&path).map_err(Error::file(&path))?;
        // Where it is right already it need not be writable.
        if current.trim() == value { Ok(()) } else { fs::write(&path, value).map_err(Error::file(path)) }
    }

    async fn connect(&self, pod_uid: &str, attempt: u32, pid: i32) -> Result<Ipv4Addr> {
        let node = self.node.lock().ok_or(Error::NotConfigured)?;
        let address = self.ipam.lock().allocate(node.pods, pod_uid, attempt)?;
        let name = veth_name(pod_uid);
        let pod = netlink_of(pid).await?;
        // Left by the pod's last sandbox, or half made when we died.
        if let Some(old) = self.netlink.find(&name).await? {
            self.netlink.delete(old.index).await?;
        }
        self.netlink.add_pod_veth(&name, &format!("{ALIAS_PREFIX}{pod_uid}"), node.bridge, pid).await?;
        pod.configure_pod(address, range::gateway(node.pods)).await?;
        let mut ipam = self.ipam.lock();
        ipam.set_ready(address)?;
        ipam.release(pod_uid, Some(attempt))?;
        Ok(address)
    }

    async fn disconnect(&self, pod_uid: &str) -> Result<()> {
        if let Some(link) = self.netlink.find(&veth_name(pod_uid)).await? {
            self.netlink.delete(link.index).await?;
        }
        self.ipam.lock().release(pod_uid, None)
    }

    async fn remove_orphans(&self, live: &BTreeSet<String>) -> Result<()> {
        for link in self.netlink.links().await? {
            let Some(pod_uid) = link.alias.strip_prefix(ALIAS_PREFIX) else { continue };
            if link.name.starts_with(VETH_PREFIX) && !live.contains(pod_uid) {
                info!(pod_uid, link = link.name, "removing a veth that belongs to no pod");
                self.netlink.delete(link.index).await?;
            }
        }
        self.ipam.lock().retain(live)
    }
}

impl PodNetwork for Bridge {
    fn attach<'a>(&'a self, sandbox: &'a Sandbox) -> BoxFuture<'a, Result<Addresses, AttachError>> {
        async move {
            let address = self.connect(&sandbox.pod_uid, sandbox.attempt, sandbox.pid).await?;
            Ok(Addresses::from_iter([address]))
        }
        .boxed()
    }

    fn detach<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<(), AttachError>> {
        async move { Ok(self.disconnect(pod_uid).await?) }.boxed()
    }

    fn addresses(&self, pod_uid: &str, attempt: u32) -> Addresses {
        self.ipam.lock().get(pod_uid, attempt).into_iter().collect()
    }

    fn sweep<'a>(&'a self, live: &'a BTreeSet<String>) -> BoxFuture<'a, Result<(), AttachError>> {
        async move { Ok(self.remove_orphans(live).await?) }.boxed()
    }
}

fn veth_name(pod_uid: &str) -> String {
    let digits = pod_uid.chars().filter(char::is_ascii_alphanumeric).take(NAME_MAX - VETH_PREFIX.len());
    VETH_PREFIX.chars().chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn veth_names_fit_the_kernel() {
        assert_eq!(veth_name("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"), "fk0a1b2c3d4e5f6");
        assert_eq!(veth_name("x"), "fkx");
    }
}
