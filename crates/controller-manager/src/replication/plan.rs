//! How many pods to create, or which to delete. No I/O.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use api::core::v1::{Pod, ReplicationController};

use crate::{pods, reads::SeenPod};

/// Annotation by which a pod says how much it would be missed; the cheapest go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Most pods to create or delete in one go.
const BURST: usize = 500;

/// What to do.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// All is well.
    Nothing,
    /// Create so many.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<SeenPod>>),
}

/// Compares what is asked for with the active pods. `neighbours` says how many related pods each node has.
pub(super) fn plan(rc: &ReplicationController, active: &[Arc<SeenPod>], neighbours: &HashMap<String, usize>) -> Plan {
    let (wanted, existing) = (super::wanted(rc), active.len());
    match wanted.cmp(&existing) {
        Ordering::Equal => Plan::Nothing,
        Ordering::Greater => Plan::Create((wanted - existing).min(BURST)),
        Ordering::Less => {
            let mut ranked = active.to_vec();
            let now = jiff::Timestamp::now().as_second();
            ranked.sort_by(|a, b| first_to_go(a, b, neighbours, now));
            ranked.truncate((existing - wanted).min(BURST));
            Plan::Delete(ranked)
        }
    }
}

/// Upstream's order: what does least, costs least, crowds most and is youngest goes first.
fn first_to_go(a: &Pod, b: &Pod, neighbours: &HashMap<String, usize>, now: i64) -> Ordering {
    let crowd = |pod: &Pod| neighbours.get(&pod.spec().node_name).copied().unwrap_or(0);
    let assigned = |pod: &Pod| !pod.spec().node_name.is_empty();
    let running = |pod: &Pod| match pod.status().phase.as_str() {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let restarts = |pod: &Pod| pod.status().container_statuses.iter().map(|status| status.restart_count).max().unwrap_or(0);
    let created = |pod: &Pod| pod.metadata().creation_timestamp().seconds;
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| running(a).cmp(&running(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| youngest(pods::ready_since(a), pods::ready_since(b), now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| youngest(Some(created(a)), Some(created(b)), now))
        .then_with(|| a.metadata().uid.cmp(&b.metadata().uid))
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata().annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages of the same magnitude count as equal, so that which of them goes is left to chance.
fn youngest(a: Option<i64>, b: Option<i64>, now: i64) -> Ordering {
    let magnitude = |at: i64| (now - at).max(0).checked_ilog2().map_or(0, |log| log + 1);
    match (a, b) {
        (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
        (None, None) => Ordering::Equal,
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use api::Resource;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, running_pod, seen};

    fn rc(replicas: i32) -> ReplicationController {
        object(json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"replicas": replicas}}))
    }

    fn deleted(wanted: i32, pods: &[Pod], neighbours: &[(&str, usize)]) -> Vec<String> {
        let pods: Vec<_> = pods.iter().map(seen).collect();
        let neighbours = neighbours.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
        match plan(&rc(wanted), &pods, &neighbours) {
            Plan::Delete(pods) => pods.iter().map(|pod| pod.name().to_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_least_goes_first() {
        let ready = running_pod("d", "ready", "n", "");
        let mut unready = running_pod("d", "unready", "n", "");
        unready.status_mut().conditions[0].status = "False".into();
        let mut pending = running_pod("d", "pending", "n", "");
        pending.status_mut().phase = "Pending".into();
        let unassigned = running_pod("d", "unassigned", "", "");
        assert_eq!(deleted(1, &[ready, unready, pending, unassigned], &[]), ["unassigned", "pending", "unready"]);
    }

    #[test]
    fn cost_beats_crowding_and_crowding_beats_age() {
        let mut dear = running_pod("d", "dear", "full", "");
        dear.metadata_mut().annotations.insert(DELETION_COST.into(), "5".into());
        let crowded = running_pod("d", "crowded", "full", "");
        let mut young = running_pod("d", "young", "empty", "");
        young.status_mut().conditions[0].last_transition_time = Some(api::meta::v1::Time::now());
        assert_eq!(deleted(1, &[dear, young, crowded], &[("full", 2), ("empty", 1)]), ["crowded", "young"]);
    }

    proptest! {
        #[test]
        fn creating_and_deleting_lead_to_what_is_asked_for(wanted in 0..40i32, active in 0..40usize) {
            let pods: Vec<_> = (0..active).map(|n| seen(&running_pod("d", &n.to_string(), "n", ""))).collect();
            let want = usize::try_from(wanted).unwrap();
            match plan(&rc(wanted), &pods, &HashMap::new()) {
                Plan::Nothing => prop_assert_eq!(active, want),
                Plan::Create(count) => prop_assert_eq!(active + count, want),
                Plan::Delete(surplus) => prop_assert_eq!(surplus.len(), active - want),
            }
        }
    }
}
