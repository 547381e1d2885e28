//! A line on the terminal for whatever takes longer than two seconds.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::Console;

/// How long nothing is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits for `work`; after two seconds a line on standard error says what for, until it is done. Only on a terminal.
pub async fn shown<T>(console: &Console, what: &str, work: impl Future<Output = T>) -> T {
    if !console.shows_progress() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    tokio::select! {
        outcome = &mut work => return outcome,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        line.set_style(style);
    }
    line.set_message(what.to_owned());
    line.enable_steady_tick(Duration::from_millis(120));
    // Cleared also when the caller stops waiting.
    let line = Cleared(line);
    let outcome = work.await;
    drop(line);
    outcome
}

struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
