//! Events: kept where what they are about lives.

use api::{
    Resource,
    core::v1::Event,
    names::{self, Format},
    rules::FieldErrors,
};

use super::ROOT;
use crate::strategy::Strategy;

/// Most bytes of a short text such as `reason`.
const WORD_MAX: usize = 128;
/// Most bytes of `message`.
const MESSAGE_MAX: usize = 1024;

/// See the module.
pub struct EventStrategy;

impl Strategy for EventStrategy {
    type Kind = Event;

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Event, errors: &mut FieldErrors) {
        let (namespace, about) = (object.namespace(), &object.involved_object().namespace);
        // An event on a cluster-scoped object lives in default.
        let fits = if about.is_empty() { matches!(namespace, "default" | "kube-system") } else { about == namespace };
        if !fits {
            errors.invalid(&ROOT.field("involvedObject").field("namespace"), about, "does not match event.namespace");
        }
        // Only recorders of the new kind set the time, and they must set the rest as well.
        if object.event_time.is_none() {
            return;
        }
        if object.reporting_component.is_empty() {
            errors.required(&ROOT.field("reportingComponent"));
        } else if let Err(why) = names::check(Format::QualifiedName, &object.reporting_component) {
            errors.invalid(&ROOT.field("reportingComponent"), &object.reporting_component, why);
        }
        for (field, value) in
            [("reportingInstance", &object.reporting_instance), ("action", &object.action), ("reason", &object.reason)]
        {
            if value.is_empty() {
                errors.required(&ROOT.field(field));
            } else if value.len() > WORD_MAX {
                errors.invalid(&ROOT.field(field), value, format_args!("can have at most {WORD_MAX} characters"));
            }
        }
        if object.message.len() > MESSAGE_MAX {
            errors.invalid(&ROOT.field("message"), "", format_args!("can have at most {MESSAGE_MAX} characters"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    #[test]
    fn an_event_lives_in_the_namespace_of_its_object() {
        let there = testing::json(r#"{"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "a"}}"#);
        assert_eq!(testing::errors(&EventStrategy, &there), [""; 0]);
        let elsewhere = testing::json(r#"{"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "b"}}"#);
        let found = testing::errors(&EventStrategy, &elsewhere);
        assert_eq!(found, [r#"involvedObject.namespace: Invalid value: "b": does not match event.namespace"#]);
    }

    #[test]
    fn events_on_nodes_live_in_default() {
        let event = |ns: &str| {
            testing::json(&format!(
                r#"{{"metadata": {{"name": "e", "namespace": "{ns}"}}, "involvedObject": {{"kind": "Node"}}}}"#
            ))
        };
        assert_eq!(testing::errors(&EventStrategy, &event("default")), [""; 0]);
        assert_eq!(testing::errors(&EventStrategy, &event("other")).len(), 1);
    }
}
