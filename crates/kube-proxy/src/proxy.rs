//! The daemon's one loop: what changed in the API goes into the kernel.
//!
//! ```text
//! informers ──keys──► Dirty ──take──► join with slices ──► Syncer (plan, delta) ──► Dataplane
//! ```
//!
//! *Invariant:* nothing is touched before every informer has its first list, and nothing because the API server is away.

use std::time::Duration;

use api::Resource;
use api::core::v1::{Node as NodeObject, Service as ServiceObject};
use api::discovery::v1::EndpointSlice;
use api::meta::v1::ObjectMeta;
use client::{Backoff, Informer, Informers, ObjectKey, Scope};
use daemon::{Gate, Kit};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};

use crate::dataplane::Dataplane;
use crate::dirty::{Dirty, Pending};
use crate::healthz::Healthz;
use crate::metrics::SyncMetrics;
use crate::model::{Cidr, Family, Node, Service, ServiceKey};
use crate::source;
use crate::sync::{Changes, Summary, Syncer};

/// Index of the slices by the Service they belong to, `namespace/name`.
const BY_SERVICE: &str = "service";
/// Longest pause after a failed sync.
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// What the proxy is told about its place.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of our Node object.
    pub node_name: String,
    /// The family of the table.
    pub family: Family,
    /// Where pods' traffic comes from; empty for the Node's pod CIDRs.
    pub pod_cidrs: Vec<Cidr>,
    /// Least time between two syncs.
    pub min_sync_period: Duration,
}

/// The proxy of a node.
#[derive(Debug)]
pub struct Proxy {
    settings: Settings,
    dirty: Dirty,
    services: Informer<ServiceObject>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<NodeObject>,
    metrics: SyncMetrics,
    health: Healthz,
    ready: Gate,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy whose informers are starting.
    pub fn new(settings: Settings, informers: &Informers, dirty: Dirty, health: Healthz, kit: &Kit) -> Self {
        keep_what_is_needed(informers);
        let scope = Scope { label_selector: source::SELECTOR.to_owned(), ..Scope::default() };
        let services = informers.with::<ServiceObject>(scope.clone());
        let slices = informers.with::<EndpointSlice>(scope);
        let name = format!("metadata.name={}", settings.node_name);
        let nodes = informers.with::<NodeObject>(Scope { field_selector: name, ..Scope::default() });
        slices.add_index(BY_SERVICE, |slice| source::slice_key(slice).map(|key| key.to_string()).into_iter().collect());
        Self {
            dirty,
            services,
            slices,
            nodes,
            metrics: SyncMetrics::register(&kit.metrics),
            health,
            ready: kit.health.ready_gate("rules"),
            settings,
        }
    }

    /// Keeps the rules up to date. Ends only with an error: a panic in planning or in the dataplane.
    ///
    /// # Errors
    /// When a sync panics.
    pub async fn run<D: Dataplane>(self, dataplane: D) -> Result<(), JoinError> {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
        self.nodes.wait_synced().await;
        self.listen();
        // A cluster without Services has no change to wait for, but perhaps a predecessor's rules to clear.
        self.dirty.note(|pending| pending.table = true);
        let mut syncer = Syncer::new(self.node(), dataplane);
        let mut backoff = Backoff::new(Duration::from_millis(100), RETRY_LIMIT);
        let mut next = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            self.dirty.wait().await;
            sleep_until(next).await;
            let pending = self.dirty.take();
            self.metrics.asked();
            self.health.taken(pending.since);
            since = since.or(pending.since);
            let waited = since.map(|since| since.elapsed()).unwrap_or_default();
            let changes = self.prepare(&pending, &mut syncer);
            // The kernel works for milliseconds, and for more on the first sync of a large cluster: not on a runtime thread.
            let (returned, outcome) = tokio::task::spawn_blocking(move || {
                let outcome = syncer.sync(changes);
                (syncer, outcome)
            })
            .await?;
            syncer = returned;
            match outcome {
                Ok(summary) => {
                    tracing::debug!(?summary, "rules are up to date");
                    self.metrics.synced(&summary, waited);
                    self.health.updated();
                    self.ready.open();
                    backoff.reset();
                    since = None;
                    next = Instant::now() + self.pause(&summary);
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot change the rules, trying again");
                    self.metrics.failed();
                    sleep(backoff.next_delay()).await;
                    self.dirty.note(|pending| pending.table = true);
                }
            }
        }
    }

    /// How long to let changes gather. Listing the table is dear, so whoever keeps changing it behind our back gets a tenth of our time.
    fn pause(&self, summary: &Summary) -> Duration {
        if summary.listed { self.settings.min_sync_period.max(summary.took * 9) } else { self.settings.min_sync_period }
    }

    /// Notes everything that is there, and then every change.
    fn listen(&self) {
        let dirty = self.dirty.clone();
        self.services.on_change(move |changed| {
            let keys = changed.newest().map(|s| ServiceKey::new(s.namespace(), s.name()));
            dirty.note(|pending| pending.services.extend(keys));
        });
        let dirty = self.dirty.clone();
        self.slices.on_change(move |changed| {
            let keys = changed.both().filter_map(|slice| source::slice_key(slice));
            dirty.note(|pending| pending.services.extend(keys));
        });
        let (dirty, health) = (self.dirty.clone(), self.health.clone());
        self.nodes.on_change(move |changed| {
            health.set_eligible(changed.new.is_some_and(|node| source::node_is_eligible(node)));
            dirty.note(|pending| pending.node = true);
        });
    }

    /// The changed services as they are now, joined with their slices.
    fn prepare<D: Dataplane>(&self, pending: &Pending, syncer: &mut Syncer<D>) -> Changes {
        if pending.table {
            syncer.distrust();
        }
        if pending.node && !self.nodes.store().is_empty() {
            let node = self.node();
            if node != *syncer.node() {
                tracing::info!(?node, "the node has changed");
                syncer.restart(node);
                let all = self.services.store().keys();
                return all.iter().map(|key| self.joined(&ServiceKey::new(&key.namespace, &key.name))).collect();
            }
        }
        pending.services.iter().map(|key| self.joined(key)).collect()
    }

    fn joined(&self, key: &ServiceKey) -> (ServiceKey, Option<Service>) {
        let object = self.services.store().get(&ObjectKey::new(&*key.namespace, &*key.name));
        let service = object.and_then(|object| {
            let slices = self.slices.store().by_index(BY_SERVICE, &key.to_string());
            source::service(&object, &slices, &self.settings.node_name)
        });
        (key.clone(), service)
    }

    fn node(&self) -> Node {
        let object = self.nodes.store().list().pop().unwrap_or_default();
        source::node(&object, self.settings.family, &self.settings.pod_cidrs)
    }
}

/// Objects are kept without what rules do not depend on: most of a Node is its status.
fn keep_what_is_needed(informers: &Informers) {
    fn strip(metadata: &mut ObjectMeta) {
        metadata.managed_fields.clear();
        metadata.annotations.clear();
        metadata.owner_references.clear();
    }
    informers.transform::<ServiceObject>(|service| strip(service.metadata_mut()));
    informers.transform::<EndpointSlice>(|slice| {
        strip(slice.metadata_mut());
        for endpoint in &mut slice.endpoints {
            endpoint.target_ref = None;
            endpoint.hostname = None;
        }
    });
    informers.transform::<NodeObject>(|node| {
        strip(node.metadata_mut());
        node.status = None;
    });
}
