//! From API objects to the proxy's own values: which Services have addresses to answer on, and which endpoints stand behind each port.
//!
//! This is the one place that knows the API's conventions (empty means default, unset means true …). What it cannot use, an address of
//! another kind or a port out of range, it leaves out: the API server refuses such objects, and one of them must not stop the others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::cidr;
use api::core::v1::{Node as NodeObject, Service as ServiceObject};
use api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use api::endpoints::{SERVICE_NAME, TRIGGER_TIME};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::model::{Backend, Endpoint, Family, Node, Port, Protocol, Service, ServiceKey};

/// Services and slices that are somebody else's to serve, or nobody's, are not even watched.
pub const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

const ZONE: &str = "topology.kubernetes.io/zone";
/// What `sessionAffinityConfig` leaves open: three hours.
const AFFINITY_SECONDS: u64 = 10_800;

/// The Service a slice belongs to.
pub fn slice_key(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata().labels.get(SERVICE_NAME)?;
    Some(ServiceKey::new(&slice.metadata().namespace, name))
}

/// A Service joined with its slices, as seen from the node of this name; `None` if it has no addresses to answer on (headless,
/// external name, not allocated yet).
pub fn service(object: &ServiceObject, slices: &[Arc<EndpointSlice>], node: &str) -> Option<Service> {
    let spec = object.spec();
    if spec.r#type == "ExternalName" || matches!(spec.cluster_ip.as_str(), "" | "None") {
        return None;
    }
    let cluster_ips = if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips };
    let exposed = matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer");
    let balancer = object.status().load_balancer();
    let ingress = balancer.ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let ports = spec.ports.iter().filter_map(|port| {
        Some(Port {
            protocol: Protocol::from_name(&port.protocol)?,
            port: valid_port(port.port)?,
            node_port: if exposed { valid_port(port.node_port) } else { None },
            endpoints: endpoints(&port.name, spec.publish_not_ready_addresses, slices, node),
        })
    });
    let timeout = spec.session_affinity_config().client_ip().timeout_seconds.and_then(|s| u64::try_from(s).ok());
    Some(Service {
        cluster_ips: addresses(cluster_ips),
        external_ips: addresses(&spec.external_ips),
        load_balancer_ips: if spec.r#type == "LoadBalancer" { addresses(ingress.map(|i| &i.ip)) } else { Vec::new() },
        source_ranges: spec.load_balancer_source_ranges.iter().filter_map(|range| cidr::parse(range.trim()).ok()).collect(),
        affinity: (spec.session_affinity == "ClientIP").then(|| Duration::from_secs(timeout.unwrap_or(AFFINITY_SECONDS))),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy == "Local",
        ports: ports.collect(),
    })
}

/// The Service of the API servers.
pub fn api_servers() -> ServiceKey {
    ServiceKey::new("default", "kubernetes")
}

/// The addresses that slices list.
pub fn listed<'a>(slices: impl IntoIterator<Item = &'a Arc<EndpointSlice>>) -> impl Iterator<Item = IpAddr> {
    let texts = slices.into_iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
    texts.filter_map(|text| text.parse().ok())
}

/// When that happened of which a changed slice tells; `None` if it does not say, or said so before.
pub fn trigger_time(old: Option<&EndpointSlice>, new: &EndpointSlice) -> Option<Timestamp> {
    let said = |slice: &EndpointSlice| slice.metadata().annotations.get(TRIGGER_TIME).cloned();
    said(new).filter(|time| old.and_then(said).as_ref() != Some(time))?.parse().ok()
}

/// What the rules need to know of our node. `pod_cidrs`, if there are any, stand before those of the object.
pub fn node(object: &NodeObject, family: Family, pod_cidrs: &[IpNet], api_servers: BTreeSet<IpAddr>) -> Node {
    let spec = object.spec();
    let listed = if spec.pod_cidrs.is_empty() { std::slice::from_ref(&spec.pod_cidr) } else { &spec.pod_cidrs };
    let pod_cidrs =
        if pod_cidrs.is_empty() { listed.iter().filter_map(|text| cidr::parse(text).ok()).collect() } else { pod_cidrs.to_vec() };
    let zone = object.metadata().labels.get(ZONE).map(|zone| zone.as_str().into());
    Node { family, pod_cidrs, zone, api_servers }
}

/// Whether load balancers should still send new connections to the node.
pub fn node_is_eligible(object: &NodeObject) -> bool {
    const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
    object.metadata().deletion_timestamp.is_none() && !object.spec().taints.iter().any(|taint| taint.key == LEAVING)
}

/// The endpoints of the Service port `name` in all slices. A pod that moves from one slice to another may be in both for a while.
fn endpoints(name: &str, publish_not_ready: bool, slices: &[Arc<EndpointSlice>], node: &str) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for slice in slices.iter().filter(|slice| matches!(slice.address_type.as_str(), "IPv4" | "IPv6")) {
        let ports = slice.ports.iter().filter(|port| port.name.as_deref().unwrap_or_default() == name);
        for port in ports.filter_map(|port| valid_port(port.port?)) {
            endpoints.extend(slice.endpoints.iter().filter_map(|e| endpoint(e, port, publish_not_ready, node)));
        }
    }
    endpoints
}

fn endpoint(object: &SliceEndpoint, port: u16, publish_not_ready: bool, node: &str) -> Option<Endpoint> {
    // Only the first address counts.
    let address: IpAddr = object.addresses.first()?.parse().ok().filter(is_reachable)?;
    let conditions = object.conditions();
    let ready = publish_not_ready || conditions.ready.unwrap_or(true);
    let zones = object.hints.iter().flat_map(|hints| &hints.for_zones).map(|zone| zone.name.as_str().into());
    Some(Endpoint {
        backend: Backend { address, port },
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        local: object.node_name.as_deref() == Some(node),
        zones: zones.collect(),
    })
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok().filter(is_reachable)).collect()
}

/// Whether something can be sent to the address from here and elsewhere: what belongs to every host, to none or to many is left out.
fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
}

fn valid_port(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use api::core::v1::{LoadBalancerIngress, ServicePort};
    use api::discovery::v1::{EndpointConditions, EndpointPort};

    use super::*;

    fn web() -> ServiceObject {
        let mut object = ServiceObject::default();
        let spec = object.spec_mut();
        spec.cluster_ip = "10.96.0.1".into();
        spec.r#type = "NodePort".into();
        for (name, port) in [("http", 80), ("metrics", 9090)] {
            spec.ports.push(ServicePort { name: name.into(), port, node_port: port + 30_000, ..ServicePort::default() });
        }
        object
    }

    fn slice(port: &str, number: i32, addresses: &[&str]) -> Arc<EndpointSlice> {
        let endpoint = |address: &&str| SliceEndpoint {
            addresses: vec![(*address).into()],
            node_name: Some("node-1".into()),
            ..SliceEndpoint::default()
        };
        Arc::new(EndpointSlice {
            address_type: "IPv4".into(),
            ports: vec![EndpointPort { name: Some(port.into()), port: Some(number), ..EndpointPort::default() }],
            endpoints: addresses.iter().map(endpoint).collect(),
            ..EndpointSlice::default()
        })
    }

    #[test]
    fn ports_meet_their_endpoints_by_name() {
        let slices = [slice("http", 8080, &["10.244.0.1", "10.244.0.2"]), slice("metrics", 9191, &["10.244.0.1"])];
        let service = service(&web(), &slices, "node-1").unwrap();
        let targets = |index: usize| service.ports[index].endpoints.iter().map(|e| e.backend.port).collect::<Vec<_>>();
        assert_eq!((targets(0), targets(1)), (vec![8080, 8080], vec![9191]));
        assert!(service.ports[0].endpoints.iter().all(|e| e.ready && e.serving && !e.terminating && e.local));
        assert_eq!(service.ports[0].node_port, Some(30_080));
    }

    #[test]
    fn services_without_an_address_are_skipped() {
        for (kind, address) in [("ExternalName", ""), ("ClusterIP", "None"), ("ClusterIP", "")] {
            let mut object = web();
            object.spec_mut().r#type = kind.into();
            object.spec_mut().cluster_ip = address.into();
            assert_eq!(service(&object, &[], "node-1"), None, "{kind} {address}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_sent_to_costs_only_itself() {
        let wrong = ["127.0.0.1", "not-an-ip", "0.0.0.0", "224.0.0.1", "169.254.1.1", "255.255.255.255", "::1", "fe80::1", ""];
        let slices = [slice("http", 8080, &[&wrong[..], &["10.244.0.1"]].concat())];
        let mut object = web();
        object.spec_mut().external_ips = wrong.iter().chain(&["203.0.113.1"]).map(|text| (*text).to_owned()).collect();
        let service = service(&object, &slices, "node-1").unwrap();
        let found: Vec<IpAddr> = service.ports[0].endpoints.iter().map(|endpoint| endpoint.backend.address).collect();
        assert_eq!((found, service.external_ips), (vec![[10, 244, 0, 1].into()], vec![[203, 0, 113, 1].into()]));
    }

    #[test]
    fn unset_conditions_mean_ready() {
        let conditions = |ready, serving, terminating| EndpointConditions { ready, serving, terminating };
        let read = |conditions: Option<EndpointConditions>, publish| {
            let object = SliceEndpoint { addresses: vec!["10.0.0.1".into()], conditions, ..SliceEndpoint::default() };
            let e = endpoint(&object, 1, publish, "node-1").unwrap();
            (e.ready, e.serving, e.terminating, e.local)
        };
        assert_eq!(read(None, false), (true, true, false, false));
        assert_eq!(read(Some(conditions(Some(false), None, None)), false), (false, false, false, false));
        assert_eq!(read(Some(conditions(Some(false), Some(true), Some(true))), false), (false, true, true, false));
        assert_eq!(read(Some(conditions(Some(false), None, None)), true), (true, true, false, false));
    }

    #[test]
    fn balancers_that_proxy_and_node_ports_of_cluster_services_are_left_out() {
        let mut object = web();
        object.spec_mut().r#type = "LoadBalancer".into();
        let ingress = |ip: &str, mode: Option<&str>| LoadBalancerIngress {
            ip: ip.into(),
            ip_mode: mode.map(Into::into),
            ..LoadBalancerIngress::default()
        };
        object.status_mut().load_balancer_mut().ingress =
            vec![ingress("203.0.113.1", None), ingress("203.0.113.2", Some("Proxy")), ingress("", None)];
        let balanced = service(&object, &[], "node-1").unwrap();
        assert_eq!(balanced.load_balancer_ips, [IpAddr::from([203, 0, 113, 1])]);
        object.spec_mut().r#type = "ClusterIP".into();
        let plain = service(&object, &[], "node-1").unwrap();
        assert!(plain.load_balancer_ips.is_empty() && plain.ports.iter().all(|port| port.node_port.is_none()));
    }

    #[test]
    fn affinity_lasts_three_hours_unless_said_otherwise() {
        let mut object = web();
        assert_eq!(service(&object, &[], "").unwrap().affinity, None);
        object.spec_mut().session_affinity = "ClientIP".into();
        assert_eq!(service(&object, &[], "").unwrap().affinity, Some(Duration::from_secs(10_800)));
        object.spec_mut().session_affinity_config_mut().client_ip_mut().timeout_seconds = Some(60);
        assert_eq!(service(&object, &[], "").unwrap().affinity, Some(Duration::from_secs(60)));
    }

    #[test]
    fn given_pod_prefixes_stand_before_the_nodes() {
        let mut object = NodeObject::default();
        object.spec_mut().pod_cidr = "10.244.1.0/24".into();
        let given: IpNet = "10.244.0.0/16".parse().unwrap();
        assert_eq!(node(&object, Family::V4, &[given], BTreeSet::new()).pod_cidrs, [given]);
        assert_eq!(node(&object, Family::V4, &[], BTreeSet::new()).pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
        assert!(node(&NodeObject::default(), Family::V4, &[], BTreeSet::new()).pod_cidrs.is_empty());
    }
}
