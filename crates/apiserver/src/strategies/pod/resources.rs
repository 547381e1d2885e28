//! Requests and limits.

use api::{
    core::v1::ResourceRequirements,
    quantity::{self, Quantity},
    rules::{FieldErrors, Path},
};

/// Checks the names and that no request is above its limit.
pub(super) fn validate(resources: &ResourceRequirements, at: &Path<'_>, errors: &mut FieldErrors) {
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        let at = at.field(field);
        for name in list.keys() {
            name_and_amount(name, quantity::get(list, name), &at.key(name), errors);
        }
    }
    for name in resources.requests.keys() {
        let Some(request) = quantity::get(&resources.requests, name) else { continue };
        match quantity::get(&resources.limits, name) {
            Some(limit) if !may_overcommit(name) && request != limit => {
                let why = format_args!("must be equal to {name} limit of {limit}");
                errors.invalid(&at.field("requests"), request.to_string(), why);
            }
            Some(limit) if request > limit => {
                let why = format_args!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&at.field("requests"), request.to_string(), why);
            }
            None if !may_overcommit(name) => {
                let why = "Limit must be set for non overcommitable resources";
                errors.required_because(&at.field("limits"), why);
            }
            _ => {}
        }
    }
}

/// The system's resources are a few plain words; everybody else's have a domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split_once('/').is_some_and(|(domain, _)| domain.ends_with("kubernetes.io"))
}

fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

fn name_and_amount(name: &str, amount: Option<Quantity>, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = api::names::check(api::names::Format::QualifiedName, name) {
        errors.invalid(at, name, why);
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
        errors.invalid(at, name, "must be a standard resource for containers");
    }
    if let Some(amount) = amount.filter(|amount| !is_native(name) && amount.milli_value() % 1000 != 0) {
        errors.invalid(at, amount.to_string(), "must be an integer");
    }
}
