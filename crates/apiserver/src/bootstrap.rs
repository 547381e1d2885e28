//! What every cluster begins with: the system's namespaces and priority classes, and the Service `kubernetes` with the API servers that are
//! alive as its endpoints.
//!
//! Each API server does this at start and whenever some of it changes, through the pipeline like any client, so that several can do it at
//! once and whatever was deleted comes back. An API server is alive while its own key exists, which vanishes unless it is written again:
//! the heartbeat is all that a server does without a cause.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use api::{
    Object, Resource, StatusError,
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort},
    discovery::v1::{self as discovery, Endpoint, EndpointConditions, EndpointSlice},
    intstr::IntOrString,
    meta::v1::{DeleteOptions, ObjectMeta},
    names::SYSTEM_NAMESPACES,
    scheduling::v1::PriorityClass,
};
use store::{Entry, ReadAt, Selection, Store, Txn, WatchEvent};
use tokio::sync::Notify;

use crate::{
    admission::ServiceCidr,
    pipeline::Pipeline,
    reader::{self, Follower, Reader, follow},
    request::{Request, User, Verb},
    strategies::priority_class,
};

/// How often an API server says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Pause before what failed is tried again; twice as long each time, up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// How long an API server that ends may take to say so.
const FAREWELL: Duration = Duration::from_secs(5);
/// An API server that did not write for so long, and a few seconds more, is taken for dead.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// Where API servers say that they are alive, as ADDRESS:PORT.
const ALIVE: &str = "/registry/ferrokube/apiservers/";
/// Namespace and name of the Service of the API servers.
const SERVICE: (&str, &str) = ("default", "kubernetes");
const PORT_NAME: &str = "https";
/// Label of a slice: the Service it is of.
const SLICE_OF: &str = api::endpoints::SERVICE_NAME;

/// The API servers that are alive: their addresses by port.
type Alive = BTreeMap<u16, Vec<Ipv4Addr>>;

/// What bootstrapping needs to know of this API server.
#[derive(Clone, Copy, Debug)]
pub struct Advertised {
    /// Where others reach it.
    pub address: SocketAddrV4,
    /// Where Services get their addresses from; the first one is that of the Service `kubernetes`.
    pub services: ServiceCidr,
}

/// Keeps what belongs to every cluster there until the shutdown begins; then takes this API server from the endpoints. `ready` is open while
/// that can be done, so a server that has lost etcd says so.
pub async fn run(pipeline: Arc<Pipeline>, advertised: Advertised, ready: daemon::Gate, shutdown: daemon::Shutdown) {
    let bootstrap = Bootstrap { pipeline, advertised, user: Arc::new(system_user()) };
    tokio::select! {
        () = bootstrap.pipeline.store().ready() => {}
        () = shutdown.started() => return,
    }
    let changed = Changed::default();
    tokio::select! {
        () = bootstrap.keep(&changed, &ready) => {}
        followed = bootstrap.follow(&changed) => {
            if let Err(error) = followed {
                tracing::error!(%error, "what belongs to every cluster cannot be followed");
            }
        }
        () = shutdown.started() => {}
    }
    match tokio::time::timeout(FAREWELL, bootstrap.leave()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot take this server from the endpoints; the others will"),
        Err(_) => tracing::warn!("no time to take this server from the endpoints; the others will"),
    }
}

fn system_user() -> User {
    let groups = ["system:masters", "system:authenticated"].map(str::to_owned).to_vec();
    User { name: "system:apiserver".to_owned(), groups, ..User::default() }
}

/// Where the API servers that are alive are reached.
pub(crate) async fn alive(store: &Store) -> Result<Vec<SocketAddrV4>, StatusError> {
    let found = store.etcd().get_prefix(ALIVE).await;
    let (states, _) = found.map_err(|error| reader::etcd_error(&error))?;
    Ok(states.iter().filter_map(|state| state.key.strip_prefix(ALIVE)?.parse().ok()).collect())
}

struct Bootstrap {
    pipeline: Arc<Pipeline>,
    advertised: Advertised,
    user: Arc<User>,
}

/// Told when something that bootstrapping looks after may have changed.
#[derive(Default)]
struct Changed(Notify);

impl Follower for Changed {
    fn replace(&self, _: &[Arc<Entry>]) {
        self.0.notify_one();
    }

    fn apply(&self, _: &[WatchEvent]) {
        self.0.notify_one();
    }
}

impl Bootstrap {
    /// Says that this server is alive as long as it is, and brings everything in whenever something has changed or could not be done.
    async fn keep(&self, changed: &Changed, ready: &daemon::Gate) {
        let mut servers = self.pipeline.store().keys(ALIVE);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let (mut outdated, mut backoff) = (true, None::<Duration>);
        loop {
            let beats = tokio::select! {
                biased;
                _ = heartbeat.tick() => true,
                () = tokio::time::sleep(backoff.unwrap_or_default()), if backoff.is_some() => true,
                () = changed.0.notified(), if backoff.is_none() => false,
                // It cannot fail: the sender lives in the store.
                _ = servers.changed(), if backoff.is_none() => false,
            };
            outdated |= !beats;
            let round = async {
                if beats {
                    self.beat().await?;
                }
                if outdated { self.reconcile().await } else { Ok(()) }
            };
            match round.await {
                Ok(()) => {
                    ready.open();
                    (outdated, backoff) = (false, None);
                }
                Err(error) => {
                    // Once for all attempts in a row.
                    if backoff.is_none() {
                        tracing::warn!(%error, "what belongs to every cluster could not be brought in; trying until it is");
                    }
                    ready.close(error.message());
                    outdated = true;
                    backoff = Some(backoff.map_or(FIRST_BACKOFF, |before| (before * 2).min(MAX_BACKOFF)));
                }
            }
        }
    }

    /// Tells of every change to what belongs to every cluster. Never ends by itself.
    async fn follow(&self, changed: &Changed) -> Result<(), StatusError> {
        let store = self.pipeline.store();
        let classes = |entry: &Entry| priority_class::SYSTEM.iter().any(|(name, ..)| *name == entry.name());
        let kubernetes = || Selection::object(SERVICE.0, SERVICE.1);
        let system = Selection::all().with_filter(|entry| SYSTEM_NAMESPACES.contains(&entry.name()));
        tokio::join!(
            follow(Reader::<Namespace>::new(store).collection()?, system, changed),
            follow(Reader::<PriorityClass>::new(store).collection()?, Selection::all().with_filter(classes), changed),
            follow(Reader::<Service>::new(store).collection()?, kubernetes(), changed),
            follow(Reader::<Endpoints>::new(store).collection()?, kubernetes(), changed),
            follow(Reader::<EndpointSlice>::new(store).collection()?, of_service(), changed),
        );
        Ok(())
    }

    /// Brings everything in.
    async fn reconcile(&self) -> Result<(), StatusError> {
        for name in SYSTEM_NAMESPACES {
            let metadata = ObjectMeta { name: (*name).to_owned(), ..ObjectMeta::default() };
            self.ensure(Namespace { metadata: Some(metadata), ..Namespace::default() }).await?;
        }
        for (name, value, description) in priority_class::SYSTEM {
            let metadata = ObjectMeta { name: (*name).to_owned(), ..ObjectMeta::default() };
            let class = PriorityClass {
                metadata: Some(metadata),
                value: *value,
                description: (*description).to_owned(),
                ..PriorityClass::default()
            };
            self.ensure(class).await?;
        }
        self.ensure(self.service()).await?;
        self.publish().await
    }

    /// Takes this server from the endpoints.
    async fn leave(&self) -> Result<(), StatusError> {
        self.commit(Txn::new().delete(self.key())).await?;
        self.publish().await
    }

    /// Says that this server is alive.
    async fn beat(&self) -> Result<(), StatusError> {
        self.commit(Txn::new().put(self.key(), "", Some(DEAD_AFTER))).await
    }

    async fn commit(&self, txn: Txn) -> Result<(), StatusError> {
        let committed = self.pipeline.store().commit(&txn).await;
        committed.map(drop).map_err(|error| reader::store_error(Endpoints::KIND, SERVICE.1, error))
    }

    fn key(&self) -> String {
        format!("{ALIVE}{}", self.advertised.address)
    }

    /// Makes the servers that are alive the Service's endpoints.
    async fn publish(&self) -> Result<(), StatusError> {
        let mut servers = Alive::new();
        for server in alive(self.pipeline.store()).await? {
            servers.entry(server.port()).or_default().push(*server.ip());
        }
        servers.values_mut().for_each(|addresses| addresses.sort());
        self.replace(self.endpoints(&servers), |old, new: &Endpoints| old.subsets == new.subsets).await?;
        self.slices(&servers).await
    }

    /// One slice for each port that API servers are reached at, and no other.
    async fn slices(&self, servers: &Alive) -> Result<(), StatusError> {
        let slices = slices(servers);
        let wanted: BTreeSet<String> = slices.iter().map(|slice| slice.name().to_owned()).collect();
        for slice in slices {
            let same = |old: &EndpointSlice, new: &EndpointSlice| old.endpoints == new.endpoints && old.ports == new.ports;
            self.replace(slice, same).await?;
        }
        for found in Reader::<EndpointSlice>::new(self.pipeline.store()).select(&of_service(), ReadAt::Any).await? {
            if !wanted.contains(found.object.name()) {
                let request = self.request(Verb::Delete, &found.object);
                match self.pipeline.delete(&request, &DeleteOptions::default(), None).await {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn request<K: Resource>(&self, verb: Verb, object: &K) -> Request {
        Request::new(self.user.clone(), verb, K::HANDLE, object.namespace(), object.name())
    }

    /// The object as stored, if there is one.
    async fn stored<K: Resource>(&self, object: &K) -> Result<Option<K>, StatusError> {
        let found = Reader::<K>::new(self.pipeline.store()).get(object.namespace(), object.name(), ReadAt::Latest).await?;
        Ok(found.map(|found| found.object))
    }

    /// Creates an object unless it is there.
    async fn ensure<K: Resource>(&self, object: K) -> Result<(), StatusError> {
        if self.stored(&object).await?.is_some() {
            return Ok(());
        }
        match self.pipeline.create(&self.request(Verb::Create, &object), Box::new(object), None).await {
            Err(e) if !e.is_already_exists() => Err(e),
            _ => Ok(()),
        }
    }

    /// Creates an object, or replaces it if it differs.
    async fn replace<K: Resource>(&self, mut object: K, same: impl Fn(&K, &K) -> bool) -> Result<(), StatusError> {
        let Some(old) = self.stored(&object).await? else { return self.ensure(object).await };
        if same(&old, &object) {
            return Ok(());
        }
        let meta = Resource::metadata_mut(&mut object);
        meta.resource_version.clone_from(&Resource::metadata(&old).resource_version);
        let request = self.request(Verb::Update, &object);
        match self.pipeline.update(&request, Box::new(object) as Box<dyn Object>, None).await {
            // Another API server was faster.
            Err(e) if !e.is_conflict() => Err(e),
            _ => Ok(()),
        }
    }

    fn service(&self) -> Service {
        let labels = [("component", "apiserver"), ("provider", "kubernetes")];
        let mut service = Service { metadata: metadata(SERVICE.1, &labels), ..Service::default() };
        let spec = service.spec_mut();
        spec.cluster_ip = self.advertised.services.first().to_string();
        spec.ports.push(ServicePort {
            name: PORT_NAME.to_owned(),
            protocol: "TCP".to_owned(),
            port: 443,
            target_port: Some(IntOrString::from(i32::from(self.advertised.address.port()))),
            ..ServicePort::default()
        });
        service
    }

    fn endpoints(&self, servers: &Alive) -> Endpoints {
        let subset = |(port, addresses): (&u16, &Vec<Ipv4Addr>)| EndpointSubset {
            addresses: addresses.iter().map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() }).collect(),
            ports: vec![EndpointPort {
                name: PORT_NAME.to_owned(),
                port: i32::from(*port),
                protocol: "TCP".to_owned(),
                ..EndpointPort::default()
            }],
            ..EndpointSubset::default()
        };
        Endpoints {
            metadata: metadata(SERVICE.1, &[("endpointslice.kubernetes.io/skip-mirror", "true")]),
            subsets: servers.iter().map(subset).collect(),
        }
    }
}

/// The stored slices of the Service.
fn of_service() -> Selection {
    Selection::namespace(SERVICE.0).with_filter(|entry| entry.label(SLICE_OF) == Some(SERVICE.1))
}

/// The slices of the Service: the first is named as upstream's only one. It is there, empty, when no server is.
fn slices(servers: &Alive) -> Vec<EndpointSlice> {
    let slice = |name: &str, port: Option<u16>, addresses: &[Ipv4Addr]| {
        let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
        let endpoint =
            |ip: &Ipv4Addr| Endpoint { addresses: vec![ip.to_string()], conditions: Some(ready), ..Endpoint::default() };
        let port = port.map(|port| discovery::EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..discovery::EndpointPort::default()
        });
        EndpointSlice {
            metadata: metadata(name, &[(SLICE_OF, SERVICE.1)]),
            address_type: "IPv4".to_owned(),
            endpoints: addresses.iter().map(endpoint).collect(),
            ports: port.into_iter().collect(),
        }
    };
    let mut servers = servers.iter();
    let (port, addresses) = servers.next().map_or((None, &[][..]), |(port, addresses)| (Some(*port), &addresses[..]));
    let first = slice(SERVICE.1, port, addresses);
    let others = servers.map(|(port, addresses)| slice(&format!("{}-{port}", SERVICE.1), Some(*port), addresses));
    std::iter::once(first).chain(others).collect()
}

fn metadata(name: &str, labels: &[(&str, &str)]) -> Option<ObjectMeta> {
    let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Some(ObjectMeta { namespace: SERVICE.0.to_owned(), name: name.to_owned(), labels, ..ObjectMeta::default() })
}
