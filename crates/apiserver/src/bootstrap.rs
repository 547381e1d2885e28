//! What every cluster begins with: the system's namespaces and priority classes, and the Service `kubernetes` with the API servers that are
//! alive as its endpoints.
//!
//! Each API server does this at start and again every ten seconds, through the pipeline like any client, so that several can do it at
//! once and whatever was deleted comes back. An API server is alive while the time it last wrote to its own key is recent.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use api::{
    Object, Resource, StatusError,
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort},
    discovery::v1::{self as discovery, Endpoint, EndpointConditions, EndpointSlice},
    intstr::IntOrString,
    meta::v1::{ObjectMeta, Time},
    names::SYSTEM_NAMESPACES,
    scheduling::v1::PriorityClass,
};
use store::Txn;

use crate::{
    admission::ServiceCidr,
    pipeline::Pipeline,
    request::{Request, User, Verb},
    strategies::priority_class,
};

/// How often everything is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// An API server that did not write for so long is taken for dead.
const DEAD_AFTER: i64 = 30;
/// Where API servers say that they are alive; upstream's place for the same.
const ALIVE: &str = "/registry/masterleases/";
/// Namespace and name of the Service of the API servers.
const SERVICE: (&str, &str) = ("default", "kubernetes");
const PORT_NAME: &str = "https";

/// What bootstrapping needs to know of this API server.
#[derive(Clone, Copy, Debug)]
pub struct Advertised {
    /// Address others reach it at.
    pub address: IpAddr,
    /// Port it serves on.
    pub port: u16,
    /// Where Services get their addresses from; the first one is that of the Service `kubernetes`.
    pub services: ServiceCidr,
}

/// Keeps what belongs to every cluster there until the shutdown begins; then takes this API server from the endpoints.
pub async fn run(pipeline: Arc<Pipeline>, advertised: Advertised, shutdown: daemon::Shutdown) {
    let bootstrap = Bootstrap { pipeline, advertised, user: Arc::new(system_user()) };
    tokio::select! {
        () = bootstrap.pipeline.store().ready() => {}
        () = shutdown.started() => return,
    }
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = period.tick() => {}
            () = shutdown.started() => break,
        }
        if let Err(error) = bootstrap.once(true).await {
            tracing::warn!(%error, "what belongs to every cluster could not be brought in; trying again");
            period.reset_after(Duration::from_secs(1));
        }
    }
    if let Err(error) = bootstrap.once(false).await {
        tracing::debug!(%error, "cannot take this server from the endpoints");
    }
}

fn system_user() -> User {
    let groups = ["system:masters", "system:authenticated"].map(str::to_owned).to_vec();
    User { name: "system:apiserver".to_owned(), groups, ..User::default() }
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
        self.replace(self.slice(&servers), |old, new: &EndpointSlice| old.endpoints == new.endpoints && old.ports == new.ports)
            .await
    }

    /// Says that this server is alive, or no longer, and who else is.
    async fn alive(&self, alive: bool) -> Result<Vec<IpAddr>, StatusError> {
        let store = self.pipeline.store();
        let key = format!("{ALIVE}{}", self.advertised.address);
        let now = Time::now().seconds;
        let txn = if alive { Txn::new().put(&key, now.to_string(), Some(2 * PERIOD)) } else { Txn::new().delete(&key) };
        let failed = |e: &dyn std::fmt::Display| StatusError::unavailable(format!("etcd: {e}"));
        store.commit(&txn).await.map_err(|e| failed(&e))?;
        let mut servers = Vec::new();
        let (states, _) = store.etcd().get_prefix(ALIVE).await.map_err(|e| failed(&e))?;
        for state in states {
            let address = state.key.strip_prefix(ALIVE).and_then(|text| text.parse::<IpAddr>().ok());
            let seen = state.value.and_then(|value| std::str::from_utf8(&value.bytes).ok()?.parse::<i64>().ok());
            if let (Some(address), Some(seen)) = (address, seen)
                && now - seen < DEAD_AFTER
            {
                servers.push(address);
            }
        }
        servers.sort();
        Ok(servers)
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

    fn metadata(labels: &[(&str, &str)]) -> Option<ObjectMeta> {
        let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Some(ObjectMeta { namespace: SERVICE.0.to_owned(), name: SERVICE.1.to_owned(), labels, ..ObjectMeta::default() })
    }

    fn service(&self) -> Service {
        let mut service =
            Service { metadata: Self::metadata(&[("component", "apiserver"), ("provider", "kubernetes")]), ..Service::default() };
        let spec = service.spec_mut();
        spec.cluster_ip = self.advertised.services.first().to_string();
        spec.ports.push(ServicePort {
            name: PORT_NAME.to_owned(),
            protocol: "TCP".to_owned(),
            port: 443,
            target_port: Some(IntOrString::from(i32::from(self.advertised.port))),
            ..ServicePort::default()
        });
        service
    }

    fn endpoints(&self, servers: &[IpAddr]) -> Endpoints {
        let mut endpoints = Endpoints {
            metadata: Self::metadata(&[("endpointslice.kubernetes.io/skip-mirror", "true")]),
            ..Endpoints::default()
        };
        if !servers.is_empty() {
            let addresses =
                servers.iter().map(|ip| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() }).collect();
            let port = EndpointPort {
                name: PORT_NAME.to_owned(),
                port: self.advertised.port.into(),
                protocol: "TCP".to_owned(),
                ..EndpointPort::default()
            };
            endpoints.subsets.push(EndpointSubset { addresses, ports: vec![port], ..EndpointSubset::default() });
        }
        endpoints
    }

    fn slice(&self, servers: &[IpAddr]) -> EndpointSlice {
        let ready = EndpointConditions { ready: Some(true), ..EndpointConditions::default() };
        let endpoint = |ip: &IpAddr| Endpoint { addresses: vec![ip.to_string()], conditions: Some(ready), ..Endpoint::default() };
        let port = discovery::EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(self.advertised.port.into()),
            protocol: Some("TCP".to_owned()),
            ..discovery::EndpointPort::default()
        };
        EndpointSlice {
            metadata: Self::metadata(&[("kubernetes.io/service-name", SERVICE.1)]),
            address_type: "IPv4".to_owned(),
            endpoints: servers.iter().map(endpoint).collect(),
            ports: vec![port],
        }
    }
}
