//! Deletes pods that nobody else will: of nodes that are gone, terminating without ever having had a node, and ended long ago.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    Resource,
    core::v1::{Node, Pod, PodCondition},
    pod::is_terminal,
};
use client::{Controller, Error, Informer, ObjectKey, Reconcile, Requeue};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    Context,
    context::{NODE, by_node},
    pods,
    reads::{ReadsNode, ReadsPod, SeenNode, SeenPod},
};

/// How long a node must be gone before its pods follow: it may be registered anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Taint by which a person says that a node is down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// One pod.
    Pod(ObjectKey),
    /// All pods that ended.
    Finished,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Finished => f.write_str("pods that ended"),
        }
    }
}

struct PodGc {
    context: Context,
    pods: Informer<SeenPod>,
    nodes: Informer<SeenNode>,
    /// Pods that ended to keep; 0 for all.
    threshold: usize,
    quarantine: Duration,
    /// When the node of each pod was first missed, by the pod's UID. A pod that is bound to a node which is yet to come has its own time.
    missed: Arc<Mutex<HashMap<String, Instant>>>,
}

/// Starts the controller.
pub fn start(context: &Context, threshold: usize) {
    start_with(context, threshold, QUARANTINE);
}

fn start_with(context: &Context, threshold: usize, quarantine: Duration) {
    let (pods, nodes) = (context.informers.trimmed::<ReadsPod>(), context.informers.trimmed::<ReadsNode>());
    pods.add_index(NODE, by_node);
    let (pod_informer, node_informer) = (pods.clone(), nodes.clone());
    let missed = Arc::<Mutex<HashMap<String, Instant>>>::default();
    let (gone, back) = (missed.clone(), missed.clone());
    let reconciler = PodGc { context: context.clone(), pods: pods.clone(), nodes: nodes.clone(), threshold, quarantine, missed };
    Controller::new("pod-gc", reconciler, &context.metrics)
        .watches(&pods, move |changed| {
            if let Some(old) = changed.old
                && changed.new.is_none_or(|new| new.metadata().uid != old.metadata().uid)
            {
                gone.lock().remove(&old.metadata().uid);
            }
            let Some(pod) = changed.new else { return Vec::new() };
            let node = &pod.spec().node_name;
            let known = !node.is_empty() && node_informer.store().get(&ObjectKey::new("", &**node)).is_some();
            let mut keys = Vec::new();
            // Pods of known nodes that live are no concern, and there are many.
            if pods::is_terminating(pod) || (!node.is_empty() && !known) {
                keys.push(Key::Pod(ObjectKey::of(pod.metadata())));
            }
            if threshold > 0 && is_terminal(pod) {
                keys.push(Key::Finished);
            }
            keys
        })
        .watches(&nodes, move |changed| {
            let Some(node) = changed.newest() else { return Vec::new() };
            let on_it = || pod_informer.store().by_index(NODE, node.name());
            if changed.old.is_none() {
                // Missed anew from the next time it goes.
                let mut missed = back.lock();
                for pod in on_it() {
                    missed.remove(&pod.metadata().uid);
                }
            }
            let concerned = if changed.new.is_none() || is_out_of_service(node) { on_it() } else { Vec::new() };
            concerned.iter().map(|pod| Key::Pod(ObjectKey::of(pod.metadata()))).collect()
        })
        .spawn(&context.kit);
}

fn is_out_of_service(node: &Node) -> bool {
    let ready = node.status().conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True");
    !ready && node.spec().taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

impl Reconcile for PodGc {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Requeue, Error> {
        match key {
            Key::Pod(key) => match self.pods.store().get(key) {
                Some(pod) => self.pod(&pod).await,
                None => Ok(Requeue::Done),
            },
            Key::Finished => self.finished().await,
        }
    }
}

impl PodGc {
    async fn pod(&self, pod: &Pod) -> Result<Requeue, Error> {
        let name = &pod.spec().node_name;
        if name.is_empty() {
            if pods::is_terminating(pod) {
                tracing::info!(pod = %ObjectKey::of(pod.metadata()), "deleting a pod that was never scheduled");
                pods::delete(&self.context.client, pod, true).await?;
            }
            return Ok(Requeue::Done);
        }
        if let Some(node) = self.nodes.store().find(&ObjectKey::new("", &**name))? {
            if pods::is_terminating(pod) && is_out_of_service(&node) {
                self.forsake(pod, "PodGC: node out of service").await?;
            }
            return Ok(Requeue::Done);
        }
        let missing = self.missed.lock().entry(pod.metadata().uid.clone()).or_insert_with(Instant::now).elapsed();
        if missing < self.quarantine {
            return Ok(Requeue::After(self.quarantine - missing));
        }
        // The local copy may lag; the answer to this does not.
        if self.context.client.metadata(Node::KIND, "").get_opt(name).await?.is_some() {
            self.missed.lock().remove(&pod.metadata().uid);
            return Ok(Requeue::After(self.quarantine));
        }
        self.forsake(pod, "PodGC: node no longer exists").await?;
        Ok(Requeue::Done)
    }

    /// Nobody will ever report this pod's end, so it ends here.
    async fn forsake(&self, pod: &Pod, message: &str) -> Result<(), Error> {
        tracing::info!(pod = %ObjectKey::of(pod.metadata()), node = pod.spec().node_name, why = message, "deleting a lost pod");
        if is_terminal(pod) {
            return pods::delete(&self.context.client, pod, true).await;
        }
        let condition = PodCondition {
            r#type: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: "DeletionByPodGC".to_owned(),
            message: message.to_owned(),
            ..PodCondition::default()
        };
        pods::disrupt(&self.context.client, pod, condition, Some("Failed"), true).await
    }

    async fn finished(&self) -> Result<Requeue, Error> {
        let mut ended: Vec<Arc<SeenPod>> = self.pods.store().list();
        ended.retain(|pod| is_terminal(pod) && !pods::is_terminating(pod));
        let surplus = ended.len().saturating_sub(self.threshold);
        ended.sort_by_key(|pod| pod.metadata().creation_timestamp().seconds);
        let mut failure = None;
        for pod in &ended[..surplus] {
            // The others do not wait for one that cannot go.
            failure = pods::delete(&self.context.client, pod, false).await.err().or(failure);
        }
        failure.map_or(Ok(Requeue::Done), Err)
    }
}

#[cfg(test)]
mod tests {
    use client::testing::MemoryServer;
    use serde_json::json;

    use super::*;
    use crate::testing::{context, object, running_pod};

    fn node(name: &str) -> Node {
        object(json!({"metadata": {"name": name}}))
    }

    #[tokio::test]
    async fn pods_follow_a_node_that_stays_away() {
        let server = MemoryServer::new();
        for name in ["here", "gone"] {
            server.put(node(name));
            server.put(running_pod("d", name, name, "10.0.0.1"));
        }
        let context = context(&server);
        start_with(&context, 0, Duration::from_millis(200));
        context.informers.synced().await;
        server.remove::<Node>("", "gone");
        let begun = Instant::now();
        server.eventually(|server| server.find::<Pod>("d", "gone").is_none()).await;
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(server.find::<Pod>("d", "here").is_some());
        assert!(server.take_writes().contains(&"patch pods/status d/gone".to_owned()));
    }

    #[tokio::test]
    async fn each_pod_of_a_node_that_never_was_has_its_own_time() {
        let (server, quarantine) = (MemoryServer::new(), Duration::from_millis(300));
        let context = context(&server);
        start_with(&context, 0, quarantine);
        for name in ["first", "second"] {
            let begun = Instant::now();
            server.put(running_pod("d", name, "to-come", ""));
            server.eventually(|server| server.all::<Pod>().is_empty()).await;
            assert!(begun.elapsed() >= quarantine, "{name}: {:?}", begun.elapsed());
        }
        // The node comes in time.
        server.put(running_pod("d", "third", "to-come", ""));
        server.eventually(|_| context.informers.of::<Pod>().store().list().len() == 1).await;
        server.put(node("to-come"));
        tokio::time::sleep(quarantine * 2).await;
        assert!(server.find::<Pod>("d", "third").is_some());
    }

    #[tokio::test]
    async fn a_pod_that_terminates_unscheduled_goes() {
        let server = MemoryServer::new();
        let context = context(&server);
        start_with(&context, 0, QUARANTINE);
        let mut pod = running_pod("d", "p", "", "");
        pod.metadata_mut().deletion_timestamp = Some(api::meta::v1::Time::now());
        pod.metadata_mut().deletion_grace_period_seconds = Some(30);
        server.put(pod);
        server.eventually(|server| server.all::<Pod>().is_empty()).await;
    }

    #[tokio::test]
    async fn only_the_newest_ended_pods_are_kept() {
        let server = MemoryServer::new();
        for n in 0..5 {
            let mut pod = running_pod("d", &format!("p{n}"), "", "");
            pod.metadata_mut().creation_timestamp = Some(api::meta::v1::Time { seconds: 1000 + n, nanos: 0 });
            pod.status_mut().phase = "Succeeded".into();
            server.put(pod);
        }
        let context = context(&server);
        start_with(&context, 2, QUARANTINE);
        server.eventually(|server| server.all::<Pod>().len() == 2).await;
        let names: Vec<_> = server.all::<Pod>().iter().map(|pod| pod.name().to_owned()).collect();
        assert_eq!(names, ["p3", "p4"]);
    }
}
