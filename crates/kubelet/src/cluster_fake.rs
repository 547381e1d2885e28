//! An API server in memory for the pod machine's tests: holds ConfigMaps and Secrets, remembers statuses, deletions and events.

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt as _;
use parking_lot::Mutex;

use super::*;

/// The fake; clones share their state.
#[derive(Clone, Default)]
pub(crate) struct FakeCluster {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    status: Option<PodStatus>,
    statuses: Vec<PodStatus>,
    deleted: bool,
    events: Vec<PodEvent>,
    down: bool,
    tokens: u32,
    /// How long the answer to a read is under way.
    latency: std::time::Duration,
}

impl FakeCluster {
    pub(crate) fn add_config_map(&self, name: &str, key: &str, value: &str) {
        let map = ConfigMap { data: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..ConfigMap::default() };
        self.inner.lock().config_maps.insert(name.to_owned(), Arc::new(map));
    }

    pub(crate) fn status(&self) -> PodStatus {
        self.inner.lock().status.clone().unwrap_or_default()
    }

    /// Every status written so far.
    pub(crate) fn statuses(&self) -> Vec<PodStatus> {
        self.inner.lock().statuses.clone()
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.inner.lock().deleted
    }

    /// `reason: message` of every event so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.inner.lock().events.iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
    }

    pub(crate) fn set_latency(&self, latency: std::time::Duration) {
        self.inner.lock().latency = latency;
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.inner.lock().down = down;
    }
}

impl Cluster for FakeCluster {
    fn config_map<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<ConfigMap>>>> {
        async move {
            let (found, latency) = {
                let inner = self.inner.lock();
                (inner.config_maps.get(name).cloned(), inner.latency)
            };
            tokio::time::sleep(latency).await;
            Ok(found)
        }
        .boxed()
    }

    fn secret<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Arc<Secret>>>> {
        async { Ok(None) }.boxed()
    }

    fn token<'a>(&'a self, _: &'a Pod, request: &'a TokenSpec) -> BoxFuture<'a, Result<Token>> {
        async move {
            let issued_at = Timestamp::now();
            let expires_at = issued_at + std::time::Duration::from_secs(request.expiration_seconds as u64);
            let mut inner = self.inner.lock();
            inner.tokens += 1;
            Ok(Token { token: format!("token {}", inner.tokens), issued_at, expires_at })
        }
        .boxed()
    }

    fn services(&self) -> BoxFuture<'_, Vec<Arc<Service>>> {
        async { Vec::new() }.boxed()
    }

    fn write_status<'a>(&'a self, _: &'a Pod, status: &'a PodStatus) -> BoxFuture<'a, Result<Option<u64>>> {
        async move {
            let mut inner = self.inner.lock();
            if inner.down {
                return Err(Error("the API server is down".into()));
            }
            inner.status = Some(status.clone());
            inner.statuses.push(status.clone());
            Ok(Some(inner.statuses.len() as u64))
        }
        .boxed()
    }

    fn delete_pod<'a>(&'a self, _: &'a Pod) -> BoxFuture<'a, Result<()>> {
        async move {
            self.inner.lock().deleted = true;
            Ok(())
        }
        .boxed()
    }

    fn event(&self, _: &Pod, event: PodEvent) {
        self.inner.lock().events.push(event);
    }

    fn follow(&self, _: BTreeSet<Reference>) {}
}
