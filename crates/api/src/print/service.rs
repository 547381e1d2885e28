//! Rows of services, endpoints and endpoint slices.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{NONE, UNKNOWN, join, list, number, or, text};

/// Most endpoints or ports that a cell names.
const SHOWN: usize = 3;

pub(super) fn cluster_ip(service: &Value) -> String {
    let first = text(service, "/spec/clusterIPs/0");
    or(if first.is_empty() { text(service, "/spec/clusterIP") } else { first }, NONE)
}

pub(super) fn external_ip(service: &Value) -> String {
    let external: Vec<&str> = list(service, "/spec/externalIPs").filter_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), NONE),
        "LoadBalancer" => {
            let ingress = list(service, "/status/loadBalancer/ingress");
            let balancers: BTreeSet<&str> = ingress
                .map(|i| if text(i, "/ip").is_empty() { text(i, "/hostname") } else { text(i, "/ip") })
                .filter(|address| !address.is_empty())
                .collect();
            or(&join(balancers.into_iter().chain(external)), "<pending>")
        }
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

/// `80/TCP`, or `80:30080/TCP` with a node port.
pub(super) fn ports(service: &Value) -> String {
    let port = |p: &Value| match number(p, "/nodePort") {
        0 => format!("{}/{}", number(p, "/port"), text(p, "/protocol")),
        node_port => format!("{}:{node_port}/{}", number(p, "/port"), text(p, "/protocol")),
    };
    or(&list(service, "/spec/ports").map(port).collect::<Vec<_>>().join(","), NONE)
}

/// The first few, and how many more there are.
fn some_of(all: &[String], otherwise: &str) -> String {
    match all {
        [] => otherwise.to_owned(),
        all if all.len() > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), all.len() - SHOWN),
        all => all.join(","),
    }
}

pub(super) fn endpoints(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(endpoints, "/subsets") {
        let addresses = || list(subset, "/addresses").map(|a| text(a, "/ip"));
        if list(subset, "/ports").len() == 0 {
            all.extend(addresses().map(str::to_owned));
        }
        for port in list(subset, "/ports") {
            all.extend(addresses().map(|ip| host_port(ip, number(port, "/port"))));
        }
    }
    some_of(&all, NONE)
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
fn host_port(ip: &str, port: i64) -> String {
    match ip.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{ip}:{port}"),
    }
}

pub(super) fn slice_ports(slice: &Value) -> String {
    let port = |p: &Value| match p.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => or(text(p, "/name"), "*"),
    };
    some_of(&list(slice, "/ports").map(port).collect::<Vec<_>>(), "<unset>")
}

pub(super) fn slice_endpoints(slice: &Value) -> String {
    let addresses = list(slice, "/endpoints").flat_map(|e| list(e, "/addresses")).filter_map(Value::as_str);
    some_of(&addresses.map(str::to_owned).collect::<Vec<_>>(), "<unset>")
}
