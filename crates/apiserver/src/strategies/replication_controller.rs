//! ReplicationControllers: the selector picks the template's pods, and the count can be read and set as a Scale.

use api::{
    autoscaling::v1::{Scale, ScaleSpec, ScaleStatus},
    core::v1::ReplicationController,
    meta::v1::ObjectMeta,
    rules::FieldErrors,
};

use super::{SPEC, STATUS, pod, raise_generation};
use crate::strategy::{DefaultPropagation, Strategy};

/// See the module.
pub struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    type Kind = ReplicationController;

    fn set_defaults(&self, object: &mut ReplicationController) {
        let labels = object.spec().template().metadata().labels.clone();
        if !labels.is_empty() {
            if object.spec().selector.is_empty() {
                object.spec_mut().selector.clone_from(&labels);
            }
            if object.metadata().labels.is_empty() {
                object.metadata_mut().labels = labels;
            }
        }
        if let Some(template) = object.spec.as_mut().and_then(|spec| spec.template.as_mut()) {
            pod::set_template_defaults(template);
        }
    }

    fn prepare_for_create(&self, object: &mut ReplicationController) {
        object.metadata_mut().generation = 1;
    }

    fn prepare_for_update(&self, new: &mut ReplicationController, old: &ReplicationController) {
        if new.spec != old.spec {
            raise_generation(new);
        }
    }

    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut ReplicationController, old: &ReplicationController) {
        if subresource == "scale" && new.spec != old.spec {
            raise_generation(new);
        }
    }

    fn validate(&self, object: &ReplicationController, errors: &mut FieldErrors) {
        let (spec, at) = (object.spec(), SPEC.field("template"));
        let labels = &spec.template().metadata().labels;
        if spec.template.is_some() && !spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            let why = "`selector` does not match template `labels`";
            errors.invalid(&at.field("metadata").field("labels"), labels, why);
        }
        let template = spec.template().spec();
        if matches!(template.restart_policy.as_str(), "OnFailure" | "Never") {
            errors.not_supported(&at.field("spec").field("restartPolicy"), &template.restart_policy, &["Always"]);
        }
        if template.active_deadline_seconds.is_some() {
            let why = "activeDeadlineSeconds in ReplicationController is not Supported";
            errors.forbidden(&at.field("spec").field("activeDeadlineSeconds"), why);
        }
        pod::validate_template(spec.template(), &at, errors);
    }

    fn warnings(&self, object: &ReplicationController) -> Vec<String> {
        pod::template_warnings(object.spec().template(), "spec.template")
    }

    fn validate_update(
        &self,
        subresource: &str,
        new: &ReplicationController,
        _old: &ReplicationController,
        errors: &mut FieldErrors,
    ) {
        match subresource {
            "scale" if new.spec().replicas.is_some_and(|n| n < 0) => {
                errors.invalid(&SPEC.field("replicas"), new.spec().replicas(), "must be greater than or equal to 0");
            }
            "status" => {
                let status = new.status();
                let counts = [
                    ("fullyLabeledReplicas", status.fully_labeled_replicas, status.replicas, "status.replicas"),
                    ("readyReplicas", status.ready_replicas, status.replicas, "status.replicas"),
                    ("availableReplicas", status.available_replicas, status.ready_replicas, "readyReplicas"),
                ];
                if status.replicas < 0 {
                    errors.invalid(&STATUS.field("replicas"), status.replicas, "must be greater than or equal to 0");
                }
                for (field, count, most, of) in counts {
                    if count < 0 {
                        errors.invalid(&STATUS.field(field), count, "must be greater than or equal to 0");
                    } else if count > most {
                        errors.invalid(&STATUS.field(field), count, format_args!("cannot be greater than {of}"));
                    }
                }
            }
            _ => {}
        }
    }

    fn default_propagation(&self) -> DefaultPropagation {
        DefaultPropagation::Orphan
    }
}

/// The controller's Scale.
pub(super) fn scale(object: &ReplicationController) -> Scale {
    let (meta, spec) = (object.metadata(), object.spec());
    let selector: Vec<String> = spec.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Scale {
        metadata: Some(ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp,
            ..ObjectMeta::default()
        }),
        spec: Some(ScaleSpec { replicas: spec.replicas() }),
        status: Some(ScaleStatus { replicas: object.status().replicas, selector: selector.join(",") }),
    }
}

/// Makes the controller as large as the Scale says.
pub(super) fn set_scale(object: &mut ReplicationController, scale: &Scale) {
    object.spec_mut().replicas = Some(scale.spec().replicas);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing;

    const STRATEGY: ReplicationControllerStrategy = ReplicationControllerStrategy;

    fn controller(spec: &str) -> ReplicationController {
        testing::created(
            STRATEGY,
            testing::json(&format!(
                r#"{{"spec": {{{spec} "template": {{"metadata": {{"labels": {{"app": "web"}}}},
                     "spec": {{"containers": [{{"name": "a", "image": "web:1"}}]}}}}}}}}"#
            )),
        )
    }

    #[test]
    fn labels_and_selector_come_from_the_template() {
        let rc = controller("");
        assert_eq!(rc.spec().selector["app"], "web");
        assert_eq!(rc.metadata().labels["app"], "web");
        assert_eq!((rc.spec().replicas(), rc.metadata().generation), (1, 1));
        assert_eq!(testing::errors(&STRATEGY, &rc), [""; 0]);
    }

    #[test]
    fn the_selector_must_match_the_template() {
        let found = testing::errors(&STRATEGY, &controller(r#""selector": {"app": "db"},"#));
        assert_eq!(
            found,
            [r#"spec.template.metadata.labels: Invalid value: {"app": "web"}: `selector` does not match template `labels`"#]
        );
    }

    #[test]
    fn there_are_no_negative_replicas() {
        let found = testing::errors(&STRATEGY, &controller(r#""replicas": -1,"#));
        assert_eq!(found, ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    }

    #[test]
    fn its_pods_are_always_restarted() {
        let mut rc = controller("");
        rc.spec_mut().template_mut().spec_mut().restart_policy = "Never".into();
        let found = testing::errors(&STRATEGY, &rc);
        assert_eq!(found, [r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#]);
    }

    #[test]
    fn scaling_changes_the_count_and_nothing_else() {
        let old = controller("");
        let mut scale = crate::strategies::scale::read(&old).unwrap();
        assert_eq!(scale.downcast_ref::<Scale>().unwrap().status().selector, "app=web");
        scale.downcast_mut::<Scale>().unwrap().spec_mut().replicas = 5;
        let mut new = old.clone();
        crate::strategies::scale::write(&*scale, &mut new).unwrap();
        STRATEGY.prepare_for_subresource_update("scale", &mut new, &old);
        assert_eq!((new.spec().replicas(), new.metadata().generation), (5, 2));
        assert_eq!(new.spec().template, old.spec().template);
        new.spec_mut().replicas = Some(-3);
        let found = testing::update_errors(&STRATEGY, "scale", &new, &old);
        assert_eq!(found, ["spec.replicas: Invalid value: -3: must be greater than or equal to 0"]);
    }
}
