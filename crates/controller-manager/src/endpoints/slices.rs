//! EndpointSlices, changed as little as can be. No I/O.
//!
//! An endpoint stays in the slice it is in. What is new goes first into slices that change anyway, then into others that have room, then into
//! new ones; slices that become empty go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{
    Resource,
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    endpoints::TRIGGER_TIME,
    meta::v1::ObjectMeta,
};
use jiff::Timestamp;
use workload::Owner;

use super::{HEADLESS, SERVICE_NAME, SLICE_MANAGED_BY, SLICE_MANAGER, Target, is_headless, pod_reference, port_of, protocol};

/// Most pods of one slice.
const MOST_PODS: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
}

/// What tells endpoints apart: address and UID of the pod.
type EndpointKey = (String, String);
/// A port: its name, number, protocol and application protocol.
pub(super) type Port = (String, Option<i32>, String, Option<String>);
/// Address type and ports in an order, for grouping: what all endpoints of a slice have in common.
type GroupKey = (&'static str, Vec<Port>);

/// Endpoints as they should be, by what those of one slice have in common.
#[derive(Debug, Default)]
pub(super) struct Wanted(BTreeMap<GroupKey, BTreeMap<EndpointKey, Endpoint>>);

impl Wanted {
    /// Adds an endpoint with an address of this family (`IPv4` or `IPv6`). Of two that cannot be told apart the later one counts.
    pub(super) fn add(&mut self, family: &'static str, mut ports: Vec<Port>, endpoint: Endpoint) {
        ports.sort();
        self.0.entry((family, ports)).or_default().insert(key(&endpoint), endpoint);
    }
}

/// Compares the slices there are with the pods behind the Service.
pub(super) fn of_pods(service: &Service, targets: &[Target], current: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut wanted = Wanted::default();
    for target in targets {
        wanted.add(target.family, ports_of(service, target), endpoint(target));
    }
    if wanted.0.is_empty() {
        // A Service without pods has one empty slice, which says that somebody looked.
        wanted.0.insert(("IPv4", Vec::new()), BTreeMap::new());
    }
    let trigger = trigger_time(service, targets, &current);
    let mut plan = plan(wanted, &|slice| describe(slice, service), MOST_PODS, current);
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        let annotations = &mut slice.metadata_mut().annotations;
        annotations.extend(trigger.map(|time| (TRIGGER_TIME.to_owned(), time.to_string())));
    }
    plan
}

/// When the first of those things happened that no slice tells of yet: a pod behind the Service became ready, or ceased to be; not before
/// there was the Service.
fn trigger_time(service: &Service, targets: &[Target], current: &[Arc<EndpointSlice>]) -> Option<Timestamp> {
    let told = current.iter().filter_map(|slice| slice.metadata().annotations.get(TRIGGER_TIME)?.parse().ok()).max();
    let made = service.metadata().creation_timestamp.as_ref().map(|time| time.timestamp());
    let conditions = targets.iter().flat_map(|target| &target.pod.status().conditions).filter(|known| known.r#type == "Ready");
    let times = conditions.filter_map(|known| known.last_transition_time.as_ref()).map(|time| Some(time.timestamp()).max(made));
    times.flatten().filter(|time| told.is_none_or(|told| *time > told)).min()
}

/// Compares the slices there are with those that should be, each with `most` endpoints at most; `describe` sets what they have in common.
pub(super) fn plan(wanted: Wanted, describe: &dyn Fn(&mut EndpointSlice), most: usize, current: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut known: HashMap<GroupKey, Vec<EndpointSlice>> = HashMap::new();
    for slice in current {
        let ports: Vec<Port> = slice.ports.iter().map(port_key).collect();
        let family = ["IPv4", "IPv6"].into_iter().find(|family| *family == slice.address_type);
        let group = family.map(|family| (family, ports)).filter(|group| wanted.0.contains_key(group));
        match group.filter(|_| slice.metadata().deletion_timestamp.is_none()) {
            Some(group) => known.entry(group).or_default().push((*slice).clone()),
            None => plan.delete.push((*slice).clone()),
        }
    }
    for (key, endpoints) in wanted.0 {
        let mut slices = known.remove(&key).unwrap_or_default();
        slices.sort_by(|a, b| a.name().cmp(b.name()));
        group((key, endpoints), describe, most, slices, &mut plan);
    }
    plan
}

/// Plans the slices of one group.
fn group(
    ((family, ports), mut missing): (GroupKey, BTreeMap<EndpointKey, Endpoint>),
    describe: &dyn Fn(&mut EndpointSlice),
    most: usize,
    slices: Vec<EndpointSlice>,
    plan: &mut Plan,
) {
    let is_placeholder = missing.is_empty();
    let mut kept: Vec<(EndpointSlice, bool)> = Vec::new();
    for mut slice in slices {
        let before = slice.clone();
        slice.endpoints = slice.endpoints.iter().filter_map(|endpoint| missing.remove(&key(endpoint))).collect();
        describe(&mut slice);
        let changed = slice != before;
        kept.push((slice, changed));
    }
    // Slices that change anyway, the fullest first, then the others, the fullest first.
    kept.sort_by_key(|(slice, changed)| (!changed, usize::MAX - slice.endpoints.len()));
    let mut missing = missing.into_values();
    for (slice, changed) in &mut kept {
        let room = most.saturating_sub(slice.endpoints.len());
        // A full slice stays as it is.
        if room > 0 && missing.len() > 0 {
            slice.endpoints.extend(missing.by_ref().take(room));
            *changed = true;
        }
    }
    let mut left: Vec<Endpoint> = missing.collect();
    let mut fresh = |endpoints| {
        let ports = ports.iter().map(port_of_key).collect();
        let mut slice = EndpointSlice { endpoints, ports, address_type: family.to_owned(), ..EndpointSlice::default() };
        describe(&mut slice);
        plan.create.push(slice);
    };
    if is_placeholder && kept.is_empty() {
        fresh(Vec::new());
    }
    while !left.is_empty() {
        let rest = left.split_off(left.len().min(most));
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
    describe_as(meta, service, SLICE_MANAGER);
    if is_headless(service) {
        meta.labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        meta.labels.remove(HEADLESS);
    }
}

/// Sets what all slices have in common that `manager` makes from an object named as its Service: name, labels and owner.
pub(super) fn describe_as<K: Resource>(meta: &mut ObjectMeta, from: &K, manager: &str) {
    if meta.name.is_empty() {
        meta.generate_name = format!("{}-", from.name());
        meta.namespace = from.namespace().to_owned();
    }
    meta.labels.clone_from(&from.metadata().labels);
    meta.labels.insert(SERVICE_NAME.to_owned(), from.name().to_owned());
    meta.labels.insert(SLICE_MANAGED_BY.to_owned(), manager.to_owned());
    let owner = Owner::of(from).reference();
    if !meta.owner_references.contains(&owner) {
        meta.owner_references = vec![owner];
    }
}

fn ports_of(service: &Service, target: &Target) -> Vec<Port> {
    let ports = service.spec().ports.iter().filter_map(|port| {
        let number = port_of(&target.pod, port)?;
        Some((port.name.clone(), Some(number), protocol(&port.protocol).to_owned(), port.app_protocol.clone()))
    });
    ports.collect()
}

fn port_key(port: &EndpointPort) -> Port {
    let protocol = protocol(port.protocol.as_deref().unwrap_or_default()).to_owned();
    (port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone())
}

fn port_of_key((name, port, protocol, app_protocol): &Port) -> EndpointPort {
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, running_pod, seen};

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
        Target { ip, family: "IPv4", pod: seen(&pod), ready: true, serving: true, terminating: false, hostname: None, zone: None }
    }

    fn plan(service: &Service, targets: &[Target], current: Vec<EndpointSlice>) -> Plan {
        of_pods(service, targets, current.into_iter().map(Arc::new).collect())
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
    fn a_slice_tells_when_that_happened_of_which_it_tells() {
        let ready_at = |mut target: Target, second: i64| {
            let mut pod = api::core::v1::Pod::clone(&target.pod);
            let conditions = &mut pod.status_mut().conditions;
            conditions.retain(|known| known.r#type != "Ready");
            let time = Some(jiff::Timestamp::from_second(second).unwrap().into());
            conditions.push(api::core::v1::PodCondition {
                r#type: "Ready".into(),
                status: "True".into(),
                last_transition_time: time,
                ..Default::default()
            });
            target.pod = seen(&pod);
            target
        };
        let mut service = service();
        service.metadata_mut().creation_timestamp = Some(jiff::Timestamp::from_second(100).unwrap().into());
        let told = |slices: &[EndpointSlice]| slices[0].metadata().annotations.get(TRIGGER_TIME).cloned();
        // A pod was there before the Service.
        let mut targets = vec![ready_at(target(1), 50)];
        let first = after(Vec::new(), &plan(&service, &targets, Vec::new()));
        assert_eq!(told(&first).as_deref(), Some("1970-01-01T00:01:40Z"));
        targets.push(ready_at(target(2), 160));
        let second = after(first.clone(), &plan(&service, &targets, first));
        assert_eq!(told(&second).as_deref(), Some("1970-01-01T00:02:40Z"));
        // A pod that goes has no time: what the slice told, it told.
        let third = after(second.clone(), &plan(&service, &targets[1..], second.clone()));
        assert_eq!((told(&third), third[0].endpoints.len()), (told(&second), 1));
    }

    #[test]
    fn one_change_writes_one_slice() {
        let targets: Vec<_> = (0..250).map(target).collect();
        let slices = after(Vec::new(), &plan(&service(), &targets, Vec::new()));
        assert_eq!(slices.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let plan = plan(&service(), &targets[1..], slices.clone());
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert!(self::plan(&service(), &targets, slices).update.is_empty());
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
        let mut pod = api::core::v1::Pod::clone(&odd.pod);
        pod.spec_mut().containers[0].ports[0].container_port = 9090;
        odd.pod = seen(&pod);
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
                prop_assert!(slices.iter().all(|slice| slice.endpoints.len() <= MOST_PODS));
                let again = plan(&service(), &targets, slices.clone());
                prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
            }
        }
    }
}
