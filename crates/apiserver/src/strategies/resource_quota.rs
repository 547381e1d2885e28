//! ResourceQuotas: what can be limited, and which scopes fit it.

use api::{
    core::v1::ResourceQuota,
    names::{self, Format},
    quantity,
    rules::{FieldErrors, Path},
};

use super::{SPEC, STATUS};
use crate::strategy::Strategy;

/// Resources that are amounts of what pods use.
const COMPUTE: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Resources that are numbers of objects.
const COUNTS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// See the module.
pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    type Kind = ResourceQuota;

    fn validate(&self, object: &ResourceQuota, errors: &mut FieldErrors) {
        let spec = object.spec();
        let hard = SPEC.field("hard");
        for (name, amount) in &spec.hard {
            let at = hard.key(name);
            resource(name, &at, errors);
            if let Ok(amount) = quantity::Quantity::try_from(amount)
                && (COUNTS.contains(&name.as_str()) || name.starts_with("count/"))
                && amount.milli_value() % 1000 != 0
            {
                errors.invalid(&at, amount.to_string(), "must be an integer");
            }
        }
        let mut scopes: Vec<&str> = Vec::new();
        for (i, scope) in spec.scopes.iter().enumerate() {
            fits(scope, spec.hard.keys(), &SPEC.field("scopes"), errors);
            if scopes.contains(&scope.as_str()) {
                errors.duplicate(&SPEC.field("scopes").index(i), scope);
            }
            scopes.push(scope);
        }
        conflicts(&scopes, &SPEC.field("scopes"), errors);
        selector(object, errors);
    }

    fn validate_update(&self, subresource: &str, new: &ResourceQuota, _old: &ResourceQuota, errors: &mut FieldErrors) {
        if subresource == "status" {
            let (hard, used) = (STATUS.field("hard"), STATUS.field("used"));
            for name in new.status().hard.keys() {
                resource(name, &hard.key(name), errors);
            }
            for name in new.status().used.keys() {
                resource(name, &used.key(name), errors);
            }
        }
    }
}

fn resource(name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    if let Err(why) = names::check(Format::QualifiedName, name) {
        errors.invalid(at, name, why);
    } else if !name.contains('/') && !is_standard(name) {
        errors.invalid(at, name, "must be a standard resource for quota");
    }
}

/// True if a resource is one of the system's own that can be limited.
pub(super) fn is_standard(name: &str) -> bool {
    COMPUTE.contains(&name)
        || COUNTS.contains(&name)
        || name == "requests.storage"
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// A scope picks pods, so that it fits only what pods use.
fn fits<'a>(scope: &str, resources: impl Iterator<Item = &'a String>, at: &Path<'_>, errors: &mut FieldErrors) {
    for name in resources {
        let fits = match scope {
            "BestEffort" => name == "pods" || name == "count/pods",
            "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
                name == "pods" || name == "count/pods" || COMPUTE.contains(&name.as_str())
            }
            _ => true,
        };
        if !fits {
            errors.invalid(at, name, format_args!("unsupported scope applied to resource: {scope}"));
        }
    }
}

fn conflicts(scopes: &[&str], at: &Path<'_>, errors: &mut FieldErrors) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(at, scopes, "conflicting scopes");
        }
    }
}

fn selector(object: &ResourceQuota, errors: &mut FieldErrors) {
    let spec = object.spec();
    let at = SPEC.field("scopeSelector");
    let list = at.field("matchExpressions");
    let mut scopes = Vec::new();
    for (i, requirement) in spec.scope_selector().match_expressions.iter().enumerate() {
        let at = list.index(i);
        fits(&requirement.scope_name, spec.hard.keys(), &at.field("scopeName"), errors);
        let operator = requirement.operator.as_str();
        if requirement.scope_name != "PriorityClass" && requirement.scope_name != "VolumeAttributesClass" && operator != "Exists"
        {
            let why = "must be 'Exists' for every scope but PriorityClass and VolumeAttributesClass";
            errors.invalid(&at.field("operator"), operator, why);
        }
        match (operator, requirement.values.is_empty()) {
            ("In" | "NotIn", true) => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required_because(&at.field("values"), why);
            }
            ("Exists" | "DoesNotExist", false) => {
                let why = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                errors.invalid(&at.field("values"), &requirement.values, why);
            }
            _ => {}
        }
        scopes.push(requirement.scope_name.as_str());
    }
    conflicts(&scopes, &SPEC.field("scopeSelector"), errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    fn quota(spec: &str) -> Vec<String> {
        testing::errors(&ResourceQuotaStrategy, &testing::json(&format!(r#"{{"spec": {spec}}}"#)))
    }

    #[test]
    fn what_can_be_limited_is_known() {
        assert_eq!(quota(r#"{"hard": {"pods": "3", "limits.cpu": "2", "count/leases.coordination.k8s.io": "5"}}"#), [""; 0]);
        let found = quota(r#"{"hard": {"podz": "3"}}"#);
        assert_eq!(found, [r#"spec.hard[podz]: Invalid value: "podz": must be a standard resource for quota"#]);
    }

    #[test]
    fn objects_are_counted_in_whole_numbers() {
        assert_eq!(quota(r#"{"hard": {"pods": "500m"}}"#), [r#"spec.hard[pods]: Invalid value: "500m": must be an integer"#]);
    }

    #[test]
    fn scopes_fit_their_resources_and_each_other() {
        assert_eq!(quota(r#"{"hard": {"pods": "3"}, "scopes": ["BestEffort"]}"#), [""; 0]);
        let found = quota(r#"{"hard": {"services": "3"}, "scopes": ["BestEffort"]}"#);
        assert!(found[0].ends_with("unsupported scope applied to resource: BestEffort"), "{found:?}");
        let found = quota(r#"{"hard": {"pods": "3"}, "scopes": ["Terminating", "NotTerminating"]}"#);
        assert!(found[0].ends_with("conflicting scopes"), "{found:?}");
    }
}
