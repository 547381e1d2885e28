//! Nodes: what was once given to a machine stays with it.

use std::{collections::BTreeSet, net::IpAddr};

use api::{
    core::v1::Node,
    names::{self, Format},
    rules::FieldErrors,
};

use super::{SPEC, STATUS};
use crate::strategy::Strategy;

/// See the module.
pub struct NodeStrategy;

impl Strategy for NodeStrategy {
    type Kind = Node;

    fn set_defaults(&self, object: &mut Node) {
        let spec = object.spec_mut();
        match (spec.pod_cidr.is_empty(), spec.pod_cidrs.first()) {
            (true, Some(first)) => spec.pod_cidr.clone_from(first),
            (false, None) => spec.pod_cidrs = vec![spec.pod_cidr.clone()],
            _ => {}
        }
        if let Some(status) = &mut object.status
            && status.allocatable.is_empty()
        {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn validate_create(&self, object: &Node, errors: &mut FieldErrors) {
        addresses(object, errors);
    }

    fn validate(&self, object: &Node, errors: &mut FieldErrors) {
        let spec = object.spec();
        let mut seen = BTreeSet::new();
        for (i, taint) in spec.taints.iter().enumerate() {
            if !seen.insert((&taint.key, &taint.effect)) {
                errors.duplicate(&SPEC.field("taints").index(i), format!("{}:{}", taint.key, taint.effect));
            }
        }
        let at = SPEC.field("podCIDRs");
        if spec.pod_cidrs.first().is_some_and(|first| *first != spec.pod_cidr) {
            errors.invalid(&at, &spec.pod_cidrs, "the first must be the same as podCIDR");
        }
        let families: Vec<Option<bool>> = spec.pod_cidrs.iter().map(|cidr| is_ipv4(cidr)).collect();
        if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
            errors.invalid(&at, &spec.pod_cidrs, "may specify no more than one CIDR for each IP family");
        }
    }

    fn validate_update(&self, subresource: &str, new: &Node, old: &Node, errors: &mut FieldErrors) {
        if subresource == "status" {
            if new.status().addresses != old.status().addresses {
                addresses(new, errors);
            }
            return;
        }
        let (new, old) = (new.spec(), old.spec());
        if !old.pod_cidrs.is_empty() && new.pod_cidrs != old.pod_cidrs {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&SPEC.field("podCIDRs"), why);
        }
        if !old.provider_id.is_empty() && new.provider_id != old.provider_id {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&SPEC.field("providerID"), why);
        }
        if new.external_id != old.external_id {
            errors.forbidden(&SPEC.field("externalID"), "may not be updated");
        }
    }
}

/// The API server calls a node at its addresses, and others send it their pods' traffic: they are addresses.
fn addresses(node: &Node, errors: &mut FieldErrors) {
    let list = STATUS.field("addresses");
    let mut seen = BTreeSet::new();
    for (i, address) in node.status().addresses.iter().enumerate() {
        let at = list.index(i);
        if !seen.insert((&address.r#type, &address.address)) {
            errors.duplicate(&at, &address.address);
        }
        if matches!(address.r#type.as_str(), "InternalIP" | "ExternalIP")
            && let Err(why) = names::check(Format::Ip, &address.address)
        {
            errors.invalid(&at.field("address"), &address.address, why);
        }
    }
}

fn is_ipv4(cidr: &str) -> Option<bool> {
    let (address, _) = cidr.split_once('/')?;
    address.parse::<IpAddr>().ok().map(|ip| ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    fn node(spec: &str) -> Node {
        testing::created(NodeStrategy, testing::json(&format!(r#"{{"spec": {spec}}}"#)))
    }

    #[test]
    fn a_pod_network_is_given_once() {
        let (without, old) = (node("{}"), node(r#"{"podCIDR": "10.244.1.0/24"}"#));
        assert_eq!(old.spec().pod_cidrs, ["10.244.1.0/24"]);
        assert_eq!(testing::errors(&NodeStrategy, &old), [""; 0]);
        assert_eq!(testing::update_errors(&NodeStrategy, "", &old, &without), [""; 0]);
        let found = testing::update_errors(&NodeStrategy, "", &node(r#"{"podCIDR": "10.244.2.0/24"}"#), &old);
        assert_eq!(found, [r#"spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid"#]);
    }

    #[test]
    fn a_taint_of_one_effect_is_put_on_once() {
        let twice = r#"{"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule", "value": "b"}]}"#;
        assert_eq!(testing::errors(&NodeStrategy, &node(twice)), [r#"spec.taints[1]: Duplicate value: "a:NoSchedule""#]);
        let two = r#"{"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}"#;
        assert_eq!(testing::errors(&NodeStrategy, &node(two)), [""; 0]);
    }

    #[test]
    fn a_node_has_addresses_at_which_others_reach_it() {
        let with = |kind: &str, address: &str| -> Node {
            let addresses = format!(r#"[{{"type": "{kind}", "address": "{address}"}}]"#);
            testing::json(&format!(r#"{{"metadata": {{"name": "n"}}, "status": {{"addresses": {addresses}}}}}"#))
        };
        let judge = |node: &Node| {
            let mut created = FieldErrors::default();
            NodeStrategy.validate_create(node, &mut created);
            let updated = testing::update_errors(&NodeStrategy, "status", node, &Node::default());
            assert_eq!(updated.len(), created.0.len());
            updated
        };
        for (kind, good) in
            [("InternalIP", "172.30.1.2"), ("InternalIP", "127.0.0.1"), ("ExternalIP", "fd00::2"), ("Hostname", "n1")]
        {
            assert_eq!(judge(&with(kind, good)), [""; 0]);
        }
        for bad in ["not-an-ip", "", "10.0.0.0/8"] {
            let found = judge(&with("InternalIP", bad));
            assert!(found.len() == 1 && found[0].starts_with("status.addresses[0].address: Invalid value"), "{bad}: {found:?}");
        }
        // What was stored under older rules does not keep a node from reporting.
        let old = with("InternalIP", "not-an-ip");
        assert_eq!(testing::update_errors(&NodeStrategy, "status", &old, &old), [""; 0]);
    }

    #[test]
    fn all_of_a_machine_is_allocatable_unless_it_says_otherwise() {
        let mut node: Node = testing::json(r#"{"status": {"capacity": {"cpu": "2"}}}"#);
        NodeStrategy.set_defaults(&mut node);
        assert_eq!(node.status().allocatable, node.status().capacity);
        assert_eq!(node.status().allocatable.len(), 1);
    }
}
