//! What `/livez`, `/readyz` and the gRPC health service answer.
//!
//! Holds named gates, opened and closed by the parts they stand for. Invariant: the daemon is ready exactly while every gate is
//! open and the shutdown has not begun; it is alive while every liveness gate is open.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Shutdown;

/// The health of a daemon. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Health {
    ready: Arc<Gates>,
    live: Arc<Gates>,
    shutdown: Shutdown,
}

/// One named condition. It keeps its last state when it is dropped.
#[derive(Clone, Debug)]
pub struct Gate {
    gates: Arc<Gates>,
    name: String,
}

/// Conditions by name: nothing when one holds, else why it does not.
pub(crate) type Checks = BTreeMap<String, Option<String>>;

#[derive(Debug)]
struct Gates {
    closed: Mutex<Checks>,
    open: watch::Sender<bool>,
}

// === impl Health ===

impl Health {
    /// Health without gates: ready at once.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { ready: Arc::default(), live: Arc::default(), shutdown }
    }

    /// A new readiness gate, closed until it is opened.
    pub fn ready_gate(&self, name: impl Into<String>) -> Gate {
        Gate::new(&self.ready, name.into(), Some("not ready yet".to_owned()))
    }

    /// A new liveness gate, open until it is closed. Close it only for what a restart would heal.
    pub fn live_gate(&self, name: impl Into<String>) -> Gate {
        Gate::new(&self.live, name.into(), None)
    }

    /// Whether every readiness gate is open and the daemon is not on its way out.
    pub fn is_ready(&self) -> bool {
        !self.shutdown.has_started() && *self.ready.open.borrow()
    }

    /// Whether every liveness gate is open.
    pub fn is_live(&self) -> bool {
        *self.live.open.borrow()
    }

    /// Waits until the daemon is ready. Cancel safe.
    pub async fn became_ready(&self) {
        let mut open = self.ready.open.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        if open.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Follows readiness, without the part that shutdown plays in it.
    pub(crate) fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.open.subscribe()
    }

    /// The readiness checks by name, each with what is wrong.
    pub(crate) fn ready_checks(&self) -> Checks {
        let mut checks = self.ready.closed.lock().clone();
        checks.insert("shutdown".to_owned(), self.shutdown.has_started().then(|| "in progress".to_owned()));
        checks
    }

    /// The liveness checks by name, each with what is wrong.
    pub(crate) fn live_checks(&self) -> Checks {
        self.live.closed.lock().clone()
    }
}

// === impl Gate ===

impl Gate {
    fn new(gates: &Arc<Gates>, name: String, closed: Option<String>) -> Self {
        let gate = Self { gates: gates.clone(), name };
        gate.set(closed);
        gate
    }

    /// The condition holds.
    pub fn open(&self) {
        self.set(None);
    }

    /// The condition does not hold, for this reason.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, closed: Option<String>) {
        let mut gates = self.gates.closed.lock();
        gates.insert(self.name.clone(), closed);
        let open = gates.values().all(Option::is_none);
        self.gates.open.send_if_modified(|was| std::mem::replace(was, open) != open);
    }
}

// === impl Gates ===

impl Default for Gates {
    fn default() -> Self {
        Self { closed: Mutex::default(), open: watch::Sender::new(true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_opens_when_every_gate_is_open() {
        let health = Health::new(Shutdown::new());
        let (pods, nodes) = (health.ready_gate("pods"), health.ready_gate("nodes"));
        assert!(!health.is_ready());
        pods.open();
        assert!(!health.is_ready());
        nodes.open();
        health.became_ready().await;
        assert!(health.is_ready());
        nodes.close("lost");
        assert!(!health.is_ready());
        let checks = health.ready_checks();
        let checks: Vec<_> = checks.iter().map(|(name, wrong)| (name.as_str(), wrong.as_deref())).collect();
        assert_eq!(checks, [("nodes", Some("lost")), ("pods", None), ("shutdown", None)]);
    }

    #[test]
    fn a_daemon_on_its_way_out_is_not_ready() {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        assert!(health.is_ready());
        shutdown.start();
        assert!(!health.is_ready() && health.is_live());
    }
}
