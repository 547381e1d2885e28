//! Sends pods away from nodes with a NoExecute taint, once they have tolerated it as long as they say they do.
//!
//! The time runs from the taint's own `timeAdded`, so a restart of this process does not prolong it.

use std::{sync::Arc, time::Duration};

use api::{
    Resource,
    core::v1::{Node, Pod, PodCondition, Taint},
    taint::tolerated_by,
};
use client::{Controller, Error, EventType, Informer, ObjectKey, Reconcile, Requeue};

use crate::{
    Context,
    context::{NODE, by_node},
    pods,
    reads::{ReadsNode, ReadsPod, SeenNode, SeenPod},
};

/// Evicts. Keys are pods.
struct Eviction {
    context: Context,
    nodes: Informer<SeenNode>,
    pods: Informer<SeenPod>,
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
enum Verdict {
    Stays,
    /// Goes after so many seconds; 0 for now.
    Goes(u64),
}

/// Starts the controller.
pub(super) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.trimmed::<ReadsNode>(), context.informers.trimmed::<ReadsPod>());
    pods.add_index(NODE, by_node);
    let (known_nodes, known_pods) = (nodes.clone(), pods.clone());
    let reconciler =
        Eviction { context: context.recording_as("taint-eviction-controller"), nodes: nodes.clone(), pods: pods.clone() };
    Controller::new("taint-eviction", reconciler, &context.metrics)
        .workers(8)
        .watches(&pods, move |changed| {
            let concerned = changed.new.filter(|pod| {
                let node = known_nodes.store().get(&ObjectKey::new("", &*pod.spec().node_name));
                pods::is_active(pod) && node.is_some_and(|node| evicting(&node).next().is_some())
            });
            concerned.map(|pod| ObjectKey::of(pod.metadata()))
        })
        .watches(&nodes, move |changed| {
            let taints = |node: Option<&Arc<SeenNode>>| -> Vec<Taint> {
                node.map(|node| evicting(node).cloned().collect()).unwrap_or_default()
            };
            let name = changed.new.filter(|_| taints(changed.old) != taints(changed.new)).map(|node| node.name().to_owned());
            let pods = name.map(|name| known_pods.store().by_index(NODE, &name)).unwrap_or_default();
            pods.iter().map(|pod| ObjectKey::of(pod.metadata())).collect::<Vec<_>>()
        })
        .spawn(&context.kit);
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec().taints.iter().filter(|taint| taint.effect == "NoExecute")
}

/// Judges a pod on a node; `now` is in seconds since 1970.
fn verdict(pod: &Pod, node: &Node, now: i64) -> Verdict {
    let mut soonest: Option<i64> = None;
    for taint in evicting(node) {
        let Some(toleration) = tolerated_by(taint, &pod.spec().tolerations) else { return Verdict::Goes(0) };
        if let Some(seconds) = toleration.toleration_seconds {
            // A pod that came later tolerates from then on.
            let since = taint.time_added.map_or(now, |added| added.seconds).max(pod.metadata().creation_timestamp().seconds);
            let deadline = since.saturating_add(seconds.max(0));
            soonest = Some(soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        }
    }
    soonest.map_or(Verdict::Stays, |deadline| Verdict::Goes((deadline - now).max(0).unsigned_abs()))
}

impl Reconcile for Eviction {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let Some(pod) = self.pods.store().get(key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Requeue::Done) };
        let Some(node) = self.nodes.store().get(&ObjectKey::new("", &*pod.spec().node_name)) else { return Ok(Requeue::Done) };
        match verdict(&pod, &node, jiff::Timestamp::now().as_second()) {
            Verdict::Stays => Ok(Requeue::Done),
            Verdict::Goes(0) => {
                tracing::info!(pod = %key, node = node.name(), "evicting");
                let message = format!("Marking for deletion Pod {key}");
                self.context.recorder.event(&**pod, EventType::Normal, "TaintManagerEviction", message);
                let condition = PodCondition {
                    r#type: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                    reason: "DeletionByTaintManager".to_owned(),
                    message: "Taint manager: deleting due to NoExecute taint".to_owned(),
                    ..PodCondition::default()
                };
                pods::disrupt(&self.context.client, &pod, condition, None, false).await?;
                Ok(Requeue::Done)
            }
            Verdict::Goes(seconds) => Ok(Requeue::After(Duration::from_secs(seconds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{object, running_pod};

    fn judge(tolerations: serde_json::Value) -> Verdict {
        let taint = |key: &str, added: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": added});
        let node: Node = object(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [taint("a", "1970-01-01T00:01:40Z"), taint("b", "1970-01-01T00:01:50Z")]},
        }));
        let mut pod = running_pod("d", "p", "n", "");
        pod.spec_mut().tolerations = api::json::read(tolerations).unwrap();
        verdict(&pod, &node, 120)
    }

    #[test]
    fn the_shortest_toleration_counts_from_when_its_taint_was_added() {
        assert_eq!(judge(json!([{"operator": "Exists"}])), Verdict::Stays);
        assert_eq!(judge(json!([])), Verdict::Goes(0));
        assert_eq!(judge(json!([{"key": "a", "operator": "Exists"}])), Verdict::Goes(0));
        let both = |a: i64, b: i64| {
            json!([
                {"key": "a", "operator": "Exists", "tolerationSeconds": a},
                {"key": "b", "operator": "Exists", "tolerationSeconds": b},
            ])
        };
        assert_eq!(judge(both(300, 300)), Verdict::Goes(280));
        assert_eq!(judge(both(300, 60)), Verdict::Goes(50));
        assert_eq!(judge(both(10, 60)), Verdict::Goes(0));
    }
}
