//! Containers: what must hold of each, and among all of a pod.

use std::collections::BTreeSet;

use api::{
    core::v1::{Container, PodSpec},
    rules::{FieldErrors, Path},
};

use super::{environment, probes, resources, security, volumes::Volumes};

/// What a container is in its pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs as long as the pod.
    Main,
    /// Runs before the others, or beside them if it restarts always.
    Init,
    /// Was added to the running pod.
    Ephemeral,
}

/// What containers of one pod may not share.
#[derive(Default)]
pub(super) struct Seen<'a> {
    names: BTreeSet<&'a str>,
    host_ports: BTreeSet<(i32, &'a str, &'a str)>,
}

/// Checks the pod's containers and init containers.
pub(super) fn validate(spec: &PodSpec, volumes: &Volumes<'_>, at: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = Seen::default();
    for (field, role, list) in
        [("containers", Role::Main, &spec.containers), ("initContainers", Role::Init, &spec.init_containers)]
    {
        let path = at.field(field);
        // Init containers run one after another: they may use the same ports.
        seen.host_ports.clear();
        for (i, container) in list.iter().enumerate() {
            one(spec, container, role, volumes, &mut seen, &path.index(i), errors);
        }
    }
}

/// Checks one container.
pub(super) fn one<'a>(
    spec: &PodSpec,
    container: &'a Container,
    role: Role,
    volumes: &Volumes<'_>,
    seen: &mut Seen<'a>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if !container.name.is_empty() && !seen.names.insert(&container.name) {
        errors.duplicate(&at.field("name"), &container.name);
    }
    if container.image.trim() != container.image {
        errors.invalid(&at.field("image"), &container.image, "must not have leading or trailing whitespace");
    }
    for_role(container, role, at, errors);
    ports(spec, container, seen, at, errors);
    environment::validate(container, at, errors);
    mounts(container, volumes, at, errors);
    if role != Role::Ephemeral {
        resources::validate(container.resources(), &at.field("resources"), errors);
        probes::validate(container, at, errors);
        probes::lifecycle(container, api::pod::grace_seconds(spec), at, errors);
    }
    if let Some(context) = &container.security_context {
        security::of_container(context, &at.field("securityContext"), errors);
    }
}

fn for_role(container: &Container, role: Role, at: &Path<'_>, errors: &mut FieldErrors) {
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    match role {
        Role::Main | Role::Ephemeral if container.restart_policy.is_some() => {
            errors.forbidden(&at.field("restartPolicy"), "may not be set for non-init containers");
        }
        Role::Init if !sidecar => {
            for (field, set) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if set {
                    errors.forbidden(&at.field(field), "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
        _ => {}
    }
}

fn ports<'a>(spec: &PodSpec, container: &'a Container, seen: &mut Seen<'a>, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("ports");
    let mut names = BTreeSet::new();
    for (i, port) in container.ports.iter().enumerate() {
        let at = list.index(i);
        if !port.name.is_empty() && !names.insert(&port.name) {
            errors.duplicate(&at.field("name"), &port.name);
        }
        if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
            errors.invalid(&at.field("hostIP"), &port.host_ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        if port.host_port == 0 {
            continue;
        }
        if spec.host_network && port.host_port != port.container_port {
            let why = "must match `hostPort` when `hostNetwork` is true";
            errors.invalid(&at.field("containerPort"), port.container_port, why);
        }
        if !seen.host_ports.insert((port.host_port, &port.protocol, &port.host_ip)) {
            errors.duplicate(&at.field("hostPort"), format!("{}/{}/{}", port.protocol, port.host_ip, port.host_port));
        }
    }
}

fn mounts(container: &Container, volumes: &Volumes<'_>, at: &Path<'_>, errors: &mut FieldErrors) {
    let list = at.field("volumeMounts");
    let mut paths = BTreeSet::new();
    let privileged = container.security_context().privileged == Some(true);
    for (i, mount) in container.volume_mounts.iter().enumerate() {
        let at = list.index(i);
        if !mount.name.is_empty() && !volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&at.field("name"), &mount.name);
        }
        if !mount.mount_path.is_empty() && !paths.insert(&mount.mount_path) {
            errors.invalid(&at.field("mountPath"), &mount.mount_path, "must be unique");
        }
        if !mount.sub_path.is_empty() && !mount.sub_path_expr.is_empty() {
            errors.invalid(&at.field("subPathExpr"), &mount.sub_path_expr, "subPathExpr and subPath are mutually exclusive");
        }
        if mount.mount_propagation.as_deref() == Some("Bidirectional") && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&at.field("mountPropagation"), why);
        }
        if matches!(mount.recursive_read_only.as_deref(), Some("IfPossible" | "Enabled")) && !mount.read_only {
            let why = "may only be specified when readOnly is true";
            errors.forbidden(&at.field("recursiveReadOnly"), why);
        }
    }
    let list = at.field("volumeDevices");
    for (i, device) in container.volume_devices.iter().enumerate() {
        let at = list.index(i);
        match volumes.get(device.name.as_str()).map(|volume| volume.volume_source()) {
            None => errors.not_found(&at.field("name"), &device.name),
            Some(source) if source.persistent_volume_claim.is_none() && source.ephemeral.is_none() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&at.field("name"), &device.name, why);
            }
            Some(_) => {}
        }
        if !paths.insert(&device.device_path) {
            errors.invalid(&at.field("devicePath"), &device.device_path, "must be unique");
        }
    }
}
