//! LimitRanges: min ≤ default request ≤ default limit ≤ max, resource by resource.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    core::v1::{LimitRange, LimitRangeItem},
    names::{self, Format},
    quantity::{self, Quantity},
    resource::Quantity as Text,
    rules::{FieldErrors, Path},
};

use super::{SPEC, pod, resource_quota};
use crate::strategy::Strategy;

/// See the module.
pub struct LimitRangeStrategy;

impl Strategy for LimitRangeStrategy {
    type Kind = LimitRange;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn set_defaults(&self, object: &mut LimitRange) {
        for item in object.spec.iter_mut().flat_map(|spec| &mut spec.limits).filter(|item| item.r#type == "Container") {
            fill(&mut item.default, &item.max);
            fill(&mut item.default_request, &item.default);
            fill(&mut item.default_request, &item.min);
        }
    }

    fn validate(&self, object: &LimitRange, errors: &mut FieldErrors) {
        let list = SPEC.field("limits");
        let mut types = BTreeSet::new();
        for (i, item) in object.spec().limits.iter().enumerate() {
            let at = list.index(i);
            kind(&item.r#type, &at.field("type"), errors);
            if !types.insert(&item.r#type) {
                errors.duplicate(&at.field("type"), &item.r#type);
            }
            if item.r#type == "Pod" {
                for (field, map) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
                    if !map.is_empty() {
                        errors.forbidden(&at.field(field), "may not be specified when `type` is 'Pod'");
                    }
                }
            }
            if item.r#type == "PersistentVolumeClaim" && !item.min.contains_key("storage") && !item.max.contains_key("storage") {
                let why = "either minimum or maximum storage value is required, but neither was provided";
                errors.required_because(&at.field("limits"), why);
            }
            let names: BTreeSet<&String> = bounds_of(item).into_iter().flat_map(|(_, map)| map.keys()).collect();
            for name in names {
                for (field, _) in bounds_of(item).into_iter().filter(|(_, map)| map.contains_key(name)) {
                    resource_name(&item.r#type, name, &at.field(field).key(name), errors);
                }
                resource(item, name, &at, errors);
            }
        }
    }
}

fn bounds_of(item: &LimitRangeItem) -> [(&'static str, &BTreeMap<String, Text>); 5] {
    [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ]
}

/// Checks what the limits are for: one of the system's own words, or somebody else's with a domain.
fn kind(name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        return;
    }
    if let Err(why) = names::check(Format::QualifiedName, name) {
        errors.invalid(at, name, why);
    } else if !name.contains('/') && !matches!(name, "Pod" | "Container" | "PersistentVolumeClaim") {
        errors.invalid(at, name, "must be a standard limit type or fully qualified");
    }
}

fn resource_name(kind: &str, name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    match kind {
        "Pod" | "Container" => pod::resource_name(name, at, errors),
        _ if !name.contains('/') && name != "storage" && !resource_quota::is_standard(name) => {
            errors.invalid(at, name, "must be a standard resource type or fully qualified");
        }
        _ => {}
    }
}

/// Takes from `from` what `map` lacks.
fn fill(map: &mut BTreeMap<String, Text>, from: &BTreeMap<String, Text>) {
    for (name, value) in from {
        map.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn resource(item: &LimitRangeItem, name: &str, at: &Path<'_>, errors: &mut FieldErrors) {
    let bounds = [
        ("min", "min", quantity::get(&item.min, name)),
        ("defaultRequest", "default request", quantity::get(&item.default_request, name)),
        ("default", "default", quantity::get(&item.default, name)),
        ("max", "max", quantity::get(&item.max, name)),
    ];
    for (i, (field, what, low)) in bounds.iter().enumerate() {
        for (_, other, high) in &bounds[i + 1..] {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let why = format_args!("{what} value {low} is greater than {other} value {high}");
                errors.invalid(&at.field(field).key(name), low.to_string(), why);
            }
        }
    }
    let Some(ratio) = quantity::get(&item.max_limit_request_ratio, name) else { return };
    let at = at.field("maxLimitRequestRatio");
    if ratio < Quantity::from_value(1) {
        errors.invalid(&at.key(name), ratio.to_string(), format_args!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (&bounds[0].2, &bounds[3].2)
        && !min.is_zero()
        && ratio.to_f64() > max.to_f64() / min.to_f64()
    {
        let most = max.to_f64() / min.to_f64();
        errors.invalid(&at.key(name), ratio.to_string(), format_args!("ratio {ratio} is greater than max/min = {most:.6}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    fn limits(items: &str) -> LimitRange {
        testing::created(LimitRangeStrategy, testing::json(&format!(r#"{{"spec": {{"limits": [{items}]}}}}"#)))
    }

    #[test]
    fn what_is_not_given_follows_from_the_bounds() {
        let item = &limits(r#"{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}"#).spec().limits[0].clone();
        assert_eq!(quantity::get(&item.default, "cpu"), Some(Quantity::from_value(2)));
        assert_eq!(quantity::get(&item.default_request, "cpu"), Some(Quantity::from_value(2)));
        assert_eq!(quantity::get(&item.default_request, "memory"), Some(Quantity::from_bytes(1 << 20)));
    }

    #[test]
    fn bounds_must_be_in_order() {
        let found = testing::errors(
            &LimitRangeStrategy,
            &limits(r#"{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "500m"}, "default": {"cpu": "700m"}}"#),
        );
        let wanted = [
            r#"spec.limits[0].min[cpu]: Invalid value: "1": min value 1 is greater than default request value 700m"#,
            r#"spec.limits[0].min[cpu]: Invalid value: "1": min value 1 is greater than default value 700m"#,
            r#"spec.limits[0].min[cpu]: Invalid value: "1": min value 1 is greater than max value 500m"#,
        ];
        assert_eq!(found[..3], wanted);
    }

    #[test]
    fn types_and_resources_exist_or_have_a_domain() {
        let found = testing::errors(&LimitRangeStrategy, &limits(r#"{"type": "Nonsense", "max": {"cpu": "1"}}"#));
        assert_eq!(
            found,
            [r#"spec.limits[0].type: Invalid value: "Nonsense": must be a standard limit type or fully qualified"#]
        );
        let found = testing::errors(&LimitRangeStrategy, &limits(r#"{"type": "Pod", "max": {"bogus": "1"}}"#));
        assert!(
            found[0].starts_with(r#"spec.limits[0].max[bogus]: Invalid value: "bogus": must be a standard resource"#),
            "{found:?}"
        );
        for good in [
            r#"{"type": "example.com/thing", "max": {"example.com/gpu": "1"}}"#,
            r#"{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}"#,
            r#"{"type": "Container", "max": {"hugepages-2Mi": "4Mi", "example.com/gpu": "1"}}"#,
        ] {
            assert_eq!(testing::errors(&LimitRangeStrategy, &limits(good)), [""; 0], "{good}");
        }
    }

    #[test]
    fn pods_have_no_defaults_and_types_occur_once() {
        let found = testing::errors(
            &LimitRangeStrategy,
            &limits(r#"{"type": "Pod", "default": {"cpu": "1"}}, {"type": "Pod", "max": {"cpu": "1"}}"#),
        );
        assert_eq!(found[0], "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'");
        assert_eq!(found[1], r#"spec.limits[1].type: Duplicate value: "Pod""#);
    }
}
