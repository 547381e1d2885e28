//! Supervision of the tasks a daemon cannot live without.
//!
//! Invariant: before shutdown begins, a critical task that ends, whether by returning, failing or panicking, ends the process
//! with an error that names it. After that, tasks are expected to end and are waited for.

use std::sync::{Arc, OnceLock};

use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument;

use crate::Shutdown;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where critical tasks are spawned. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: Shutdown,
    failure: Arc<OnceLock<TaskFailure>>,
    failed: tokio_util::sync::CancellationToken,
}

/// The first critical task that ended before it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailure {
    /// It returned although nobody asked it to.
    #[error("critical task `{name}` ended")]
    Ended {
        /// The task.
        name: String,
    },
    /// It returned an error.
    #[error("critical task `{name}` failed: {reason}")]
    Failed {
        /// The task.
        name: String,
        /// The error with its causes.
        reason: String,
    },
    /// It panicked.
    #[error("critical task `{name}` panicked: {message}")]
    Panicked {
        /// The task.
        name: String,
        /// The panic's message.
        message: String,
    },
}

// === impl Tasks ===

impl Tasks {
    /// No tasks yet. They are expected to end once `shutdown` begins.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { tracker: TaskTracker::new(), shutdown, failure: Arc::default(), failed: Default::default() }
    }

    /// Runs `task` until it ends, inside a span that carries its name. It should end soon after the shutdown begins.
    pub fn spawn<E: Into<BoxError> + Send + 'static>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let name = name.into();
        let span = tracing::info_span!("task", name);
        let task = AbortOnDropHandle::new(tokio::spawn(task.instrument(span)));
        let this = self.clone();
        self.tracker.spawn(async move {
            let failure = match task.await {
                Ok(Ok(())) => TaskFailure::Ended { name },
                Ok(Err(error)) => TaskFailure::Failed { name, reason: api::error::chain(&*error.into()) },
                Err(error) => TaskFailure::Panicked { name, message: panic_message(error) },
            };
            let expected = this.shutdown.has_started() && !matches!(failure, TaskFailure::Panicked { .. });
            match (expected, failure) {
                (true, failure @ TaskFailure::Failed { .. }) => {
                    tracing::warn!("{failure} while shutting down")
                }
                (true, _) => {}
                // Only the first failure is told: the others may follow from it.
                (false, failure) => {
                    this.failure.get_or_init(|| failure);
                    this.failed.cancel();
                }
            }
        });
    }

    /// Runs a task that has no way to fail but to end.
    pub fn spawn_infallible(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, async move {
            task.await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Waits for a critical task to end before it should. Cancel safe.
    pub async fn failure(&self) -> TaskFailure {
        self.failed.cancelled().await;
        self.failed_already().unwrap_or_else(|| TaskFailure::Ended { name: String::new() })
    }

    /// The failure, if there was one.
    pub fn failed_already(&self) -> Option<TaskFailure> {
        self.failure.get().cloned()
    }

    /// Waits until every task has ended. Cancel safe.
    pub async fn all_ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => panic_text(&*payload),
        Err(error) => error.to_string(),
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn("quiet", std::future::pending::<Result<(), Infallible>>());
        tasks.spawn("watch", async { Err(io::Error::other("gone")) });
        assert_eq!(tasks.failure().await, TaskFailure::Failed { name: "watch".into(), reason: "gone".into() });
    }

    #[tokio::test]
    async fn a_panic_is_named() {
        let tasks = Tasks::new(Shutdown::new());
        tasks.spawn_infallible("loop", async { panic!("broken {}", 1) });
        assert_eq!(tasks.failure().await.to_string(), "critical task `loop` panicked: broken 1");
    }

    #[tokio::test]
    async fn ending_after_shutdown_is_no_failure() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn_infallible("server", shutdown.started());
        shutdown.start();
        tasks.all_ended().await;
        assert_eq!(tasks.failed_already(), None);
    }
}
