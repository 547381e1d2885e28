//! Pods that wait for a node.
//!
//! A pod is in one of three places: *active*, to be tried next in order of priority and age; *unschedulable*, until something happens
//! that may help; or in *backoff*, to be tried again after a pause that doubles with each failure. Only the scheduler's one task uses the
//! queue, so nothing is locked.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    filters,
    plugin::{Change, Helped},
    pod::PodInfo,
    pod_set::Namespaces,
};

/// Pause after the first failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after this long even if nothing happened.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// A pod that waits.
#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    /// When it was first seen; of equal priority the older goes first.
    since: Instant,
    failures: u32,
    place: Place,
    /// Names of the filters that refused it last.
    refused_by: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To be tried; older entries of the heap than the one of this turn are void.
    Active {
        turn: u64,
    },
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
    /// Pods that are in backoff or unschedulable by when that ends.
    ends: BTreeSet<(Instant, String)>,
    /// Unschedulable pods by the filters that refused them; those that no filter refused, for want of nodes, by none.
    refused: HashMap<&'static str, HashSet<String>>,
    /// How many pods are active, in backoff and unschedulable.
    lengths: [usize; 3],
}

/// Stands for a filter where there is none.
const NO_FILTER: &str = "";

impl Queue {
    /// Takes in a pod, or a new state of one that waits. A change of what it asks for makes it active at once.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        let changed = match self.waiting.get_mut(&uid) {
            None => {
                let waiting = Waiting { pod, since: now, failures: 0, place: Place::Out, refused_by: Vec::new() };
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

    /// True if the pod waits, or is being decided on or bound.
    pub fn knows(&self, uid: &str) -> bool {
        self.waiting.contains_key(uid)
    }

    /// Forgets a pod: it is gone, or was bound.
    pub fn remove(&mut self, uid: &str) {
        self.set_place(uid, Place::Out);
        self.waiting.remove(uid);
    }

    fn activate(&mut self, uid: &str) {
        self.turns += 1;
        let turn = self.turns;
        self.set_place(uid, Place::Active { turn });
        if let Some(w) = self.waiting.get(uid) {
            self.active.push(Turn { priority: w.pod.priority, since: w.since, uid: uid.to_owned(), turn });
        }
    }

    /// The one way a pod moves, so that the indexes are always right.
    fn set_place(&mut self, uid: &str, place: Place) {
        let Some(w) = self.waiting.get_mut(uid) else { return };
        let former = std::mem::replace(&mut w.place, place);
        for (place, enters) in [(former, false), (place, true)] {
            if let Some(ends) = place.ends() {
                if enters {
                    self.ends.insert((ends, uid.to_owned()))
                } else {
                    self.ends.remove(&(ends, uid.to_owned()))
                };
            }
            if let Some(length) = place.nth().and_then(|nth| self.lengths.get_mut(nth)) {
                *length = if enters { *length + 1 } else { *length - 1 };
            }
            if let Place::Unschedulable { .. } = place {
                let filters = if w.refused_by.is_empty() { &[NO_FILTER] } else { w.refused_by.as_slice() };
                for filter in filters {
                    let refused = self.refused.entry(*filter).or_default();
                    if enters {
                        refused.insert(uid.to_owned())
                    } else {
                        refused.remove(uid)
                    };
                }
            }
        }
    }

    /// The pod to decide on next; it is out of the queue until [`Queue::failed`] or [`Queue::remove`].
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        while let Some(Turn { uid, turn, .. }) = self.active.pop() {
            if let Some(w) = self.waiting.get(&uid).filter(|w| w.place == Place::Active { turn }) {
                let pod = w.pod.clone();
                self.set_place(&uid, Place::Out);
                return Some(pod);
            }
        }
        None
    }

    /// No node would do, for these filters' reasons. Something must happen before the pod is tried again.
    pub fn unschedulable(&mut self, uid: &str, refused_by: Vec<&'static str>, now: Instant) {
        self.set_place(uid, Place::Out);
        if let Some(w) = self.waiting.get_mut(uid) {
            w.failures += 1;
            w.refused_by = refused_by;
        }
        self.set_place(uid, Place::Unschedulable { since: now });
    }

    /// Binding failed. The pod is tried again after its pause.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(w) = self.waiting.get_mut(uid) else { return };
        w.failures += 1;
        let until = now + backoff(w.failures);
        self.set_place(uid, Place::Backoff { until });
    }

    /// Something happened: pods that it may help, as the filters say that refused them, leave the unschedulable ones.
    pub fn changed(&mut self, change: Change<'_>, namespaces: &Namespaces, now: Instant) {
        let mut helped = HashSet::<String>::new();
        for (filter, uids) in self.refused.iter().filter(|(_, uids)| !uids.is_empty()) {
            let whom = filters::named(filter).map(|filter| filter.helped_by(change, namespaces));
            match whom.unwrap_or_else(|| Helped::by_nodes(change)) {
                Helped::None => {}
                Helped::All => helped.extend(uids.iter().cloned()),
                Helped::If(is_helped) => {
                    let is_helped = |uid: &&String| self.waiting.get(*uid).is_some_and(|w| is_helped(&w.pod));
                    helped.extend(uids.iter().filter(is_helped).cloned());
                }
            }
        }
        helped.iter().for_each(|uid| self.look_again(uid, now));
    }

    /// An unschedulable pod is to be tried again, once its pause is over.
    pub fn look_again(&mut self, uid: &str, now: Instant) {
        let Some(Waiting { place: Place::Unschedulable { since }, failures, .. }) = self.waiting.get(uid) else { return };
        let until = *since + backoff(*failures);
        if until <= now {
            self.activate(uid);
        } else {
            self.set_place(uid, Place::Backoff { until });
        }
    }

    /// Activates the pods whose pause is over and says when to call again.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some((ends, _)) = self.ends.first() {
            if *ends > now {
                return Some(*ends);
            }
            if let Some((_, uid)) = self.ends.pop_first() {
                self.activate(&uid);
            }
        }
        None
    }

    /// How many pods wait: active, in backoff, unschedulable.
    pub fn lengths(&self) -> [usize; 3] {
        self.lengths
    }
}

impl Place {
    /// When a pod leaves by itself.
    fn ends(self) -> Option<Instant> {
        match self {
            Self::Backoff { until } => Some(until),
            Self::Unschedulable { since } => Some(since + MAX_UNSCHEDULABLE),
            Self::Active { .. } | Self::Out => None,
        }
    }

    /// Its index in [`Queue::lengths`].
    fn nth(self) -> Option<usize> {
        match self {
            Self::Active { .. } => Some(0),
            Self::Backoff { .. } => Some(1),
            Self::Unschedulable { .. } => Some(2),
            Self::Out => None,
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::pod;

    /// Panics unless every index is what the pods themselves say.
    fn check(queue: &Queue) {
        let places = || queue.waiting.values().map(|w| w.place);
        for nth in 0..3 {
            assert_eq!(queue.lengths[nth], places().filter(|place| place.nth() == Some(nth)).count());
        }
        let ends = queue.waiting.iter().filter_map(|(uid, w)| Some((w.place.ends()?, uid.clone())));
        assert_eq!(queue.ends, ends.collect());
        for (filter, uids) in &queue.refused {
            for uid in uids {
                let w = &queue.waiting[uid];
                let refused = w.refused_by.contains(filter) || w.refused_by.is_empty() && *filter == NO_FILTER;
                assert!(refused && matches!(w.place, Place::Unschedulable { .. }));
            }
        }
        let indexed: usize = queue.refused.values().map(HashSet::len).sum();
        let refusing = |w: &&Waiting| matches!(w.place, Place::Unschedulable { .. });
        assert_eq!(indexed, queue.waiting.values().filter(refusing).map(|w| w.refused_by.len().max(1)).sum::<usize>());
    }

    proptest! {
        #[test]
        fn a_pod_is_where_its_index_says_and_every_active_pod_gets_its_turn(steps in proptest::collection::vec((0..8u8, 0..6u8), 1..60)) {
            let (mut queue, mut now) = (Queue::default(), Instant::now());
            for (what, which) in steps {
                now += Duration::from_millis(700);
                let uid = format!("p{which}");
                match what {
                    0 | 1 => queue.put(Arc::new(pod(&uid).priority(which.into()).label("at", &what.to_string()).build()), now),
                    2 => queue.remove(&uid),
                    3 => drop(queue.pop()),
                    4 => queue.unschedulable(&uid, vec!["NodeResourcesFit", "InterPodAffinity"], now),
                    5 => queue.unschedulable(&uid, Vec::new(), now),
                    6 => queue.failed(&uid, now),
                    _ => {
                        let other = pod("other").build();
                        let changes = [Change::Node, Change::PodGone(&other), Change::PodPlaced(&other), Change::Namespace];
                        queue.changed(changes[usize::from(which) % changes.len()], &Namespaces::default(), now);
                        queue.tick(now);
                    }
                }
                check(&queue);
            }
            let active = queue.lengths()[0];
            prop_assert_eq!(std::iter::from_fn(|| queue.pop()).count(), active);
        }
    }

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
        let (other, namespaces) = (pod("other").build(), Namespaces::default());
        for change in [Change::Namespace, Change::NodeGone, Change::PodPlaced(&other)] {
            queue.changed(change, &namespaces, Instant::now());
            assert_eq!(name(queue.pop()), None);
        }
        queue.changed(Change::PodGone(&other), &namespaces, Instant::now());
        assert_eq!(name(queue.pop()).as_deref(), Some("default/p"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_waits_for_a_port_waits_for_a_pod_that_had_it() {
        let port = |name: &str, port: i32| {
            let with = move |pod: &mut api::core::v1::Pod| {
                let port = api::core::v1::ContainerPort { host_port: port, container_port: port, ..Default::default() };
                pod.spec_mut().containers[0].ports.push(port);
            };
            pod(name).with(with).build()
        };
        let (mut queue, namespaces) = (Queue::default(), Namespaces::default());
        queue.put(Arc::new(port("p", 80)), Instant::now());
        let uid = queue.pop().unwrap().uid().to_owned();
        queue.unschedulable(&uid, vec!["NodePorts"], Instant::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        queue.changed(Change::PodGone(&port("other", 81)), &namespaces, Instant::now());
        assert_eq!(name(queue.pop()), None);
        queue.changed(Change::PodGone(&port("holder", 80)), &namespaces, Instant::now());
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
