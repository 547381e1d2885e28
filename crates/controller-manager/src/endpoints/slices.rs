//! EndpointSlices: up to a hundred endpoints each, changed as little as can be. No I/O.
//!
//! An endpoint stays in the slice it is in. What is new goes first into slices that change anyway, then into others that have room, then into
//! new ones; slices that become empty go.

use std::collections::{BTreeMap, HashMap};

use api::{
    Resource,
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    meta::v1::ObjectMeta,
};

use super::{
    HEADLESS, SERVICE_NAME, SLICE_MANAGED_BY, SLICE_MANAGER, Target, is_headless, owner, pod_reference, port_of, protocol,
};

/// Most endpoints of one slice.
const MOST_ENDPOINTS: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// What tells endpoints apart: address and UID of the pod.
type EndpointKey = (String, String);
/// Ports in an order, for grouping.
type PortKey = Vec<(String, Option<i32>, String, Option<String>)>;

/// Compares the slices there are with the pods behind the Service.
pub(super) fn plan(service: &Service, targets: &[Target], current: Vec<EndpointSlice>) -> Plan {
    let mut wanted: BTreeMap<PortKey, BTreeMap<EndpointKey, Endpoint>> = BTreeMap::new();
    for target in targets {
        let endpoints = wanted.entry(ports_of(service, target)).or_default();
        endpoints.insert((target.ip.clone(), target.pod.metadata().uid.clone()), endpoint(target));
    }
    if wanted.is_empty() {
        // A Service without pods has one empty slice, which says that somebody looked.
        wanted.insert(PortKey::new(), BTreeMap::new());
    }
    let mut plan = Plan::default();
    let mut by_ports: HashMap<PortKey, Vec<EndpointSlice>> = HashMap::new();
    for slice in current {
        let ports = slice.ports.iter().map(port_key).collect();
        if slice.address_type == "IPv4" && slice.metadata().deletion_timestamp.is_none() && wanted.contains_key(&ports) {
            by_ports.entry(ports).or_default().push(slice);
        } else {
            plan.delete.push(slice);
        }
    }
    for (ports, endpoints) in wanted {
        let mut slices = by_ports.remove(&ports).unwrap_or_default();
        slices.sort_by(|a, b| a.name().cmp(b.name()));
        group(service, ports, endpoints, slices, &mut plan);
    }
    plan
}

/// Plans the slices of one set of ports.
fn group(
    service: &Service,
    ports: PortKey,
    mut missing: BTreeMap<EndpointKey, Endpoint>,
    slices: Vec<EndpointSlice>,
    plan: &mut Plan,
) {
    let is_placeholder = missing.is_empty();
    let mut kept: Vec<(EndpointSlice, bool)> = Vec::new();
    for mut slice in slices {
        let before = slice.clone();
        slice.endpoints = slice.endpoints.iter().filter_map(|endpoint| missing.remove(&key(endpoint))).collect();
        describe(&mut slice, service);
        let changed = slice != before;
        kept.push((slice, changed));
    }
    // Slices that change anyway, the fullest first, then the others, the fullest first.
    kept.sort_by_key(|(slice, changed)| (!changed, usize::MAX - slice.endpoints.len()));
    let mut missing = missing.into_values();
    for (slice, changed) in &mut kept {
        let room = MOST_ENDPOINTS.saturating_sub(slice.endpoints.len());
        // A full slice stays as it is.
        if room > 0 && missing.len() > 0 {
            slice.endpoints.extend(missing.by_ref().take(room));
            *changed = true;
        }
    }
    let mut left: Vec<Endpoint> = missing.collect();
    let mut fresh = |endpoints| {
        let ports = ports.iter().map(port_of_key).collect();
        let mut slice = EndpointSlice { endpoints, ports, address_type: "IPv4".to_owned(), ..EndpointSlice::default() };
        describe(&mut slice, service);
        plan.create.push(slice);
    };
    if is_placeholder && kept.is_empty() {
        fresh(Vec::new());
    }
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(MOST_ENDPOINTS));
        fresh(std::mem::replace(&mut left, rest));
    }
    let mut placeholders = usize::from(is_placeholder);
    for (slice, changed) in kept {
        if slice.endpoints.is_empty() && placeholders == 0 {
            plan.delete.push(slice);
        } else {
            placeholders = placeholders.saturating_sub(1);
            if changed {
                plan.update.push(slice);
            }
        }
    }
}

/// Sets what all slices of a Service have in common.
fn describe(slice: &mut EndpointSlice, service: &Service) {
    let meta = slice.metadata_mut();
    if meta.name.is_empty() {
        meta.generate_name = format!("{}-", service.name());
        meta.namespace = service.namespace().to_owned();
    }
    meta.labels.clone_from(&service.metadata().labels);
    meta.labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    meta.labels.insert(SLICE_MANAGED_BY.to_owned(), SLICE_MANAGER.to_owned());
    if is_headless(service) {
        meta.labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        meta.labels.remove(HEADLESS);
    }
    set_owner(meta, service);
}

fn set_owner(meta: &mut ObjectMeta, service: &Service) {
    let owner = owner(service);
    if !meta.owner_references.contains(&owner) {
        meta.owner_references = vec![owner];
    }
}

fn ports_of(service: &Service, target: &Target) -> PortKey {
    let ports = service.spec().ports.iter().filter_map(|port| {
        let number = port_of(&target.pod, port)?;
        Some((port.name.clone(), Some(number), protocol(&port.protocol).to_owned(), port.app_protocol.clone()))
    });
    let mut ports: PortKey = ports.collect();
    ports.sort();
    ports
}

fn port_key(port: &EndpointPort) -> (String, Option<i32>, String, Option<String>) {
    let protocol = protocol(port.protocol.as_deref().unwrap_or_default()).to_owned();
    (port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone())
}

fn port_of_key((name, port, protocol, app_protocol): &(String, Option<i32>, String, Option<String>)) -> EndpointPort {
    EndpointPort { name: Some(name.clone()), port: *port, protocol: Some(protocol.clone()), app_protocol: app_protocol.clone() }
}

fn key(endpoint: &Endpoint) -> EndpointKey {
    (endpoint.addresses.first().cloned().unwrap_or_default(), endpoint.target_ref().uid.clone())
}

fn endpoint(target: &Target) -> Endpoint {
    Endpoint {
        addresses: vec![target.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(target.ready),
            serving: Some(target.serving),
            terminating: Some(target.terminating),
        }),
        hostname: target.hostname.clone(),
        target_ref: Some(pod_reference(&target.pod)),
        node_name: Some(target.pod.spec().node_name.clone()).filter(|node| !node.is_empty()),
        zone: target.zone.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, running_pod};

    fn service() -> Service {
        object(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": 8080}]},
        }))
    }

    fn target(n: u8) -> Target {
        let ip = format!("10.0.0.{n}");
        let mut pod = running_pod("d", &format!("p{n}"), "node", &ip);
        pod.metadata_mut().uid = format!("u{n}");
        Target { ip, pod: Arc::new(pod), ready: true, serving: true, terminating: false, hostname: None, zone: None }
    }

    /// The slices after the plan, as the server would name them.
    fn after(mut slices: Vec<EndpointSlice>, plan: &Plan) -> Vec<EndpointSlice> {
        slices.retain(|slice| !plan.delete.iter().any(|gone| gone.name() == slice.name()));
        for update in &plan.update {
            *slices.iter_mut().find(|slice| slice.name() == update.name()).unwrap() = update.clone();
        }
        for created in &plan.create {
            let mut created = created.clone();
            created.metadata_mut().name = format!("web-{}", uuid::Uuid::new_v4());
            slices.push(created);
        }
        slices
    }

    #[test]
    fn one_change_writes_one_slice() {
        let targets: Vec<_> = (0..250).map(target).collect();
        let slices = after(Vec::new(), &plan(&service(), &targets, Vec::new()));
        assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let plan = plan(&service(), &targets[1..], slices.clone());
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert!(super::plan(&service(), &targets, slices).update.is_empty());
    }

    #[test]
    fn what_is_new_goes_into_a_slice_that_changes_anyway() {
        let targets: Vec<_> = (0..150).map(target).collect();
        let slices = after(Vec::new(), &plan(&service(), &targets, Vec::new()));
        // One leaves the full slice and one comes: that slice alone is written.
        let mut next: Vec<_> = targets[1..].to_vec();
        next.push(target(200));
        let plan = plan(&service(), &next, slices);
        assert_eq!((plan.create.len(), plan.update.len()), (0, 1));
        assert_eq!(plan.update[0].endpoints.len(), 100);
    }

    #[test]
    fn pods_with_other_ports_are_in_other_slices_and_no_pods_leave_one_empty_slice() {
        let mut service = service();
        service.spec_mut().ports[0].target_port = Some("http".into());
        let mut odd = target(9);
        let mut pod = (*odd.pod).clone();
        pod.spec_mut().containers[0].ports[0].container_port = 9090;
        odd.pod = Arc::new(pod);
        let slices = after(Vec::new(), &plan(&service, &[target(1), odd], Vec::new()));
        let ports: BTreeSet<_> = slices.iter().map(|slice| slice.ports[0].port).collect();
        assert_eq!(ports, [Some(8080), Some(9090)].into());
        let slices = after(slices.clone(), &plan(&service, &[], slices));
        assert_eq!(slices.len(), 1);
        assert!(slices[0].endpoints.is_empty() && plan(&service, &[], slices).update.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn slices_always_hold_exactly_what_is_there(steps in proptest::collection::vec(proptest::collection::btree_set(0..=255u8, 0..256), 1..6)) {
            let mut slices = Vec::new();
            for step in steps {
                let targets: Vec<_> = step.iter().map(|n| target(*n)).collect();
                slices = after(slices.clone(), &plan(&service(), &targets, slices));
                let mut held: Vec<_> = slices.iter().flat_map(|slice| &slice.endpoints).map(|e| e.addresses[0].clone()).collect();
                let mut expected: Vec<_> = targets.iter().map(|target| target.ip.clone()).collect();
                held.sort();
                expected.sort();
                prop_assert_eq!(held, expected);
                prop_assert!(slices.iter().all(|slice| slice.endpoints.len() <= MOST_ENDPOINTS));
                let again = plan(&service(), &targets, slices.clone());
                prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
            }
        }
    }
}
