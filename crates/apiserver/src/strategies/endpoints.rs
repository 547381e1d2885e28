//! Endpoints: each subset has addresses that can be reached and ports with names.

use api::{core::v1::Endpoints, rules::FieldErrors};

use super::ROOT;
use crate::strategy::Strategy;

/// See the module.
pub struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    type Kind = Endpoints;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Endpoints, errors: &mut FieldErrors) {
        let list = ROOT.field("subsets");
        for (i, subset) in object.subsets.iter().enumerate() {
            let at = list.index(i);
            if subset.addresses.is_empty() && subset.not_ready_addresses.is_empty() {
                errors.required_because(&at, "must specify `addresses` or `notReadyAddresses`");
            }
            for (j, port) in subset.ports.iter().enumerate() {
                if port.name.is_empty() && subset.ports.len() > 1 {
                    errors.required(&at.field("ports").index(j).field("name"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn a_subset_has_addresses() {
        let found =
            testing::errors(&EndpointsStrategy, &testing::json(r#"{"subsets": [{"ports": [{"port": 1, "protocol": "TCP"}]}]}"#));
        assert_eq!(found, ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
    }

    #[test]
    fn addresses_of_the_machine_itself_are_no_endpoints() {
        for ip in ["not-an-ip", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "::1", "fe80::1"] {
            let endpoints = testing::json(&format!(r#"{{"subsets": [{{"addresses": [{{"ip": "{ip}"}}]}}]}}"#));
            let found = testing::errors(&EndpointsStrategy, &endpoints);
            assert!(found.len() == 1 && found[0].starts_with("subsets[0].addresses[0].ip: Invalid value"), "{ip}: {found:?}");
        }
        let good = testing::json(r#"{"subsets": [{"addresses": [{"ip": "10.244.1.7"}]}]}"#);
        assert_eq!(testing::errors(&EndpointsStrategy, &good), [""; 0]);
    }
}
