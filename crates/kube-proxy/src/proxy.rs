//! The daemon's one loop: what changed in the API goes into the kernel.
//!
//! ```text
//! informers ──keys──► Dirty ──take──► join with slices ──► Syncer (plan, delta) ──► Dataplane
//! ```
//!
//! *Invariant:* nothing is touched before every informer has its first list, and nothing because the API server is away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use api::Resource;
use api::core::v1::{Node as NodeObject, Service as ServiceObject};
use api::discovery::v1::EndpointSlice;
use api::endpoints::TRIGGER_TIME;
use api::meta::v1::ObjectMeta;
use client::{Backoff, Informer, Informers, ObjectKey, Scope};
use daemon::{Gate, Kit};
use jiff::Timestamp;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until};

use crate::dataplane::Dataplane;
use crate::dirty::{Dirty, Pending};
use crate::healthz::Healthz;
use crate::metrics::SyncMetrics;
use crate::model::{Family, Node, Service, ServiceKey};
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
    pub pod_cidrs: Vec<ipnet::IpNet>,
    /// Addresses at which the API servers are reached, besides those that their Service lists.
    pub api_servers: Vec<IpAddr>,
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
        let mut triggered = BTreeMap::new();
        loop {
            self.dirty.wait().await;
            sleep_until(next).await;
            let pending = self.dirty.take();
            self.metrics.asked();
            self.health.taken(pending.since);
            since = since.or(pending.since);
            for (slice, time) in &pending.triggered {
                triggered.entry(slice.clone()).or_insert(*time);
            }
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
                    std::mem::take(&mut triggered).into_values().for_each(|time| self.metrics.programmed(time));
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
        let (dirty, metrics) = (self.dirty.clone(), self.metrics.clone());
        self.services.on_change(move |changed| {
            metrics.service_changed();
            let keys = changed.newest().map(|s| ServiceKey::new(s.namespace(), s.name()));
            dirty.note(|pending| pending.services.extend(keys));
        });
        let (dirty, metrics, started) = (self.dirty.clone(), self.metrics.clone(), Timestamp::now());
        self.slices.on_change(move |changed| {
            metrics.slice_changed();
            let keys: Vec<_> = changed.both().filter_map(|slice| source::slice_key(slice)).collect();
            let node = keys.contains(&source::api_servers());
            // What happened before this process did is not its to answer for.
            let trigger = changed.new.and_then(|new| source::trigger_time(changed.old.map(|old| &**old), new));
            let trigger = trigger.filter(|time| *time >= started).zip(changed.new.map(|new| ObjectKey::of(new.metadata())));
            dirty.note(|pending| {
                if let Some((time, slice)) = trigger {
                    pending.triggered.entry(slice.to_string()).or_insert(time);
                }
                pending.node |= node;
                pending.services.extend(keys);
            });
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
            tracing::info!("listing the table: at start-up, after a failure, or because somebody else has changed it");
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
        let slices = self.slices.store().by_index(BY_SERVICE, &source::api_servers().to_string());
        let api_servers = self.settings.api_servers.iter().copied().chain(source::listed(&slices)).collect();
        source::node(&object, self.settings.family, &self.settings.pod_cidrs, api_servers)
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
        let time = slice.metadata_mut().annotations.remove_entry(TRIGGER_TIME);
        strip(slice.metadata_mut());
        slice.metadata_mut().annotations.extend(time);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::core::v1::ServicePort;
    use api::discovery::v1::{Endpoint, EndpointPort};
    use client::testing::MemoryServer;
    use parking_lot::Mutex;

    use super::*;
    use crate::dataplane::{FlowCheck, Recorder, Refused};
    use crate::ruleset::{ElementId, Key, Rule, SetKind};
    use crate::state::{Contents, Delta};

    /// A recorder that the test can look at while the proxy uses it.
    #[derive(Clone, Default)]
    struct Kernel(Arc<Mutex<Recorder>>);

    impl Dataplane for Kernel {
        type Error = Refused;

        fn observe(&mut self) -> Result<Contents, Refused> {
            self.0.lock().observe()
        }

        fn apply(&mut self, delta: &Delta) -> Result<(), Refused> {
            self.0.lock().apply(delta)
        }

        fn forget_flows(&mut self, checks: &[FlowCheck]) -> Result<usize, Refused> {
            self.0.lock().forget_flows(checks)
        }

        fn fingerprint(&self, rule: &Rule) -> u64 {
            self.0.lock().fingerprint(rule)
        }
    }

    impl Kernel {
        fn chains(&self) -> Vec<String> {
            let kernel = self.0.lock();
            kernel.contents.chains.keys().filter(|name| name.contains('/')).map(ToString::to_string).collect()
        }

        async fn eventually(&self, condition: impl Fn(&Self) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !condition(self) {
                assert!(Instant::now() < deadline, "never came true: {:?}", self.chains());
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn start(server: &MemoryServer, kernel: &Kernel) -> Kit {
        let kit = Kit::new();
        let settings = Settings {
            node_name: "node-1".into(),
            family: Family::V4,
            pod_cidrs: vec![],
            api_servers: vec![],
            min_sync_period: Duration::from_millis(20),
        };
        let informers = Informers::new(server.client(), kit.clone());
        let proxy = Proxy::new(settings, &informers, Dirty::default(), Healthz::default(), &kit);
        kit.tasks.spawn("sync", proxy.run(kernel.clone()));
        kit
    }

    fn web() -> ServiceObject {
        let mut service = ServiceObject::default();
        service.metadata_mut().namespace = "default".into();
        service.metadata_mut().name = "web".into();
        service.spec_mut().cluster_ip = "10.96.0.1".into();
        service.spec_mut().ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
        service
    }

    fn slice(name: &str, addresses: &[&str]) -> EndpointSlice {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
        slice.metadata_mut().namespace = "default".into();
        slice.metadata_mut().name = name.into();
        slice.metadata_mut().labels.insert(api::endpoints::SERVICE_NAME.into(), "web".into());
        slice.ports = vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }];
        slice.endpoints = addresses.iter().map(|a| Endpoint { addresses: vec![(*a).into()], ..Endpoint::default() }).collect();
        slice
    }

    const ALL: &str = "all/default/web/tcp/80";

    fn is_served(kernel: &Kernel) -> bool {
        let key = Key::Frontend([10, 96, 0, 1].into(), crate::model::Protocol::Tcp, 80);
        kernel.0.lock().contents.elements.contains_key(&ElementId::new(SetKind::Services, key))
    }

    #[tokio::test]
    async fn rules_follow_services_and_slices() {
        let (server, kernel) = (MemoryServer::new(), Kernel::default());
        server.put(web());
        let kit = start(&server, &kernel);
        kit.health.became_ready().await;
        assert!(!is_served(&kernel));
        server.put(slice("web-1", &["10.244.0.1"]));
        kernel.eventually(is_served).await;
        server.put(slice("web-2", &["10.244.0.2"]));
        kernel.eventually(|kernel| kernel.0.lock().applied.len() == 3).await;
        server.remove::<EndpointSlice>("default", "web-1");
        server.remove::<EndpointSlice>("default", "web-2");
        kernel.eventually(|kernel| !is_served(kernel)).await;
        server.put(slice("web-1", &["10.244.0.1"]));
        kernel.eventually(|kernel| kernel.chains() == [ALL]).await;
        server.remove::<ServiceObject>("default", "web");
        kernel.eventually(|kernel| kernel.chains().is_empty()).await;
        assert_eq!(kernel.0.lock().observed, 1, "listed at start-up only");
    }

    #[tokio::test]
    async fn what_a_slice_says_it_tells_of_is_measured_up_to_its_rules() {
        let (server, kernel) = (MemoryServer::new(), Kernel::default());
        let at = |slice: EndpointSlice, time: Timestamp| {
            let mut slice = slice;
            slice.metadata_mut().annotations.insert(TRIGGER_TIME.into(), time.to_string());
            slice
        };
        server.put(web());
        // From before this process began.
        server.put(at(slice("web-1", &["10.244.0.1"]), Timestamp::from_second(1_000_000_000).unwrap()));
        let kit = start(&server, &kernel);
        kit.health.became_ready().await;
        let measured = |kit: &Kit| {
            let text = kit.metrics.encode().unwrap();
            let count = text.lines().find_map(|line| line.strip_prefix("kubeproxy_network_programming_duration_seconds_count "));
            count.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(measured(&kit), 0);
        let now = Timestamp::now();
        server.put(at(slice("web-2", &["10.244.0.2"]), now));
        kernel.eventually(|_| measured(&kit) == 1).await;
        // The same time again tells of nothing new.
        let applied = kernel.0.lock().applied.len();
        server.put(at(slice("web-2", &["10.244.0.2", "10.244.0.3"]), now));
        kernel.eventually(|kernel| kernel.0.lock().applied.len() > applied).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(measured(&kit), 1);
    }

    #[tokio::test]
    async fn losing_the_api_server_leaves_the_rules_alone() {
        let (server, kernel) = (MemoryServer::new(), Kernel::default());
        server.put(web());
        server.put(slice("web-1", &["10.244.0.1"]));
        let _kit = start(&server, &kernel);
        kernel.eventually(is_served).await;
        let applied = kernel.0.lock().applied.len();
        server.disconnect();
        sleep(Duration::from_millis(200)).await;
        assert_eq!((is_served(&kernel), kernel.0.lock().applied.len()), (true, applied));
        server.put(slice("web-1", &["10.244.0.1", "10.244.0.2"]));
        kernel.eventually(|kernel| kernel.0.lock().applied.len() > applied).await;
    }

    #[tokio::test]
    async fn the_nodes_pod_prefix_is_taken_up_when_it_comes() {
        let (server, kernel) = (MemoryServer::new(), Kernel::default());
        server.put(web());
        server.put(slice("web-1", &["10.244.0.1"]));
        let _kit = start(&server, &kernel);
        kernel.eventually(is_served).await;
        let rules = |kernel: &Kernel| kernel.0.lock().contents.chains["services"].rules.len();
        assert_eq!(rules(&kernel), 3);
        let mut node = NodeObject::default();
        node.metadata_mut().name = "node-1".into();
        node.spec_mut().pod_cidr = "10.244.0.0/24".into();
        server.put(node);
        kernel.eventually(|kernel| rules(kernel) == 4 && is_served(kernel)).await;
    }

    #[tokio::test]
    async fn a_refused_change_is_tried_again_and_not_ready_until_then() {
        let (server, kernel) = (MemoryServer::new(), Kernel::default());
        kernel.0.lock().refuse = 2;
        server.put(web());
        server.put(slice("web-1", &["10.244.0.1"]));
        let kit = start(&server, &kernel);
        kernel.eventually(|kernel| kernel.0.lock().refuse == 1).await;
        assert!(!kit.health.is_ready());
        kernel.eventually(is_served).await;
        kit.health.became_ready().await;
    }
}
