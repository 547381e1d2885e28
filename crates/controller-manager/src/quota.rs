//! Reckons what each ResourceQuota's namespace uses.
//!
//! Admission counts up with each write; this counts what is there, so that deletions are given back. A local copy that lags would count too
//! little and let too much in, so less than what the status says is believed only after reading afresh; the quota's resource version,
//! which admission's every write changes, guards the answer.

use std::{collections::BTreeMap, time::Duration};

use api::{
    Kind, Object, Resource,
    amounts::{self, Amounts},
    core::v1::{Pod, ResourceQuota, ResourceQuotaSpec, Service},
    quantity::{self, Quantity},
    quota,
    registry::Kinds,
};
use client::{Client, Controller, Error, Informer, Item, ListParams, Metadata, ObjectKey, Reconcile, Requeue, WorkQueue};

use crate::{
    Context,
    context::{NAMESPACE, by_namespace},
    reads::{ReadsPod, ReadsService, SeenPod, SeenService},
};

/// How long changes are gathered before a namespace is counted.
const GATHER: Duration = Duration::from_millis(300);

/// Counts. Keys are quotas.
struct Quotas {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<SeenPod>,
    services: Informer<SeenService>,
    /// Everything that is counted one by one.
    others: Vec<Informer<Metadata>>,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let informers = &context.informers;
    let (quotas, pods, services) =
        (informers.of::<ResourceQuota>(), informers.trimmed::<ReadsPod>(), informers.trimmed::<ReadsService>());
    let others: Vec<_> =
        Kinds::compiled().all().filter(|kind| is_counted_singly(kind)).map(|kind| informers.metadata(kind)).collect();
    quotas.add_index(NAMESPACE, by_namespace);
    pods.add_index(NAMESPACE, by_namespace);
    services.add_index(NAMESPACE, by_namespace);
    others.iter().for_each(|other| other.add_index(NAMESPACE, by_namespace));
    let reconciler = Quotas {
        client: context.client.clone(),
        quotas: quotas.clone(),
        pods: pods.clone(),
        services: services.clone(),
        others: others.clone(),
    };
    let mut controller = Controller::new("resource-quota", reconciler, &context.metrics).workers(2);
    let queue = controller.queue();
    gather(&pods, &quotas, &queue);
    gather(&services, &quotas, &queue);
    controller = controller.needs(&pods).needs(&services);
    for other in &others {
        gather(other, &quotas, &queue);
        controller = controller.needs(other);
    }
    controller.watches(&quotas, |changed| changed.new.map(|quota| ObjectKey::of(quota.metadata()))).spawn(&context.kit);
}

/// Counts the namespace's quotas a moment after something in it changed. Namespaces without a quota cost nothing.
fn gather<T: Item>(informer: &Informer<T>, quotas: &Informer<ResourceQuota>, queue: &WorkQueue<ObjectKey>) {
    let (kind, quotas, queue) = (informer.kind().clone(), quotas.clone(), queue.clone());
    informer.on_change(move |changed| {
        let Some(object) = changed.newest() else { return };
        for quota in quotas.store().by_index(NAMESPACE, &object.meta().namespace) {
            if quota.spec().hard.keys().any(|name| quota::concerns(&kind, name)) {
                queue.add_after(ObjectKey::of(quota.metadata()), GATHER);
            }
        }
    });
}

fn is_counted_singly(kind: &Kind) -> bool {
    crate::namespace::is_content(kind) && !matches!((&*kind.group, &*kind.plural), ("", "pods" | "services" | "events"))
}

impl Reconcile for Quotas {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let Some(quota) = self.quotas.store().get(key) else { return Ok(Requeue::Done) };
        let spec = quota.spec();
        let mut used = self.count_local(&key.namespace, spec);
        let status = quota.status();
        let reported = |name: &String| quantity::get(&status.used, name);
        if status.hard == spec.hard && used.iter().all(|(name, used)| reported(name) == Some(*used)) {
            return Ok(Requeue::Done);
        }
        if used.iter().any(|(name, used)| reported(name).is_some_and(|reported| reported > *used)) {
            used = self.count_afresh(&key.namespace, spec).await?;
        }
        let mut changed = (*quota).clone();
        let status = changed.status_mut();
        status.hard.clone_from(&spec.hard);
        status.used = used.into_iter().map(|(name, used)| (name, used.into())).collect();
        if changed.status != quota.status {
            self.client.namespaced(&key.namespace).update_status(&changed).await?;
        }
        Ok(Requeue::Done)
    }
}

impl Quotas {
    fn count_local(&self, namespace: &str, spec: &ResourceQuotaSpec) -> Amounts {
        let (mut used, now) = (nothing(spec), jiff::Timestamp::now().as_second());
        for pod in self.pods.store().by_index(NAMESPACE, namespace) {
            count(&mut used, spec, &**pod, now);
        }
        for service in self.services.store().by_index(NAMESPACE, namespace) {
            count(&mut used, spec, &**service, now);
        }
        for other in &self.others {
            if wanted(spec, other.kind()) {
                count_singly(&mut used, spec, other.kind(), other.store().by_index(NAMESPACE, namespace).len());
            }
        }
        used
    }

    /// The same from the server.
    async fn count_afresh(&self, namespace: &str, spec: &ResourceQuotaSpec) -> Result<Amounts, Error> {
        let (mut used, now, all) = (nothing(spec), jiff::Timestamp::now().as_second(), ListParams::default());
        if wanted(spec, Pod::KIND) {
            for pod in self.client.namespaced::<Pod>(namespace).list(&all).await?.items {
                count(&mut used, spec, &pod, now);
            }
        }
        if wanted(spec, Service::KIND) {
            for service in self.client.namespaced::<Service>(namespace).list(&all).await?.items {
                count(&mut used, spec, &service, now);
            }
        }
        for kind in self.others.iter().map(Informer::kind) {
            if wanted(spec, kind) {
                let objects = self.client.metadata(kind, namespace).list(&all).await?.items;
                count_singly(&mut used, spec, kind, objects.len());
            }
        }
        Ok(used)
    }
}

fn wanted(spec: &ResourceQuotaSpec, kind: &Kind) -> bool {
    spec.hard.keys().any(|name| quota::concerns(kind, name))
}

fn nothing(spec: &ResourceQuotaSpec) -> Amounts {
    spec.hard.keys().map(|name| (name.clone(), Quantity::from_value(0))).collect::<BTreeMap<_, _>>()
}

fn count(used: &mut Amounts, spec: &ResourceQuotaSpec, object: &dyn Object, now: i64) {
    if quota::selects(spec, object) {
        let mut usage = quota::usage(object, now);
        usage.retain(|name, _| used.contains_key(name));
        amounts::add(used, &usage);
    }
}

fn count_singly(used: &mut Amounts, spec: &ResourceQuotaSpec, kind: &Kind, objects: usize) {
    // Quotas with scopes count pods only.
    if spec.scopes.is_empty() && spec.scope_selector().match_expressions.is_empty() {
        let objects = Quantity::from_value(i64::try_from(objects).unwrap_or(i64::MAX));
        for (_, used) in used.iter_mut().filter(|(name, _)| quota::concerns(kind, name)) {
            *used = objects;
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;
    use client::testing::MemoryServer;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{context, object, running_pod};

    fn used(server: &MemoryServer) -> Value {
        let quota = server.find::<ResourceQuota>("d", "q").unwrap();
        serde_json::to_value(&quota.status().used).unwrap()
    }

    #[tokio::test]
    async fn a_quota_shows_what_its_namespace_uses() {
        let server = MemoryServer::new();
        let hard = json!({"pods": "10", "requests.cpu": "4", "configmaps": "5", "count/leases.coordination.k8s.io": "1"});
        server.put(object::<ResourceQuota>(json!({"metadata": {"namespace": "d", "name": "q"}, "spec": {"hard": hard}})));
        for n in 0..2 {
            let mut pod = running_pod("d", &format!("p{n}"), "n", "");
            let requests = [("cpu".to_owned(), Quantity::from_milli(150).into())].into();
            pod.spec_mut().containers[0].resources_mut().requests = requests;
            server.put(pod);
        }
        server.put(running_pod("other", "p", "n", ""));
        server.put(object::<ConfigMap>(json!({"metadata": {"namespace": "d", "name": "m"}})));
        let context = context(&server);
        start(&context);
        let first = json!({"pods": "2", "requests.cpu": "300m", "configmaps": "1", "count/leases.coordination.k8s.io": "0"});
        server.eventually(|server| used(server) == first).await;
        server.remove::<Pod>("d", "p0");
        let second = json!({"pods": "1", "requests.cpu": "150m", "configmaps": "1", "count/leases.coordination.k8s.io": "0"});
        server.eventually(|server| used(server) == second).await;
        assert_eq!(server.find::<ResourceQuota>("d", "q").unwrap().status().hard.len(), 4);
    }
}
