//! Delays that grow with each failure: upstream's rule for restarts and image pulls.

use std::time::Duration;

use jiff::Timestamp;

/// The first delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay; twice this time without a failure and the count starts anew.
pub const LONGEST: Duration = Duration::from_secs(300);

/// A delay that doubles with each failure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    state: Option<(Duration, Timestamp)>,
}

// === impl Backoff ===

impl Backoff {
    /// The time before which what failed at `failed_at` must not be tried again; `None` if it may be at once.
    pub fn blocked_until(&self, failed_at: Timestamp) -> Option<Timestamp> {
        let (delay, _) = self.state.filter(|(_, updated)| !expired(*updated, failed_at))?;
        later(failed_at, delay)
    }

    /// The delay in force, zero before the second failure.
    pub fn delay(&self) -> Duration {
        self.state.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// Counts a new try after a failure at `failed_at`.
    pub fn advance(&mut self, failed_at: Timestamp) {
        let delay = match self.state {
            Some((delay, updated)) if !expired(updated, failed_at) => (delay * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.state = Some((delay, failed_at));
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.state = None;
    }
}

/// Ran so long since the last failure that it does not count any more.
fn expired(updated: Timestamp, failed_at: Timestamp) -> bool {
    later(updated, LONGEST * 2).is_some_and(|end| failed_at > end)
}

/// A time later by a delay; `None` past the end of time.
pub fn later(time: Timestamp, delay: Duration) -> Option<Timestamp> {
    time.checked_add(delay).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_wait_twice_as_long_each() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.blocked_until(at(0)), None);
        let mut now = 0;
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            backoff.advance(at(now));
            assert_eq!(backoff.blocked_until(at(now + 1)), Some(at(now + 1 + seconds)));
            now += 1 + seconds;
        }
    }

    #[test]
    fn ten_good_minutes_forgive() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0));
        backoff.advance(at(20));
        assert_eq!(backoff.blocked_until(at(20 + 601)), None);
        backoff.advance(at(20 + 601));
        assert_eq!(backoff.delay(), INITIAL);
    }
}
