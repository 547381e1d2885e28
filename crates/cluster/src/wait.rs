//! Waiting for a state with a deadline, never for time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(50);

/// A reason for which waiting on makes no sense. A probe that returns it ends the wait.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hopeless(pub String);

/// Calls `probe` until it returns a value, at most for `limit`. `what` names the awaited state.
///
/// # Errors
/// After `limit`, with the probe's last reason why not yet.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(reason) if reason.is::<Hopeless>() => return Err(reason),
            Err(reason) if begin.elapsed() >= limit => {
                return Err(reason.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// As [`until`], telling every five seconds what is awaited and why it is not there yet.
///
/// # Errors
/// As [`until`].
pub fn until_telling<T>(
    progress: &Progress,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut told = Instant::now();
    until(what, limit, || {
        probe().inspect_err(|reason| {
            if told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                progress.waiting(what, reason);
            }
        })
    })
}

/// As [`until`], for probes that are futures.
///
/// # Errors
/// As [`until`].
pub async fn until_async<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = anyhow!("the first attempt did not end");
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason,
            Err(_) => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(last.context(format!("waited {} s for {what}", limit.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
}
