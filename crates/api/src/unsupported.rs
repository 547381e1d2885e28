//! What a pod can ask for that no kubelet of this version can do (yet).
//!
//! The kubelet refuses such a pod as a whole: half a pod, or one without a restriction that somebody relies on, is worse than none. The API
//! server takes it, as upstream's would, and warns.

use crate::{
    core::v1::{Container, PodSpec, Probe, VolumeMount},
    volume,
};

/// Kernel parameters that belong to a pod's own namespaces and can harm nobody else: upstream's list.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Resources that a container can be given.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Why a pod cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A field asks for what kubelets cannot do yet.
    Field,
    /// A kernel parameter that nobody has allowed.
    Sysctl,
    /// Another operating system.
    OperatingSystem,
}

impl Reason {
    /// The word for programs, upstream's where it has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Field => "FieldNotSupported",
            Self::Sysctl => "SysctlForbidden",
            Self::OperatingSystem => "PodOSNotSupported",
        }
    }
}

/// Something asked for that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Kind of reason.
    pub reason: Reason,
    /// Path of the field below the spec, such as `containers[0].lifecycle.preStop`.
    pub field: String,
    /// What is the matter with it, for people.
    pub message: String,
}

/// The first thing for which a pod is refused, or else waits: a volume that no kubelet can mount. `None` if it will run.
pub fn first_or_volume(spec: &PodSpec) -> Option<Unsupported> {
    first(spec).or_else(|| {
        let index = spec.volumes.iter().position(|volume| volume::Kind::of(volume.volume_source()).is_err())?;
        let message = "volumes of this type are not supported by this kubelet yet".to_owned();
        Some(Unsupported { reason: Reason::Field, field: format!("volumes[{index}]"), message })
    })
}

/// The first thing that a pod asks for and that no kubelet can do; `None` if it can be run.
pub fn first(spec: &PodSpec) -> Option<Unsupported> {
    let unsupported = |field: String, what: &str| Unsupported {
        reason: Reason::Field,
        field,
        message: format!("{what} not supported by this kubelet yet"),
    };
    if let Some((field, what)) = of_pod(spec) {
        return Some(unsupported(field.to_owned(), what));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "this node runs linux".to_owned();
        return Some(Unsupported { reason: Reason::OperatingSystem, field: "os.name".to_owned(), message });
    }
    for (index, sysctl) in spec.security_context().sysctls.iter().enumerate() {
        // The engine takes both separators.
        let name = sysctl.name.replace('/', ".");
        let of_host = spec.host_network && name.starts_with("net.") || spec.host_ipc && name.starts_with("kernel.");
        if !SAFE_SYSCTLS.contains(&name.as_str()) || of_host {
            let message = format!("forbidden sysctl: {:?} not allowlisted", sysctl.name);
            let field = format!("securityContext.sysctls[{index}]");
            return Some(Unsupported { reason: Reason::Sysctl, field, message });
        }
    }
    spec.containers.iter().enumerate().find_map(|(index, container)| {
        let (field, what) = of_container(container, spec.host_network)?;
        Some(unsupported(format!("containers[{index}].{field}"), what))
    })
}

/// A field of the pod that cannot be honoured, and what it asks for.
fn of_pod(spec: &PodSpec) -> Option<(&'static str, &'static str)> {
    let security = spec.security_context();
    [
        (!spec.init_containers.is_empty(), "initContainers", "init containers are"),
        (spec.host_users == Some(false), "hostUsers", "user namespaces are"),
        (spec.runtime_class_name.as_ref().is_some_and(|name| !name.is_empty()), "runtimeClassName", "runtime classes are"),
        (!spec.resource_claims.is_empty(), "resourceClaims", "resource claims are"),
        (
            spec.resources.as_ref().is_some_and(|all| *all != Default::default()),
            "resources",
            "resources of the pod as a whole are",
        ),
        (
            security.supplemental_groups_policy.as_deref() == Some("Strict"),
            "securityContext.supplementalGroupsPolicy",
            "the policy Strict is",
        ),
        (security.windows_options.is_some(), "securityContext.windowsOptions", "Windows is"),
    ]
    .into_iter()
    .find_map(|(asked, field, what)| asked.then_some((field, what)))
}

/// A field of a container that cannot be honoured, and what it asks for.
fn of_container(container: &Container, host_network: bool) -> Option<(String, &'static str)> {
    let (security, lifecycle, resources) = (container.security_context(), container.lifecycle(), container.resources());
    let grpc = |probe: &Option<Probe>| probe.as_ref().is_some_and(|probe| probe.handler().grpc.is_some());
    let fixed = [
        (lifecycle.post_start.is_some(), "lifecycle.postStart", "hooks are"),
        (lifecycle.pre_stop.is_some(), "lifecycle.preStop", "hooks are"),
        (grpc(&container.startup_probe), "startupProbe.grpc", "gRPC probes are"),
        (grpc(&container.liveness_probe), "livenessProbe.grpc", "gRPC probes are"),
        (grpc(&container.readiness_probe), "readinessProbe.grpc", "gRPC probes are"),
        (!container.volume_devices.is_empty(), "volumeDevices", "block devices are"),
        (!resources.claims.is_empty(), "resources.claims", "resource claims are"),
        (security.proc_mount.as_deref() == Some("Unmasked"), "securityContext.procMount", "an unmasked /proc is"),
        (security.windows_options.is_some(), "securityContext.windowsOptions", "Windows is"),
    ];
    if let Some((_, field, what)) = fixed.into_iter().find(|(asked, ..)| *asked) {
        return Some((field.to_owned(), what));
    }
    if let Some(index) = container.ports.iter().position(|port| port.host_port > 0).filter(|_| !host_network) {
        return Some((format!("ports[{index}].hostPort"), "host ports are"));
    }
    let strict = |mount: &VolumeMount| mount.recursive_read_only.as_deref() == Some("Enabled");
    if let Some(index) = container.volume_mounts.iter().position(strict) {
        return Some((format!("volumeMounts[{index}].recursiveReadOnly"), "recursively read-only mounts are"));
    }
    [("limits", &resources.limits), ("requests", &resources.requests)].into_iter().find_map(|(which, map)| {
        let unknown = map.keys().find(|name| !RESOURCES.contains(&name.as_str()))?;
        Some((format!("resources.{which}[{unknown}]"), "this resource is"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::v1::{ContainerPort, Sysctl},
        quantity::Quantity,
    };

    /// A change of a pod, and where the refusal says that it lies.
    type Case = (fn(&mut PodSpec), &'static str);

    fn spec(change: fn(&mut PodSpec)) -> PodSpec {
        let mut spec = PodSpec::default();
        spec.containers.push(Container { name: "a".into(), ..Container::default() });
        change(&mut spec);
        spec
    }

    fn container(spec: &mut PodSpec) -> &mut Container {
        &mut spec.containers[0]
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_field() {
        let cases: [Case; 10] = [
            (|spec| spec.init_containers.push(Container::default()), "initContainers: init containers are not"),
            (|spec| spec.host_users = Some(false), "hostUsers: "),
            (|spec| spec.runtime_class_name = Some("gvisor".into()), "runtimeClassName: "),
            (|spec| spec.os_mut().name = "windows".into(), "os.name: this node runs linux"),
            (
                |spec| container(spec).lifecycle_mut().pre_stop_mut().exec = Some(Default::default()),
                "containers[0].lifecycle.preStop: ",
            ),
            (
                |spec| {
                    let mut probe = Probe::default();
                    probe.handler_mut().grpc = Some(Default::default());
                    container(spec).liveness_probe = Some(probe);
                },
                "containers[0].livenessProbe.grpc: ",
            ),
            (
                |spec| {
                    container(spec).ports.push(ContainerPort { host_port: 80, container_port: 80, ..ContainerPort::default() })
                },
                "containers[0].ports[0].hostPort: ",
            ),
            (
                |spec| {
                    container(spec)
                        .volume_mounts
                        .push(VolumeMount { recursive_read_only: Some("Enabled".into()), ..VolumeMount::default() })
                },
                "containers[0].volumeMounts[0].recursiveReadOnly: ",
            ),
            (
                |spec| {
                    let limits = &mut container(spec).resources_mut().limits;
                    limits.insert("example.com/gpu".into(), Quantity::from_value(1).into());
                },
                "containers[0].resources.limits[example.com/gpu]: ",
            ),
            (
                |spec| {
                    let sysctl = Sysctl { name: "kernel.msgmax".into(), value: "1".into() };
                    spec.security_context_mut().sysctls.push(sysctl);
                },
                "securityContext.sysctls[0]: forbidden sysctl: \"kernel.msgmax\"",
            ),
        ];
        for (change, said) in cases {
            let found = first(&spec(change)).map(|found| format!("{}: {}", found.field, found.message)).unwrap_or_default();
            assert!(found.starts_with(said), "{said}: {found:?}");
        }
    }

    #[test]
    fn what_can_be_honoured_is_not_refused() {
        let allowed: [fn(&mut PodSpec); 3] = [
            |_| {},
            |spec| {
                spec.host_network = true;
                container(spec).ports.push(ContainerPort { host_port: 80, container_port: 80, ..ContainerPort::default() });
            },
            |spec| {
                let sysctl = Sysctl { name: "net.ipv4.tcp_syncookies".into(), value: "0".into() };
                spec.security_context_mut().sysctls.push(sysctl);
            },
        ];
        for change in allowed {
            assert_eq!(first(&spec(change)), None);
        }
    }
}
