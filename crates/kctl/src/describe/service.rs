//! A Service: its addresses and ports, and who answers there. Endpoints.

use api::core::v1::Endpoints;
use serde_json::Value;

use super::{labels_and_annotations, or_none, pairs, text::Text};
use crate::{
    Session,
    objects::{list, number, text},
};

/// Addresses that are listed of each port.
const SHOWN: usize = 3;

/// Describes a Service.
///
/// # Errors
/// When its endpoints cannot be read.
pub async fn describe(session: &Session, out: &mut Text, service: &Value) -> anyhow::Result<()> {
    let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
    out.field(0, "Name", name);
    out.field(0, "Namespace", namespace);
    labels_and_annotations(out, service);
    out.field(0, "Selector", or_none(&pairs(service, "/spec/selector", "=").join(",")));
    out.field(0, "Type", text(service, "/spec/type"));
    for (key, pointer) in [("IP Family Policy", "/spec/ipFamilyPolicy"), ("IP Families", "/spec/ipFamilies")] {
        let value = service.pointer(pointer).map(joined).unwrap_or_default();
        out.field(0, key, or_none(&value));
    }
    out.field(0, "IP", text(service, "/spec/clusterIP"));
    out.field(0, "IPs", or_none(&service.pointer("/spec/clusterIPs").map(joined).unwrap_or_default()));
    let external = service.pointer("/spec/externalIPs").map(joined).unwrap_or_default();
    if !external.is_empty() {
        out.field(0, "External IPs", external);
    }
    optional(out, service, "Desired LoadBalancer IP", "/spec/loadBalancerIP");
    let ingress: Vec<String> = list(service, "/status/loadBalancer/ingress").iter().map(ingress).collect();
    if !ingress.is_empty() {
        out.field(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    optional(out, service, "External Name", "/spec/externalName");
    let api = session.client()?.namespaced::<Endpoints>(namespace);
    let endpoints = session.shown("reading endpoints", api.get_opt(name)).await?;
    for port in list(service, "/spec/ports") {
        let port_name = text(port, "/name");
        let shown = if port_name.is_empty() { "<unset>" } else { port_name };
        let protocol = text(port, "/protocol");
        out.line(0, format!("Port:\t{shown}\t{}/{protocol}", number(port, "/port")));
        let target = port.get("targetPort").map(api::jsonpath::text).unwrap_or_default();
        out.field(0, "TargetPort", format!("{target}/{protocol}"));
        if number(port, "/nodePort") > 0 {
            out.line(0, format!("NodePort:\t{shown}\t{}/{protocol}", number(port, "/nodePort")));
        }
        out.field(0, "Endpoints", addresses(endpoints.as_ref(), port_name));
    }
    out.field(0, "Session Affinity", text(service, "/spec/sessionAffinity"));
    optional(out, service, "External Traffic Policy", "/spec/externalTrafficPolicy");
    optional(out, service, "Internal Traffic Policy", "/spec/internalTrafficPolicy");
    optional(out, service, "Traffic Distribution", "/spec/trafficDistribution");
    if number(service, "/spec/healthCheckNodePort") > 0 {
        out.field(0, "HealthCheck NodePort", number(service, "/spec/healthCheckNodePort").to_string());
    }
    if !list(service, "/spec/loadBalancerSourceRanges").is_empty() {
        out.field(0, "LoadBalancer Source Ranges", joined(&service["spec"]["loadBalancerSourceRanges"]));
    }
    Ok(())
}

/// A field that is shown only if it is set.
fn optional(out: &mut Text, object: &Value, key: &str, pointer: &str) {
    if !text(object, pointer).is_empty() {
        out.field(0, key, text(object, pointer));
    }
}

/// `192.0.2.1 (VIP)`, or the name of the host.
fn ingress(point: &Value) -> String {
    let address = if text(point, "/ip").is_empty() { text(point, "/hostname") } else { text(point, "/ip") };
    match text(point, "/ipMode") {
        "" => address.to_owned(),
        mode => format!("{address} ({mode})"),
    }
}

/// Describes endpoints.
pub fn endpoints(out: &mut Text, endpoints: &Value) {
    out.field(0, "Name", text(endpoints, "/metadata/name"));
    out.field(0, "Namespace", text(endpoints, "/metadata/namespace"));
    labels_and_annotations(out, endpoints);
    out.line(0, "Subsets:");
    for subset in list(endpoints, "/subsets") {
        for (key, pointer) in [("Addresses", "/addresses"), ("NotReadyAddresses", "/notReadyAddresses")] {
            let addresses: Vec<&str> = list(subset, pointer).iter().map(|address| text(address, "/ip")).collect();
            out.field(1, key, or_none(&addresses.join(",")));
        }
        out.line(1, "Ports:");
        out.line(2, "Name\tPort\tProtocol");
        out.line(2, "----\t----\t--------");
        for port in list(subset, "/ports") {
            let name = text(port, "/name");
            let name = if name.is_empty() { "<unset>" } else { name };
            out.line(2, format!("{name}\t{}\t{}", number(port, "/port"), text(port, "/protocol")));
        }
    }
}

fn joined(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(api::jsonpath::text).collect::<Vec<_>>().join(","),
        other => api::jsonpath::text(other),
    }
}

fn addresses(endpoints: Option<&Endpoints>, port_name: &str) -> String {
    let mut all = Vec::new();
    for subset in endpoints.map(|endpoints| endpoints.subsets.as_slice()).unwrap_or_default() {
        for port in subset.ports.iter().filter(|port| port.name == port_name) {
            all.extend(subset.addresses.iter().map(|address| format!("{}:{}", address.ip, port.port)));
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let shown = all.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { or_none(&shown).to_owned() }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{LoadBalancerIngress, Service};

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn a_load_balancer_is_described_with_its_addresses_and_who_may_come() {
        let bench = Bench::new();
        let mut service: Service = named("web");
        let spec = service.spec_mut();
        spec.r#type = "LoadBalancer".into();
        spec.load_balancer_source_ranges = vec!["10.0.0.0/8".into(), "192.0.2.0/24".into()];
        let at = |ip: &str, mode: Option<&str>, hostname: &str| LoadBalancerIngress {
            ip: ip.into(),
            ip_mode: mode.map(str::to_owned),
            hostname: hostname.into(),
            ..LoadBalancerIngress::default()
        };
        service.status_mut().load_balancer_mut().ingress = vec![at("192.0.2.1", Some("VIP"), ""), at("", None, "lb.example")];
        bench.server.put(service);
        let text = bench.ok("describe svc web").await;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        assert_eq!(value("LoadBalancer Ingress:"), Some("192.0.2.1 (VIP), lb.example"), "{text}");
        assert_eq!(value("LoadBalancer Source Ranges:"), Some("10.0.0.0/8,192.0.2.0/24"), "{text}");
    }
}
