//! Moments and lengths of time.

use jiff::{Timestamp, civil::DateTime, tz::Offset};

use super::{
    super::{
        Budget, Fault,
        value::{self, Val},
    },
    text,
};

type Answer<'a> = Result<Val<'a>, Fault>;

const NANOS: i64 = 1_000_000_000;

/// A moment, from RFC 3339 or seconds since 1970.
pub fn timestamp<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match args.first() {
        Some(Val::String(text)) => value::timestamp(text.as_str())
            .map(Val::Timestamp)
            .ok_or_else(|| Fault::other(format!("type conversion error from string to timestamp: {:?}", text.as_str()))),
        Some(Val::Int(seconds)) => {
            Timestamp::from_second(*seconds).map(Val::Timestamp).map_err(|_| Fault::other("timestamp overflow"))
        }
        Some(other) => Ok(other.clone()),
        None => Err(Fault::Overload),
    }
}

/// A length of time, from Go's text.
pub fn duration<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match args.first() {
        Some(Val::String(text)) => api::duration::parse(text.as_str())
            .map(Val::Duration)
            .map_err(|_| Fault::other(format!("type conversion error from string to duration: {:?}", text.as_str()))),
        Some(other) => Ok(other.clone()),
        None => Err(Fault::Overload),
    }
}

/// The moment in UTC, or in the zone that the second argument names.
fn local(args: &[Val<'_>]) -> Result<DateTime, Fault> {
    let Some(Val::Timestamp(moment)) = args.first() else { return Err(Fault::Overload) };
    let zone = if args.len() > 1 { zone(text(args, 1)?)? } else { Offset::UTC };
    Ok(zone.to_datetime(*moment))
}

/// `UTC`, or an offset such as `-08:00`. Names of places need a table that not every machine has.
fn zone(name: &str) -> Result<Offset, Fault> {
    let offset = || {
        let (sign, rest) = name.strip_prefix('-').map_or((1, name.strip_prefix('+').unwrap_or(name)), |rest| (-1, rest));
        let (hours, minutes) = rest.split_once(':')?;
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        Offset::from_seconds(sign * seconds).ok()
    };
    if name.is_empty() || name == "UTC" {
        return Ok(Offset::UTC);
    }
    offset().ok_or_else(|| Fault::other(format!("unknown time zone {name}")))
}

macro_rules! parts {
    ($($(#[$doc:meta])* $name:ident: $part:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
            let part: fn(&DateTime) -> i64 = $part;
            Ok(Val::Int(part(&local(args)?)))
        }
    )*};
}
parts! {
    /// The year.
    full_year: |t| i64::from(t.year());
    /// The month, from 0.
    month: |t| i64::from(t.month()) - 1;
    /// The day of the year, from 0.
    day_of_year: |t| i64::from(t.day_of_year()) - 1;
    /// The day of the month, from 0.
    day_of_month: |t| i64::from(t.day()) - 1;
    /// The day of the month, from 1.
    date: |t| i64::from(t.day());
    /// The day of the week, from 0 for Sunday.
    day_of_week: |t| i64::from(t.weekday().to_sunday_zero_offset());
}

/// Of a moment a part, of a length of time the whole in that unit.
fn unit<'a>(args: &[Val<'a>], nanos: i64, part: fn(&DateTime) -> i64) -> Answer<'a> {
    match args.first() {
        Some(Val::Duration(length)) => Ok(Val::Int(length / nanos)),
        _ => Ok(Val::Int(part(&local(args)?))),
    }
}

/// Hours.
pub fn hours<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    unit(args, 3600 * NANOS, |t| i64::from(t.hour()))
}

/// Minutes.
pub fn minutes<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    unit(args, 60 * NANOS, |t| i64::from(t.minute()))
}

/// Seconds.
pub fn seconds<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    unit(args, NANOS, |t| i64::from(t.second()))
}

/// Thousandths of a second: of a length of time those beyond the seconds.
pub fn milliseconds<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match args.first() {
        Some(Val::Duration(length)) => Ok(Val::Int(length % NANOS / 1_000_000)),
        _ => Ok(Val::Int(i64::from(local(args)?.millisecond()))),
    }
}
