//! Endpoints: addresses grouped by the ports they have. No I/O.

use std::collections::BTreeMap;

use api::{
    Resource,
    core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
};

use super::{HEADLESS, MANAGED_BY, MANAGER, Target, is_headless, pod_reference, port_of, protocol};

/// Most addresses of one Endpoints object.
const MOST_ADDRESSES: usize = 1000;
/// Annotation of an object that had more.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Ports in an order, for grouping: name, number, protocol, application protocol.
type PortKey = Vec<(String, i32, String, Option<String>)>;

/// The Endpoints as they should be; what else `current` has stays.
pub(super) fn endpoints(service: &Service, targets: &[Target], current: Option<&Endpoints>) -> Endpoints {
    let mut wanted = current.cloned().unwrap_or_default();
    let meta = wanted.metadata_mut();
    meta.name = service.name().to_owned();
    meta.namespace = service.namespace().to_owned();
    meta.labels.clone_from(&service.metadata().labels);
    meta.labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        meta.labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        meta.labels.remove(HEADLESS);
    }
    let published = |target: &&Target| service.spec().publish_not_ready_addresses || !target.terminating;
    let published: Vec<_> = targets.iter().filter(published).collect();
    if published.len() > MOST_ADDRESSES {
        meta.annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        meta.annotations.remove(OVER_CAPACITY);
    }
    wanted.subsets = subsets(service, &truncated(published));
    wanted
}

/// Those that are ready are kept first.
fn truncated(mut targets: Vec<&Target>) -> Vec<&Target> {
    if targets.len() > MOST_ADDRESSES {
        targets.sort_by_key(|target| !target.ready);
        targets.truncate(MOST_ADDRESSES);
        targets.sort_by(|a, b| a.ip.cmp(&b.ip));
    }
    targets
}

fn subsets(service: &Service, targets: &[&Target]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<PortKey, EndpointSubset> = BTreeMap::new();
    for target in targets {
        let ports: PortKey = service
            .spec()
            .ports
            .iter()
            .filter_map(|port| {
                let number = port_of(&target.pod, port)?;
                Some((port.name.clone(), number, protocol(&port.protocol).to_owned(), port.app_protocol.clone()))
            })
            .collect();
        if ports.is_empty() && !(is_headless(service) && service.spec().ports.is_empty()) {
            continue;
        }
        let subset = groups.entry(ports).or_default();
        let addresses = if target.ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        addresses.push(EndpointAddress {
            ip: target.ip.clone(),
            hostname: target.hostname.clone().unwrap_or_default(),
            node_name: Some(target.pod.spec().node_name.clone()).filter(|node| !node.is_empty()),
            target_ref: Some(pod_reference(&target.pod)),
        });
    }
    let port = |(name, port, protocol, app_protocol)| EndpointPort { name, port, protocol, app_protocol };
    let filled =
        groups.into_iter().map(|(ports, subset)| EndpointSubset { ports: ports.into_iter().map(port).collect(), ..subset });
    filled.collect()
}
