//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use api::{
    core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext},
    rules::{FieldErrors, Path},
};

/// Checks the pod's own context and what it shares with its node.
pub(super) fn of_pod(spec: &PodSpec, at: &Path<'_>, errors: &mut FieldErrors) {
    if spec.share_process_namespace == Some(true) && spec.host_pid {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&at.field("shareProcessNamespace"), true, why);
    }
    if spec.host_users == Some(false) {
        for (field, shared) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)] {
            if shared {
                errors.forbidden(&at.field(field), "when `hostUsers` is false");
            }
        }
    }
    let at = at.field("securityContext");
    let context = spec.security_context();
    let mut names = BTreeSet::new();
    for (i, sysctl) in context.sysctls.iter().enumerate() {
        if !names.insert(&sysctl.name) {
            errors.duplicate(&at.field("sysctls").index(i).field("name"), &sysctl.name);
        }
    }
    profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), &at, errors);
}

/// Checks a container's context.
pub(super) fn of_container(context: &SecurityContext, at: &Path<'_>, errors: &mut FieldErrors) {
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            errors.invalid(at, "", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.capabilities().add.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            errors.invalid(at, "", "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), at, errors);
}

fn profiles(seccomp: Option<&SeccompProfile>, armor: Option<&AppArmorProfile>, at: &Path<'_>, errors: &mut FieldErrors) {
    let seccomp = seccomp.map(|p| ("seccompProfile", "seccomp type", p.r#type.as_str(), p.localhost_profile.as_deref()));
    let armor = armor.map(|p| ("appArmorProfile", "AppArmor type", p.r#type.as_str(), p.localhost_profile.as_deref()));
    for (field, what, kind, profile) in seccomp.into_iter().chain(armor) {
        let at = at.field(field);
        let at = at.field("localhostProfile");
        match (kind, profile) {
            ("Localhost", None | Some("")) => errors.required_because(&at, format_args!("must be set when {what} is Localhost")),
            ("RuntimeDefault" | "Unconfined", Some(profile)) => {
                errors.invalid(&at, profile, format_args!("can only be set when {what} is Localhost"));
            }
            _ => {}
        }
    }
}
