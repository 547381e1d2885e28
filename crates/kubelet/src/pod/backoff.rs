//! Delays that grow with each failure: upstream's rule for restarts and image pulls.

use std::time::Duration;

use jiff::Timestamp;

/// The first delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay; what fails only after twice this time since the last try counts as a first failure.
pub const LONGEST: Duration = Duration::from_secs(300);

/// A delay that doubles with each failure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    /// The delay in force, and when it was last tried.
    state: Option<(Duration, Timestamp)>,
}

// === impl Backoff ===

impl Backoff {
    /// The delay in force after so many tries, the last of them at `tried`: what it was before it was forgotten.
    pub fn after(tries: u32, tried: Timestamp) -> Self {
        let delay = |tries: u32| INITIAL.saturating_mul(1 << (tries - 1).min(16)).min(LONGEST);
        Self { state: (tries > 0).then(|| (delay(tries), tried)) }
    }

    /// The time before which what failed at `failed_at` must not be tried again; `None` if it may be at once.
    pub fn blocked_until(&self, failed_at: Timestamp) -> Option<Timestamp> {
        let (delay, _) = self.state.filter(|(_, tried)| !expired(*tried, failed_at))?;
        later(failed_at, delay)
    }

    /// The delay in force, zero before the second failure.
    pub fn delay(&self) -> Duration {
        self.state.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// Counts a new try, made now, after a failure at `failed_at`.
    pub fn advance(&mut self, failed_at: Timestamp, now: Timestamp) {
        let delay = match self.state {
            Some((delay, tried)) if !expired(tried, failed_at) => (delay * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.state = Some((delay, now));
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.state = None;
    }
}

/// Went well for so long since the last try that earlier failures do not count any more.
fn expired(tried: Timestamp, failed_at: Timestamp) -> bool {
    later(tried, LONGEST * 2).is_some_and(|end| failed_at > end)
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
        let mut failed = 0;
        let mut now = 0;
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            backoff.advance(at(failed), at(now));
            failed = now + 1;
            now = failed + seconds;
            assert_eq!(backoff.blocked_until(at(failed)), Some(at(now)));
        }
        assert_eq!(Backoff::after(0, at(0)).delay(), Duration::ZERO);
        assert_eq!([1, 2, 5, 6, 900].map(|tries| Backoff::after(tries, at(0)).delay().as_secs()), [10, 20, 160, 300, 300]);
    }

    #[test]
    fn only_ten_good_minutes_since_the_start_forgive() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0), at(0));
        // Held back until 300 after a failure at 20: the time until then is none in which all went well.
        backoff.advance(at(20), at(300));
        assert_eq!(backoff.blocked_until(at(700)), Some(at(720)));
        assert_eq!(backoff.blocked_until(at(901)), None);
        backoff.advance(at(901), at(901));
        assert_eq!(backoff.delay(), INITIAL);
    }
}
