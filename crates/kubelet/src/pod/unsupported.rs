//! What a pod asks for that this kubelet cannot do (yet). Such a pod is refused as a whole, with the field's name: half a pod, or one without a
//! restriction that somebody relies on, is worse than none.

use api::core::v1::{Container, Pod};

/// Upstream's reason for kernel parameters that nobody has allowed.
const SYSCTL_FORBIDDEN: &str = "SysctlForbidden";
/// Upstream's reason for a pod of another operating system.
const OS_NOT_SUPPORTED: &str = "PodOSNotSupported";
/// The reason for everything else.
const FIELD_NOT_SUPPORTED: &str = "FieldNotSupported";

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

/// Resources that a container can be given here.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Why a pod cannot be run here at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs, such as `FieldNotSupported`.
    pub reason: &'static str,
    /// For people: the field, and what is the matter with it.
    pub message: String,
}

/// Why this kubelet cannot run the pod; `None` if it can.
pub fn rejection(pod: &Pod) -> Option<Rejection> {
    let because = |reason, field: String, what: &str| Rejection { reason, message: format!("Pod was rejected: {field}: {what}") };
    if let Some((field, what)) = of_pod(pod) {
        return Some(because(FIELD_NOT_SUPPORTED, format!("spec.{field}"), &format!("{what} not supported by this kubelet yet")));
    }
    let spec = pod.spec();
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Some(because(OS_NOT_SUPPORTED, "spec.os.name".into(), "this node runs linux"));
    }
    for (index, sysctl) in spec.security_context().sysctls.iter().enumerate() {
        // The engine takes both separators.
        let name = sysctl.name.replace('/', ".");
        let of_host = spec.host_network && name.starts_with("net.") || spec.host_ipc && name.starts_with("kernel.");
        if !SAFE_SYSCTLS.contains(&name.as_str()) || of_host {
            let field = format!("spec.securityContext.sysctls[{index}]");
            return Some(because(SYSCTL_FORBIDDEN, field, &format!("forbidden sysctl: {:?} not allowlisted", sysctl.name)));
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        if let Some((field, what)) = of_container(container, spec.host_network) {
            let field = format!("spec.containers[{index}].{field}");
            return Some(because(FIELD_NOT_SUPPORTED, field, &format!("{what} not supported by this kubelet yet")));
        }
    }
    None
}

/// A field of the pod that cannot be honoured, and what it asks for.
fn of_pod(pod: &Pod) -> Option<(&'static str, &'static str)> {
    let (spec, security) = (pod.spec(), pod.spec().security_context());
    [
        // Init containers have their place in `plan::run`, before the others are wanted.
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
    let grpc = |probe: &Option<api::core::v1::Probe>| probe.as_ref().is_some_and(|probe| probe.handler().grpc.is_some());
    let fixed = [
        // Hooks have their place in `jobs::start_container` and `Worker::stop`, gRPC probes in `probe`.
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
    let strict = |mount: &api::core::v1::VolumeMount| mount.recursive_read_only.as_deref() == Some("Enabled");
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
    use api::core::v1::{ContainerPort, Probe, Sysctl, VolumeMount};

    use super::*;

    /// A change of a pod, and where the refusal says that it lies.
    type Case = (fn(&mut Pod), &'static str);

    fn pod(change: fn(&mut Pod)) -> Pod {
        let mut pod = Pod::default();
        pod.spec_mut().containers.push(Container { name: "a".into(), ..Container::default() });
        change(&mut pod);
        pod
    }

    fn first(pod: &mut Pod) -> &mut Container {
        &mut pod.spec_mut().containers[0]
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_its_field() {
        let cases: [Case; 10] = [
            (|pod| pod.spec_mut().init_containers.push(Container::default()), "spec.initContainers: init containers are not"),
            (|pod| pod.spec_mut().host_users = Some(false), "spec.hostUsers: "),
            (|pod| pod.spec_mut().runtime_class_name = Some("gvisor".into()), "spec.runtimeClassName: "),
            (|pod| pod.spec_mut().os_mut().name = "windows".into(), "spec.os.name: this node runs linux"),
            (
                |pod| first(pod).lifecycle_mut().pre_stop_mut().exec = Some(Default::default()),
                "spec.containers[0].lifecycle.preStop: ",
            ),
            (
                |pod| {
                    let mut probe = Probe::default();
                    probe.handler_mut().grpc = Some(Default::default());
                    first(pod).liveness_probe = Some(probe);
                },
                "spec.containers[0].livenessProbe.grpc: ",
            ),
            (
                |pod| first(pod).ports.push(ContainerPort { host_port: 80, container_port: 80, ..ContainerPort::default() }),
                "spec.containers[0].ports[0].hostPort: ",
            ),
            (
                |pod| {
                    first(pod)
                        .volume_mounts
                        .push(VolumeMount { recursive_read_only: Some("Enabled".into()), ..VolumeMount::default() })
                },
                "spec.containers[0].volumeMounts[0].recursiveReadOnly: ",
            ),
            (
                |pod| {
                    let limits = &mut first(pod).resources_mut().limits;
                    limits.insert("example.com/gpu".into(), api::quantity::Quantity::from_value(1).into());
                },
                "spec.containers[0].resources.limits[example.com/gpu]: ",
            ),
            (
                |pod| {
                    let sysctl = Sysctl { name: "kernel.msgmax".into(), value: "1".into() };
                    pod.spec_mut().security_context_mut().sysctls.push(sysctl);
                },
                "spec.securityContext.sysctls[0]: forbidden sysctl: \"kernel.msgmax\"",
            ),
        ];
        for (change, said) in cases {
            let message = rejection(&pod(change)).map(|rejection| rejection.message).unwrap_or_default();
            assert!(message.starts_with(&format!("Pod was rejected: {said}")), "{said}: {message:?}");
        }
    }

    #[test]
    fn what_can_be_honoured_is_not_refused() {
        let allowed: [fn(&mut Pod); 3] = [
            |_| {},
            |pod| {
                pod.spec_mut().host_network = true;
                first(pod).ports.push(ContainerPort { host_port: 80, container_port: 80, ..ContainerPort::default() });
            },
            |pod| {
                let sysctl = Sysctl { name: "net.ipv4.tcp_syncookies".into(), value: "0".into() };
                pod.spec_mut().security_context_mut().sysctls.push(sysctl);
            },
        ];
        for change in allowed {
            assert_eq!(rejection(&pod(change)), None);
        }
    }
}
