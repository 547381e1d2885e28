//! Endpoints and EndpointSlices: which pods answer for each Service.
//!
//! Both come from the same [`Target`]s, the pods behind a Service with what they say of themselves. Writes are minimal: an object that is
//! right already is left alone, and of many slices only those are written that change. Of a Service that selects nothing both are left
//! alone; Endpoints that a person wrote for one are mirrored to slices ([`mirror`]).

mod mirror;
mod slices;
mod subsets;
mod writer;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use api::{
    Resource,
    core::v1::{Endpoints, ObjectReference, Pod, Service, ServicePort},
    discovery::v1::EndpointSlice,
    endpoints::SERVICE_NAME,
    meta::v1::DeleteOptions,
    pod::is_terminal,
    selector::Selector,
};
use client::{Changed, Controller, Error, Informer, ObjectKey, Reconcile, Requeue};

use self::writer::Slices;
use crate::{
    Context, pods,
    reads::{SeenNode, SeenPod, SeenService},
};

/// Label of an EndpointSlice that names who writes it.
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name there.
const SLICE_MANAGER: &str = "endpointslice-controller.k8s.io";
/// Label of Endpoints that names who writes them.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Our name there.
const MANAGER: &str = "endpoint-controller";
/// Label of both for a Service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of a node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A pod behind a Service.
#[derive(Clone, Debug)]
struct Target {
    ip: String,
    /// `IPv4` or `IPv6`.
    family: &'static str,
    pod: Arc<SeenPod>,
    /// The pod serves, or the Service does not care.
    ready: bool,
    /// The pod serves.
    serving: bool,
    /// The pod is on its way out.
    terminating: bool,
    hostname: Option<String>,
    zone: Option<String>,
}

/// Writes Endpoints. Keys are Services.
struct EndpointsWriter {
    context: Context,
    lookup: Lookup,
    endpoints: Informer<Endpoints>,
}

/// Writes EndpointSlices. Keys are Services.
struct SliceWriter {
    lookup: Lookup,
    slices: Slices,
}

/// Finds Services and the pods behind them.
#[derive(Clone)]
struct Lookup {
    services: Informer<SeenService>,
    pods: Informer<SeenPod>,
    nodes: Informer<SeenNode>,
}

/// Starts the controllers.
pub fn start(context: &Context) {
    let informers = &context.informers;
    let lookup = Lookup { services: informers.trimmed(), pods: informers.trimmed(), nodes: informers.trimmed() };
    lookup.pods.index_labels();
    lookup.services.index_selectors(|service| selector(service));
    let (endpoints, slices) = (informers.of::<Endpoints>(), informers.of::<EndpointSlice>());

    lookup.pods.on_change(name_bad_address);
    let (finder, other_finder) = (lookup.clone(), lookup.clone());
    let writer = EndpointsWriter { context: context.clone(), lookup: lookup.clone(), endpoints: endpoints.clone() };
    Controller::new("endpoints", writer, &context.metrics)
        .needs(&lookup.nodes)
        .watches(&lookup.services, |changed| changed.newest().map(|service| ObjectKey::of(service.metadata())))
        .watches(&lookup.pods, move |changed| finder.concerned(changed))
        .watches(&endpoints, |changed| changed.newest().map(|endpoints| ObjectKey::of(endpoints.metadata())))
        .spawn(&context.kit);
    let writer = SliceWriter { lookup: lookup.clone(), slices: Slices::new(context, SLICE_MANAGER) };
    Controller::new("endpoint-slices", writer, &context.metrics)
        .needs(&lookup.nodes)
        .watches(&lookup.services, |changed| changed.newest().map(|service| ObjectKey::of(service.metadata())))
        .watches(&lookup.pods, move |changed| other_finder.concerned(changed))
        .watches(&slices, |changed| changed.newest().and_then(|slice| writer::service_of(slice, SLICE_MANAGER)))
        .spawn(&context.kit);
    mirror::start(context, &lookup.services, &endpoints, &slices);
}

/// Says so when a pod comes to have an address that cannot be one. It is no endpoint then; others are.
fn name_bad_address(changed: Changed<'_, SeenPod>) {
    let bad = |pod: &Arc<SeenPod>| Some(pod.status().pod_ip.clone()).filter(|ip| !ip.is_empty() && family(ip).is_none());
    if let Some((pod, ip)) = changed.new.and_then(|pod| Some((pod, bad(pod)?)))
        && changed.old.and_then(bad).as_ref() != Some(&ip)
    {
        tracing::warn!(pod = %ObjectKey::of(pod.metadata()), ip, "the pod's address can be no endpoint of a Service");
    }
}

impl Lookup {
    /// The Services that a change of a pod concerns: those that select it now or did before.
    fn concerned(&self, changed: Changed<'_, SeenPod>) -> HashSet<ObjectKey> {
        if let (Some(old), Some(new)) = (changed.old, changed.new)
            && old.metadata().labels == new.metadata().labels
            && same_target(old, new)
        {
            return HashSet::new();
        }
        let mut keys = HashSet::new();
        for pod in changed.both() {
            let selecting = self.services.store().selecting(pod.metadata());
            keys.extend(selecting.iter().map(|service| ObjectKey::of(service.metadata())));
        }
        keys
    }

    /// The pods behind a Service that have an address, by address.
    fn targets(&self, service: &Service) -> Vec<Target> {
        let selected = self.pods.store().selected(service.namespace(), &selector(service)).into_iter();
        let mut targets: Vec<_> = selected.filter(|pod| !is_terminal(pod)).filter_map(|pod| self.target(service, pod)).collect();
        targets.sort_by(|a, b| (&a.ip, a.pod.name()).cmp(&(&b.ip, b.pod.name())));
        targets
    }

    fn target(&self, service: &Service, pod: Arc<SeenPod>) -> Option<Target> {
        let ip = pod.status().pod_ips.iter().map(|ip| &ip.ip).chain([&pod.status().pod_ip]).find(|ip| !ip.is_empty())?.clone();
        // With one that is none the server would refuse them all.
        let family = family(&ip)?;
        let (serving, terminating) = (pods::is_ready(&pod), pods::is_terminating(&pod));
        let spec = pod.spec();
        let hostname = (spec.subdomain == service.name() && !spec.hostname.is_empty()).then(|| spec.hostname.clone());
        let node = self.nodes.store().get(&ObjectKey::new("", &*spec.node_name));
        let zone = node.and_then(|node| node.metadata().labels.get(ZONE).cloned());
        let ready = service.spec().publish_not_ready_addresses || (serving && !terminating);
        Some(Target { ip, family, ready, serving, terminating, hostname, zone, pod })
    }
}

/// True if a Service that selects both sees no difference between them.
fn same_target(old: &Pod, new: &Pod) -> bool {
    let told = |pod: &Pod| (pods::is_ready(pod), pods::is_terminating(pod), is_terminal(pod));
    let (old_status, new_status) = (old.status(), new.status());
    told(old) == told(new)
        && (&old_status.pod_ip, &old_status.pod_ips) == (&new_status.pod_ip, &new_status.pod_ips)
        && old.spec().node_name == new.spec().node_name
        && old.metadata().uid == new.metadata().uid
}

/// What the Service selects; without a selector nothing.
fn selector(service: &Service) -> Selector {
    let labels = &service.spec().selector;
    if labels.is_empty() { Selector::nothing() } else { Selector::from_map(labels) }
}

/// `IPv4` or `IPv6`; `None` for what can be nobody's address in a cluster.
fn family(address: &str) -> Option<&'static str> {
    match address.parse().ok()? {
        IpAddr::V4(v4) if v4.is_unspecified() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() => None,
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() => None,
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// True if the Service selects pods. What answers for one that does not is somebody else's to say, also if it did before.
fn selects_pods(service: &Service) -> bool {
    !service.spec().selector.is_empty()
}

/// True if pods may answer for the Service.
fn is_answered(service: &Service) -> bool {
    service.spec().r#type != "ExternalName" && service.metadata().deletion_timestamp.is_none()
}

fn is_headless(service: &Service) -> bool {
    service.spec().cluster_ip == "None"
}

/// The port of a pod behind a port of a Service; `None` if the pod has no port of that name.
fn port_of(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let wanted = port.target_port();
    if let Some(number) = wanted.as_int() {
        return Some(if number == 0 { port.port } else { number });
    }
    let protocol = protocol(&port.protocol);
    let spec = pod.spec();
    let sidecars = spec.init_containers.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let named = ports.filter(|own| own.name == wanted.str_val && self::protocol(&own.protocol) == protocol);
    named.map(|own| own.container_port).next()
}

fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}

fn pod_reference(pod: &Pod) -> ObjectReference {
    let meta = pod.metadata();
    ObjectReference {
        kind: "Pod".to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    }
}

impl Reconcile for EndpointsWriter {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let api = self.context.client.namespaced::<Endpoints>(&key.namespace);
        let current = self.endpoints.store().get(key);
        let Some(service) = self.lookup.services.store().find(key)? else {
            // Only what we wrote goes with the Service.
            if let Some(current) =
                current.filter(|current| current.metadata().labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))
            {
                api.delete_seen(current.metadata(), DeleteOptions::default()).await?;
            }
            return Ok(Requeue::Done);
        };
        if !selects_pods(&service) || !is_answered(&service) {
            return Ok(Requeue::Done);
        }
        let wanted = subsets::endpoints(&service, &self.lookup.targets(&service), current.as_deref());
        match current {
            None => drop(api.create(&wanted).await?),
            Some(current) if *current != wanted => drop(api.update(&wanted).await?),
            Some(_) => {}
        }
        Ok(Requeue::Done)
    }
}

impl Reconcile for SliceWriter {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let current = self.slices.of(key).await?;
        let Some(service) = self.lookup.services.store().find(key)?.filter(|service| is_answered(service)) else {
            self.slices.clear(key, &current).await?;
            return Ok(Requeue::Done);
        };
        if selects_pods(&service) {
            let plan = slices::of_pods(&service, &self.lookup.targets(&service), current);
            self.slices.write(key, plan).await?;
        }
        Ok(Requeue::Done)
    }
}

#[cfg(test)]
mod tests;
