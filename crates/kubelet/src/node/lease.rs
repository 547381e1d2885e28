//! The node's heartbeat: a Lease that says when it last was alive. It is all that is written while nothing happens.

use std::time::Duration;

use api::{
    Resource as _,
    coordination::v1::Lease,
    core::v1::Node,
    meta::v1::{MicroTime, OwnerReference},
    names::LEASE_NAMESPACE,
};
use client::Client;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// How long the lease holds without renewal, in seconds.
const DURATION_SECONDS: i32 = 40;
/// How often it is renewed.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long one attempt may take; the next must come before the lease ends.
const ATTEMPT: Duration = Duration::from_secs(8);

/// Renews the node's lease; for ever. `uid` is the node's.
pub async fn keep_lease(client: Client, node: String, uid: String) {
    let mut lease = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(ATTEMPT, renew(&client, &node, &uid, lease.take())).await {
            Ok(Ok(renewed)) => lease = Some(renewed),
            Ok(Err(error)) => warn!(error = &error as &dyn std::error::Error, "cannot renew the node's lease"),
            Err(_) => warn!("renewing the node's lease takes too long"),
        }
    }
}

/// Writes the lease over the one that is known to be stored; else over the one that is, or a new one.
async fn renew(client: &Client, node: &str, uid: &str, known: Option<Lease>) -> client::Result<Lease> {
    let leases = client.namespaced::<Lease>(LEASE_NAMESPACE);
    let stored = match known {
        Some(lease) => Some(lease),
        None => leases.get_opt(node).await?,
    };
    let Some(mut lease) = stored else {
        let mut lease = Lease::default();
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: Node::KIND.kind.to_string(),
            name: node.into(),
            uid: uid.into(),
            ..OwnerReference::default()
        };
        let metadata = lease.metadata_mut();
        metadata.name = node.to_owned();
        metadata.namespace = LEASE_NAMESPACE.to_owned();
        metadata.owner_references.push(owner);
        hold(&mut lease, node);
        return leases.create(&lease).await;
    };
    hold(&mut lease, node);
    match leases.update(&lease).await {
        // Somebody else wrote it: theirs is the base then.
        Err(error) if error.is_conflict() => {
            let mut lease = leases.get(node).await?;
            hold(&mut lease, node);
            leases.update(&lease).await
        }
        result => result,
    }
}

fn hold(lease: &mut Lease, node: &str) {
    let spec = lease.spec_mut();
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime::now());
}
