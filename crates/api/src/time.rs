//! Times as the API has them: seconds since 1970 (and nanoseconds), RFC 3339 in JSON.

use std::{ops::RangeInclusive, str::FromStr};

use jiff::Timestamp;

use crate::meta::v1::{MicroTime, Time};

/// Seconds since 1970 of the times that the API has: from the beginning of year 1 to the end of what jiff has of year 9999.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_207_200;
const NANOS: RangeInclusive<i32> = 0..=999_999_999;

/// Why a text is no time.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The text is no RFC 3339 time.
    #[error("{input:?} is not a time in RFC 3339 such as 2024-05-01T12:00:00Z")]
    Malformed {
        /// The text.
        input: String,
        /// What is wrong with it.
        #[source]
        source: jiff::Error,
    },
    /// The time is one that not every client can read.
    #[error("{input:?} is out of range: times are in the years 1 to 9999")]
    Range {
        /// The text.
        input: String,
    },
}

impl Time {
    /// The present, to the second: what the API stores.
    pub fn now() -> Self {
        Self { seconds: Timestamp::now().as_second(), nanos: 0 }
    }

    /// As a jiff timestamp; the nearest one that exists if out of range.
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.seconds, self.nanos)
    }
}

impl MicroTime {
    /// The present, to the microsecond.
    pub fn now() -> Self {
        Timestamp::now().into()
    }

    /// As a jiff timestamp; the nearest one that exists if out of range.
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.seconds, self.nanos)
    }
}

/// True for a time that the API has.
pub(crate) fn exists(seconds: i64, nanos: i32) -> bool {
    SECONDS.contains(&seconds) && NANOS.contains(&nanos)
}

fn timestamp(seconds: i64, nanos: i32) -> Timestamp {
    let (seconds, nanos) = (seconds.clamp(*SECONDS.start(), *SECONDS.end()), nanos.clamp(*NANOS.start(), *NANOS.end()));
    // All that is left exists.
    Timestamp::new(seconds, nanos).unwrap_or(Timestamp::MAX)
}

impl From<Timestamp> for Time {
    fn from(t: Timestamp) -> Self {
        Self { seconds: t.as_second(), nanos: 0 }
    }
}

impl From<Timestamp> for MicroTime {
    fn from(t: Timestamp) -> Self {
        Self { seconds: t.as_second(), nanos: t.subsec_nanosecond() / 1000 * 1000 }
    }
}

impl FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let parsed: Result<Timestamp, _> = text.parse();
        let t = parsed.map_err(|source| TimeError::Malformed { input: text.to_owned(), source })?;
        if !SECONDS.contains(&t.as_second()) {
            return Err(TimeError::Range { input: text.to_owned() });
        }
        Ok(Self { seconds: t.as_second(), nanos: t.subsec_nanosecond().max(0) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_in_the_years_that_every_client_can_read() {
        for good in ["0001-01-01T00:00:00Z", "2024-05-01T12:00:00.5+02:00", "9999-12-30T22:00:00Z"] {
            let time: Time = good.parse().unwrap();
            assert!(exists(time.seconds, time.nanos), "{good}");
        }
        for bad in
            ["0000-12-31T23:59:59Z", "-000001-01-01T00:00:00Z", "+010000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "now", ""]
        {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
        assert!(!exists(1 << 62, 0) && !exists(i64::MIN, 0) && !exists(0, -1) && !exists(0, 1_000_000_000));
    }

    proptest! {
        #[test]
        fn any_numbers_have_a_time_and_its_json(seconds: i64, nanos: i32) {
            let time = Time { seconds, nanos };
            let text = serde_json::to_value(time).unwrap();
            let read: Time = serde_json::from_value(text).unwrap();
            prop_assert!(exists(read.seconds, read.nanos));
            prop_assert!(!SECONDS.contains(&seconds) || read.seconds == seconds);
            let micro = MicroTime { seconds, nanos };
            prop_assert!(serde_json::from_value::<MicroTime>(serde_json::to_value(micro).unwrap()).is_ok());
        }
    }
}
