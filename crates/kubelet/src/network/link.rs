//! Links, addresses and routes over rtnetlink: the few operations that the pod network is made of, each of which can be repeated.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::{TryStream, TryStreamExt as _};
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteProtocol, RouteScope},
};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tokio::task::AbortHandle;

use super::{Error, Result};

/// Marks the routes that are ours among the node's.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);
/// How often a list is asked for while the socket is busy with another, and how long it waits between: a second in all.
const LIST_ATTEMPTS: u32 = 100;
const LIST_AGAIN: Duration = Duration::from_millis(10);

/// A netlink connection into one network namespace; closed when dropped.
pub(super) struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

/// A link, as far as we look at it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
}

/// A route to another node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerRoute {
    pub cidr: Ipv4Net,
    pub gateway: Ipv4Addr,
}

/// The hardware address of whoever holds an address on the bridge: locally administered, with the address in it.
pub(super) fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn failed(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let action = action.into();
    move |source| Error::Netlink { action, source }
}

fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

// === impl Netlink ===

impl Netlink {
    /// Connects within the calling thread's network namespace; needs a tokio runtime entered.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    /// Asks for a list. The kernel makes one at a time for a socket and refuses a second as busy, and others use this one too.
    async fn list<S: TryStream<Error = rtnetlink::Error>>(&self, what: &str, ask: impl Fn() -> S) -> Result<Vec<S::Ok>> {
        let mut attempt = 1;
        loop {
            match ask().try_collect().await {
                Err(error) if is_errno(&error, libc::EBUSY) && attempt < LIST_ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(LIST_AGAIN).await;
                }
                outcome => return outcome.map_err(failed(format!("list {what}"))),
            }
        }
    }

    /// All links.
    pub(super) async fn links(&self) -> Result<Vec<Link>> {
        self.list("the links", || self.handle.link().get().execute().map_ok(link)).await
    }

    /// The link of that name, if there is one.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name).execute().map_ok(link).try_next().await;
        match found {
            Err(error) if is_errno(&error, libc::ENODEV) => Ok(None),
            found => found.map_err(failed(format!("look for link {name}"))),
        }
    }

    async fn require(&self, name: &str) -> Result<Link> {
        self.find(name).await?.ok_or_else(|| Error::NoLink(name.to_owned()))
    }

    /// Makes a bridge with a fixed hardware address (else it would change with every port), up.
    pub(super) async fn ensure_bridge(&self, name: &str, hardware: [u8; 6]) -> Result<Link> {
        let bridge = LinkBridge::new(name).address(hardware.to_vec()).up().build();
        match self.handle.link().add(bridge).execute().await {
            Err(error) if !is_errno(&error, libc::EEXIST) => return Err(failed(format!("create bridge {name}"))(error)),
            _ => {}
        }
        let link = self.require(name).await?;
        self.set_up(link.index).await?;
        Ok(link)
    }

    /// Sets a link up.
    pub(super) async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed(format!("set link {index} up")))
    }

    /// Gives the link this address and no other IPv4 address.
    pub(super) async fn set_only_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        self.add_address(index, address, prefix).await?;
        let what = format!("the addresses of link {index}");
        let all = self.list(&what, || self.handle.address().get().set_link_index_filter(index).execute()).await?;
        for message in all {
            let held = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(held)) => Some(*held),
                _ => None,
            });
            if held.is_some_and(|held| held != address || message.header.prefix_len != prefix) {
                self.handle
                    .address()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed(format!("remove an old address of link {index}")))?;
            }
        }
        Ok(())
    }

    /// Adds an address to a link.
    pub(super) async fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = self.handle.address().add(index, address.into(), prefix).replace();
        request.execute().await.map_err(failed(format!("add address {address}/{prefix}")))
    }

    /// Makes a veth: `name` here as a port of the bridge, its peer as `eth0` in the namespace of process `pid`.
    pub(super) async fn add_pod_veth(&self, name: &str, alias: &str, bridge: u32, pid: i32) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_pid(pid as u32).build();
        let veth =
            LinkVeth::new(name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).controller(bridge).up().build();
        self.handle.link().add(veth).execute().await.map_err(failed(format!("create veth {name}")))?;
        let link = self.require(name).await?;
        let alias =
            LinkUnspec::new_with_index(link.index).append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned())).build();
        self.handle.link().set(alias).execute().await.map_err(failed(format!("label veth {name}")))?;
        let port = LinkBridgePort::new(link.index).hairpin(true).build();
        self.handle.link().set_port(port).execute().await.map_err(failed(format!("set hairpin mode on {name}")))
    }

    /// Configures a pod's end from within its namespace: loopback, address, route to the gateway and through it.
    ///
    /// The hardware address follows from the address, so that whoever still remembers the last pod of that address is right about this one.
    pub(super) async fn configure_pod(&self, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
        let loopback = self.require("lo").await?;
        self.set_up(loopback.index).await?;
        let eth0 = self.require("eth0").await?;
        self.add_address(eth0.index, address, 32).await?;
        let message = LinkUnspec::new_with_index(eth0.index).address(hardware_address(address).to_vec()).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("set eth0 up"))?;
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(eth0.index)
            .scope(RouteScope::Link)
            .build();
        self.handle
            .route()
            .add(to_gateway)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("add the pod's route to {gateway}")))?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(eth0.index).build();
        self.handle
            .route()
            .add(default)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("add the pod's default route via {gateway}")))
    }

    /// Removes a link; no error if it is gone.
    pub(super) async fn delete(&self, index: u32) -> Result<()> {
        match self.handle.link().del(index).execute().await {
            Err(error) if is_errno(&error, libc::ENODEV) => Ok(()),
            result => result.map_err(failed(format!("remove link {index}"))),
        }
    }

    /// Our routes to other nodes' pods.
    pub(super) async fn peer_routes(&self) -> Result<Vec<PeerRoute>> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.list("the routes", || self.handle.route().get(filter.clone()).execute()).await?;
        Ok(routes
            .into_iter()
            .filter(|route| route.header.protocol == ROUTE_PROTOCOL && route.header.address_family == AddressFamily::Inet)
            .filter_map(|route| {
                let mut destination = None;
                let mut gateway = None;
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
                        RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
                        _ => {}
                    }
                }
                let cidr = format!("{}/{}", destination?, route.header.destination_prefix_length).parse().ok()?;
                Some(PeerRoute { cidr, gateway: gateway? })
            })
            .collect())
    }

    /// Adds or replaces a route to another node's pods.
    pub(super) async fn add_peer_route(&self, route: PeerRoute) -> Result<()> {
        let PeerRoute { cidr, gateway } = route;
        let request = self.handle.route().add(peer_route(route)).replace();
        request.execute().await.map_err(failed(format!("add the route to {cidr} via {gateway}")))
    }

    /// Removes a route to another node's pods; no error if it is gone.
    pub(super) async fn delete_peer_route(&self, route: PeerRoute) -> Result<()> {
        match self.handle.route().del(peer_route(route)).execute().await {
            Err(error) if is_errno(&error, libc::ESRCH) => Ok(()),
            result => result.map_err(failed(format!("remove the route to {}", route.cidr))),
        }
    }

    /// Whether some link of this namespace holds the address.
    pub(super) async fn holds(&self, address: Ipv4Addr) -> Result<bool> {
        let all = self.list("the addresses", || self.handle.address().get().execute()).await?;
        let wanted = AddressMessageBuilder::<Ipv4Addr>::new().address(address, 32).build();
        Ok(all.iter().any(|message| {
            message.attributes.iter().any(|a| matches!(a, AddressAttribute::Local(_)) && wanted.attributes.contains(a))
        }))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn peer_route(route: PeerRoute) -> netlink_packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.cidr.network(), route.cidr.prefix_len())
        .gateway(route.gateway)
        .protocol(ROUTE_PROTOCOL)
        .build()
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), alias: String::new() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            _ => {}
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_asked_for_at_once_are_all_answered() {
        // Reading needs no namespace of our own.
        let netlink = Netlink::open().unwrap();
        let lists = (0..50).map(|_| netlink.holds(Ipv4Addr::LOCALHOST));
        for held in futures::future::join_all(lists).await {
            assert!(held.unwrap());
        }
    }
}
