//! PodTemplates.

use api::{core::v1::PodTemplate, rules::FieldErrors};

use super::{ROOT, pod, raise_generation};
use crate::strategy::Strategy;

/// See the module.
pub struct PodTemplateStrategy;

impl Strategy for PodTemplateStrategy {
    type Kind = PodTemplate;

    fn set_defaults(&self, object: &mut PodTemplate) {
        if let Some(template) = &mut object.template {
            pod::set_template_defaults(template);
        }
    }

    fn prepare_for_create(&self, object: &mut PodTemplate) {
        object.metadata_mut().generation = 1;
    }

    fn prepare_for_update(&self, new: &mut PodTemplate, old: &PodTemplate) {
        if new.template != old.template {
            raise_generation(new);
        }
    }

    fn warnings(&self, object: &PodTemplate) -> Vec<String> {
        pod::template_warnings(object.template(), "template")
    }

    fn validate(&self, object: &PodTemplate, errors: &mut FieldErrors) {
        pod::validate_template(object.template(), &ROOT.field("template"), errors);
    }
}
