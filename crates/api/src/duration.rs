//! Lengths of time in text, such as `1h2m3.5s`: the one syntax of objects, flags and configuration files, which is Go's.

use std::{ops::RangeInclusive, time::Duration};

/// The text is no length of time, or none that is allowed.
#[derive(Debug, thiserror::Error)]
pub enum DurationError {
    /// Not a number with its unit.
    #[error("{0:?} is not a duration such as 90s, 1m30s or 500ms")]
    Malformed(String),
    /// Outside what is allowed.
    #[error("{0} is not from {from} to {to}", from = format_unsigned(*.1.start()), to = format_unsigned(*.1.end()))]
    OutOfRange(String, RangeInclusive<Duration>),
}

/// The longest length of time that a text can hold: 292 years.
pub const MAX: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

const UNITS: &[(&str, i64)] = &[
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("m", 60_000_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ns", 1),
    ("s", 1_000_000_000),
];

/// Nanoseconds of a text such as `1h2m3.5s`.
///
/// # Errors
/// When the text is none, or does not fit in 64 bits of nanoseconds.
pub fn parse(text: &str) -> Result<i64, DurationError> {
    let error = || DurationError::Malformed(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, tail) = rest.split_at(end);
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(error());
        }
        let digits = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<i64>().map_err(|_| error()) };
        let mut value = i128::from(digits(whole)?) * i128::from(*nanos);
        let fraction = fraction.get(..fraction.len().min(15)).ok_or_else(error)?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
        value += i128::from(digits(fraction)?) * i128::from(*nanos) / scale;
        total += value;
        rest = &tail[unit.len()..];
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| error())
}

/// Reads a length of time within bounds, as a flag or a configuration file has it.
///
/// # Errors
/// When the text is none, or out of bounds.
pub fn parse_within(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, DurationError> {
    match u64::try_from(parse(text)?).map(Duration::from_nanos) {
        Ok(duration) if bounds.contains(&duration) => Ok(duration),
        _ => Err(DurationError::OutOfRange(text.to_owned(), bounds)),
    }
}

/// Reads a length of time that is not negative.
///
/// # Errors
/// When the text is none.
pub fn parse_unsigned(text: &str) -> Result<Duration, DurationError> {
    parse_within(text, Duration::ZERO..=MAX)
}

/// As [`format`]; what is longer than [`MAX`] is written as that.
pub fn format_unsigned(duration: Duration) -> String {
    format(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// The shortest text with hours, minutes and seconds, such as `1m30s` or `1.5s`.
pub fn format(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let trimmed = |value: u64, unit: u64, name: &str| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() || unit == 1 { String::new() } else { format!(".{fraction}") };
        format!("{}{dot}{name}", value / unit)
    };
    let text = match magnitude {
        0..1_000 => format!("{magnitude}ns"),
        1_000..1_000_000 => trimmed(magnitude, 1_000, "µs"),
        1_000_000..1_000_000_000 => trimmed(magnitude, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (magnitude / 60_000_000_000, magnitude % 60_000_000_000);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let seconds = trimmed(rest, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_nanoseconds_agree() {
        for (text, nanos) in
            [("1h0m0s", 3_600_000_000_000), ("1m30s", 90_000_000_000), ("1.5s", 1_500_000_000), ("300ms", 300_000_000), ("0s", 0)]
        {
            assert_eq!(parse(text).unwrap(), nanos, "{text}");
            assert_eq!(format(nanos), text);
        }
        assert_eq!(parse("-1.5h").unwrap(), -5_400_000_000_000);
        for bad in ["", "1", "s", "1x", ".s", "99999999999999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_flags_duration_has_a_unit_and_bounds() {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(3600);
        for (text, millis) in
            [("40s", 40_000), ("1m30s", 90_000), ("1h", 3_600_000), ("1h0m0s", 3_600_000), ("0.5s", 500), ("100ms", 100)]
        {
            assert_eq!(parse_within(text, bounds.clone()).unwrap(), Duration::from_millis(millis), "{text}");
        }
        assert_eq!(parse_unsigned("0").unwrap(), Duration::ZERO);
        let refused = |text| parse_within(text, bounds.clone()).unwrap_err().to_string();
        assert_eq!(refused("40"), "\"40\" is not a duration such as 90s, 1m30s or 500ms");
        assert_eq!(refused("2h"), "2h is not from 100ms to 1h0m0s");
        assert_eq!(refused("-1s"), "-1s is not from 100ms to 1h0m0s");
        assert!(parse_unsigned("-1ns").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+]?([0-9.]{0,25}(h|m|s|ms|us|µs|ns|é)?){0,5}") {
            if let Ok(nanos) = parse(&text) {
                prop_assert_eq!(parse(&format(nanos)).unwrap(), nanos);
            }
        }

        #[test]
        fn every_duration_survives_its_text(nanos: i64) {
            prop_assert_eq!(parse(&format(nanos)).unwrap(), nanos);
        }
    }
}
