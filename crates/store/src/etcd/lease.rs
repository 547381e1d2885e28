//! Leases that make keys vanish, shared by all keys that are to vanish at about the same time.
//!
//! A lease of its own for each Event would cost etcd more than the Event. Keys with the same time to live written within the same
//! minute share a lease that lives a minute longer. *Invariant:* no key vanishes before its time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::{Etcd, EtcdError, Repeat};

/// How long a lease is given to new keys, at most.
const BUCKET: Duration = Duration::from_secs(60);
/// Revoking a lease deletes its keys in one go: not too many at once.
const MAX_KEYS: u32 = 1_000;

/// The leases given to new keys at present, by time to live in seconds.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<u64, Bucket>>);

struct Bucket {
    id: i64,
    until: Instant,
    keys_left: u32,
}

impl Etcd {
    /// A lease for a key that is to live `ttl`.
    pub(super) async fn lease(&self, ttl: Duration) -> Result<i64, EtcdError> {
        let seconds = ttl.as_secs().max(1);
        let bucket = BUCKET.min(ttl / 5).max(Duration::from_secs(1));
        // Held while a lease is granted, so that it is granted once.
        let patience = self.0.request_timeout;
        let mut buckets = timeout(patience, self.0.leases.0.lock()).await.map_err(|_| EtcdError::TimedOut(patience))?;
        let now = Instant::now();
        if let Some(bucket) = buckets.get_mut(&seconds).filter(|b| b.until > now && b.keys_left > 0) {
            bucket.keys_left -= 1;
            return Ok(bucket.id);
        }
        let lifetime = i64::try_from(seconds + bucket.as_secs()).unwrap_or(i64::MAX);
        let grant = |m: std::sync::Arc<super::Member>| async move { m.client.lease_client().grant(lifetime, None).await };
        // A lease granted twice holds no keys and goes by itself.
        let id = self.call(Repeat::Idempotent, grant).await?.value.id();
        buckets.retain(|_, bucket| bucket.until > now);
        buckets.insert(seconds, Bucket { id, until: now + bucket, keys_left: MAX_KEYS - 1 });
        Ok(id)
    }

    /// Gives no more keys to a lease that etcd does not know.
    pub(super) async fn forget_lease(&self, id: i64) {
        self.0.leases.0.lock().await.retain(|_, bucket| bucket.id != id);
    }
}
