//! Quality of service: how a pod is treated when its node runs short.

use std::collections::BTreeMap;

use api::{core::v1::PodSpec, quantity::Quantity};

/// The resources that count.
const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    for container in spec.containers.iter().chain(&spec.init_containers) {
        let resources = container.resources();
        for name in COMPUTE {
            if let Some(amount) = amount(&resources.requests, name) {
                *requests.entry(name).or_insert(Quantity::ZERO) += amount;
            }
            match amount(&resources.limits, name) {
                Some(amount) => *limits.entry(name).or_insert(Quantity::ZERO) += amount,
                None => all_limited = false,
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn amount(list: &BTreeMap<String, api::resource::Quantity>, name: &str) -> Option<Quantity> {
    api::quantity::get(list, name).filter(|amount| !amount.is_zero())
}
