//! The work queue: keys that need work, each at most once, and never given to two workers at once.
//!
//! Invariant: a key that is added while it is worked on is given out again afterwards; adding it more often changes nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry},
    fmt,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::metrics::QueueMetrics;

/// Delay before a key that failed once is given out again.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Longest such delay.
const LONGEST_RETRY: Duration = Duration::from_secs(1000);

/// Keys that need work. Cheap to clone; all clones are one.
pub struct WorkQueue<K>(Arc<Shared<K>>);

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: Option<QueueMetrics>,
}

struct State<K> {
    /// Keys to give out, in order, with the time they were added. Each is in `dirty` and not in `working`.
    ready: VecDeque<(K, Instant)>,
    /// Keys that need work.
    dirty: HashSet<K>,
    /// Keys that are worked on.
    working: HashSet<K>,
    /// Keys that become dirty later, by time and order of arrival.
    later: BTreeMap<(Instant, u64), K>,
    /// Where each key of `later` is.
    due: HashMap<K, (Instant, u64)>,
    /// How often each key failed in a row.
    failures: HashMap<K, u32>,
    /// How often something came or was given out: a number for each.
    arrivals: u64,
    closed: bool,
}

/// A key that is worked on; dropping this ends the work.
pub struct Work<K: Key> {
    key: K,
    queue: WorkQueue<K>,
    begun: Instant,
    number: u64,
}

/// What may be a key; logs show how it is displayed.
pub trait Key: Clone + Eq + Hash + fmt::Debug + fmt::Display + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + fmt::Debug + fmt::Display + Send + Sync + 'static> Key for K {}

// === impl WorkQueue ===

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("WorkQueue")
            .field("ready", &state.ready.len())
            .field("working", &state.working.len())
            .finish_non_exhaustive()
    }
}

impl<K: Key> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(None)
    }
}

impl<K: Key> WorkQueue<K> {
    /// An empty queue.
    pub fn new(metrics: Option<QueueMetrics>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            arrivals: 0,
            closed: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), metrics }))
    }

    /// The key needs work.
    pub fn add(&self, key: K) {
        let added = self.0.state.lock().add(key);
        self.added(added);
    }

    /// The key needs work after a while, or sooner if it is added sooner.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.0.state.lock();
        state.arrivals += 1;
        let place = (Instant::now() + delay, state.arrivals);
        match state.due.entry(key.clone()) {
            Entry::Occupied(former) if former.get().0 <= place.0 => return,
            Entry::Occupied(mut former) => {
                let former = former.insert(place);
                state.later.remove(&former);
            }
            Entry::Vacant(vacant) => drop(vacant.insert(place)),
        }
        state.later.insert(place, key);
        drop(state);
        self.0.wake.notify_one();
    }

    /// The work on the key failed: it is given out again after a delay that doubles with each failure in a row.
    pub fn retry(&self, key: K) {
        let failures = {
            let mut state = self.0.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        if let Some(metrics) = &self.0.metrics {
            metrics.retries.inc();
        }
        let doubled = FIRST_RETRY.saturating_mul(1 << (failures - 1).min(20));
        self.add_after(key, doubled.min(LONGEST_RETRY));
    }

    /// The work on the key succeeded: the next failure counts as the first.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// The next key; waits for it. `None` once the queue is closed. Cancel safe.
    pub async fn next(&self) -> Option<Work<K>> {
        loop {
            let due = {
                let mut state = self.0.state.lock();
                if state.closed {
                    drop(state);
                    // Whoever else waits shall see it too.
                    self.0.wake.notify_one();
                    return None;
                }
                let now = Instant::now();
                let matured = state.mature(now);
                if let Some((key, added)) = state.take() {
                    let more = !state.ready.is_empty();
                    state.arrivals += 1;
                    let number = state.arrivals;
                    drop(state);
                    if let Some(metrics) = &self.0.metrics {
                        metrics.adds.inc_by(matured);
                        metrics.depth.dec();
                        metrics.depth.inc_by(i64::try_from(matured).unwrap_or(i64::MAX));
                        metrics.waited.observe((now - added).as_secs_f64());
                        metrics.under_way.begin(now, number);
                    }
                    if more {
                        self.0.wake.notify_one();
                    }
                    return Some(Work { key, queue: self.clone(), begun: now, number });
                }
                state.later.first_key_value().map(|((due, _), _)| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = self.0.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => self.0.wake.notified().await,
            }
        }
    }

    /// No further keys are given out.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_one();
    }

    /// How many keys wait to be given out now.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// True if no key waits to be given out now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn done(&self, key: &K, begun: Instant, number: u64) {
        let added = self.0.state.lock().done(key);
        if let Some(metrics) = &self.0.metrics {
            metrics.under_way.end(begun, number);
            metrics.worked.observe(begun.elapsed().as_secs_f64());
        }
        self.added(added);
    }

    fn added(&self, added: bool) {
        if added {
            if let Some(metrics) = &self.0.metrics {
                metrics.adds.inc();
                metrics.depth.inc();
            }
            self.0.wake.notify_one();
        }
    }
}

// === impl State ===

impl<K: Key> State<K> {
    /// Says whether the key is newly ready.
    fn add(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back((key, Instant::now()));
        true
    }

    /// Adds what is due; says how many became ready.
    fn mature(&mut self, now: Instant) -> u64 {
        let mut matured = 0;
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.due.remove(&key);
            matured += u64::from(self.add(key));
        }
        matured
    }

    fn take(&mut self) -> Option<(K, Instant)> {
        let (key, added) = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some((key, added))
    }

    /// Says whether the key is ready again.
    fn done(&mut self, key: &K) -> bool {
        self.working.remove(key);
        let again = self.dirty.contains(key) && !self.closed;
        if again {
            self.ready.push_back((key.clone(), Instant::now()));
        }
        again
    }
}

// === impl Work ===

impl<K: Key> Work<K> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Key> fmt::Debug for Work<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Work").field(&self.key).finish()
    }
}

impl<K: Key> Drop for Work<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key, self.begun, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn now<K: Key>(queue: &WorkQueue<K>) -> Option<Work<K>> {
        queue.next().now_or_never().flatten()
    }

    #[tokio::test]
    async fn a_key_added_twice_is_given_out_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(*now(&queue).unwrap().key(), "a");
        assert_eq!(*now(&queue).unwrap().key(), "b");
        assert!(now(&queue).is_none());
    }

    #[tokio::test]
    async fn a_key_is_never_with_two_workers() {
        let queue = WorkQueue::default();
        queue.add(1);
        let work = now(&queue).unwrap();
        queue.add(1);
        assert!(now(&queue).is_none());
        drop(work);
        assert_eq!(*now(&queue).unwrap().key(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_counts() {
        let queue = WorkQueue::default();
        let begun = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(30));
        drop(queue.next().await.unwrap());
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert!(tokio::time::timeout(Duration::from_secs(100), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_double_the_delay_until_forgotten() {
        let queue = WorkQueue::default();
        let mut delays = Vec::new();
        for _ in 0..4 {
            let begun = Instant::now();
            queue.retry("a");
            drop(queue.next().await.unwrap());
            delays.push(begun.elapsed().as_millis());
        }
        assert_eq!(delays, [5, 10, 20, 40]);
        queue.forget(&"a");
        let begun = Instant::now();
        queue.retry("a");
        drop(queue.next().await.unwrap());
        assert_eq!(begun.elapsed().as_millis(), 5);
    }

    #[tokio::test]
    async fn closing_wakes_every_worker() {
        let queue = WorkQueue::<u8>::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await.is_none() }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert!(worker.await.unwrap());
        }
    }
}
