//! PriorityClasses: the highest values are the system's.

use api::{Resource, rules::FieldErrors, scheduling::v1::PriorityClass};

use super::{META, ROOT};
use crate::strategy::Strategy;

/// What begins the name of the system's classes.
const SYSTEM_PREFIX: &str = "system-";
/// The greatest value of a class that is not the system's.
pub const HIGHEST_USER: i32 = 1_000_000_000;
/// The system's classes: name, value, and what they are for.
pub const SYSTEM: &[(&str, i32, &str)] = &[
    ("system-cluster-critical", 2_000_000_000, "For pods that the cluster cannot do without, on whichever node."),
    ("system-node-critical", 2_000_001_000, "For pods that their node cannot do without."),
];

/// See the module.
pub struct PriorityClassStrategy;

impl Strategy for PriorityClassStrategy {
    type Kind = PriorityClass;

    fn prepare_for_create(&self, object: &mut PriorityClass) {
        object.metadata_mut().generation = 1;
    }

    fn validate(&self, object: &PriorityClass, errors: &mut FieldErrors) {
        let name = object.name();
        if name.starts_with(SYSTEM_PREFIX) {
            let known = SYSTEM.iter().any(|(known, value, _)| *known == name && *value == object.value && !object.global_default);
            if !known {
                errors.forbidden(
                    &META.field("name"),
                    format_args!(
                        "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {name} with \
                         value {} is not a known system priority class",
                        object.value
                    ),
                );
            }
        } else if object.value > HIGHEST_USER {
            let why = format_args!("maximum allowed value of a user defined priority is {HIGHEST_USER}");
            errors.forbidden(&ROOT.field("value"), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn the_highest_priorities_are_the_systems() {
        let class = |name: &str, value: i32| {
            let class = PriorityClass { value, ..Default::default() };
            let mut class = testing::created(PriorityClassStrategy, class);
            class.metadata_mut().name = name.to_owned();
            testing::errors(&PriorityClassStrategy, &class)
        };
        assert_eq!(class("high", HIGHEST_USER), [""; 0]);
        assert_eq!(
            class("high", HIGHEST_USER + 1),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(class("system-node-critical", 2_000_001_000), [""; 0]);
        assert!(class("system-mine", 5)[0].starts_with("metadata.name: Forbidden: priority class names with 'system-' prefix"));
    }
}
