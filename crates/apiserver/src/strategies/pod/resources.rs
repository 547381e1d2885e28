//! Requests and limits.

use api::{
    core::v1::ResourceRequirements,
    quantity::{self, Quantity},
    rules::{FieldErrors, Path},
};

/// Before the size of the pages.
const HUGE_PAGES: &str = "hugepages-";

/// Checks the names and that no request is above its limit.
pub(super) fn validate(resources: &ResourceRequirements, at: &Path<'_>, errors: &mut FieldErrors) {
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        let at = at.field(field);
        for name in list.keys() {
            let amount = quantity::get(list, name);
            self::name(name, &at.key(name), errors);
            whole(name, amount, &at.key(name), errors);
            if let Some(amount) = amount.filter(|amount| !is_whole_pages(name, *amount)) {
                let why = format_args!("{amount} is not positive integer multiple of {name}");
                errors.invalid(&at.key(name), amount.to_string(), why);
            }
        }
    }
    let asks = |is: &dyn Fn(&str) -> bool| resources.limits.keys().chain(resources.requests.keys()).any(|name| is(name));
    if asks(&|name| name.starts_with(HUGE_PAGES)) && !asks(&|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(at, "HugePages require cpu or memory");
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
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// Whether the amount of such a resource is a number of such pages; true for all other resources.
fn is_whole_pages(name: &str, amount: Quantity) -> bool {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else { return true };
    match Quantity::parse(size) {
        Ok(size) if size.is_whole() && size.value() > 0 => amount.value() % size.value() == 0,
        _ => false,
    }
}

/// Checks the name of a resource that a container can ask for.
pub(in crate::strategies) fn name(name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = api::names::check(api::names::Format::QualifiedName, name) {
        errors.invalid(at, name, why);
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
    if !name.contains('/') && !standard {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
        errors.invalid(at, name, "must be a standard resource for containers");
    }
}

fn whole(name: &str, amount: Option<Quantity>, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(amount) = amount.filter(|amount| !is_native(name) && !amount.is_whole()) {
        errors.invalid(at, amount.to_string(), "must be an integer");
    }
}
