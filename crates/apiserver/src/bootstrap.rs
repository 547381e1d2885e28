//! What every cluster has from the first moment: its own namespaces, the system's priority classes, and the Service `kubernetes` with
//! the API servers that are alive behind it.
//!
//! Each server keeps a key that vanishes when it does, and makes the endpoints say what the keys say. All servers do this all the time;
//! everything is written only where it differs, under the revision it was computed from, so that it does not matter who comes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use api::{
    Object, Resource,
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice},
    meta::v1::{ObjectMeta, Time},
    scheduling::v1::PriorityClass,
};
use daemon::Shutdown;
use prost::Message;
use store::{Change, Collection, EtcdError, Guard, ListOptions, Outcome, ReadAt, Selection, Store, Txn, envelope};

use crate::{
    admission::{ADDRESS_KEYS, AdmissionConfig, IMMORTAL},
    strategies::{namespace::NamespaceStrategy, priority_class},
    strategy::Strategy,
};

/// Name of the API servers' Service.
const KUBERNETES: &str = "kubernetes";
const NAMESPACE: &str = "default";
/// Port of the API servers' Service.
const SERVICE_PORT: i32 = 443;
const PORT_NAME: &str = "https";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "ferrokube-apiserver";
/// Prefix of the keys of the servers that are alive.
const ALIVE_KEYS: &str = "/registry/masterleases/";
/// How long a server counts as alive without renewing its key.
const ALIVE_FOR: Duration = Duration::from_secs(15);
/// How often a server renews its key.
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the key to be taken back.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where other hosts reach this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised(SocketAddr);

/// Why the cluster's own objects cannot be brought about.
#[derive(Debug, thiserror::Error)]
enum BootstrapError {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// etcd itself.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A kind has no collection.
    #[error("{0} are not stored")]
    NotStored(String),
    /// A stored object cannot be decoded.
    #[error("{key} cannot be decoded")]
    Damaged {
        /// Its key.
        key: String,
        /// How it is damaged.
        source: prost::DecodeError,
    },
    /// Another Service has the address.
    #[error("the address {0} is taken: the Service kubernetes cannot have it")]
    AddressTaken(IpAddr),
}

// === impl Advertised ===

impl Advertised {
    /// The server at this address. If it listens on all, the one that the default route goes out from.
    pub fn new(address: IpAddr, port: u16) -> Self {
        let address = if address.is_unspecified() { outward().unwrap_or(address) } else { address };
        Self(SocketAddr::new(address, port))
    }
}

/// The address that connections to other hosts begin at. Sends nothing: connecting a datagram socket only looks up the route.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Brings the cluster's own objects about and keeps them. Returns once the shutdown has begun and this server is no endpoint any more.
pub async fn run(store: Store, config: AdmissionConfig, advertised: Advertised, shutdown: Shutdown) {
    let bootstrap = Bootstrap { store, config, me: advertised.0 };
    loop {
        // Every step is a transaction of its own: a round may end after any of them.
        let pause = match shutdown.token().run_until_cancelled(bootstrap.round()).await {
            Some(Ok(())) => RENEW_EVERY,
            None => break,
            Some(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the cluster's own objects cannot be brought about yet");
                RETRY_AFTER
            }
        };
        if shutdown.token().run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    match tokio::time::timeout(FAREWELL, bootstrap.leave()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "this server stays an endpoint for a while"),
        Err(_) => tracing::warn!("this server stays an endpoint for a while: etcd does not answer"),
    }
}

struct Bootstrap {
    store: Store,
    config: AdmissionConfig,
    me: SocketAddr,
}

impl Bootstrap {
    /// Everything once.
    async fn round(&self) -> Result<(), BootstrapError> {
        self.store.ready().await;
        for name in IMMORTAL {
            let mut namespace = Namespace { metadata: Some(identity("", name)), ..Namespace::default() };
            Object::set_defaults(&mut namespace);
            NamespaceStrategy.set_defaults(&mut namespace);
            NamespaceStrategy.prepare_for_create(&mut namespace);
            self.ensure(namespace).await?;
        }
        for (name, value, description) in priority_class::SYSTEM {
            let mut class = PriorityClass {
                metadata: Some(identity("", name)),
                value: *value,
                description: (*description).to_owned(),
                ..PriorityClass::default()
            };
            Object::set_defaults(&mut class);
            priority_class::PriorityClassStrategy.prepare_for_create(&mut class);
            self.ensure(class).await?;
        }
        self.renew().await?;
        self.service().await?;
        self.endpoints().await
    }

    /// Says that this server is alive.
    async fn renew(&self) -> Result<(), BootstrapError> {
        let subset = EndpointSubset {
            addresses: vec![EndpointAddress { ip: self.me.ip().to_string(), ..EndpointAddress::default() }],
            ..EndpointSubset::default()
        };
        let value = Endpoints { subsets: vec![subset], ..Endpoints::default() };
        let value = envelope::encode(Endpoints::KIND.api_version, Endpoints::KIND.kind, &value.encode_to_vec());
        self.store.commit(&Txn::new().put(self.alive_key(), value, Some(ALIVE_FOR))).await?;
        Ok(())
    }

    /// Says that this server is going.
    async fn leave(&self) -> Result<(), BootstrapError> {
        self.store.commit(&Txn::new().delete(self.alive_key())).await?;
        self.endpoints().await
    }

    fn alive_key(&self) -> String {
        format!("{ALIVE_KEYS}{}", self.me)
    }

    async fn service(&self) -> Result<(), BootstrapError> {
        let services = self.collection::<Service>()?;
        let first = self.config.service_cidr.first();
        match services.get(NAMESPACE, KUBERNETES, ReadAt::Any).await {
            Ok(_) => return Ok(()),
            Err(store::Error::NotFound { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let mut service = Service {
            metadata: Some(identity(NAMESPACE, KUBERNETES)),
            spec: Some(ServiceSpec {
                cluster_ip: first.to_string(),
                cluster_ips: vec![first.to_string()],
                ports: vec![ServicePort {
                    name: PORT_NAME.to_owned(),
                    port: SERVICE_PORT,
                    target_port: Some(i32::from(self.me.port()).into()),
                    ..ServicePort::default()
                }],
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        service.metadata_mut().labels =
            [("component", "apiserver"), ("provider", KUBERNETES)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Object::set_defaults(&mut service);
        crate::strategies::service::ServiceStrategy.set_defaults(&mut service);
        let layout = services.layout();
        let (key, address) = (layout.key(NAMESPACE, KUBERNETES), format!("{ADDRESS_KEYS}{first}"));
        let value = envelope::encode(&layout.api_version, &layout.kind, &service.encode_to_vec());
        let txn = Txn::new().guard(&key, Guard::Absent).guard(&address, Guard::Absent).put(key, value, None).put(
            address,
            service.metadata().uid.clone(),
            None,
        );
        match self.store.commit(&txn).await? {
            Outcome::Refused(states) if states.first().is_some_and(|state| state.value.is_none()) => {
                Err(BootstrapError::AddressTaken(first.into()))
            }
            Outcome::Committed(_) | Outcome::Refused(_) => Ok(()),
        }
    }

    /// Makes the endpoints of the API servers those that are alive.
    async fn endpoints(&self) -> Result<(), BootstrapError> {
        let (keys, _) = self.store.etcd().get_prefix(ALIVE_KEYS).await?;
        let addresses = keys.iter().filter_map(|state| state.key.strip_prefix(ALIVE_KEYS)?.parse::<SocketAddr>().ok());
        let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in addresses {
            by_port.entry(address.port()).or_default().insert(address.ip());
        }
        let subsets: Vec<EndpointSubset> = by_port.iter().map(|(port, ips)| subset(*port, ips)).collect();
        let wanted = Endpoints { metadata: Some(identity(NAMESPACE, KUBERNETES)), subsets };
        self.replace(wanted, |stored, wanted| {
            let differs = stored.subsets != wanted.subsets;
            stored.subsets.clone_from(&wanted.subsets);
            differs
        })
        .await?;
        let slices: Vec<EndpointSlice> = by_port.iter().enumerate().map(|(i, (port, ips))| slice(i, *port, ips)).collect();
        let names: BTreeSet<String> = slices.iter().map(|slice| slice.name().to_owned()).collect();
        for wanted in slices {
            self.replace(wanted, |stored, wanted| {
                let differs = stored.endpoints != wanted.endpoints || stored.ports != wanted.ports;
                stored.endpoints.clone_from(&wanted.endpoints);
                stored.ports.clone_from(&wanted.ports);
                stored.metadata_mut().generation += i64::from(differs);
                differs
            })
            .await?;
        }
        self.remove_other_slices(&names).await
    }

    async fn remove_other_slices(&self, wanted: &BTreeSet<String>) -> Result<(), BootstrapError> {
        let slices = self.collection::<EndpointSlice>()?;
        let selection = Selection::namespace(NAMESPACE).with_filter(|entry| entry.label(MANAGED_BY_LABEL) == Some(MANAGER));
        let list = slices.list(&selection, ListOptions { at: ReadAt::Any, ..ListOptions::default() }).await?;
        for entry in list.items.iter().filter(|entry| !wanted.contains(entry.name())) {
            match slices.delete(NAMESPACE, entry.name(), entry.revision()).await {
                Ok(_) | Err(store::Error::NotFound { .. } | store::Error::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Creates the object if there is none of that name.
    async fn ensure<K: Resource>(&self, object: K) -> Result<(), BootstrapError> {
        let collection = self.collection::<K>()?;
        let (namespace, name) = (object.namespace(), object.name());
        match collection.get(namespace, name, ReadAt::Any).await {
            Err(store::Error::NotFound { .. }) => {}
            other => return Ok(other.map(drop)?),
        }
        match collection.create(namespace, name, &object.encode_to_vec()).await {
            Ok(_) | Err(store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Creates the object, or lets `change` bring what is stored up to it; `change` tells whether it did anything.
    async fn replace<K: Resource>(
        &self,
        wanted: K,
        change: impl Fn(&mut K, &K) -> bool + Send + Sync,
    ) -> Result<(), BootstrapError> {
        let collection = self.collection::<K>()?;
        let (namespace, name) = (wanted.namespace().to_owned(), wanted.name().to_owned());
        if let Err(store::Error::NotFound { .. }) = collection.get(&namespace, &name, ReadAt::Any).await {
            match collection.create(&namespace, &name, &wanted.encode_to_vec()).await {
                Err(store::Error::AlreadyExists { .. }) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        let changed = collection
            .modify(&namespace, &name, |entry| {
                let damaged = |source| BootstrapError::Damaged { key: entry.key().to_owned(), source };
                let mut stored = K::decode(entry.object()).map_err(damaged)?;
                if !change(&mut stored, &wanted) {
                    return Ok(Change::Keep);
                }
                Ok(Change::Put(stored.encode_to_vec().into()))
            })
            .await;
        match changed {
            // Deleted meanwhile: the next round creates it.
            Ok(_) | Err(BootstrapError::Store(store::Error::NotFound { .. })) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn collection<K: Resource>(&self) -> Result<Collection, BootstrapError> {
        let name = K::KIND.qualified_plural();
        self.store.collection(&name).ok_or(BootstrapError::NotStored(name))
    }
}

fn identity(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        uid: uuid::Uuid::new_v4().to_string(),
        creation_timestamp: Some(Time::now()),
        ..ObjectMeta::default()
    }
}

fn subset(port: u16, addresses: &BTreeSet<IpAddr>) -> EndpointSubset {
    EndpointSubset {
        addresses: addresses.iter().map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() }).collect(),
        ports: vec![EndpointPort {
            name: PORT_NAME.to_owned(),
            port: i32::from(port),
            protocol: "TCP".to_owned(),
            ..EndpointPort::default()
        }],
        ..EndpointSubset::default()
    }
}

/// The slice of the servers on one port. Mostly there is one.
fn slice(index: usize, port: u16, addresses: &BTreeSet<IpAddr>) -> EndpointSlice {
    let name = if index == 0 { KUBERNETES.to_owned() } else { format!("{KUBERNETES}-{port}") };
    let mut slice = EndpointSlice {
        metadata: Some(identity(NAMESPACE, &name)),
        address_type: "IPv4".to_owned(),
        endpoints: addresses
            .iter()
            .map(|ip| Endpoint {
                addresses: vec![ip.to_string()],
                conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
                ..Endpoint::default()
            })
            .collect(),
        ports: vec![SlicePort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..SlicePort::default()
        }],
    };
    slice.metadata_mut().generation = 1;
    slice.metadata_mut().labels =
        [(SERVICE_LABEL, KUBERNETES), (MANAGED_BY_LABEL, MANAGER)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    slice
}
