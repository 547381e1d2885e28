//! What this node learns from the nodes' objects: its own pod CIDR, and the way to the other nodes' pods.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::core::v1::Node;
use client::Informer;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::network::{Bridge, Cidr, Peer};

/// Pause before a network operation that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the way to a node that could not be reached is looked for.
const REACH_RETRY: Duration = Duration::from_secs(30);
/// How often everything is made sure of although nothing has changed here: others may flush rules and routes.
const REFRESH: Duration = Duration::from_secs(300);
/// Changes that come close together are applied together.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps the pod network in step with the nodes; for ever. Rings `changed` once the own network is up.
pub async fn follow_peers(network: Arc<Bridge>, nodes: Informer<Node>, name: String, changed: Arc<Notify>) {
    let mut changes = nodes.subscribe();
    let mut known: BTreeMap<String, (Option<Cidr>, Option<std::net::Ipv4Addr>)> = BTreeMap::new();
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
                known.insert(node.metadata().name.clone(), facts(&node));
            } else if let Some(node) = change.old {
                known.remove(&node.metadata().name);
            }
            next = changes.try_next();
        }
        let own = known.get(&name).and_then(|(pods, _)| *pods);
        if let Some(pods) = own.filter(|pods| refresh || configured != Some(*pods)) {
            match network.configure(pods).await {
                Ok(()) => {
                    if configured.replace(pods) != Some(pods) {
                        changed.notify_one();
                    }
                }
                Err(error) => {
                    warn!(%pods, error = &error as &dyn std::error::Error, "cannot set up the pod network");
                    configured = None;
                    retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
        let others = known.iter().filter(|(other, _)| **other != name);
        let peers: Vec<Peer> =
            others.filter_map(|(_, (pods, address))| Some(Peer { pods: (*pods)?, address: (*address)? })).collect();
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

fn facts(node: &Node) -> (Option<Cidr>, Option<std::net::Ipv4Addr>) {
    let address = node.status().addresses.iter().find(|address| address.r#type == "InternalIP");
    (node.spec().pod_cidr.parse().ok(), address.and_then(|address| address.address.parse().ok()))
}
