//! Times as the API has them: seconds since 1970 (and nanoseconds), RFC 3339 in JSON.

use std::{fmt, str::FromStr};

use jiff::Timestamp;

use crate::meta::v1::{MicroTime, Time};

/// The text is no RFC 3339 time, or the number is out of range.
#[derive(Debug, thiserror::Error)]
#[error("{input:?} is not a time in RFC 3339 such as 2024-05-01T12:00:00Z")]
pub struct TimeError {
    input: String,
    #[source]
    source: jiff::Error,
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

fn timestamp(seconds: i64, nanos: i32) -> Timestamp {
    let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(seconds, nanos).unwrap_or(nearest)
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
        let t = parsed.map_err(|source| TimeError { input: text.to_owned(), source })?;
        Ok(Self { seconds: t.as_second(), nanos: t.subsec_nanosecond() })
    }
}

pub(crate) fn seconds(seconds: i64) -> Result<impl fmt::Display, TimeError> {
    Timestamp::from_second(seconds).map_err(|source| TimeError { input: seconds.to_string(), source })
}

pub(crate) fn micros(seconds: i64, nanos: i32) -> Result<impl fmt::Display, TimeError> {
    let t = Timestamp::new(seconds, nanos).map_err(|source| TimeError { input: seconds.to_string(), source })?;
    Ok(format!("{t:.6}"))
}
