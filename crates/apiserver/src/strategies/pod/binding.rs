//! Binding: what the scheduler says when it has found a node.

use api::{
    Kind, Object, Resource, StatusError,
    core::v1::{Binding, Pod, PodCondition},
    meta::v1::Time,
};

use crate::decode::expect;

/// Puts the pod on the binding's node. Only a pod that waits for a node can be bound, and only once.
///
/// # Errors
/// When the body is no Binding of this pod to a node, or the pod is assigned, gated or going.
pub(crate) fn bind(body: &dyn Object, pod: &mut dyn Object) -> Result<(), StatusError> {
    const KIND: &Kind = <Pod as Resource>::KIND;
    let binding = expect::<Binding>(body)?;
    let Some(pod) = pod.downcast_mut::<Pod>() else { return Err(StatusError::internal("what is to be bound is no Pod")) };
    let (target, name) = (binding.target(), pod.name().to_owned());
    if !matches!(target.kind.as_str(), "" | "Node") || target.name.is_empty() {
        let message = format!("target: a Node with a name is wanted here, found kind {:?}, name {:?}", target.kind, target.name);
        return Err(StatusError::bad_request(message));
    }
    let (wanted, uid) = (&binding.metadata().uid, &pod.metadata().uid);
    if !wanted.is_empty() && wanted != uid {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(StatusError::conflict(KIND, &name, why));
    }
    if pod.metadata().deletion_timestamp.is_some() {
        return Err(StatusError::conflict(KIND, &name, format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let spec = pod.spec();
    if !spec.node_name.is_empty() {
        let why = format!("pod {name} is already assigned to node {:?}", spec.node_name);
        return Err(StatusError::conflict(KIND, &name, why));
    }
    if !spec.scheduling_gates.is_empty() {
        return Err(StatusError::conflict(KIND, &name, format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    pod.spec_mut().node_name.clone_from(&target.name);
    pod.metadata_mut().annotations.extend(binding.metadata().annotations.clone());
    let status = pod.status_mut();
    status.nominated_node_name.clear();
    status.conditions.retain(|c| c.r#type != "PodScheduled");
    status.conditions.push(PodCondition {
        r#type: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time::now()),
        ..PodCondition::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::core::v1::ObjectReference;

    use super::*;

    fn binding(node: &str) -> Binding {
        Binding {
            target: Some(ObjectReference { kind: "Node".to_owned(), name: node.to_owned(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = Pod::default();
        bind(&binding("a"), &mut pod).unwrap();
        assert_eq!(pod.spec().node_name, "a");
        assert_eq!(pod.status().conditions[0].status, "True");
        assert!(bind(&binding("b"), &mut pod).unwrap_err().is_conflict());
    }

    #[test]
    fn another_pod_of_the_same_name_is_not_bound() {
        let mut pod = Pod::default();
        pod.metadata_mut().uid = "new".to_owned();
        let mut old = binding("a");
        old.metadata_mut().uid = "old".to_owned();
        assert!(bind(&old, &mut pod).unwrap_err().is_conflict());
    }
}
