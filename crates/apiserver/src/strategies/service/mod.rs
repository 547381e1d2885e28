//! Services: what an update leaves out and the server once gave stays given, and what the type does not need is dropped.

mod validation;

use std::collections::BTreeSet;

use api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    intstr::IntOrString,
    rules::FieldErrors,
};

use crate::strategy::Strategy;

/// `spec.clusterIP` of a Service that has no address.
pub const HEADLESS: &str = "None";
/// Seconds for which a client stays with its pod unless configured.
const AFFINITY_SECONDS: i32 = 10_800;

/// See the module.
pub struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    type Kind = Service;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn set_defaults(&self, object: &mut Service) {
        let spec = object.spec_mut();
        for port in &mut spec.ports {
            let unset = |target: &IntOrString| target.as_int() == Some(0) || target.as_str() == Some("");
            if port.target_port.as_ref().is_none_or(unset) {
                port.target_port = Some(port.port.into());
            }
        }
        if spec.session_affinity == "ClientIP" {
            let config = spec.session_affinity_config.get_or_insert_default().client_ip.get_or_insert_default();
            config.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        } else if spec.session_affinity == "None" {
            spec.session_affinity_config = None;
        }
        for ingress in object.status.iter_mut().flat_map(|status| &mut status.load_balancer_mut().ingress) {
            if !ingress.ip.is_empty() {
                ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
        let spec = object.spec_mut();
        let external_name = spec.r#type == "ExternalName";
        if external_name {
            spec.internal_traffic_policy = None;
        }
        if is_external(object) && object.spec().external_traffic_policy.is_empty() {
            object.spec_mut().external_traffic_policy = "Cluster".to_owned();
        }
        let spec = object.spec_mut();
        if spec.r#type == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }
        if !external_name {
            // Whoever writes the endpoints of such a Service may write them in either family, whatever the cluster has.
            let either = is_headless_without_selector(spec);
            let policy = if either { "RequireDualStack" } else { "SingleStack" };
            spec.ip_family_policy.get_or_insert_with(|| policy.to_owned());
            if spec.ip_families.is_empty() {
                spec.ip_families = vec!["IPv4".to_owned()];
            }
            let dual = spec.ip_family_policy.as_deref().is_some_and(|policy| policy != "SingleStack");
            if either && dual && spec.ip_families.len() == 1 {
                let other = if spec.ip_families[0] == "IPv4" { "IPv6" } else { "IPv4" };
                spec.ip_families.push(other.to_owned());
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Service) {
        let spec = object.spec_mut();
        if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
            spec.cluster_ips = vec![spec.cluster_ip.clone()];
        }
    }

    fn prepare_for_update(&self, new: &mut Service, old: &Service) {
        normalize_addresses(new, old);
        keep_allocated(new, old);
        drop_what_the_type_lacks(new, old);
    }

    fn validate(&self, object: &Service, errors: &mut FieldErrors) {
        validation::service(object, errors);
    }

    fn validate_update(&self, subresource: &str, new: &Service, old: &Service, errors: &mut FieldErrors) {
        match subresource {
            "" => validation::update(new, old, errors),
            "status" => validation::status(new, errors),
            _ => {}
        }
    }
}

/// True if the Service has a virtual address, or is headless on purpose.
pub fn needs_address(service: &Service) -> bool {
    matches!(service.spec().r#type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// True if the Service has neither an address nor pods that the server would look for.
fn is_headless_without_selector(spec: &ServiceSpec) -> bool {
    spec.cluster_ip == HEADLESS && spec.selector.is_empty()
}

/// True if nodes take traffic for the Service on ports of their own.
pub fn needs_node_ports(service: &Service) -> bool {
    match service.spec().r#type.as_str() {
        "NodePort" => true,
        "LoadBalancer" => service.spec().allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// True if load balancers ask nodes on a port of its own whether they have endpoints.
pub fn needs_health_check_port(service: &Service) -> bool {
    service.spec().r#type == "LoadBalancer" && service.spec().external_traffic_policy == "Local"
}

/// True if traffic from outside the cluster reaches the Service.
fn is_external(service: &Service) -> bool {
    let spec = service.spec();
    matches!(spec.r#type.as_str(), "NodePort" | "LoadBalancer") || (spec.r#type == "ClusterIP" && !spec.external_ips.is_empty())
}

/// Old clients know `clusterIP` only: what they change there is meant for `clusterIPs` too.
fn normalize_addresses(new: &mut Service, old: &Service) {
    let old = old.spec();
    let spec = new.spec_mut();
    if old.cluster_ip.is_empty() && spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
        spec.cluster_ips = vec![spec.cluster_ip.clone()];
        return;
    }
    if spec.cluster_ip == old.cluster_ip {
        return;
    }
    if spec.cluster_ip.is_empty() && spec.cluster_ips == old.cluster_ips {
        spec.cluster_ips.clear();
    } else if !spec.cluster_ip.is_empty() && (spec.cluster_ips == old.cluster_ips || spec.cluster_ips.is_empty()) {
        spec.cluster_ips = vec![spec.cluster_ip.clone()];
    }
}

/// Gives the update what the server chose before, where it does not say anything itself.
fn keep_allocated(new: &mut Service, old: &Service) {
    if needs_address(old) && needs_address(new) {
        let spec = new.spec_mut();
        if spec.cluster_ip.is_empty() {
            spec.cluster_ip.clone_from(&old.spec().cluster_ip);
        }
        if spec.cluster_ips.is_empty() && spec.cluster_ip == old.spec().cluster_ip {
            spec.cluster_ips.clone_from(&old.spec().cluster_ips);
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        let same = |a: &ServicePort, b: &ServicePort| a.port == b.port && a.protocol == b.protocol;
        let spec = new.spec_mut();
        let mut taken: BTreeSet<(String, i32)> = spec.ports.iter().map(|p| (p.protocol.clone(), p.node_port)).collect();
        for port in spec.ports.iter_mut().filter(|port| port.node_port == 0) {
            let before = old.spec().ports.iter().find(|before| same(before, port)).map_or(0, |before| before.node_port);
            if before != 0 && taken.insert((port.protocol.clone(), before)) {
                port.node_port = before;
            }
        }
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && new.spec().health_check_node_port == 0 {
        new.spec_mut().health_check_node_port = old.spec().health_check_node_port;
    }
}

/// Who changes the type need not clear by hand what only the old type had.
fn drop_what_the_type_lacks(new: &mut Service, old: &Service) {
    let was = old.spec();
    if needs_address(old) && !needs_address(new) {
        let spec = new.spec_mut();
        if spec.cluster_ips == was.cluster_ips || spec.cluster_ips.is_empty() {
            spec.cluster_ip.clear();
            spec.cluster_ips.clear();
        }
        if spec.ip_families == was.ip_families {
            spec.ip_families.clear();
        }
        if spec.ip_family_policy == was.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    let node_ports = |ports: &[ServicePort]| ports.iter().map(|port| port.node_port).collect::<Vec<_>>();
    if needs_node_ports(old) && !needs_node_ports(new) && node_ports(&new.spec().ports) == node_ports(&was.ports) {
        new.spec_mut().ports.iter_mut().for_each(|port| port.node_port = 0);
    }
    let external = is_external(new);
    let health_check = needs_health_check_port(new);
    let spec = new.spec_mut();
    if needs_health_check_port(old) && !health_check && spec.health_check_node_port == was.health_check_node_port {
        spec.health_check_node_port = 0;
    }
    if was.r#type == "LoadBalancer" && spec.r#type != "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports == was.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == was.load_balancer_class {
            spec.load_balancer_class = None;
        }
        // The load balancer goes, and what it reported with it.
        new.status_mut().load_balancer = None;
    }
    let spec = new.spec_mut();
    if is_external(old) && !external && spec.external_traffic_policy == was.external_traffic_policy {
        spec.external_traffic_policy.clear();
    }
}

#[cfg(test)]
mod tests;
