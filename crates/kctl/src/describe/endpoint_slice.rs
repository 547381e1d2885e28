//! An endpoint slice: addresses, ports, and how they fare.

use serde_json::Value;

use super::{labels_and_annotations, or_none, text::Text};
use crate::objects::{list, text};

/// Describes an endpoint slice.
pub fn describe(out: &mut Text, slice: &Value) {
    out.field(0, "Name", text(slice, "/metadata/name"));
    out.field(0, "Namespace", text(slice, "/metadata/namespace"));
    labels_and_annotations(out, slice);
    out.field(0, "AddressType", text(slice, "/addressType"));
    if list(slice, "/ports").is_empty() {
        out.line(0, "Ports: <unset>");
    } else {
        out.line(0, "Ports:");
        out.line(1, "Name\tPort\tProtocol");
        out.line(1, "----\t----\t--------");
        for port in list(slice, "/ports") {
            let number = or_unset(port.get("port"));
            out.line(1, format!("{}\t{number}\t{}", or_unset(port.get("name")), text(port, "/protocol")));
        }
    }
    if list(slice, "/endpoints").is_empty() {
        out.line(0, "Endpoints: <none>");
        return;
    }
    out.line(0, "Endpoints:");
    for endpoint in list(slice, "/endpoints") {
        let addresses: Vec<String> = list(endpoint, "/addresses").iter().map(api::jsonpath::text).collect();
        out.field(1, "- Addresses", or_none(&addresses.join(", ")));
        out.line(2, "Conditions:");
        out.field(3, "Ready", or_unset(endpoint.pointer("/conditions/ready")));
        out.field(2, "Hostname", or_unset(endpoint.get("hostname")));
        if let Some(target) = endpoint.get("targetRef") {
            out.field(2, "TargetRef", format!("{}/{}", text(target, "/kind"), text(target, "/name")));
        }
        out.field(2, "NodeName", or_unset(endpoint.get("nodeName")));
        out.field(2, "Zone", or_unset(endpoint.get("zone")));
    }
}

fn or_unset(value: Option<&Value>) -> String {
    value.map(api::jsonpath::text).filter(|text| !text.is_empty()).unwrap_or_else(|| "<unset>".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slice_is_described_as_in_kubectl() {
        let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n",
            "targetRef": {"kind": "Pod", "name": "p"}});
        let slice = json!({"metadata": {"name": "s", "namespace": "d"}, "addressType": "IPv4",
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}], "endpoints": [endpoint]});
        let mut out = Text::default();
        describe(&mut out, &slice);
        assert_eq!(
            out.render(),
            "Name:         s\nNamespace:    d\nLabels:       <none>\nAnnotations:  <none>\nAddressType:  IPv4\nPorts:\n  \
             Name     Port  Protocol\n  ----     ----  --------\n  <unset>  80    TCP\nEndpoints:\n  \
             - Addresses:  10.0.0.1\n    Conditions:\n      Ready:    true\n    Hostname:   <unset>\n    TargetRef:  Pod/p\n    \
             NodeName:   n\n    Zone:       <unset>\n"
        );
    }
}
