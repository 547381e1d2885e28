//! From a pod's spec to what the runtime is told.

use std::{collections::BTreeMap, path::PathBuf};

use api::{
    core::v1::{Container, Pod, SecurityContext},
    pod::{Qos, grace_seconds},
};
use prost::Message as _;

use super::{env, fields::NodeFacts, files::PodFiles, qos};
use crate::{
    runtime::{ContainerKind, ContainerSpec, Image, Labels, Mount, Propagation, Resources},
    volumes::Mounted,
};

/// What a container's spec asks for that cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A mount names no volume of the pod.
    #[error("cannot find volume {0:?} to mount into container")]
    NoVolume(String),
    /// The command and arguments come to too much.
    #[error(transparent)]
    TooLarge(#[from] env::TooLarge),
    /// runAsNonRoot, and it would be root.
    #[error("container has runAsNonRoot and image will run as root")]
    Root,
    /// runAsNonRoot, and the image's user is a name.
    #[error("container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root")]
    NamedUser(String),
    /// An AppArmor profile, and a kernel that knows none.
    #[error("Cannot enforce AppArmor: AppArmor is not enabled on the host")]
    NoAppArmor,
    /// A security profile that is not there yet.
    #[error("seccompProfile type {0} is not supported by this kubelet yet")]
    Seccomp(String),
}

/// A hash of all of a container's spec that a running container cannot follow.
pub fn spec_hash(container: &Container) -> String {
    // FNV-1a over the encoding, which is the same for the same message: maps are sorted.
    let mut relevant = container.clone();
    relevant.resources = None;
    let hash = relevant
        .encode_to_vec()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The sandbox of a pod.
pub fn sandbox_spec(
    pod: &Pod,
    image: &str,
    hostname: &str,
    attempt: u32,
    cgroup_parent: &str,
    node: &NodeFacts,
) -> ContainerSpec {
    let (metadata, spec) = (pod.metadata(), pod.spec());
    let host = |yes: bool, otherwise: &str| if yes { "host".to_owned() } else { otherwise.to_owned() };
    let labels = Labels {
        grace_seconds: grace_seconds(spec),
        ..Labels::sandbox(&metadata.namespace, &metadata.name, &metadata.uid, attempt)
    };
    ContainerSpec {
        labels,
        image: image.to_owned(),
        hostname: if spec.host_network { String::new() } else { hostname.to_owned() },
        network_mode: host(spec.host_network, "none"),
        ipc_mode: host(spec.host_ipc, "shareable"),
        pid_mode: host(spec.host_pid, ""),
        uts_mode: host(spec.host_network, ""),
        resources: Resources {
            cpu_shares: qos::cpu_shares(0),
            oom_score_adj: qos::SANDBOX_OOM_SCORE.max(node.oom_score_floor),
            cgroup_parent: cgroup_parent.to_owned(),
            ..Resources::default()
        },
        read_only_root: true,
        security_opt: vec!["no-new-privileges".to_owned()],
        sysctls: spec.security_context().sysctls.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        ..ContainerSpec::default()
    }
}

/// What an application container is made from.
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Which incarnation.
    pub attempt: u32,
    /// Id of the sandbox.
    pub sandbox: &'a str,
    /// The image as the runtime has it.
    pub image: &'a Image,
    /// The environment.
    pub variables: BTreeMap<String, String>,
    /// The pod's volumes.
    pub volumes: &'a Mounted,
    /// Where the subPaths that [`sub_paths`] tells of are mounted, by the mounts' places in the spec.
    pub sub_paths: BTreeMap<usize, PathBuf>,
    /// The pod's own files.
    pub files: &'a PodFiles,
    /// The node.
    pub node: &'a NodeFacts,
    /// Parent control group.
    pub cgroup_parent: &'a str,
}

/// An application container.
///
/// # Errors
/// When the specification asks for what cannot be made of it.
pub fn container_spec(input: ContainerInput<'_>) -> Result<ContainerSpec, SpecError> {
    let ContainerInput { pod, container, sandbox, image, .. } = input;
    let (metadata, spec) = (pod.metadata(), pod.spec());
    let security = container.security_context();
    let mut budget = env::Budget::beside(&input.variables)?;
    let mut expand =
        |list: &[String]| list.iter().map(|text| env::expand(text, &input.variables, &mut budget)).collect::<Result<Vec<_>, _>>();
    let (entrypoint, args) = (expand(&container.command)?, expand(&container.args)?);
    let joined = format!("container:{sandbox}");
    let labels = Labels {
        kind: ContainerKind::Application,
        container: container.name.clone(),
        hash: spec_hash(container),
        sandbox: sandbox.to_owned(),
        message_path: container.termination_message_path.clone(),
        message_policy: container.termination_message_policy.clone(),
        grace_seconds: grace_seconds(spec),
        ..Labels::sandbox(&metadata.namespace, &metadata.name, &metadata.uid, input.attempt)
    };
    let mut groups: Vec<String> = spec.security_context().supplemental_groups.iter().map(ToString::to_string).collect();
    groups.extend(spec.security_context().fs_group.map(|group| group.to_string()));
    Ok(ContainerSpec {
        labels,
        image: image.id.clone(),
        entrypoint,
        args,
        env: input.variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: container.working_dir.clone(),
        user: user(pod, security, image)?,
        groups,
        tty: container.tty,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        stop_signal: container.lifecycle().stop_signal().to_owned(),
        network_mode: if spec.host_network { "host".to_owned() } else { joined.clone() },
        ipc_mode: if spec.host_ipc { "host".to_owned() } else { joined.clone() },
        pid_mode: match (spec.host_pid, spec.share_process_namespace) {
            (true, _) => "host".to_owned(),
            (_, Some(true)) => joined,
            _ => String::new(),
        },
        uts_mode: if spec.host_network { "host".to_owned() } else { String::new() },
        mounts: mounts(&input)?,
        resources: resources(pod, container, input.node, input.cgroup_parent),
        privileged: security.privileged == Some(true),
        read_only_root: security.read_only_root_filesystem == Some(true),
        cap_add: security.capabilities().add.clone(),
        cap_drop: security.capabilities().drop.clone(),
        security_opt: security_options(pod, security, input.node.app_armor)?,
        ..ContainerSpec::default()
    })
}

fn resources(pod: &Pod, container: &Container, node: &NodeFacts, cgroup_parent: &str) -> Resources {
    let (cpu_quota, cpu_period) = qos::cpu_quota(qos::limit(container, "cpu"));
    Resources {
        cpu_shares: qos::cpu_shares(qos::request(container, "cpu")),
        cpu_quota,
        cpu_period,
        memory: qos::limit(container, "memory"),
        oom_score_adj: qos::oom_score(Qos::of(pod.spec()), qos::request(container, "memory"), node.memory)
            .max(node.oom_score_floor),
        cgroup_parent: cgroup_parent.to_owned(),
    }
}

/// `uid[:gid]`, checked against runAsNonRoot. The container's word goes before the pod's.
fn user(pod: &Pod, security: &SecurityContext, image: &Image) -> Result<String, SpecError> {
    let of_pod = pod.spec().security_context();
    let user = security.run_as_user.or(of_pod.run_as_user);
    let group = security.run_as_group.or(of_pod.run_as_group);
    if security.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        let image_user = image.user.split(':').next().unwrap_or_default();
        match user {
            Some(0) => return Err(SpecError::Root),
            Some(_) => {}
            None if image_user.is_empty() => return Err(SpecError::Root),
            None => match image_user.parse::<u32>() {
                Ok(0) => return Err(SpecError::Root),
                Ok(_) => {}
                Err(_) => return Err(SpecError::NamedUser(image_user.to_owned())),
            },
        }
    }
    Ok(match (user, group) {
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (Some(user), None) => user.to_string(),
        (None, Some(group)) => {
            let image_user = image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            format!("{image_user}:{group}")
        }
        (None, None) => String::new(),
    })
}

fn security_options(pod: &Pod, security: &SecurityContext, app_armor: bool) -> Result<Vec<String>, SpecError> {
    let mut options = Vec::new();
    if security.allow_privilege_escalation == Some(false) {
        options.push("no-new-privileges".to_owned());
    }
    let labels = security.se_linux_options.as_ref().or(pod.spec().security_context().se_linux_options.as_ref());
    if let Some(labels) = labels {
        let parts = [("user", &labels.user), ("role", &labels.role), ("type", &labels.r#type), ("level", &labels.level)];
        options.extend(
            parts.into_iter().filter(|(_, value)| !value.is_empty()).map(|(part, value)| format!("label={part}:{value}")),
        );
    }
    let confined = security.app_armor_profile.as_ref().or(pod.spec().security_context().app_armor_profile.as_ref());
    match confined.map(|profile| (profile.r#type.as_str(), profile.localhost_profile())) {
        Some(("Unconfined", _)) => options.push("apparmor=unconfined".to_owned()),
        // The engine would do without and say nothing.
        Some(_) if !app_armor => return Err(SpecError::NoAppArmor),
        Some(("Localhost", name)) => options.push(format!("apparmor={name}")),
        // The engine's own profile.
        _ => {}
    }
    let profile = security.seccomp_profile.as_ref().or(pod.spec().security_context().seccomp_profile.as_ref());
    match profile.map(|profile| profile.r#type.as_str()) {
        // The engine's own profile, unless a pod asks to go without: safer than upstream's default, which is none.
        None | Some("RuntimeDefault" | "") => {}
        Some("Unconfined") => options.push("seccomp=unconfined".to_owned()),
        Some(other) => return Err(SpecError::Seccomp(other.to_owned())),
    }
    Ok(options)
}

fn mounts(input: &ContainerInput<'_>) -> Result<Vec<Mount>, SpecError> {
    let ContainerInput { container, files, volumes, .. } = input;
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let volume = volumes.paths.get(&mount.name).ok_or_else(|| SpecError::NoVolume(mount.name.clone()))?;
        let host_path = input.sub_paths.get(&index).unwrap_or(volume);
        mounts.push(Mount {
            host_path: host_path.to_string_lossy().into_owned(),
            container_path: absolute(&mount.mount_path),
            read_only: mount.read_only || volumes.read_only.contains(&mount.name),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let message = &container.termination_message_path;
    let own = [
        ("/etc/hosts", files.hosts()),
        ("/etc/resolv.conf", files.resolv_conf()),
        (message.as_str(), files.message(&container.name, input.attempt)),
    ];
    for (target, source) in own {
        // What the pod mounts there itself goes before.
        if !target.is_empty() && !mounts.iter().any(|mount| mount.container_path == target) {
            mounts.push(Mount {
                host_path: source.to_string_lossy().into_owned(),
                container_path: target.to_owned(),
                ..Mount::default()
            });
        }
    }
    Ok(mounts)
}

/// The subPaths of a container's mounts, by the mounts' places in its spec.
///
/// # Errors
/// When one is longer than an environment may be.
pub fn sub_paths(container: &Container, variables: &BTreeMap<String, String>) -> Result<BTreeMap<usize, String>, env::TooLarge> {
    let mut found = BTreeMap::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        if !mount.sub_path_expr.is_empty() {
            let expanded = env::expand(&mount.sub_path_expr, variables, &mut env::Budget::default())?;
            found.insert(index, expanded);
        } else if !mount.sub_path.is_empty() {
            found.insert(index, mount.sub_path.clone());
        }
    }
    Ok(found)
}

/// Upstream takes a relative mount path as one from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_of(run_as: Option<i64>, non_root: bool, image_user: &str) -> Result<String, SpecError> {
        let mut pod = Pod::default();
        pod.spec_mut().security_context_mut().run_as_non_root = Some(non_root);
        let security = SecurityContext { run_as_user: run_as, ..SecurityContext::default() };
        user(&pod, &security, &Image { user: image_user.into(), ..Image::default() })
    }

    #[test]
    fn run_as_non_root_is_verified() {
        assert_eq!(user_of(Some(7), true, ""), Ok("7".into()));
        assert_eq!(user_of(Some(0), true, "9"), Err(SpecError::Root));
        assert_eq!(user_of(None, true, ""), Err(SpecError::Root));
        assert_eq!(user_of(None, true, "1000:1000"), Ok(String::new()));
        assert_eq!(user_of(None, true, "www"), Err(SpecError::NamedUser("www".into())));
        assert_eq!(user_of(None, false, ""), Ok(String::new()));
    }

    #[test]
    fn a_containers_security_options_go_before_the_pods() {
        let mut pod = Pod::default();
        let of_pod = pod.spec_mut().security_context_mut();
        of_pod.se_linux_options_mut().level = "s0:c1".into();
        of_pod.app_armor_profile_mut().r#type = "Unconfined".into();
        let mut security = SecurityContext::default();
        assert_eq!(security_options(&pod, &security, false).unwrap(), ["label=level:s0:c1", "apparmor=unconfined"]);
        security.app_armor_profile_mut().r#type = "Localhost".into();
        security.app_armor_profile_mut().localhost_profile = Some("tight".into());
        security.allow_privilege_escalation = Some(false);
        assert_eq!(security_options(&pod, &security, false), Err(SpecError::NoAppArmor));
        assert_eq!(
            security_options(&pod, &security, true).unwrap(),
            ["no-new-privileges", "label=level:s0:c1", "apparmor=tight"]
        );
        security.seccomp_profile_mut().r#type = "Localhost".into();
        assert_eq!(security_options(&pod, &security, true), Err(SpecError::Seccomp("Localhost".into())));
    }

    #[test]
    fn the_hash_follows_the_spec_and_nothing_else() {
        let container = Container { name: "a".into(), image: "i:1".into(), ..Container::default() };
        assert_eq!(spec_hash(&container), spec_hash(&container.clone()));
        assert_ne!(spec_hash(&container), spec_hash(&Container { image: "i:2".into(), ..container }));
    }
}
