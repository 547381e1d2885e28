//! Containers added to a running pod to look into it. They are added through their own subresource and stay for good.

use api::{
    core::v1::{Container, EphemeralContainerCommon, PodSpec},
    rules::{FieldErrors, Path},
};
use prost::Message;

use super::containers::{self, Role, Seen};
use crate::strategies::SPEC;

/// Checks the ephemeral containers.
pub(super) fn validate(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    if spec.ephemeral_containers.is_empty() {
        return;
    }
    let list = at.field("ephemeralContainers");
    let volumes = spec.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let converted: Vec<Container> =
        spec.ephemeral_containers.iter().map(|c| as_container(c.ephemeral_container_common())).collect();
    let mut seen = Seen::default();
    for (i, container) in converted.iter().enumerate() {
        let at = list.index(i);
        containers::one(spec, container, Role::Ephemeral, &volumes, &mut seen, &at, errors);
        let others = || spec.containers.iter().chain(&spec.init_containers);
        if others().any(|other| other.name == container.name) {
            errors.duplicate(&at.field("name"), &container.name);
        }
        let target = &spec.ephemeral_containers[i].target_container_name;
        if !target.is_empty() && !others().any(|other| other.name == *target) {
            errors.not_found(&at.field("targetContainerName"), target);
        }
        for (field, set) in [
            ("ports", !container.ports.is_empty()),
            ("resources", container.resources.as_ref().is_some_and(|r| *r != Default::default())),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ] {
            if set {
                errors.forbidden(&at.field(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// Checks that none of the old ones changed or went.
pub(super) fn update(new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let at = SPEC.field("ephemeralContainers");
    for was in &old.ephemeral_containers {
        let name = &was.ephemeral_container_common().name;
        match new.ephemeral_containers.iter().find(|c| c.ephemeral_container_common().name == *name) {
            None => errors.forbidden(&at, format_args!("existing ephemeral containers {name:?} may not be removed")),
            Some(is) if is != was => {
                errors.forbidden(&at, format_args!("existing ephemeral containers {name:?} may not be changed"));
            }
            Some(_) => {}
        }
    }
}

/// The same fields under the same numbers: what one encodes the other decodes.
fn as_container(common: &EphemeralContainerCommon) -> Container {
    Container::decode(common.encode_to_vec().as_slice()).unwrap_or_default()
}
