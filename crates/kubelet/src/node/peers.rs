//! What this node learns from the nodes' objects: its own pod CIDR, and the way to the other nodes' pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use api::core::v1::Node;
use client::Informer;
use ipnet::Ipv4Net;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::claims::{Checked, Claim, check};
use crate::network::{Bridge, Peer};

/// Pause before a network operation that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the way to a node that could not be reached is looked for.
const REACH_RETRY: Duration = Duration::from_secs(30);
/// How often everything is made sure of although nothing has changed here: others may flush rules and routes.
const REFRESH: Duration = Duration::from_secs(300);
/// Changes that come close together are applied together.
const GATHER: Duration = Duration::from_millis(50);

/// Whether pods can be put on the network; the text says why not. `None` until the nodes' objects and the kernel have been looked at.
pub type NetworkState = watch::Sender<Option<Result<(), String>>>;

/// Keeps the pod network, which lies within `cluster`, in step with the nodes; for ever.
pub async fn follow_peers(network: Arc<Bridge>, cluster: Ipv4Net, nodes: Informer<Node>, name: String, state: NetworkState) {
    nodes.wait_synced().await;
    let mut changes = nodes.subscribe();
    let mut known: BTreeMap<String, Claim> = BTreeMap::new();
    let mut told = BTreeSet::new();
    let (mut configured, mut applied) = (None, None);
    let (mut refresh_at, mut retry_at) = (Instant::now() + REFRESH, None);
    loop {
        let due = retry_at.take().map_or(refresh_at, |at| refresh_at.min(at));
        let first = tokio::select! {
            change = changes.next() => Some(change),
            () = sleep_until(due) => None,
        };
        if first.is_some() {
            tokio::time::sleep(GATHER).await;
        }
        let refresh = Instant::now() >= refresh_at;
        if refresh {
            refresh_at = Instant::now() + REFRESH;
            applied = None;
        }
        let mut next = first;
        while let Some(change) = next {
            if let Some(node) = change.new {
                known.insert(node.metadata().name.clone(), Claim::of(&node));
            } else if let Some(node) = change.old {
                known.remove(&node.metadata().name);
            }
            next = changes.try_next();
        }
        let Checked { networks, mut peers, wrong } = check(cluster, &known);
        for (node, why) in wrong.difference(&told) {
            warn!(node, why, "a node is left out of the pod network");
        }
        let own = networks.get(&name).copied();
        if let Some(pods) = own.filter(|pods| refresh || configured != Some(*pods)) {
            match network.configure(pods).await {
                Ok(()) => {
                    configured = Some(pods);
                    state.send_if_modified(|state| state.replace(Ok(())) != Some(Ok(())));
                }
                Err(error) => {
                    warn!(%pods, error = &error as &dyn std::error::Error, "cannot set up the pod network");
                    configured = None;
                    retry_at = Some(Instant::now() + RETRY);
                    tell(&state, error.to_string());
                }
            }
        } else if own.is_none() {
            let why = wrong.iter().find(|(node, _)| *node == name).map(|(_, why)| why.clone());
            tell(&state, why.unwrap_or_else(|| "the node has no pod CIDR assigned yet".to_owned()));
        }
        told = wrong;
        peers.remove(&name);
        let peers: Vec<Peer> = peers.into_values().collect();
        if configured.is_some() && applied.as_ref() != Some(&peers) {
            match network.set_peers(&peers).await {
                // Where one cannot be reached, each change is a reason to look again.
                Ok(0) => applied = Some(peers),
                Ok(_) => {
                    applied = None;
                    retry_at.get_or_insert_with(|| Instant::now() + REACH_RETRY);
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "cannot set the routes to other nodes");
                    retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}

/// Says why pods cannot be put on the network, unless they could before: what was set up still stands.
fn tell(state: &NetworkState, why: String) {
    state.send_if_modified(|state| {
        let news = !matches!(state, Some(Ok(()))) && *state != Some(Err(why.clone()));
        if news {
            *state = Some(Err(why));
        }
        news
    });
}
