//! What must hold of a Service as a whole.

use std::{collections::BTreeSet, net::IpAddr};

use api::{
    core::v1::{Service, ServiceSpec},
    names::{self, Format},
    rules::FieldErrors,
};

use super::{HEADLESS, is_external, is_headless_without_selector, needs_address, needs_health_check_port};
use crate::strategies::{SPEC, STATUS};

/// The kubelet listens here on every node.
const KUBELET_PORT: i32 = 10_250;
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

/// Checks a Service.
pub(super) fn service(service: &Service, errors: &mut FieldErrors) {
    let spec = service.spec();
    of_type(spec, errors);
    ports(service, errors);
    addresses(service, errors);
    load_balancing(service, errors);
    families(spec, errors);
}

fn families(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let list = SPEC.field("ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, family) in spec.ip_families.iter().enumerate() {
        if !seen.insert(family) {
            errors.duplicate(&list.index(i), family);
        }
    }
    if is_headless_without_selector(spec) {
        return;
    }
    for (i, family) in spec.ip_families.iter().enumerate().filter(|(_, family)| *family == "IPv6") {
        errors.invalid(&list.index(i), family, "not configured on this cluster");
    }
    if spec.ip_families.len() > 1 || spec.cluster_ips.len() > 1 || spec.ip_family_policy.as_deref() == Some("RequireDualStack") {
        errors.invalid(
            &SPEC.field("ipFamilyPolicy"),
            spec.ip_family_policy(),
            "this cluster is not configured for dual-stack services",
        );
    }
}

fn of_type(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let headless = spec.cluster_ip == HEADLESS;
    match spec.r#type.as_str() {
        "ExternalName" => {
            if !spec.cluster_ip.is_empty() || !spec.cluster_ips.is_empty() {
                errors.forbidden(&SPEC.field("clusterIPs"), "may not be set for ExternalName services");
            }
            for (field, set) in
                [("ipFamilies", !spec.ip_families.is_empty()), ("ipFamilyPolicy", spec.ip_family_policy.is_some())]
            {
                if set {
                    errors.forbidden(&SPEC.field(field), "may not be set for ExternalName services");
                }
            }
            let (name, at) = (&spec.external_name, SPEC.field("externalName"));
            // A trailing dot says that the name is complete.
            let bare = name.strip_suffix('.').unwrap_or(name);
            if bare.is_empty() {
                errors.required(&at);
            } else if let Err(why) = names::check(Format::DnsSubdomain, bare) {
                errors.invalid(&at, name, why);
            }
        }
        kind @ ("NodePort" | "LoadBalancer") if headless => {
            let why = format_args!("may not be set to 'None' for {kind} services");
            errors.invalid(&SPEC.field("clusterIPs").index(0), HEADLESS, why);
        }
        _ => {}
    }
    if spec.ports.is_empty() && !headless && spec.r#type != "ExternalName" {
        errors.required(&SPEC.field("ports"));
    }
}

fn ports(service: &Service, errors: &mut FieldErrors) {
    let spec = service.spec();
    let list = SPEC.field("ports");
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in spec.ports.iter().enumerate() {
        let at = list.index(i);
        if port.name.is_empty() {
            if spec.ports.len() > 1 {
                errors.required(&at.field("name"));
            }
        } else if !names.insert(&port.name) {
            errors.duplicate(&at.field("name"), &port.name);
        }
        if !numbers.insert((&port.protocol, port.port)) {
            errors.duplicate(&at, format!("{}/{}", port.port, port.protocol));
        }
        if port.node_port != 0 {
            if matches!(spec.r#type.as_str(), "ClusterIP" | "ExternalName") {
                let why = format_args!("may not be used when `type` is '{}'", spec.r#type);
                errors.forbidden(&at.field("nodePort"), why);
            } else if !node_ports.insert((&port.protocol, port.node_port)) {
                errors.duplicate(&at.field("nodePort"), port.node_port);
            }
        }
        if spec.r#type == "LoadBalancer" && port.port == KUBELET_PORT {
            let why = "may not expose port 10250 externally since it is used by kubelet";
            errors.invalid(&at.field("port"), port.port, why);
        }
    }
}

fn addresses(service: &Service, errors: &mut FieldErrors) {
    let spec = service.spec();
    if needs_address(service) {
        let list = SPEC.field("clusterIPs");
        if spec.cluster_ip.is_empty() && !spec.cluster_ips.is_empty() {
            errors.invalid(&list, &spec.cluster_ips, "must be empty when `clusterIP` is not specified");
        } else if spec.cluster_ips.first().is_some_and(|first| *first != spec.cluster_ip) {
            errors.invalid(&list, &spec.cluster_ips, "first value must match `clusterIP`");
        }
        for (i, text) in spec.cluster_ips.iter().enumerate() {
            let at = list.index(i);
            if text == HEADLESS {
                if spec.cluster_ips.len() > 1 {
                    errors.invalid(&list, &spec.cluster_ips, "'None' must be the first and only value");
                }
            } else {
                match text.parse::<IpAddr>() {
                    Ok(IpAddr::V4(_)) => {}
                    Ok(IpAddr::V6(_)) => {
                        let why = format_args!("expected an IPv4 value as indicated by `spec.ipFamilies[{i}]`");
                        errors.invalid(&at, text, why);
                    }
                    Err(_) => errors.invalid(&at, text, "must be empty, 'None', or a valid IP address, (e.g. 10.9.8.7)"),
                }
            }
        }
    }
}

fn load_balancing(service: &Service, errors: &mut FieldErrors) {
    let spec = service.spec();
    let policy = SPEC.field("externalTrafficPolicy");
    match (is_external(service), spec.external_traffic_policy.as_str()) {
        (true, "") => errors.required_because(&policy, "must be specified for externally-accessible services"),
        (false, set) if !set.is_empty() => errors.invalid(&policy, set, "may only be set for externally-accessible services"),
        _ => {}
    }
    if spec.health_check_node_port != 0 && !needs_health_check_port(service) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&SPEC.field("healthCheckNodePort"), spec.health_check_node_port, why);
    }
    let config = SPEC.field("sessionAffinityConfig");
    match (spec.session_affinity.as_str(), &spec.session_affinity_config) {
        ("ClientIP", None) => errors.required_because(&config, "when session affinity type is ClientIP"),
        ("None", Some(_)) => errors.forbidden(&config, "must not be set when session affinity is None"),
        _ => {}
    }
    if spec.r#type == "LoadBalancer" {
        if spec.allocate_load_balancer_node_ports.is_none() {
            let why = "field is required when `type` is 'LoadBalancer'";
            errors.required_because(&SPEC.field("allocateLoadBalancerNodePorts"), why);
        }
        return;
    }
    for (field, set) in [
        ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports.is_some()),
        ("loadBalancerClass", spec.load_balancer_class.is_some()),
        ("loadBalancerSourceRanges", !spec.load_balancer_source_ranges.is_empty()),
    ] {
        if set {
            errors.forbidden(&SPEC.field(field), ONLY_LOAD_BALANCER);
        }
    }
}

/// Checks what a load balancer reports. The form of addresses and names is the schema's to check.
pub(super) fn status(service: &Service, errors: &mut FieldErrors) {
    let at = STATUS.field("loadBalancer");
    let list = at.field("ingress");
    for (i, ingress) in service.status().load_balancer().ingress.iter().enumerate() {
        let at = list.index(i);
        if ingress.ip.is_empty() && ingress.ip_mode.is_some() {
            errors.forbidden(&at.field("ipMode"), "may not be specified when `ip` is not set");
        }
        if ingress.hostname.parse::<IpAddr>().is_ok() {
            errors.invalid(&at.field("hostname"), &ingress.hostname, "must be a DNS name, not an IP address");
        }
    }
}

/// Checks a changed Service against the old.
pub(super) fn update(new: &Service, old: &Service, errors: &mut FieldErrors) {
    let (spec, was) = (new.spec(), old.spec());
    if needs_address(new) && needs_address(old) && !was.cluster_ip.is_empty() && spec.cluster_ip != was.cluster_ip {
        errors.invalid(&SPEC.field("clusterIPs").index(0), [&spec.cluster_ip], "may not change once set");
    }
    if needs_health_check_port(new)
        && needs_health_check_port(old)
        && was.health_check_node_port != 0
        && spec.health_check_node_port != was.health_check_node_port
    {
        errors.forbidden(&SPEC.field("healthCheckNodePort"), "field is immutable");
    }
    if spec.r#type == "LoadBalancer" && was.r#type == "LoadBalancer" && spec.load_balancer_class != was.load_balancer_class {
        errors.invalid(&SPEC.field("loadBalancerClass"), spec.load_balancer_class(), "may not change once set");
    }
}
