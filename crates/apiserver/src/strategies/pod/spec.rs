//! What must hold of a pod's spec as a whole.

use std::collections::BTreeSet;

use api::{
    core::v1::PodSpec,
    rules::{FieldErrors, Path},
};

use super::{affinity, containers, ephemeral, resources, security, volumes};

const NAME_SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// Checks the spec of a pod or of a template.
pub(super) fn validate(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    let volumes = volumes::validate(spec, at, errors);
    containers::validate(spec, &volumes, at, errors);
    ephemeral::validate(spec, at, errors);
    affinity::validate(spec, at, errors);
    security::of_pod(spec, at, errors);
    resolver(spec, at, errors);
    gates(spec, at, errors);
    if let Some(of_pod) = &spec.resources {
        resources::validate(of_pod, &at.field("resources"), errors);
    }
}

fn resolver(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    let (config, at) = (spec.dns_config(), at.field("dnsConfig"));
    if spec.dns_policy == "None" && config.nameservers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required_because(&at.field("nameservers"), why);
    }
    if config.nameservers.len() > NAME_SERVERS_MAX {
        let why = format_args!("must not have more than {NAME_SERVERS_MAX} nameservers");
        errors.invalid(&at.field("nameservers"), &config.nameservers, why);
    }
    if config.searches.len() > SEARCHES_MAX {
        let why = format_args!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(&at.field("searches"), &config.searches, why);
    }
    if config.searches.iter().map(|s| s.len() + 1).sum::<usize>() > SEARCH_BYTES_MAX + 1 {
        let why = format_args!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        errors.invalid(&at.field("searches"), "", why);
    }
}

fn gates(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("schedulingGates");
    let mut seen = BTreeSet::new();
    for (i, gate) in spec.scheduling_gates.iter().enumerate() {
        if !seen.insert(&gate.name) {
            errors.duplicate(&list.index(i), &gate.name);
        }
    }
    if !spec.scheduling_gates.is_empty() && !spec.node_name.is_empty() {
        errors.forbidden(&at.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}
