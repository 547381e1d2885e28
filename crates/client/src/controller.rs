//! The runtime of controllers: from changes to keys, from keys to work, with one queue, one runner and one error policy for all.
//!
//! A controller supplies [`Reconcile`] and says which changes concern which keys. The runner works on several keys at once, but never
//! twice at once on one; a failed key is tried again later and later; a panic ends the process through the daemon kit.

use std::{sync::Arc, time::Duration};

use daemon::{Kit, Shutdown};
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::{
    Changed, Error, Informer, Item,
    metrics::ControllerMetrics,
    queue::{Key, Work, WorkQueue},
};

/// Brings what a key names into its desired state.
pub trait Reconcile: Send + Sync + 'static {
    /// What names a piece of work, such as an [`crate::ObjectKey`].
    type Key: Key;
    /// Why the work failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Compares desired with observed state and acts. Can be called at any time, and again after any failure half-way.
    ///
    /// # Errors
    /// When the work is not done and shall be tried again after a delay that grows with each failure in a row.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Requeue, Self::Error>> + Send;
}

/// When the key shall be worked on again although nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Not at all.
    Done,
    /// After this time.
    After(Duration),
}

/// A controller that is being put together.
pub struct Controller<R: Reconcile> {
    name: &'static str,
    reconciler: Arc<R>,
    queue: WorkQueue<R::Key>,
    metrics: ControllerMetrics,
    workers: usize,
    synced: Vec<BoxFuture<'static, ()>>,
}

// === impl Controller ===

impl<R: Reconcile> std::fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("name", &self.name).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<R: Reconcile> Controller<R> {
    /// A controller that watches nothing yet and works on four keys at once.
    pub fn new(name: &'static str, reconciler: R, metrics: &ControllerMetrics) -> Self {
        Self::over(name, reconciler, WorkQueue::new(Some(metrics.queue(name))), metrics)
    }

    /// As [`Self::new`] over a queue that exists, for a reconciler that adds keys itself.
    pub fn over(name: &'static str, reconciler: R, queue: WorkQueue<R::Key>, metrics: &ControllerMetrics) -> Self {
        Self { name, reconciler: Arc::new(reconciler), queue, metrics: metrics.clone(), workers: 4, synced: Vec::new() }
    }

    /// Works on so many keys at once, at least one.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Adds the keys that `keys` gives for each object that is there and each change to come. Work begins once the first list of
    /// every watched informer is in.
    #[must_use]
    pub fn watches<T: Item, I: IntoIterator<Item = R::Key>>(
        self,
        informer: &Informer<T>,
        keys: impl Fn(Changed<'_, T>) -> I + Send + 'static,
    ) -> Self {
        let queue = self.queue.clone();
        informer.on_change(move |changed| keys(changed).into_iter().for_each(|key| queue.add(key)));
        self.needs(informer)
    }

    /// Work begins only once the first list of this informer is in.
    #[must_use]
    pub fn needs<T: Item>(mut self, informer: &Informer<T>) -> Self {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.wait_synced().await }));
        self
    }

    /// The queue, for keys that come from elsewhere.
    pub fn queue(&self) -> WorkQueue<R::Key> {
        self.queue.clone()
    }

    /// Runs as a critical task until the shutdown begins; work that is under way then is finished.
    pub fn spawn(self, kit: &Kit) {
        let span = tracing::info_span!("controller", name = self.name);
        kit.tasks.spawn_infallible(self.name, self.run(kit.shutdown.clone()).instrument(span));
    }

    /// Runs until the shutdown begins; work that is under way then is finished.
    ///
    /// # Panics
    /// When the reconciler panics.
    pub async fn run(mut self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.started() => return,
            _ = futures::future::join_all(std::mem::take(&mut self.synced)) => {}
        }
        tracing::debug!("working");
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.started() => break,
                work = self.queue.next(), if running.len() < self.workers => {
                    let Some(work) = work else { break };
                    let span = tracing::info_span!("reconcile", key = %work.key());
                    let attempt = attempt(self.name, self.reconciler.clone(), self.queue.clone(), self.metrics.clone(), work);
                    running.spawn(attempt.instrument(span));
                }
                Some(ended) = running.join_next() => resume_panic(ended),
            }
        }
        self.queue.close();
        while let Some(ended) = running.join_next().await {
            resume_panic(ended);
        }
    }
}

async fn attempt<R: Reconcile>(
    name: &'static str,
    reconciler: Arc<R>,
    queue: WorkQueue<R::Key>,
    metrics: ControllerMetrics,
    work: Work<R::Key>,
) {
    let key = work.key();
    match reconciler.reconcile(key).await {
        Ok(requeue) => {
            metrics.reconciled(name, "success");
            queue.forget(key);
            if let Requeue::After(delay) = requeue {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) if cause(&error).is_some_and(Error::is_namespace_terminating) => {
            // What was asked for goes with its namespace.
            tracing::debug!(error = &error as &dyn std::error::Error, "given up");
            metrics.reconciled(name, "success");
            queue.forget(key);
        }
        Err(error) => {
            let benign = cause(&error).is_some_and(is_benign);
            metrics.reconciled(name, if benign { "conflict" } else { "error" });
            if benign {
                tracing::debug!(error = &error as &dyn std::error::Error, "trying again");
            } else {
                tracing::warn!(error = &error as &dyn std::error::Error, "failed, trying again");
            }
            queue.retry(key.clone());
        }
    }
}

/// The request that failed, if that is why the work did.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Somebody else was faster, or the server or our lease is gone for the moment: nothing is wrong with the work.
fn is_benign(error: &Error) -> bool {
    error.is_conflict() || error.is_already_exists() || error.is_unavailable() || matches!(error, Error::NotLeader { .. })
}

fn resume_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use api::{StatusError, meta::v1::StatusCause, status::Reason};
    use daemon::Metrics;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    /// Fails each key so many times.
    struct Flaky {
        failures: usize,
        seen: Arc<Mutex<Vec<u32>>>,
    }

    impl Reconcile for Flaky {
        type Key = u32;
        type Error = NotYet;

        async fn reconcile(&self, key: &u32) -> Result<Requeue, NotYet> {
            let mut seen = self.seen.lock();
            seen.push(*key);
            if seen.iter().filter(|seen| *seen == key).count() <= self.failures { Err(NotYet) } else { Ok(Requeue::Done) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failed_work_is_done_again() {
        let (seen, shutdown) = (Arc::<Mutex<Vec<u32>>>::default(), Shutdown::new());
        let controller =
            Controller::new("flaky", Flaky { failures: 2, seen: seen.clone() }, &ControllerMetrics::register(&Metrics::new()));
        controller.queue().add(7);
        let run = tokio::spawn(controller.run(shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        shutdown.start();
        run.await.unwrap();
        assert_eq!(*seen.lock(), [7, 7, 7]);
    }

    /// Counts how many run at once.
    struct Slow {
        running: AtomicUsize,
        most: Arc<AtomicUsize>,
    }

    impl Reconcile for Slow {
        type Key = u32;
        type Error = Infallible;

        async fn reconcile(&self, _: &u32) -> Result<Requeue, Infallible> {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            Ok(Requeue::Done)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_keys_are_worked_on_than_there_are_workers_and_shutdown_waits_for_them() {
        let (most, shutdown) = (Arc::<AtomicUsize>::default(), Shutdown::new());
        let slow = Slow { running: AtomicUsize::new(0), most: most.clone() };
        let controller = Controller::new("slow", slow, &ControllerMetrics::register(&Metrics::new())).workers(3);
        let queue = controller.queue();
        (0..10).for_each(|key| queue.add(key));
        let run = tokio::spawn(controller.run(shutdown.clone()));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        shutdown.start();
        run.await.unwrap();
        assert_eq!((most.load(Ordering::SeqCst), queue.len()), (3, 4));
    }

    /// Works in a namespace that goes.
    struct Late(Arc<AtomicUsize>);

    impl Reconcile for Late {
        type Key = u8;
        type Error = Error;

        async fn reconcile(&self, _: &u8) -> Result<Requeue, Error> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let cause = StatusCause { reason: "NamespaceTerminating".into(), ..StatusCause::default() };
            Err(StatusError::new(Reason::Forbidden, "it is being terminated").with_cause(cause).into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_in_a_namespace_that_goes_is_given_up() {
        let (attempts, shutdown) = (Arc::<AtomicUsize>::default(), Shutdown::new());
        let controller = Controller::new("late", Late(attempts.clone()), &ControllerMetrics::register(&Metrics::new()));
        controller.queue().add(0);
        let run = tokio::spawn(controller.run(shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        shutdown.start();
        run.await.unwrap();
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
    }

    struct Broken;

    impl Reconcile for Broken {
        type Key = u8;
        type Error = Infallible;

        async fn reconcile(&self, _: &u8) -> Result<Requeue, Infallible> {
            panic!("broken")
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_process_through_the_kit() {
        let kit = Kit::new();
        let controller = Controller::new("broken", Broken, &ControllerMetrics::register(&kit.metrics));
        controller.queue().add(0);
        controller.spawn(&kit);
        assert!(kit.tasks.failure().await.to_string().contains("broken"));
    }
}
