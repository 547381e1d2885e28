//! What can change of a pod once it exists.

use std::net::IpAddr;

use api::{
    core::v1::{ContainerStatus, Pod, PodSpec, Toleration},
    pod::MIRROR,
    rules::{FieldErrors, Path},
};
use serde_json::Value;

use crate::strategies::{META, SPEC, STATUS};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a changed pod against the old one.
pub(super) fn spec(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let mirror = |pod: &Pod| pod.metadata().annotations.get(MIRROR).cloned();
    if mirror(new) != mirror(old) {
        errors.invalid(&META.field("annotations").key(MIRROR), "", "may not be set, changed or removed");
    }
    let (new, old) = (new.spec(), old.spec());
    for (field, now, before) in
        [("containers", &new.containers, &old.containers), ("initContainers", &new.init_containers, &old.init_containers)]
    {
        if now.len() != before.len() {
            errors.forbidden(&SPEC.field(field), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(new, old, errors);
    let tolerations_ok = tolerations(&new.tolerations, &old.tolerations, errors);
    let gates_ok = gates(new, old, errors);
    // What remains different after the allowed changes are taken back is not allowed.
    let mut rest = new.clone();
    for (now, before) in rest.containers.iter_mut().zip(&old.containers) {
        now.image.clone_from(&before.image);
    }
    for (now, before) in rest.init_containers.iter_mut().zip(&old.init_containers) {
        now.image.clone_from(&before.image);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && new.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if tolerations_ok {
        rest.tolerations.clone_from(&old.tolerations);
    }
    if gates_ok {
        rest.scheduling_gates.clone_from(&old.scheduling_gates);
    }
    if !old.scheduling_gates.is_empty() {
        take_back_narrowing(&mut rest, old);
    }
    if rest != *old {
        let changed = difference(&rest, old);
        errors.forbidden(SPEC, format_args!("{ALLOWED}; changed: {changed}"));
    }
}

fn deadline(new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let at = SPEC.field("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (None, Some(_)) => errors.invalid(&at, "", "must not update from a positive integer to nil value"),
        (Some(now), Some(before)) if now > before => errors.invalid(&at, now, "must be less than or equal to previous value"),
        _ => {}
    }
}

/// Old tolerations stay, only how long they last may change.
fn tolerations(new: &[Toleration], old: &[Toleration], errors: &mut FieldErrors) -> bool {
    let kept = |before: &Toleration| {
        new.iter().any(|now| Toleration { toleration_seconds: before.toleration_seconds, ..now.clone() } == *before)
    };
    let ok = old.iter().all(kept);
    if !ok {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&SPEC.field("tolerations"), why);
    }
    ok
}

fn gates(new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) -> bool {
    let list = SPEC.field("schedulingGates");
    let mut ok = true;
    for (i, gate) in new.scheduling_gates.iter().enumerate().filter(|(_, gate)| !old.scheduling_gates.contains(gate)) {
        let why = format_args!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&list.index(i).field("name"), why);
        ok = false;
    }
    ok
}

/// While a pod waits at its gates, the nodes it can run on may become fewer.
fn take_back_narrowing(rest: &mut PodSpec, old: &PodSpec) {
    if old.node_selector.iter().all(|(key, value)| rest.node_selector.get(key) == Some(value)) {
        rest.node_selector.clone_from(&old.node_selector);
    }
    let required = |spec: &PodSpec| spec.affinity().node_affinity().required_during_scheduling_ignored_during_execution.clone();
    let (now, before) = (required(rest), required(old));
    let narrower = match (&now, &before) {
        (Some(now), Some(before)) => {
            now.node_selector_terms.len() == before.node_selector_terms.len()
                && now.node_selector_terms.iter().zip(&before.node_selector_terms).all(|(now, before)| {
                    now.match_expressions.starts_with(&before.match_expressions)
                        && now.match_fields.starts_with(&before.match_fields)
                })
        }
        (_, None) => true,
        (None, Some(_)) => false,
    };
    if narrower && now != before {
        let affinity = rest.affinity_mut().node_affinity_mut();
        affinity.required_during_scheduling_ignored_during_execution = before;
        // What was only there to hold the requirement goes with it.
        if old.affinity().node_affinity.is_none() && *rest.affinity().node_affinity() == Default::default() {
            rest.affinity_mut().node_affinity = None;
        }
        if old.affinity.is_none() && *rest.affinity() == Default::default() {
            rest.affinity = None;
        }
    }
}

/// Path of the first field in which the two differ.
fn difference(new: &PodSpec, old: &PodSpec) -> String {
    match (serde_json::to_value(new), serde_json::to_value(old)) {
        (Ok(new), Ok(old)) => descend("spec".to_owned(), &new, &old),
        _ => "spec".to_owned(),
    }
}

fn descend(path: String, new: &Value, old: &Value) -> String {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            let keys = new.keys().chain(old.keys());
            let changed = keys.map(String::as_str).find(|key| new.get(*key) != old.get(*key));
            match changed {
                Some(key) => {
                    let null = &Value::Null;
                    descend(format!("{path}.{key}"), new.get(key).unwrap_or(null), old.get(key).unwrap_or(null))
                }
                None => path,
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            match new.iter().zip(old).position(|(new, old)| new != old) {
                Some(i) => descend(format!("{path}[{i}]"), &new[i], &old[i]),
                None => path,
            }
        }
        _ => path,
    }
}

/// Checks a changed status against the old one.
pub(super) fn status(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let list = STATUS.field("podIPs");
    let families: Vec<bool> =
        new.status().pod_ips.iter().filter_map(|ip| Some(ip.ip.parse::<IpAddr>().ok()?.is_ipv4())).collect();
    if new.status().pod_ips != old.status().pod_ips && (families.len() > 2 || families.len() == 2 && families[0] == families[1]) {
        let ips: Vec<&str> = new.status().pod_ips.iter().map(|ip| ip.ip.as_str()).collect();
        errors.invalid(&list, ips, "may specify no more than one IP for each IP family");
    }
    let policy = old.spec().restart_policy.as_str();
    if policy == "Always" {
        return;
    }
    let (new, old) = (new.status(), old.status());
    for (field, new, old) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses),
    ] {
        stay_terminated(policy, new, old, &STATUS.field(field), errors);
    }
}

/// What ended for good does not run again.
fn stay_terminated(policy: &str, new: &[ContainerStatus], old: &[ContainerStatus], at: &Path<'_>, errors: &mut FieldErrors) {
    for (i, before) in old.iter().enumerate() {
        let Some(ended) = before.state().terminated.as_ref() else { continue };
        if policy == "OnFailure" && ended.exit_code != 0 {
            continue;
        }
        let runs_again = new.iter().any(|now| now.name == before.name && now.state().terminated.is_none());
        if runs_again {
            errors.forbidden(&at.index(i).field("state"), "may not be transitioned to non-terminated state");
        }
    }
}
