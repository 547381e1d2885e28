//! Endpoints that somebody else wrote, mirrored to EndpointSlices: those of a Service that selects no pods. Slices are what kube-proxy reads.

use api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints},
    discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
};
use client::{Controller, Error, EventRecorder, EventType, Informer, ObjectKey, Reconcile, Requeue};

use super::{
    family, is_answered, protocol, selects_pods,
    slices::{Plan, Wanted, describe_as, plan},
    writer::{self, Slices},
};
use crate::{Context, reads::SeenService};

/// Our name in the label of slices that names who writes them.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that serve for leader election only.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints themselves.
const OWN_ANNOTATIONS: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration", api::endpoints::TRIGGER_TIME];
/// Most addresses of one subset that are mirrored.
const MOST_ADDRESSES: usize = 1000;

/// Mirrors. Keys are Services, and the Endpoints of the same name.
struct Mirror {
    recorder: EventRecorder,
    services: Informer<SeenService>,
    endpoints: Informer<Endpoints>,
    slices: Slices,
}

/// What of some Endpoints is not mirrored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skipped {
    /// Addresses beyond the most there may be.
    surplus: usize,
    /// Addresses that are none.
    invalid: usize,
}

/// Starts the controller.
pub(super) fn start(
    context: &Context,
    services: &Informer<SeenService>,
    endpoints: &Informer<Endpoints>,
    slices: &Informer<EndpointSlice>,
) {
    let mirror = Mirror {
        recorder: context.recorder.of("endpoint-slice-mirroring-controller"),
        services: services.clone(),
        endpoints: endpoints.clone(),
        slices: Slices::new(context, MANAGER),
    };
    Controller::new("endpoint-slice-mirroring", mirror, &context.metrics)
        .watches(services, |changed| {
            let (old, new) = (changed.old, changed.new);
            let says = |service: &std::sync::Arc<SeenService>| selects_pods(service) || !is_answered(service);
            (old.map(says) != new.map(says)).then(|| changed.newest().map(|service| ObjectKey::of(service.metadata()))).flatten()
        })
        .watches(endpoints, |changed| changed.newest().map(|endpoints| ObjectKey::of(endpoints.metadata())))
        .watches(slices, |changed| changed.newest().and_then(|slice| writer::service_of(slice, MANAGER)))
        .spawn(&context.kit);
}

/// True if the Endpoints are for others to read.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = endpoints.metadata();
    meta.labels.get(SKIP).is_none_or(|skip| skip != "true") && !meta.annotations.contains_key(LEADER)
}

impl Reconcile for Mirror {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let current = self.slices.of(key).await?;
        let service = self.services.store().find(key)?.filter(|service| !selects_pods(service) && is_answered(service));
        let endpoints = self.endpoints.store().find(key)?.filter(|endpoints| service.is_some() && is_mirrored(endpoints));
        let Some(endpoints) = endpoints else {
            self.slices.clear(key, &current).await?;
            return Ok(Requeue::Done);
        };
        let (wanted, skipped) = wanted(&endpoints);
        self.tell(&endpoints, &skipped);
        let plan: Plan = plan(wanted, &|slice| describe(slice, &endpoints), MOST_ADDRESSES, current);
        self.slices.write(key, plan).await?;
        Ok(Requeue::Done)
    }
}

impl Mirror {
    fn tell(&self, endpoints: &Endpoints, skipped: &Skipped) {
        if skipped.surplus > 0 {
            let message = format!(
                "A max of {MOST_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                skipped.surplus
            );
            self.recorder.event(endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
        }
        if skipped.invalid > 0 {
            let message = format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", skipped.invalid);
            self.recorder.event(endpoints, EventType::Warning, "InvalidAddress", message);
        }
    }
}

/// Sets what all slices of the Endpoints have in common.
fn describe(slice: &mut EndpointSlice, endpoints: &Endpoints) {
    let meta = slice.metadata_mut();
    describe_as(meta, endpoints, MANAGER);
    meta.annotations.clone_from(&endpoints.metadata().annotations);
    meta.annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
}

fn wanted(endpoints: &Endpoints) -> (Wanted, Skipped) {
    let (mut wanted, mut skipped) = (Wanted::default(), Skipped::default());
    for subset in &endpoints.subsets {
        let ports: Vec<_> = ports(subset).collect();
        // Those that are ready have the first claim to a place, and the last word on an address that stands in both lists.
        let ready = subset.addresses.iter().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().map(|address| (address, false)));
        let mut valid: Vec<_> =
            all.filter_map(|(address, ready)| Some((family(&address.ip)?, endpoint(address, ready)))).collect();
        skipped.invalid += subset.addresses.len() + subset.not_ready_addresses.len() - valid.len();
        skipped.surplus += valid.len().saturating_sub(MOST_ADDRESSES);
        valid.truncate(MOST_ADDRESSES);
        for (family, endpoint) in valid.into_iter().rev() {
            wanted.add(family, ports.clone(), endpoint);
        }
    }
    (wanted, skipped)
}

fn ports(subset: &EndpointSubset) -> impl Iterator<Item = super::slices::Port> {
    let port = |port: &api::core::v1::EndpointPort| {
        (port.name.clone(), Some(port.port), protocol(&port.protocol).to_owned(), port.app_protocol.clone())
    };
    subset.ports.iter().map(port)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: Some(address.hostname.clone()).filter(|hostname| !hostname.is_empty()),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::core::v1::{Event, Service};
    use client::testing::MemoryServer;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        endpoints::{SERVICE_NAME, SLICE_MANAGED_BY},
        testing::{context, object, running_pod},
    };

    fn service(selector: Value, address: &str) -> Service {
        object(json!({
            "metadata": {"name": "db", "namespace": "d"},
            "spec": {"selector": selector, "clusterIP": address, "ports": [{"port": 80, "targetPort": 8080}]},
        }))
    }

    fn by_hand(addresses: &[&str]) -> Endpoints {
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        object(json!({
            "metadata": {"name": "db", "namespace": "d", "labels": {"l": "1"}, "annotations": {"a": "1", OWN_ANNOTATIONS[0]: "x"}},
            "subsets": [{"addresses": addresses, "notReadyAddresses": [{"ip": "192.0.2.99"}], "ports": [{"name": "sql", "port": 5432}]}],
        }))
    }

    /// Addresses, and whether they are ready, of our slices by their address type.
    fn mirrored(server: &MemoryServer) -> BTreeMap<String, Vec<(String, bool)>> {
        let slices = server.all::<EndpointSlice>().into_iter();
        let ours = slices.filter(|slice| slice.metadata().labels.get(SLICE_MANAGED_BY).is_some_and(|by| by == MANAGER));
        let mut found = BTreeMap::<String, Vec<_>>::new();
        for slice in ours {
            let endpoints = slice.endpoints.iter().map(|e| (e.addresses[0].clone(), e.conditions().ready == Some(true)));
            found.entry(slice.address_type.clone()).or_default().extend(endpoints);
        }
        found.values_mut().for_each(|endpoints| endpoints.sort());
        found
    }

    fn held(ready: &[&str], unready: &[&str]) -> Vec<(String, bool)> {
        let listed = |all: &[&str], ready| all.iter().map(|ip| ((*ip).to_owned(), ready)).collect::<Vec<_>>();
        [listed(ready, true), listed(unready, false)].concat()
    }

    #[tokio::test]
    async fn endpoints_by_hand_answer_for_a_service_without_selector_also_a_headless_one() {
        for address in ["10.96.0.9", "None"] {
            let server = MemoryServer::new();
            server.put(service(json!(null), address));
            server.put(by_hand(&["192.0.2.1", "2001:db8::1", "not-an-ip", "127.0.0.1"]));
            let context = context(&server);
            crate::endpoints::start(&context);
            server.eventually(|server| mirrored(server).len() == 2).await;
            let found = mirrored(&server);
            assert_eq!(found["IPv4"], held(&["192.0.2.1"], &["192.0.2.99"]));
            assert_eq!(found["IPv6"], held(&["2001:db8::1"], &[]));
            let slice = server.all::<EndpointSlice>().remove(0);
            let (meta, owner) = (slice.metadata(), &slice.metadata().owner_references[0]);
            assert_eq!((meta.labels[SERVICE_NAME].as_str(), meta.labels["l"].as_str()), ("db", "1"));
            assert_eq!(meta.annotations, [("a".to_owned(), "1".to_owned())].into());
            assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Endpoints", "db", Some(true)));
            assert!(meta.name.starts_with("db-"));
            assert_eq!((slice.ports[0].name.as_deref(), slice.ports[0].port), (Some("sql"), Some(5432)));
            let told = |server: &MemoryServer| server.all::<Event>().iter().any(|event| event.reason == "InvalidAddress");
            server.eventually(told).await;
        }
    }

    #[tokio::test]
    async fn a_mirror_follows_what_it_shows() {
        let server = MemoryServer::new();
        server.put(service(json!(null), "10.96.0.9"));
        server.put(by_hand(&["192.0.2.1"]));
        let context = context(&server);
        crate::endpoints::start(&context);
        server.eventually(|server| mirrored(server).contains_key("IPv4")).await;
        server.put(by_hand(&["192.0.2.2"]));
        server.eventually(|server| mirrored(server)["IPv4"] == held(&["192.0.2.2"], &["192.0.2.99"])).await;
        for (label, annotation) in [(json!({SKIP: "true"}), json!({})), (json!({}), json!({LEADER: "{}"}))] {
            let mut hidden = by_hand(&["192.0.2.2"]);
            hidden.metadata_mut().labels = serde_json::from_value(label).unwrap();
            hidden.metadata_mut().annotations = serde_json::from_value(annotation).unwrap();
            server.put(hidden);
            server.eventually(|server| mirrored(server).is_empty()).await;
            server.put(by_hand(&["192.0.2.3"]));
            server.eventually(|server| mirrored(server).len() == 1).await;
        }
        server.remove::<Endpoints>("d", "db");
        server.eventually(|server| mirrored(server).is_empty()).await;
    }

    #[tokio::test]
    async fn a_service_that_selects_nothing_any_more_keeps_what_answers_for_it() {
        let server = MemoryServer::new();
        server.put(service(json!({"app": "web"}), "10.96.0.9"));
        server.put(running_pod("d", "a", "n", "10.0.0.1"));
        let context = context(&server);
        crate::endpoints::start(&context);
        let by_controller = |server: &MemoryServer| {
            let slices = server.all::<EndpointSlice>().into_iter();
            slices.filter(|slice| slice.metadata().labels[SLICE_MANAGED_BY] != MANAGER).map(|s| s.endpoints.len()).sum::<usize>()
        };
        let kept = |server: &MemoryServer| {
            server.find::<Endpoints>("d", "db").is_some_and(|endpoints| endpoints.subsets.len() == 1)
                && by_controller(server) == 1
        };
        server.eventually(kept).await;
        assert!(mirrored(&server).is_empty());
        server.put(service(json!(null), "10.96.0.9"));
        server.eventually(|server| mirrored(server).contains_key("IPv4")).await;
        assert!(kept(&server));
        // Endpoints written anew count from then on.
        server.put(service(json!({"app": "web"}), "10.96.0.9"));
        server.eventually(|server| mirrored(server).is_empty() && kept(server)).await;
        server.remove::<Service>("d", "db");
        server.eventually(|server| server.all::<EndpointSlice>().is_empty() && server.all::<Endpoints>().is_empty()).await;
    }

    #[test]
    fn a_subset_is_mirrored_up_to_a_thousand_addresses_those_that_are_ready_first() {
        let ips: Vec<_> = (0..1100).map(|n| format!("10.1.{}.{}", n / 200, n % 200 + 1)).collect();
        let mut endpoints = by_hand(&ips.iter().map(String::as_str).collect::<Vec<_>>());
        let (wanted, skipped) = wanted(&endpoints);
        assert_eq!(skipped, Skipped { surplus: 101, invalid: 0 });
        let made = plan(wanted, &|slice| describe(slice, &endpoints), MOST_ADDRESSES, Vec::new());
        assert_eq!(made.create.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [1000]);
        assert!(made.create[0].endpoints.iter().all(|endpoint| endpoint.conditions().ready == Some(true)));
        // Two subsets with the same ports are one group.
        endpoints.subsets.push(endpoints.subsets[0].clone());
        endpoints.subsets[1].addresses = vec![EndpointAddress { ip: "10.2.0.1".into(), ..EndpointAddress::default() }];
        let made = plan(super::wanted(&endpoints).0, &|slice| describe(slice, &endpoints), MOST_ADDRESSES, Vec::new());
        assert_eq!(made.create.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [1000, 2]);
    }
}
