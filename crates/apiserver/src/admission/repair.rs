//! Brings the keys that hold addresses and node ports in step with the Services.
//!
//! Keys and Services are written together, so there is nothing to do unless etcd was written to by somebody else: by upstream's API
//! server, which has no such keys, or by hand. Every change is guarded by what it was computed from.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use api::{Resource, core::v1::Service};
use prost::Message;
use store::{EtcdError, Guard, KeyState, ListOptions, ReadAt, Selection, Store, Txn};
use tokio_util::sync::CancellationToken;

use super::allocator::{ADDRESS_KEYS, PORT_KEYS, held_address, held_ports};

const EVERY: Duration = Duration::from_secs(600);
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a round could not be finished.
#[derive(Debug, thiserror::Error)]
enum RepairError {
    /// The Services cannot be read, or a key cannot be written.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The keys cannot be read.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The store does not hold Services.
    #[error("Services are not stored")]
    NotStored,
}

/// Repairs at start and now and then, until the shutdown begins.
pub async fn repair(store: Store, shutdown: CancellationToken) {
    loop {
        let Some(round) = shutdown.run_until_cancelled(round(&store)).await else { return };
        let pause = match round {
            Ok(0) => EVERY,
            Ok(repaired) => {
                tracing::info!(repaired, "addresses and node ports are in step with the Services again");
                EVERY
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "allocations cannot be compared with the Services");
                RETRY_AFTER
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Compares once and answers how many keys were written or deleted.
async fn round(store: &Store) -> Result<usize, RepairError> {
    store.ready().await;
    // The keys first: whatever Service a key was written with is then in the list, unless both are gone.
    let (mut keys, _) = store.etcd().get_prefix(ADDRESS_KEYS).await?;
    keys.extend(store.etcd().get_prefix(PORT_KEYS).await?.0);
    let services = store.collection(&Service::KIND.qualified_plural()).ok_or(RepairError::NotStored)?;
    let list = services.list(&Selection::all(), ListOptions { at: ReadAt::Latest, ..ListOptions::default() }).await?;
    let mut held = HashMap::new();
    for entry in &list.items {
        let Ok(service) = Service::decode(entry.object()) else { continue };
        let address = held_address(&service).map(|ip| format!("{ADDRESS_KEYS}{ip}"));
        let ports = held_ports(&service).into_iter().map(|port| format!("{PORT_KEYS}{port}"));
        for key in address.into_iter().chain(ports) {
            if let Some(other) = held.insert(key.clone(), entry) {
                tracing::error!(
                    key,
                    service = entry.path(),
                    other = other.path(),
                    "two Services hold the same: delete one of them"
                );
            }
        }
    }
    let mut repaired = 0;
    let known: HashSet<&String> = keys.iter().map(|state| &state.key).collect();
    for KeyState { key, value } in &keys {
        if let Some(value) = value.as_ref().filter(|_| !held.contains_key(key)) {
            repaired += commit(store, Txn::new().guard(key, Guard::At(value.revision)).delete(key)).await?;
        }
    }
    for (key, entry) in held.iter().filter(|(key, _)| !known.contains(key)) {
        let txn = Txn::new().guard(key, Guard::Absent).guard(entry.key(), Guard::At(entry.revision())).put(
            key,
            entry.uid().to_owned(),
            None,
        );
        repaired += commit(store, txn).await?;
    }
    Ok(repaired)
}

/// One if it happened; none if things changed meanwhile, which is for the next round.
async fn commit(store: &Store, txn: Txn) -> Result<usize, RepairError> {
    match store.commit(&txn).await? {
        store::Outcome::Committed(_) => Ok(1),
        store::Outcome::Refused(_) => Ok(0),
    }
}
