//! Pods that wait for a node.
//!
//! A pod is in one of three places: *active*, to be tried next in order of priority and age; *unschedulable*, until something happens
//! that may help; or in *backoff*, to be tried again after a pause that doubles with each failure. Only the scheduler's one task uses the
//! queue, so nothing is locked.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::pod::PodInfo;

/// Pause after the first failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this long even if nothing happened.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// Something that happened in the cluster and may make room for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node came, or has more to give or other labels or fewer taints.
    Node,
    /// A pod left a node.
    PodGone,
    /// A pod came to a node, or its labels changed.
    PodPlaced,
    /// A namespace's labels changed.
    Namespace,
}

/// A pod that waits.
#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    /// When it was first seen; of equal priority the older goes first.
    since: Instant,
    failures: u32,
    place: Place,
    /// Names of the filters that refused it.
    refused_by: Vec<&'static str>,
    /// Counts the times it was put into the active heap; older heap entries are void.
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff {
        until: Instant,
    },
    Unschedulable {
        since: Instant,
    },
    /// Being decided on or bound; not in the queue until that failed.
    Out,
}

#[derive(Debug, PartialEq, Eq)]
struct Turn {
    priority: i32,
    since: Instant,
    uid: String,
    turn: u64,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = self.priority.cmp(&other.priority);
        by_priority.then_with(|| other.since.cmp(&self.since)).then_with(|| other.uid.cmp(&self.uid))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The pods that wait.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<String, Waiting>,
    active: BinaryHeap<Turn>,
    turns: u64,
}

impl Queue {
    /// Takes in a pod, or a new state of one that waits. A change of what it asks for makes it active at once.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        let changed = match self.waiting.get_mut(&uid) {
            None => {
                let place = Place::Out;
                let waiting = Waiting { pod, since: now, failures: 0, place, refused_by: Vec::new(), turn: 0 };
                self.waiting.insert(uid.clone(), waiting);
                true
            }
            Some(w) => {
                let (old, new) = (&w.pod.pod, &pod.pod);
                // The status is what we wrote ourselves.
                let changed = old.spec != new.spec || old.metadata().labels != new.metadata().labels;
                w.pod = pod;
                changed && w.place != Place::Out
            }
        };
        if changed {
            self.activate(&uid);
        }
    }

    /// Forgets a pod: it is gone, or was bound.
    pub fn remove(&mut self, uid: &str) {
        self.waiting.remove(uid);
    }

    fn activate(&mut self, uid: &str) {
        let Some(w) = self.waiting.get_mut(uid) else { return };
        self.turns += 1;
        w.place = Place::Active;
        w.turn = self.turns;
        self.active.push(Turn { priority: w.pod.priority, since: w.since, uid: uid.to_owned(), turn: self.turns });
    }

    /// The pod to decide on next; it is out of the queue until [`Queue::failed`] or [`Queue::remove`].
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        while let Some(turn) = self.active.pop() {
            if let Some(w) = self.waiting.get_mut(&turn.uid)
                && w.place == Place::Active
                && w.turn == turn.turn
            {
                w.place = Place::Out;
                return Some(w.pod.clone());
            }
        }
        None
    }

    /// No node would do, for these filters' reasons. Something must happen before the pod is tried again.
    pub fn unschedulable(&mut self, uid: &str, refused_by: Vec<&'static str>, now: Instant) {
        if let Some(w) = self.waiting.get_mut(uid) {
            w.failures += 1;
            w.refused_by = refused_by;
            w.place = Place::Unschedulable { since: now };
        }
    }

    /// Binding failed. The pod is tried again after its pause.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        if let Some(w) = self.waiting.get_mut(uid) {
            w.failures += 1;
            w.place = Place::Backoff { until: now + backoff(w.failures) };
        }
    }

    /// Something happened: pods that it may help leave the unschedulable ones.
    pub fn changed(&mut self, change: Change, now: Instant) {
        let mut ready = Vec::new();
        for (uid, w) in &mut self.waiting {
            let Place::Unschedulable { since } = w.place else { continue };
            if !w.refused_by.iter().any(|filter| may_help(change, filter)) && !w.refused_by.is_empty() {
                continue;
            }
            let until = since + backoff(w.failures);
            if until <= now {
                ready.push(uid.clone());
            } else {
                w.place = Place::Backoff { until };
            }
        }
        for uid in ready {
            self.activate(&uid);
        }
    }

    /// Activates the pods whose pause is over and says when to call again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let due = |w: &Waiting| match w.place {
            Place::Backoff { until } => Some(until),
            Place::Unschedulable { since } => Some(since + MAX_UNSCHEDULABLE),
            Place::Active | Place::Out => None,
        };
        let ready: Vec<String> =
            self.waiting.iter().filter(|(_, w)| due(w).is_some_and(|d| d <= now)).map(|(uid, _)| uid.clone()).collect();
        for uid in &ready {
            self.activate(uid);
        }
        self.waiting.values().filter_map(due).min()
    }

    /// How many pods wait: active, in backoff, unschedulable.
    pub fn lengths(&self) -> (usize, usize, usize) {
        let count = |f: fn(&Place) -> bool| self.waiting.values().filter(|w| f(&w.place)).count();
        (
            count(|p| *p == Place::Active),
            count(|p| matches!(p, Place::Backoff { .. })),
            count(|p| matches!(p, Place::Unschedulable { .. })),
        )
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(MAX_BACKOFF)
}

/// Whether a change can turn a filter's refusal around.
fn may_help(change: Change, filter: &str) -> bool {
    match change {
        Change::Node => true,
        Change::PodGone => matches!(filter, "NodeResourcesFit" | "NodePorts" | "PodTopologySpread" | "InterPodAffinity"),
        Change::PodPlaced => matches!(filter, "PodTopologySpread" | "InterPodAffinity"),
        Change::Namespace => filter == "InterPodAffinity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn name(pod: Option<Arc<PodInfo>>) -> Option<String> {
        pod.map(|p| p.key())
    }

    #[tokio::test(start_paused = true)]
    async fn priority_goes_first_then_age() {
        let mut queue = Queue::default();
        queue.put(Arc::new(pod("old").build()), Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        queue.put(Arc::new(pod("new").build()), Instant::now());
        queue.put(Arc::new(pod("vip").priority(9).build()), Instant::now());
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop())).collect();
        assert_eq!(order, ["default/vip", "default/old", "default/new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_waits_for_a_change_that_may_help() {
        let mut queue = Queue::default();
        queue.put(Arc::new(pod("p").build()), Instant::now());
        let uid = queue.pop().unwrap().uid().to_owned();
        queue.unschedulable(&uid, vec!["NodeResourcesFit"], Instant::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.changed(Change::Namespace, Instant::now());
        assert_eq!(name(queue.pop()), None);
        queue.changed(Change::PodGone, Instant::now());
        assert_eq!(name(queue.pop()).as_deref(), Some("default/p"));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_ten_seconds() {
        let pauses: Vec<u64> = (1..6).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10]);
        let mut queue = Queue::default();
        queue.put(Arc::new(pod("p").build()), Instant::now());
        let uid = queue.pop().unwrap().uid().to_owned();
        queue.failed(&uid, Instant::now());
        let due = queue.tick(Instant::now()).unwrap();
        assert_eq!(name(queue.pop()), None);
        tokio::time::advance(due - Instant::now()).await;
        queue.tick(Instant::now());
        assert_eq!(name(queue.pop()).as_deref(), Some("default/p"));
    }
}
