//! What every cluster begins with: the system's namespaces and priority classes, and the Service `kubernetes` with the API servers that are
//! alive as its endpoints.
//!
//! Each API server does this at start and again every ten seconds, through the pipeline like any client, so that several can do it at
//! once and whatever was deleted comes back. An API server is alive while its own key exists, which vanishes unless it is written again.

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
use store::{ListOptions, ReadAt, Selection, Store, Txn};

use crate::{
    admission::ServiceCidr,
    pipeline::Pipeline,
    request::{Request, User, Verb},
    strategies::priority_class,
};

/// How often everything is looked at.
const PERIOD: Duration = Duration::from_secs(10);
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
const SLICE_OF: &str = "kubernetes.io/service-name";

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
    let mut period = tokio::time::interval(PERIOD);
    let mut told = false;
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = shutdown.started() => break,
        }
        match bootstrap.once(true).await {
            Ok(()) => {
                ready.open();
                told = false;
            }
            Err(error) => {
                // Once for all attempts in a row.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "what belongs to every cluster could not be brought in; trying until it is");
                }
                ready.close(error.message());
                period.reset_after(Duration::from_secs(1));
            }
        }
    }
    match tokio::time::timeout(FAREWELL, bootstrap.once(false)).await {
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
    let (states, _) = found.map_err(|e| StatusError::unavailable(format!("etcd: {e}")))?;
    Ok(states.iter().filter_map(|state| state.key.strip_prefix(ALIVE)?.parse().ok()).collect())
}

struct Bootstrap {
    pipeline: Arc<Pipeline>,
    advertised: Advertised,
    user: Arc<User>,
}

impl Bootstrap {
    async fn once(&self, alive: bool) -> Result<(), StatusError> {
        let servers = self.alive(alive).await?;
        if alive {
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
        }
        self.replace(self.endpoints(&servers), |old, new: &Endpoints| old.subsets == new.subsets).await?;
        self.slices(&servers).await
    }

    /// Says that this server is alive, or no longer, and who else is.
    async fn alive(&self, alive: bool) -> Result<Alive, StatusError> {
        let store = self.pipeline.store();
        let key = format!("{ALIVE}{}", self.advertised.address);
        let txn = if alive { Txn::new().put(&key, "", Some(DEAD_AFTER)) } else { Txn::new().delete(&key) };
        let failed = |e: &dyn std::fmt::Display| StatusError::unavailable(format!("etcd: {e}"));
        store.commit(&txn).await.map_err(|e| failed(&e))?;
        let mut servers = Alive::new();
        for server in self::alive(store).await? {
            servers.entry(server.port()).or_default().push(*server.ip());
        }
        servers.values_mut().for_each(|addresses| addresses.sort());
        Ok(servers)
    }

    /// One slice for each port that API servers are reached at, and no other.
    async fn slices(&self, servers: &Alive) -> Result<(), StatusError> {
        let slices = slices(servers);
        let wanted: BTreeSet<String> = slices.iter().map(|slice| slice.name().to_owned()).collect();
        for slice in slices {
            let same = |old: &EndpointSlice, new: &EndpointSlice| old.endpoints == new.endpoints && old.ports == new.ports;
            self.replace(slice, same).await?;
        }
        let collection = self.pipeline.store().collection(&EndpointSlice::KIND.qualified_plural());
        let collection = collection.ok_or_else(|| StatusError::internal("EndpointSlices are not stored"))?;
        let ours = Selection::namespace(SERVICE.0).with_filter(|entry| entry.label(SLICE_OF) == Some(SERVICE.1));
        let found = collection.list(&ours, ListOptions { at: ReadAt::Any, ..ListOptions::default() }).await;
        for entry in found.map_err(|e| StatusError::unavailable(format!("etcd: {e}")))?.items {
            if !wanted.contains(entry.name()) {
                let slice = EndpointSlice { metadata: metadata(entry.name(), &[]), ..EndpointSlice::default() };
                let request = self.request(Verb::Delete, &slice);
                match self.pipeline.delete(&request, &DeleteOptions::default(), None).await {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn request<K: Resource>(&self, verb: Verb, object: &K) -> Request {
        Request {
            user: self.user.clone(),
            verb,
            kind: K::KIND,
            subresource: String::new(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            dry_run: false,
            selected_name: None,
            selected_node: None,
        }
    }

    /// The object as stored, if there is one.
    async fn stored<K: Resource>(&self, object: &K) -> Result<Option<K>, StatusError> {
        match self.pipeline.get(&self.request(Verb::Get, object)).await {
            Ok(stored) => K::decode(stored.bytes).map(Some).map_err(|e| StatusError::internal(e.to_string())),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
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
