//! What an established connection is busy with, so that one without a certificate can be closed for another while it is idle.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The requests of one connection that are not answered yet.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct State {
    requests: usize,
    /// When the last request was done, or the connection made.
    since: Instant,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

// === impl Activity ===

impl Default for Activity {
    fn default() -> Self {
        Self { state: Mutex::new(State { requests: 0, since: Instant::now() }), closed: CancellationToken::new() }
    }
}

impl Activity {
    /// A request begins; it lasts until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.state.lock().requests += 1;
        Busy(self.clone())
    }

    /// Since when there has been no request; none if there is one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.requests == 0).then_some(state.since)
    }

    /// Asks whoever serves the connection to end it.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Ends when the connection is to be closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

// === impl Busy ===

impl Busy {
    /// Stays for as long as the connection: it has become something else than requests.
    pub(crate) fn for_good(self) {
        self.0.state.lock().requests += 1;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.requests -= 1;
        state.since = Instant::now();
    }
}
