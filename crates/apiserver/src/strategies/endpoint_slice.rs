//! EndpointSlices: addresses of one kind, ports with different names, and no more of either than a reader can take.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use api::{
    discovery::v1::EndpointSlice,
    names::{self, Format},
    rules::{FieldErrors, Path},
};

use super::{ROOT, raise_generation};
use crate::strategy::Strategy;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;

/// See the module.
pub struct EndpointSliceStrategy;

impl Strategy for EndpointSliceStrategy {
    type Kind = EndpointSlice;

    fn prepare_for_create(&self, object: &mut EndpointSlice) {
        object.metadata_mut().generation = 1;
    }

    fn prepare_for_update(&self, new: &mut EndpointSlice, old: &EndpointSlice) {
        let same = new.endpoints == old.endpoints && new.ports == old.ports && new.metadata().labels == old.metadata().labels;
        if !same {
            raise_generation(new);
        }
    }

    fn validate(&self, object: &EndpointSlice, errors: &mut FieldErrors) {
        let (endpoints, ports) = (ROOT.field("endpoints"), ROOT.field("ports"));
        at_most(object.endpoints.len(), ENDPOINTS_MAX, &endpoints, errors);
        for (i, endpoint) in object.endpoints.iter().enumerate() {
            let at = endpoints.index(i);
            at_most(endpoint.addresses.len(), ADDRESSES_MAX, &at.field("addresses"), errors);
            for (j, text) in endpoint.addresses.iter().enumerate() {
                address(&object.address_type, text, &at.field("addresses").index(j), errors);
            }
            at_most(endpoint.hints().for_zones.len(), HINTS_MAX, &at.field("hints").field("forZones"), errors);
            at_most(endpoint.hints().for_nodes.len(), HINTS_MAX, &at.field("hints").field("forNodes"), errors);
        }
        at_most(object.ports.len(), PORTS_MAX, &ports, errors);
        let mut seen = BTreeSet::new();
        for (i, port) in object.ports.iter().enumerate() {
            let (name, at) = (port.name.as_deref().unwrap_or_default(), ports.index(i));
            if !name.is_empty()
                && let Err(why) = names::check(Format::DnsLabel, name)
            {
                errors.invalid(&at.field("name"), name, why);
            }
            if !seen.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
        }
    }
}

fn at_most(count: usize, max: usize, at: &Path<'_>, errors: &mut FieldErrors) {
    if count > max {
        errors.too_many(at, count, max);
    }
}

fn address(kind: &str, text: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    let (format, text_of_form) = match kind {
        "IPv4" if text.parse::<Ipv4Addr>().is_err() => return errors.invalid(at, text, "must be a valid IPv4 address"),
        "IPv6" if text.parse::<Ipv6Addr>().is_err() => return errors.invalid(at, text, "must be a valid IPv6 address"),
        "IPv4" | "IPv6" => (Format::ReachableIp, text),
        "FQDN" => (Format::DnsSubdomain, text.strip_suffix('.').unwrap_or(text)),
        _ => return,
    };
    if let Err(why) = names::check(format, text_of_form) {
        errors.invalid(at, text, why);
    } else if kind == "FQDN" && !text_of_form.contains('.') {
        errors.invalid(at, text, "should be a domain with at least two segments separated by dots");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    fn slice(address_type: &str, address: &str) -> EndpointSlice {
        testing::json(&format!(r#"{{"addressType": "{address_type}", "endpoints": [{{"addresses": ["{address}"]}}]}}"#))
    }

    #[test]
    fn addresses_are_of_the_slices_type() {
        assert_eq!(testing::errors(&EndpointSliceStrategy, &slice("IPv4", "10.0.0.1")), [""; 0]);
        assert_eq!(testing::errors(&EndpointSliceStrategy, &slice("FQDN", "db.example.com.")), [""; 0]);
        let found = testing::errors(&EndpointSliceStrategy, &slice("FQDN", "db"));
        assert!(found[0].ends_with("should be a domain with at least two segments separated by dots"), "{found:?}");
        for (family, ip) in [("IPv4", "127.0.0.1"), ("IPv4", "169.254.0.1"), ("IPv6", "::1"), ("IPv6", "fe80::1")] {
            let found = testing::errors(&EndpointSliceStrategy, &slice(family, ip));
            assert!(found.len() == 1 && found[0].contains("may not be in the"), "{found:?}");
        }
        let found = testing::errors(&EndpointSliceStrategy, &slice("IPv4", "fd00::1"));
        assert_eq!(found, [r#"endpoints[0].addresses[0]: Invalid value: "fd00::1": must be a valid IPv4 address"#]);
        assert_eq!(testing::errors(&EndpointSliceStrategy, &slice("IPv4", "127.0.0.1")).len(), 1);
    }

    #[test]
    fn a_slice_holds_at_most_a_thousand_endpoints() {
        let mut full = slice("IPv4", "10.0.0.1");
        full.endpoints = vec![full.endpoints[0].clone(); 1001];
        assert_eq!(testing::errors(&EndpointSliceStrategy, &full), ["endpoints: Too many: 1001: must have at most 1000 items"]);
    }

    #[test]
    fn port_names_are_unique() {
        let mut slice = slice("IPv4", "10.0.0.1");
        slice.ports = vec![Default::default(), Default::default()];
        let slice = testing::created(EndpointSliceStrategy, slice);
        assert_eq!(testing::errors(&EndpointSliceStrategy, &slice), [r#"ports[1].name: Duplicate value: """#]);
    }

    #[test]
    fn the_generation_counts_changes_of_the_endpoints() {
        let old = testing::created(EndpointSliceStrategy, slice("IPv4", "10.0.0.1"));
        let same = testing::updated(&EndpointSliceStrategy, old.clone(), &old);
        let mut other = slice("IPv4", "10.0.0.2");
        other.metadata_mut().generation = 1;
        let other = testing::updated(&EndpointSliceStrategy, other, &old);
        assert_eq!((same.metadata().generation, other.metadata().generation), (1, 2));
        let moved = slice("IPv6", "fd00::1");
        assert_eq!(
            testing::update_errors(&EndpointSliceStrategy, "", &moved, &old),
            ["addressType: Invalid value: field is immutable"]
        );
    }
}
