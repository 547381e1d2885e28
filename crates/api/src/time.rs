//! Times as the API has them: seconds since 1970 (and nanoseconds), RFC 3339 in JSON.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use jiff::{
    SignedDuration, Timestamp,
    civil::{DateTime, date},
};

use crate::meta::v1::{MicroTime, Time};

/// Seconds since 1970 of the times that the API has: the years 0 to 9999, which are what RFC 3339 can write.
const SECONDS: RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;
const NANOS: RangeInclusive<i32> = 0..=999_999_999;

/// Why a text is no time.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The text is no RFC 3339 time.
    #[error("{input:?} is not a time in RFC 3339 such as 2024-05-01T12:00:00Z")]
    Malformed {
        /// The text.
        input: String,
    },
    /// The time is one that RFC 3339 cannot write in UTC.
    #[error("{input:?} is out of range: times are in the years 0 to 9999")]
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

    /// This time to the second, or the nearest that exists.
    #[must_use]
    pub fn nearest(&self) -> Self {
        Self { seconds: self.seconds.clamp(*SECONDS.start(), *SECONDS.end()), nanos: 0 }
    }

    /// As a jiff timestamp, to reckon with; the nearest one that exists if out of range. The last 26 hours of the year 9999 have none.
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.seconds, self.nanos)
    }

    /// Date and time of day in UTC; the nearest that exist if out of range.
    pub fn utc(&self) -> DateTime {
        utc(self.seconds, self.nanos)
    }
}

impl MicroTime {
    /// The present, to the microsecond.
    pub fn now() -> Self {
        Timestamp::now().into()
    }

    /// As a jiff timestamp, to reckon with; the nearest one that exists if out of range. The last 26 hours of the year 9999 have none.
    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.seconds, self.nanos)
    }
}

/// True for a time that the API has.
pub(crate) fn exists(seconds: i64, nanos: i32) -> bool {
    SECONDS.contains(&seconds) && NANOS.contains(&nanos)
}

fn timestamp(seconds: i64, nanos: i32) -> Timestamp {
    let seconds = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    // All that is left exists.
    Timestamp::new(seconds, nanos.clamp(*NANOS.start(), *NANOS.end())).unwrap_or(Timestamp::MAX)
}

/// 1970, at midnight.
fn epoch() -> DateTime {
    date(1970, 1, 1).at(0, 0, 0, 0)
}

fn utc(seconds: i64, nanos: i32) -> DateTime {
    let (seconds, nanos) = (seconds.clamp(*SECONDS.start(), *SECONDS.end()), nanos.clamp(*NANOS.start(), *NANOS.end()));
    epoch().saturating_add(SignedDuration::new(seconds, nanos))
}

/// In RFC 3339, to the second.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}Z", utc(self.seconds, 0))
    }
}

/// In RFC 3339, to the microsecond.
impl fmt::Display for MicroTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}Z", utc(self.seconds, self.nanos))
    }
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
        let (local, offset) = parse(text).ok_or_else(|| TimeError::Malformed { input: text.to_owned() })?;
        let since = local.duration_since(epoch());
        let seconds = since.as_secs() - i64::from(since.subsec_nanos() < 0) - offset;
        if !SECONDS.contains(&seconds) {
            return Err(TimeError::Range { input: text.to_owned() });
        }
        Ok(Self { seconds, nanos: since.subsec_nanos().rem_euclid(1_000_000_000) })
    }
}

/// What RFC 3339 (as Go reads it) says: date and time of day, and by how many seconds they are ahead of UTC.
fn parse(text: &str) -> Option<(DateTime, i64)> {
    let (day, rest) = text.split_at_checked(10)?;
    let (day, rest) = (day.split('-').collect::<Vec<_>>(), rest.strip_prefix('T')?);
    let (clock, rest) = rest.split_at_checked(8)?;
    let clock: Vec<_> = clock.split(':').collect();
    let ([year, month, day], [hour, minute, second]) = (day.as_slice(), clock.as_slice()) else { return None };
    let (fraction, zone) = match rest.strip_prefix(['.', ',']) {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    // Beyond nanoseconds nothing counts.
    let nanos = number(fraction, 1..=usize::MAX).and(format!("{fraction:0<9}")[..9].parse().ok())?;
    let two = |text: &str| number(text, 2..=2).and_then(|number| i8::try_from(number).ok());
    let year = i16::try_from(number(year, 4..=4)?).ok()?;
    let local = DateTime::new(year, two(month)?, two(day)?, two(hour)?, two(minute)?, two(second)?, nanos).ok()?;
    if zone == "Z" {
        return Some((local, 0));
    }
    let (sign, zone) = zone.split_at_checked(1)?;
    let (hours, minutes) = zone.split_once(':')?;
    let (hours, minutes) = (i64::from(two(hours)?), i64::from(two(minutes)?));
    let ahead = Some((hours * 60 + minutes) * 60).filter(|_| hours <= 24 && minutes < 60)?;
    match sign {
        "+" => Some((local, ahead)),
        "-" => Some((local, -ahead)),
        _ => None,
    }
}

/// So many digits, as a number; 0 if it is too large for one.
fn number(text: &str, digits: RangeInclusive<usize>) -> Option<u32> {
    let all_digits = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_what_rfc_3339_can_write() {
        for good in [
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "9999-12-30T22:00:01Z",
            "9999-12-31T23:59:59Z",
        ] {
            let time: Time = good.parse().unwrap();
            assert!(exists(time.seconds, time.nanos) && time.to_string() == good, "{good}: {time}");
            let micro = MicroTime { seconds: time.seconds, nanos: 0 };
            assert_eq!(micro.to_string(), good.replace('Z', ".000000Z"));
        }
        for (text, shown, nanos) in [
            ("2024-05-01T12:00:00.5+02:00", "2024-05-01T10:00:00Z", 500_000_000),
            ("1969-12-31T23:59:59,25Z", "1969-12-31T23:59:59Z", 250_000_000),
            ("2024-02-29T23:30:00.1234567891-01:00", "2024-03-01T00:30:00Z", 123_456_789),
        ] {
            let time: Time = text.parse().unwrap();
            assert_eq!((time.to_string().as_str(), time.nanos), (shown, nanos), "{text}");
        }
        for bad in [
            "-000001-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
            "now",
            "",
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01t12:00:00z",
            "2024-05-01 12:00:00Z",
            "20240501T120000Z",
            "2024-02-30T12:00:00Z",
            "2024-05-01T12:00:60Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00+2:00",
            "2024-05-01T12:00:00Z[UTC]",
            "2024-05-01T12:00:00é",
            "２024-05-01T12:00:00Z",
        ] {
            assert!(matches!(bad.parse::<Time>(), Err(TimeError::Malformed { .. })), "{bad}");
        }
        for bad in ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01"] {
            assert!(matches!(bad.parse::<Time>(), Err(TimeError::Range { .. })), "{bad}");
        }
        assert!(!exists(1 << 62, 0) && !exists(i64::MIN, 0) && !exists(0, -1) && !exists(0, 1_000_000_000));
    }

    #[test]
    fn the_last_hours_are_reckoned_with_as_the_last_that_can_be() {
        let last: Time = "9999-12-31T23:59:59Z".parse().unwrap();
        assert_eq!(last.timestamp().as_second(), Timestamp::MAX.as_second());
        assert_eq!((last.utc().year(), last.utc().hour()), (9999, 23));
        assert_eq!(Time { seconds: i64::MAX, nanos: 0 }.nearest(), last);
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

        #[test]
        fn every_second_that_exists_survives_its_json(seconds in SECONDS, nanos in NANOS) {
            let micro = MicroTime { seconds, nanos: nanos / 1000 * 1000 };
            prop_assert_eq!(serde_json::from_value::<MicroTime>(serde_json::to_value(micro).unwrap()).unwrap(), micro);
            prop_assert_eq!(Time { seconds, nanos: 0 }.to_string().parse::<Time>().unwrap().seconds, seconds);
        }
    }
}
