//! What pods say of themselves, and the writes that several controllers make to them.

use api::{
    core::v1::{Pod, PodCondition},
    meta::v1::{OwnerReference, Time},
    pod::is_terminal,
};
use client::{Client, Error, Patch};
use serde_json::json;

/// True if the pod is on its way out.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata().deletion_timestamp.is_some()
}

/// True if the pod counts as one of those that are wanted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// The condition of a type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status().conditions.iter().find(|condition| condition.r#type == kind)
}

/// True if the pod is ready to serve.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Seconds since 1970 at which the pod became ready; `None` if it is not.
pub fn ready_since(pod: &Pod) -> Option<i64> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time().seconds)
}

/// The reference of the owner that manages the pod.
pub fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata().owner_references.iter().find(|owner| owner.controller == Some(true))
}

/// Sets conditions in the pod's status, if it still is the pod of this UID; the others stay. A pod that is gone is no error.
pub async fn set_condition(client: &Client, pod: &Pod, condition: PodCondition) -> Result<(), Error> {
    set_status(client, pod, condition, None).await
}

/// As [`set_condition`], with a new phase.
pub async fn set_status(client: &Client, pod: &Pod, mut condition: PodCondition, phase: Option<&str>) -> Result<(), Error> {
    let meta = pod.metadata();
    let current = self::condition(pod, &condition.r#type);
    if phase.is_none() && current.is_some_and(|current| current.status == condition.status && current.reason == condition.reason)
    {
        return Ok(());
    }
    let turned = current.is_none_or(|current| current.status != condition.status);
    condition.last_transition_time =
        if turned { Some(Time::now()) } else { current.and_then(|current| current.last_transition_time) };
    let mut status = json!({ "conditions": [condition] });
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let patch = Patch::Strategic(json!({ "metadata": { "uid": meta.uid }, "status": status }));
    match client.namespaced::<Pod>(&meta.namespace).patch_status(&meta.name, &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Deletes a pod if it still is the one of this UID; at once if `force`. A pod that is gone is no error.
pub async fn delete(client: &Client, pod: &Pod, force: bool) -> Result<(), Error> {
    let meta = pod.metadata();
    let mut options = client::delete::uid(&meta.uid);
    options.grace_period_seconds = force.then_some(0);
    match client.namespaced::<Pod>(&meta.namespace).delete(&meta.name, &options).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        outcome => outcome.map(drop),
    }
}
