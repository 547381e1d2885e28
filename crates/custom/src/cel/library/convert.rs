//! From one type to another.

use std::sync::Arc;

use super::super::{
    Budget, Fault,
    value::{Text, Val, show_double},
};

type Answer<'a> = Result<Val<'a>, Fault>;

fn only<'v, 'a>(args: &'v [Val<'a>]) -> Result<&'v Val<'a>, Fault> {
    args.first().ok_or(Fault::Overload)
}

fn range(name: &str) -> Fault {
    Fault::other(format!("{name} overflow"))
}

fn no_number(kind: &str, text: &str) -> Fault {
    Fault::other(format!("type conversion error from string to {kind}: {text:?}"))
}

/// Name of the type.
pub fn type_of<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Type(only(args)?.type_name()))
}

/// The value, with its type left open.
pub fn dynamic<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    only(args).cloned()
}

/// A boolean.
pub fn boolean<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match only(args)? {
        Val::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            other => Err(no_number("bool", other)),
        },
        other => Ok(other.clone()),
    }
}

/// A whole number; the fraction of others is cut off.
pub fn int<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    Ok(Val::Int(match only(args)? {
        Val::Int(int) => *int,
        Val::Uint(int) => i64::try_from(*int).map_err(|_| range("integer"))?,
        #[expect(clippy::cast_possible_truncation, reason = "the fraction is cut off, the range is checked")]
        Val::Double(d) if *d > -END && *d < END => *d as i64,
        Val::Double(_) => return Err(range("integer")),
        Val::String(text) => text.as_str().parse().map_err(|_| no_number("int", text.as_str()))?,
        Val::Timestamp(t) => t.as_second(),
        _ => return Err(Fault::Overload),
    }))
}

/// A whole number that is not negative.
pub fn uint<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    const END: f64 = 18_446_744_073_709_551_616.0;
    Ok(Val::Uint(match only(args)? {
        Val::Uint(int) => *int,
        Val::Int(int) => u64::try_from(*int).map_err(|_| range("unsigned integer"))?,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the fraction is cut off, the range is checked"
        )]
        Val::Double(d) if *d >= 0.0 && *d < END => *d as u64,
        Val::Double(_) => return Err(range("unsigned integer")),
        Val::String(text) => text.as_str().parse().map_err(|_| no_number("uint", text.as_str()))?,
        _ => return Err(Fault::Overload),
    }))
}

/// A number with a fraction.
#[expect(clippy::cast_precision_loss, reason = "a floating-point number is asked for")]
pub fn double<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Double(match only(args)? {
        Val::Double(d) => *d,
        Val::Int(int) => *int as f64,
        Val::Uint(int) => *int as f64,
        Val::String(text) => text.as_str().parse().map_err(|_| no_number("double", text.as_str()))?,
        _ => return Err(Fault::Overload),
    }))
}

/// A text.
pub fn string<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match only(args)? {
        same @ Val::String(_) => Ok(same.clone()),
        Val::Bytes(bytes) => {
            let text =
                std::str::from_utf8(bytes).map_err(|_| Fault::other("invalid UTF-8 in bytes, cannot convert to string"))?;
            Ok(Val::text(text))
        }
        other => show(other).map(Val::text).ok_or(Fault::Overload),
    }
}

/// The text of a value that has one.
pub(super) fn show(value: &Val<'_>) -> Option<String> {
    Some(match value {
        Val::Bool(b) => b.to_string(),
        Val::Int(int) => int.to_string(),
        Val::Uint(int) => int.to_string(),
        Val::Double(d) => show_double(*d).into_owned(),
        Val::String(text) => text.as_str().to_owned(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Timestamp(t) => t.to_string(),
        Val::Duration(nanos) => seconds(*nanos),
        Val::Type(name) => (*name).to_owned(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(ip, bits) => format!("{ip}/{bits}"),
        _ => return None,
    })
}

/// A duration as CEL shows it: seconds.
fn seconds(nanos: i64) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let fraction = format!("{fraction:09}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{sign}{whole}s") } else { format!("{sign}{whole}.{fraction}s") }
}

/// The bytes of a text.
pub fn bytes<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match only(args)? {
        Val::String(Text::Borrowed(text)) => Ok(Val::Bytes(text.as_bytes().into())),
        Val::String(Text::Shared(text)) => Ok(Val::Bytes(Arc::from(text.as_bytes()))),
        other => Ok(other.clone()),
    }
}
