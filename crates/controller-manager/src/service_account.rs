//! Every namespace has the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

use std::sync::Arc;

use api::{
    Resource,
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    meta::v1::ObjectMeta,
};
use client::{Changed, Controller, Error, Informer, ObjectKey, Reconcile, Requeue, Scope};

use crate::Context;

/// Name of the account that pods get which name none.
const DEFAULT: &str = "default";
/// Name of the map that holds the CA.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Its only key.
const CA_KEY: &str = "ca.crt";
/// Annotation that says what the map is for.
const DESCRIPTION: &str = "kubernetes.io/description";

/// Keeps the accounts. Keys are namespaces.
struct Accounts {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Keeps the maps. Keys are namespaces.
struct RootCas {
    context: Context,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    ca: String,
}

/// Starts both controllers; the maps need a CA.
pub fn start(context: &Context, root_ca: Option<String>) {
    let informers = &context.informers;
    let named = |name: &str| Scope { field_selector: format!("metadata.name={name}"), ..Scope::default() };
    let (namespaces, accounts) = (informers.of::<Namespace>(), informers.with::<ServiceAccount>(named(DEFAULT)));
    let reconciler = Accounts { context: context.clone(), namespaces: namespaces.clone(), accounts: accounts.clone() };
    Controller::new("service-account", reconciler, &context.metrics)
        .watches(&namespaces, |changed| changed.new.map(|namespace| namespace.name().to_owned()))
        .watches(&accounts, namespace_of)
        .spawn(&context.kit);
    if let Some(ca) = root_ca {
        let maps = informers.with::<ConfigMap>(named(ROOT_CA));
        let reconciler = RootCas { context: context.clone(), namespaces: namespaces.clone(), maps: maps.clone(), ca };
        Controller::new("root-ca", reconciler, &context.metrics)
            .watches(&namespaces, |changed| changed.new.map(|namespace| namespace.name().to_owned()))
            .watches(&maps, namespace_of)
            .spawn(&context.kit);
    }
}

fn namespace_of<K: Resource>(changed: Changed<'_, K>) -> Option<String> {
    changed.newest().map(|object| object.namespace().to_owned())
}

/// True if the namespace is there to stay.
fn is_kept(namespaces: &Informer<Namespace>, name: &str) -> bool {
    let namespace: Option<Arc<Namespace>> = namespaces.store().get(&ObjectKey::new("", name));
    namespace.is_some_and(|namespace| namespace.metadata().deletion_timestamp.is_none())
}

fn done<T>(outcome: Result<T, Error>) -> Result<Requeue, Error> {
    match outcome {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(Requeue::Done),
    }
}

impl Reconcile for Accounts {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, namespace: &String) -> Result<Requeue, Error> {
        if !is_kept(&self.namespaces, namespace) || self.accounts.store().get(&ObjectKey::new(&**namespace, DEFAULT)).is_some() {
            return Ok(Requeue::Done);
        }
        let meta = ObjectMeta { name: DEFAULT.to_owned(), namespace: namespace.clone(), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata: Some(meta), ..ServiceAccount::default() };
        done(self.context.client.namespaced(namespace).create(&account).await)
    }
}

impl Reconcile for RootCas {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, namespace: &String) -> Result<Requeue, Error> {
        if !is_kept(&self.namespaces, namespace) {
            return Ok(Requeue::Done);
        }
        let maps = self.context.client.namespaced::<ConfigMap>(namespace);
        let data = [(CA_KEY.to_owned(), self.ca.clone())].into();
        if let Some(map) = self.maps.store().get(&ObjectKey::new(&**namespace, ROOT_CA)) {
            if map.data == data {
                return Ok(Requeue::Done);
            }
            let map = ConfigMap { data, ..(*map).clone() };
            return maps.update(&map).await.map(|_| Requeue::Done);
        }
        let mut map = ConfigMap { data, ..ConfigMap::default() };
        map.metadata_mut().name = ROOT_CA.to_owned();
        map.metadata_mut().namespace.clone_from(namespace);
        let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
                           the internal service IP or kubernetes.default.svc.";
        map.metadata_mut().annotations.insert(DESCRIPTION.to_owned(), description.to_owned());
        done(maps.create(&map).await)
    }
}

#[cfg(test)]
mod tests {
    use client::testing::MemoryServer;

    use super::*;
    use crate::testing::{context, namespace};

    #[tokio::test]
    async fn each_namespace_gets_its_account_and_ca_and_gets_them_back() {
        let server = MemoryServer::new();
        server.put(namespace("old"));
        let context = context(&server);
        start(&context, Some("CA".into()));
        server.put(namespace("new"));
        let complete = |server: &MemoryServer| {
            ["old", "new"].iter().all(|namespace| {
                server.find::<ServiceAccount>(namespace, "default").is_some()
                    && server.find::<ConfigMap>(namespace, ROOT_CA).is_some_and(|map| map.data["ca.crt"] == "CA")
            })
        };
        server.eventually(complete).await;
        server.remove::<ServiceAccount>("old", "default");
        let mut map = server.find::<ConfigMap>("new", ROOT_CA).unwrap();
        map.data.clear();
        server.put(map);
        server.eventually(complete).await;
    }

    #[tokio::test]
    async fn a_namespace_that_goes_gets_nothing() {
        let server = MemoryServer::new();
        let mut going = namespace("going");
        going.metadata_mut().deletion_timestamp = Some(api::meta::v1::Time::now());
        server.put(going);
        let context = context(&server);
        start(&context, Some("CA".into()));
        server.put(namespace("new"));
        server.eventually(|server| server.all::<ServiceAccount>().len() == 1 && server.all::<ConfigMap>().len() == 1).await;
        assert!(server.find::<ServiceAccount>("going", "default").is_none());
    }
}
