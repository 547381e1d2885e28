//! Probes and lifecycle hooks: one way to act each.

use api::{
    core::v1::{Container, LifecycleHandler, Probe, ProbeHandler},
    rules::{FieldErrors, Path},
};

/// Checks a container's probes.
pub(super) fn validate(container: &Container, at: &Path<'_>, errors: &mut FieldErrors) {
    for (field, probe) in [("livenessProbe", &container.liveness_probe), ("startupProbe", &container.startup_probe)] {
        let Some(probe) = probe else { continue };
        one(probe, &at.field(field), errors);
        if probe.success_threshold != 1 {
            errors.invalid(&at.field(field).field("successThreshold"), probe.success_threshold, "must be 1");
        }
    }
    if let Some(probe) = &container.readiness_probe {
        let at = at.field("readinessProbe");
        one(probe, &at, errors);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            errors.invalid(&at.field("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
        }
    }
}

/// Checks a container's lifecycle hooks. `grace` is how many seconds the pod has to end.
pub(super) fn lifecycle(container: &Container, grace: i64, at: &Path<'_>, errors: &mut FieldErrors) {
    let Some(lifecycle) = &container.lifecycle else { return };
    let at = at.field("lifecycle");
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        handler(&hook_handlers(hook), &at.field(field), errors);
        if let Some(sleep) = hook.sleep.as_ref().filter(|sleep| sleep.seconds > grace) {
            let why = format_args!("must be less than or equal to terminationGracePeriodSeconds of {grace}");
            errors.invalid(&at.field(field).field("sleep").field("seconds"), sleep.seconds, why);
        }
    }
}

fn one(probe: &Probe, at: &Path<'_>, errors: &mut FieldErrors) {
    handler(&probe_handlers(probe.handler()), at, errors);
}

fn probe_handlers(handler: &ProbeHandler) -> [(&'static str, bool); 4] {
    [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("tcpSocket", handler.tcp_socket.is_some()),
        ("grpc", handler.grpc.is_some()),
    ]
}

fn hook_handlers(handler: &LifecycleHandler) -> [(&'static str, bool); 4] {
    [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http_get.is_some()),
        ("tcpSocket", handler.tcp_socket.is_some()),
        ("sleep", handler.sleep.is_some()),
    ]
}

fn handler(handlers: &[(&str, bool)], at: &Path<'_>, errors: &mut FieldErrors) {
    let mut given = handlers.iter().filter(|(_, given)| *given);
    if given.next().is_none() {
        errors.required_because(at, "must specify a handler type");
    }
    for (field, _) in given {
        errors.forbidden(&at.field(field), "may not specify more than 1 handler type");
    }
}
