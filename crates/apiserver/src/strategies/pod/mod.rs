//! Pods, and the pod templates of other kinds: defaults, what must hold of the whole, and the little that can change later.

mod affinity;
mod binding;
mod containers;
mod defaults;
mod environment;
mod ephemeral;
mod own_labels;
mod probes;
mod resources;
mod security;
mod spec;
mod update;
mod volumes;

use api::{
    Object,
    core::v1::{HostIp, Pod, PodCondition, PodIp, PodTemplateSpec},
    meta::v1::DeleteOptions,
    pod::{MIRROR, Qos, is_mirror, is_terminal},
    rules::{FieldErrors, Path},
    unsupported,
};

pub(crate) use self::binding::bind;
pub(super) use self::{affinity::selector as label_selector, resources::name as resource_name};
use super::{META, SPEC, raise_generation};
use crate::strategy::Strategy;

/// Longest grace that a deletion gives, in seconds: some 68 years. More would not be a time in the end.
const LONGEST_GRACE: i64 = i32::MAX as i64;
/// Condition type and reason of a pod that the scheduler is to leave alone.
const GATED: (&str, &str) = ("PodScheduled", "SchedulingGated");

/// See the module.
pub struct PodStrategy;

impl Strategy for PodStrategy {
    type Kind = Pod;

    fn set_defaults(&self, object: &mut Pod) {
        if let Some(spec) = &mut object.spec {
            defaults::spec(spec);
            defaults::of_pod(spec);
        }
    }

    fn prepare_for_create(&self, object: &mut Pod) {
        object.metadata_mut().generation = 1;
        object.status_mut().phase = "Pending".to_owned();
        object.status_mut().qos_class = Qos::of(object.spec()).as_str().to_owned();
        if !object.spec().scheduling_gates.is_empty() {
            let created = object.metadata().creation_timestamp;
            object.status_mut().conditions.push(PodCondition {
                r#type: GATED.0.to_owned(),
                status: "False".to_owned(),
                reason: GATED.1.to_owned(),
                message: "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
                last_transition_time: created,
                ..PodCondition::default()
            });
        }
        own_labels::merge(object);
    }

    fn prepare_for_update(&self, new: &mut Pod, old: &Pod) {
        // The priority is not the client's to send.
        if let (None, Some(priority)) = (new.spec().priority, old.spec().priority) {
            new.spec_mut().priority = Some(priority);
        }
        if new.spec != old.spec {
            raise_generation(new);
        }
        if new.spec().scheduling_gates.is_empty() && !old.spec().scheduling_gates.is_empty() {
            new.status_mut().conditions.retain(|condition| (condition.r#type.as_str(), condition.reason.as_str()) != GATED);
        }
    }

    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Pod, old: &Pod) {
        match subresource {
            "status" => prepare_status(new, old),
            "ephemeralcontainers" if new.spec != old.spec => raise_generation(new),
            _ => {}
        }
    }

    fn validate(&self, object: &Pod, errors: &mut FieldErrors) {
        spec::validate(object.spec(), SPEC, errors);
        if is_mirror(object) && object.spec().node_name.is_empty() {
            let why = "must set spec.nodeName if mirror pod annotation is set";
            errors.invalid(&META.field("annotations").key(MIRROR), "", why);
        }
        if object.spec.is_none() {
            errors.required(SPEC);
        }
    }

    fn validate_create(&self, object: &Pod, errors: &mut FieldErrors) {
        if !object.spec().ephemeral_containers.is_empty() {
            errors.forbidden(&SPEC.field("ephemeralContainers"), "cannot be set on create");
        }
    }

    fn warnings(&self, object: &Pod) -> Vec<String> {
        unsupported::first_or_volume(object.spec()).iter().map(|found| warning("spec", found)).collect()
    }

    fn validate_update(&self, subresource: &str, new: &Pod, old: &Pod, errors: &mut FieldErrors) {
        match subresource {
            "" => update::spec(new, old, errors),
            "status" => update::status(new, old, errors),
            "ephemeralcontainers" => {
                ephemeral::update(new.spec(), old.spec(), errors);
                ephemeral::validate(new.spec(), SPEC, errors);
            }
            _ => {}
        }
    }

    fn grace_period(&self, object: &Pod, options: &DeleteOptions) -> Option<i64> {
        let never_started = object.spec().node_name.is_empty();
        if never_started || is_terminal(object) {
            return Some(0);
        }
        let seconds = options.grace_period_seconds.or(object.spec().termination_grace_period_seconds).unwrap_or(0);
        Some(if seconds < 0 { 1 } else { seconds.min(LONGEST_GRACE) })
    }
}

/// The stored pod with the ephemeral containers of the one that was sent.
pub fn with_ephemeral_containers_of(sent: Box<dyn Object>, stored: &dyn Object) -> Box<dyn Object> {
    super::taking(sent, stored, |new: &mut Pod, sent| {
        new.spec_mut().ephemeral_containers.clone_from(&sent.spec().ephemeral_containers);
    })
}

/// Sets what the schema's defaults leave open in a template.
pub(super) fn set_template_defaults(template: &mut PodTemplateSpec) {
    if let Some(spec) = &mut template.spec {
        defaults::spec(spec);
    }
}

/// Checks a template of pods.
pub(super) fn validate_template(template: &PodTemplateSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    let at = at.field("spec");
    if !template.spec().ephemeral_containers.is_empty() {
        errors.forbidden(&at.field("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    spec::validate(template.spec(), &at, errors);
}

/// A remark on a template of which no pod would run. `at` is its place in the object.
pub(super) fn template_warnings(template: &PodTemplateSpec, at: &str) -> Vec<String> {
    unsupported::first_or_volume(template.spec()).iter().map(|found| warning(&format!("{at}.spec"), found)).collect()
}

/// It is a remark and no refusal: kubelets of another version may be able to do it, and manifests that are good for upstream are taken.
fn warning(at: &str, found: &unsupported::Unsupported) -> String {
    format!("{at}.{}: {}: nodes will not run the pod", found.field, found.message)
}

/// What the kubelet does not report stays, and what it reports twice agrees.
fn prepare_status(new: &mut Pod, old: &Pod) {
    let class = if old.status().qos_class.is_empty() { Qos::of(old.spec()).as_str() } else { &old.status().qos_class };
    let status = new.status_mut();
    status.qos_class = class.to_owned();
    match (status.pod_ips.first(), status.pod_ip.is_empty()) {
        (Some(first), _) => status.pod_ip.clone_from(&first.ip),
        (None, false) => status.pod_ips = vec![PodIp { ip: status.pod_ip.clone() }],
        (None, true) => {}
    }
    match (status.host_ips.first(), status.host_ip.is_empty()) {
        (Some(first), _) => status.host_ip.clone_from(&first.ip),
        (None, false) => status.host_ips = vec![HostIp { ip: status.host_ip.clone() }],
        (None, true) => {}
    }
}

#[cfg(test)]
mod tests;
