//! What `up` and `down` tell while they work: a line for each thing done, with the seconds since the start.

use std::time::Instant;

/// Prints lines to stdout.
#[derive(Debug)]
pub struct Progress {
    begin: Instant,
    done: std::cell::Cell<usize>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begin: Instant::now(), done: 0.into() }
    }
}

impl Progress {
    /// Something was changed.
    pub fn did(&self, what: impl std::fmt::Display) {
        self.done.set(self.done.get() + 1);
        self.note(what);
    }

    /// Something is so, without having been changed.
    pub fn note(&self, what: impl std::fmt::Display) {
        println!("[{:5.1} s] {what}", self.seconds());
    }

    /// Something takes its time.
    pub fn waiting(&self, what: &str, reason: &anyhow::Error) {
        println!("[{:5.1} s] … waiting for {what}: {reason:#}", self.seconds());
    }

    /// How many things were changed.
    pub fn changes(&self) -> usize {
        self.done.get()
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}
