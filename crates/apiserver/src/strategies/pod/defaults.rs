//! Defaults that depend on more than their own field.

use api::core::v1::{Container, EmptyDirVolumeSource, PodSpec, VolumeSource};

/// Sets the defaults of a pod or of a template's pods. Those of single fields are set already.
pub(super) fn spec(spec: &mut PodSpec) {
    spec.security_context.get_or_insert_default();
    // The account has an old name and a new one.
    if spec.service_account_name.is_empty() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
        if spec.host_network {
            for port in container.ports.iter_mut().filter(|port| port.host_port == 0) {
                port.host_port = port.container_port;
            }
        }
        if container.image_pull_policy.is_empty() && !container.image.is_empty() {
            container.image_pull_policy = pull_policy(&container.image).to_owned();
        }
    }
    for container in spec.ephemeral_containers.iter_mut().filter_map(|c| c.ephemeral_container_common.as_mut()) {
        if container.image_pull_policy.is_empty() && !container.image.is_empty() {
            container.image_pull_policy = pull_policy(&container.image).to_owned();
        }
    }
    for volume in &mut spec.volumes {
        let source = volume.volume_source.get_or_insert_default();
        if *source == VolumeSource::default() {
            source.empty_dir = Some(EmptyDirVolumeSource::default());
        }
        if let Some(image) = source.image.as_mut().filter(|image| image.pull_policy.is_empty() && !image.reference.is_empty()) {
            image.pull_policy = pull_policy(&image.reference).to_owned();
        }
    }
}

/// Sets the defaults that pods have and templates have not. A limit without a request asks for what it limits.
pub(super) fn of_pod(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
        container_requests(container);
    }
}

fn container_requests(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    for (name, limit) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// An image that can change under its name is pulled again each time.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let tag = match (last.contains('@'), last.split_once(':')) {
        (true, _) => "",
        (false, Some((_, tag))) => tag,
        (false, None) => "latest",
    };
    if tag == "latest" { "Always" } else { "IfNotPresent" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tag_latest_is_pulled_always() {
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("registry:5000/a/web", "Always"),
            ("registry:5000/a/web:1", "IfNotPresent"),
            ("web@sha256:0123", "IfNotPresent"),
            ("web:latest@sha256:0123", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
