//! What pods say of themselves, and the writes that several controllers make to them.

pub use api::pod::{condition, is_ready};
use api::{
    Resource,
    core::v1::{Pod, PodCondition},
    meta::v1::{DeleteOptions, ObjectMeta, Time},
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

/// Seconds since 1970 at which the pod became ready; `None` if it is not.
pub fn ready_since(pod: &Pod) -> Option<i64> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    Some(ready.last_transition_time().seconds)
}

/// Sets a condition in the status of the very version of a pod that was seen; the others stay. A pod that is gone is no error, one that has
/// changed meanwhile is a conflict.
///
/// # Errors
/// A conflict if the pod has changed meanwhile; else what the API server says, unless the pod is gone.
pub async fn set_condition(client: &Client, pod: &Pod, condition: PodCondition) -> Result<(), Error> {
    set_status(client, pod, condition, None).await.map(drop)
}

/// As [`set_condition`], with a new phase. Returns the pod's metadata as it is then; `None` if the pod is gone.
async fn set_status(
    client: &Client,
    pod: &Pod,
    mut condition: PodCondition,
    phase: Option<&str>,
) -> Result<Option<ObjectMeta>, Error> {
    let meta = pod.metadata();
    let current = api::pod::condition(pod, &condition.r#type);
    if phase.is_none() && current.is_some_and(|current| current.status == condition.status && current.reason == condition.reason)
    {
        return Ok(Some(meta.clone()));
    }
    let turned = current.is_none_or(|current| current.status != condition.status);
    condition.last_transition_time =
        if turned { Some(Time::now()) } else { current.and_then(|current| current.last_transition_time) };
    let mut status = json!({ "conditions": [condition] });
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let seen = json!({ "uid": meta.uid, "resourceVersion": meta.resource_version });
    let patch = Patch::Strategic(json!({ "metadata": seen, "status": status }));
    match client.metadata(Pod::KIND, &meta.namespace).patch_status(&meta.name, &patch).await {
        Err(error) if error.is_not_found() => Ok(None),
        outcome => outcome.map(|written| Some(written.metadata)),
    }
}

/// Deletes the very version of a pod that was seen, at once if `force`. A pod that is gone is no error.
///
/// # Errors
/// Conflict if the pod has changed meanwhile: whether it is to go must be decided anew.
pub async fn delete(client: &Client, pod: &Pod, force: bool) -> Result<(), Error> {
    delete_seen(client, pod.metadata(), force).await
}

/// Says in the pod's status why it goes, and how it ended if nobody else will, then deletes it as [`delete`] does.
///
/// # Errors
/// A conflict if the pod has changed meanwhile; else what the API server says, unless the pod is gone.
pub async fn disrupt(client: &Client, pod: &Pod, condition: PodCondition, phase: Option<&str>, force: bool) -> Result<(), Error> {
    match set_status(client, pod, condition, phase).await? {
        Some(written) => delete_seen(client, &written, force).await,
        None => Ok(()),
    }
}

async fn delete_seen(client: &Client, seen: &ObjectMeta, force: bool) -> Result<(), Error> {
    let options = DeleteOptions { grace_period_seconds: force.then_some(0), ..DeleteOptions::default() };
    client.namespaced::<Pod>(&seen.namespace).delete_seen(seen, options).await
}

#[cfg(test)]
mod tests {
    use client::testing::MemoryServer;

    use super::*;
    use crate::testing::running_pod;

    #[tokio::test]
    async fn what_was_decided_on_an_older_state_of_a_pod_is_not_done_to_a_newer_one() {
        let server = MemoryServer::new();
        let (client, seen) = (server.client(), server.put(running_pod("d", "p", "n", "10.0.0.1")));
        let mut taken_over = seen.clone();
        taken_over.metadata_mut().labels.insert("app".to_owned(), "other".to_owned());
        let newer = server.put(taken_over);
        let condition = || PodCondition { r#type: "DisruptionTarget".to_owned(), ..PodCondition::default() };
        assert!(delete(&client, &seen, false).await.unwrap_err().is_conflict());
        assert!(delete(&client, &seen, true).await.unwrap_err().is_conflict());
        assert!(disrupt(&client, &seen, condition(), Some("Failed"), true).await.unwrap_err().is_conflict());
        assert_eq!(server.find::<Pod>("d", "p").unwrap(), newer);
        disrupt(&client, &newer, condition(), Some("Failed"), true).await.unwrap();
        assert!(server.all::<Pod>().is_empty());
        delete(&client, &newer, true).await.unwrap();
    }
}
