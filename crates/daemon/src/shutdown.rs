//! Shutdown as a value: one token that servers and tasks are given, and the signals that trip it.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Tells everything that holds it to end its work. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

/// How the end of the process came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything ended in time.
    Drained,
    /// Work was still running when the bound had passed.
    TimedOut,
    /// A second signal asked not to wait.
    Aborted,
}

// === impl Shutdown ===

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the shutdown. Calling it again changes nothing.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has begun.
    pub fn has_started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the shutdown begins. Cancel safe; `'static`, so that servers can take it.
    pub fn started(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// The token itself. Cancelling a child token does not begin the shutdown.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Drains: begins the shutdown if it has not begun, then waits for `work`, at most `bound`, and not beyond the next of `signals`.
    pub(crate) async fn drain(
        &self,
        work: impl Future<Output = ()>,
        bound: Duration,
        mut signals: impl Stream<Item = ()> + Unpin,
    ) -> Outcome {
        self.start();
        tokio::select! {
            biased;
            () = work => Outcome::Drained,
            Some(()) = signals.next() => Outcome::Aborted,
            () = tokio::time::sleep(bound) => Outcome::TimedOut,
        }
    }
}

/// SIGINT and SIGTERM as they come in.
pub(crate) fn signals() -> std::io::Result<impl Stream<Item = ()> + Unpin> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(futures::stream::poll_fn(move |context| {
        if let std::task::Poll::Ready(received) = interrupt.poll_recv(context) {
            return std::task::Poll::Ready(received);
        }
        terminate.poll_recv(context)
    }))
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_is_waited_for() {
        let shutdown = Shutdown::new();
        let started = shutdown.started();
        let outcome = shutdown.drain(started, Duration::from_secs(10), futures::stream::pending()).await;
        assert_eq!(outcome, Outcome::Drained);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_is_bounded() {
        let before = tokio::time::Instant::now();
        let outcome = Shutdown::new().drain(pending(), Duration::from_secs(10), futures::stream::pending()).await;
        assert_eq!(outcome, Outcome::TimedOut);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts() {
        let before = tokio::time::Instant::now();
        let second = pin!(futures::stream::once(tokio::time::sleep(Duration::from_secs(1))));
        let outcome = Shutdown::new().drain(pending(), Duration::from_secs(10), second).await;
        assert_eq!(outcome, Outcome::Aborted);
        assert_eq!(before.elapsed(), Duration::from_secs(1));
    }
}
