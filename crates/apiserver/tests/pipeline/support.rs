//! Several API servers' pipelines over one etcd.

use std::{sync::Arc, time::Duration};

use api::{
    Object, Resource, StatusError,
    meta::v1::{DeleteOptions, Preconditions},
    patch::PatchType as Type,
};
use apiserver::{
    admission::{self, AdmissionConfig},
    decode::FieldValidation,
    layout,
    pipeline::Pipeline,
    request::{Request, Verb},
    strategies,
    subresource::{self, Subresource},
};
use store::{Store, testing::EtcdCluster};
use tokio_util::sync::CancellationToken;

/// A cluster of pipelines.
pub struct Cluster {
    _etcd: EtcdCluster,
    pub servers: Vec<Server>,
    shutdown: CancellationToken,
}

/// One API server's pipeline.
#[derive(Clone)]
pub struct Server {
    pub store: Store,
    pub pipeline: Arc<Pipeline>,
}

impl Cluster {
    /// Starts etcd and so many servers; `default` and its service account exist.
    pub async fn start(servers: usize, config: &AdmissionConfig) -> Self {
        let cluster = Self::bare(servers, config).await;
        let first = &cluster.servers[0];
        first.create(object::<api::core::v1::Namespace>(r#"{"metadata": {"name": "default"}}"#)).await.unwrap();
        first
            .create(object::<api::core::v1::ServiceAccount>(r#"{"metadata": {"name": "default", "namespace": "default"}}"#))
            .await
            .unwrap();
        cluster
    }

    /// As [`Cluster::start`], with nothing stored.
    pub async fn bare(servers: usize, config: &AdmissionConfig) -> Self {
        let etcd = EtcdCluster::start(1).await.unwrap();
        let shutdown = CancellationToken::new();
        let mut list = Vec::new();
        for _ in 0..servers {
            let (store, runner) = Store::new(etcd.config(), layout::layouts(Duration::from_secs(3600))).unwrap();
            tokio::spawn(runner.run(shutdown.clone()));
            store.ready().await;
            let pipeline = Pipeline::new(store.clone(), Arc::default(), strategies::all(), admission::chain(&store, config));
            list.push(Server { store, pipeline: Arc::new(pipeline) });
        }
        Self { _etcd: etcd, servers: list, shutdown }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Server {
    pub async fn create<K: Resource>(&self, object: K) -> Result<K, StatusError> {
        self.create_with(object, false).await
    }

    pub async fn create_with<K: Resource>(&self, object: K, dry_run: bool) -> Result<K, StatusError> {
        let request = Request { dry_run, name: String::new(), ..request::<K>(Verb::Create, &object) };
        let stored = self.pipeline.create(&request, Box::new(object), None).await?;
        Ok(K::decode(stored.bytes).unwrap())
    }

    pub async fn update<K: Resource>(&self, object: K) -> Result<K, StatusError> {
        self.update_part("", object).await
    }

    pub async fn update_part<K: Resource>(&self, subresource: &str, object: K) -> Result<K, StatusError> {
        let request = Request { subresource: part(subresource), ..request::<K>(Verb::Update, &object) };
        let stored = self.pipeline.update(&request, Box::new(object), None).await?;
        Ok(K::decode(stored.bytes).unwrap())
    }

    pub async fn patch<K: Resource>(&self, object: &K, patch_type: Type, patch: &str) -> Result<K, StatusError> {
        self.patch_with(object, patch_type, patch, false).await
    }

    pub async fn patch_with<K: Resource>(
        &self,
        object: &K,
        patch_type: Type,
        patch: &str,
        dry_run: bool,
    ) -> Result<K, StatusError> {
        let request = Request { dry_run, ..request::<K>(Verb::Patch, object) };
        let (stored, _) = self.pipeline.patch(&request, patch_type, patch.as_bytes(), FieldValidation::Strict, None).await?;
        Ok(K::decode(stored.bytes).unwrap())
    }

    pub async fn delete<K: Resource>(&self, object: &K) -> Result<bool, StatusError> {
        let preconditions = Preconditions { uid: Some(object.metadata().uid.clone()), resource_version: None };
        let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
        Ok(self.delete_with(object, &options).await?.0)
    }

    /// Whether the object of this name is gone, and what it was left as.
    pub async fn delete_with<K: Resource>(&self, object: &K, options: &DeleteOptions) -> Result<(bool, K), StatusError> {
        let request = Request { dry_run: !options.dry_run.is_empty(), ..request::<K>(Verb::Delete, object) };
        let deleted = self.pipeline.delete(&request, options, None).await?;
        Ok((deleted.gone, K::decode(deleted.object.bytes).unwrap()))
    }

    pub async fn get<K: Resource>(&self, namespace: &str, name: &str) -> Result<K, StatusError> {
        let mut object = K::default();
        object.metadata_mut().namespace = namespace.to_owned();
        object.metadata_mut().name = name.to_owned();
        let stored = self.pipeline.get(&request::<K>(Verb::Get, &object)).await?;
        Ok(K::decode(stored.bytes).unwrap())
    }

    /// The keys below a prefix, without it.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let (states, _) = self.store.etcd().get_prefix(prefix).await.unwrap();
        states.into_iter().map(|state| state.key.strip_prefix(prefix).unwrap().to_owned()).collect()
    }
}

/// The subresource of that name; none for the object itself.
pub fn part(name: &str) -> Option<&'static Subresource> {
    subresource::ALL.iter().copied().find(|subresource| subresource.name == name)
}

pub fn request<K: Resource>(verb: Verb, object: &K) -> Request {
    Request::new(Arc::default(), verb, K::HANDLE, object.namespace(), object.name())
}

/// An object from JSON without `apiVersion` and `kind`.
pub fn object<K: Resource>(text: &str) -> K {
    let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
    value["apiVersion"] = K::KIND.api_version.as_ref().into();
    value["kind"] = K::KIND.kind.as_ref().into();
    let object: K = api::json::from_value(value).unwrap();
    assert_eq!(Object::kind(&object), K::KIND);
    object
}

/// The configuration with this network and these node ports.
pub fn config(cidr: &str, node_ports: std::ops::RangeInclusive<u16>) -> AdmissionConfig {
    AdmissionConfig { service_cidr: cidr.parse().unwrap(), node_ports, cluster_cidr: None, plugins: Default::default() }
}
