//! kube-proxy: Services as nftables verdict maps, over netlink.
//!
//! Values flow one way: [`source`] reads API objects into [`model`], [`plan`] computes [`ruleset`] fragments from them, [`state`] keeps
//! the whole table and works out deltas, [`sync`] drives a [`dataplane`], whose one real implementation is [`nft`]. [`proxy`] is the
//! loop around it. Only `nft` and `proxy` do I/O.

mod config;
pub mod dataplane;
pub mod dirty;
pub mod healthz;
mod metrics;
pub mod model;
pub mod nft;
pub mod plan;
pub mod proxy;
pub mod ruleset;
pub mod source;
pub mod state;
pub mod sync;

use client::{Client, Config, ConfigError, Informers};
use daemon::Kit;
use tokio::net::TcpListener;

pub use self::config::Args;
use self::dirty::Dirty;
use self::healthz::Healthz;
use self::model::Family;
use self::proxy::{Proxy, Settings};

/// Why kube-proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server's whereabouts or our credentials are wrong.
    #[error("cannot set up the API client")]
    Client(#[from] ConfigError),
    /// The host has no usable name.
    #[error("cannot tell the name of this node: give --hostname-override")]
    NodeName(#[source] std::io::Error),
    /// The kernel gives us no netlink socket.
    #[error("cannot reach netfilter")]
    Netfilter(#[from] net::Error),
    /// The health address is not to be had.
    #[error("cannot listen on --healthz-bind-address {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Starts kube-proxy on a kit: one task that syncs, one that notices when others change the table, and the health server if asked for.
///
/// # Errors
/// When something that was configured cannot be used.
pub async fn run(args: Args, kit: Kit) -> Result<(), Error> {
    let config = Config::load(&args.client)?.named("kube-proxy");
    let hosts = config.servers.iter().filter_map(|server| server.host());
    let api_servers = hosts.filter_map(|host| host.trim_matches(['[', ']']).parse().ok()).collect();
    let client = Client::new(config)?;
    let informers = Informers::new(client, kit.clone());
    let settings = Settings {
        node_name: args.node_name().map_err(Error::NodeName)?,
        family: Family::V4,
        pod_cidrs: args.cluster_cidr,
        api_servers,
        min_sync_period: args.min_sync_period,
    };
    let health = Healthz::default();
    if let Some(address) = args.healthz_bind_address {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        kit.tasks.spawn("healthz", health.clone().serve(listener, kit.shutdown.clone()));
    }
    let netlink = nft::Netlink::open(settings.family)?;
    let monitor = netlink.monitor()?;
    let dirty = Dirty::default();
    tracing::info!(node = settings.node_name, pod_cidrs = ?settings.pod_cidrs, "serving");
    let proxy = Proxy::new(settings, &informers, dirty.clone(), health, &kit);
    let shutdown = kit.shutdown.clone();
    kit.tasks.spawn("sync", async move {
        tokio::select! {
            () = shutdown.started() => Ok(()),
            ended = proxy.run(netlink) => ended,
        }
    });
    let shutdown = kit.shutdown.clone();
    kit.tasks.spawn("monitor", async move {
        tokio::select! {
            () = shutdown.started() => Ok(()),
            ended = monitor.run(|| dirty.note(|pending| pending.table = true)) => ended,
        }
    });
    Ok(())
}
