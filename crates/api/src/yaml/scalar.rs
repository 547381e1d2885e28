//! What plain scalars mean: YAML 1.1 as `kubectl`'s reader has it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Number, Value};

/// The value of a scalar without quotes or tag.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" => {
            return Err(format!("{text} is no number that JSON has; quote it if text is meant"));
        }
        _ => number(text)?.unwrap_or_else(|| Value::String(text.to_owned())),
    })
}

/// The value of a scalar with a tag of YAML's own.
pub(super) fn tagged(text: &str, tag: &str) -> Result<Value, String> {
    let wanted = |what: &str| format!("{text:?} is tagged !!{tag} but is no {what}");
    match tag {
        "str" | "timestamp" => Ok(Value::String(text.to_owned())),
        "null" => Ok(Value::Null),
        "bool" => plain(text).ok().filter(Value::is_boolean).ok_or_else(|| wanted("boolean")),
        "int" => plain(text).ok().filter(|v| v.is_i64() || v.is_u64()).ok_or_else(|| wanted("integer")),
        "float" => plain(text).ok().filter(Value::is_number).ok_or_else(|| wanted("number")),
        "binary" => {
            let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            let bytes = STANDARD.decode(compact).map_err(|_| wanted("base64"))?;
            String::from_utf8(bytes).map(Value::String).map_err(|_| format!("!!binary {text:?} is not UTF-8 inside"))
        }
        _ => plain(text),
    }
}

/// True if the text, written without quotes, would be read as something else than text.
pub(super) fn is_ambiguous(text: &str) -> bool {
    !matches!(plain(text), Ok(Value::String(_))) || text == "<<" || is_timestamp(text)
}

/// `2001-12-14` or that and a time. Read as text, but quoted when written, as other readers make times of them.
fn is_timestamp(text: &str) -> bool {
    let shape: String = text.chars().take(10).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let date = ["0000-00-00", "0000-0-0", "0000-00-0", "0000-0-00"].iter().find(|d| shape.starts_with(*d));
    date.is_some_and(|d| text.len() == d.len() || matches!(text.as_bytes().get(d.len()), Some(b'T' | b't' | b' ')))
}

fn number(text: &str) -> Result<Option<Value>, String> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Ok(None);
    }
    let digits = text.replace('_', "");
    if let Some(integer) = integer(&digits) {
        return Ok(i64::try_from(integer).map(Value::from).or_else(|_| u64::try_from(integer).map(Value::from)).ok());
    }
    if !is_float(&digits) {
        return Ok(None);
    }
    let Ok(float) = digits.parse::<f64>() else { return Ok(None) };
    // JSON has one kind of number: a float that is whole is that integer.
    if float.fract() == 0.0 && float.abs() < 9e15 {
        return Ok(Some(Value::from(float as i64)));
    }
    Number::from_f64(float).map(|n| Some(Value::Number(n))).ok_or_else(|| format!("{text} is too large for a number"))
}

/// Decimal, `0x`, `0b`, `0o`, or octal by a leading zero.
fn integer(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match rest.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &rest[2..]),
        Some("0b") => (2, &rest[2..]),
        Some("0o") => (8, &rest[2..]),
        _ if rest.len() > 1 && rest.starts_with('0') => (8, &rest[1..]),
        _ => (10, rest),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -value } else { value };
    (value >= i128::from(i64::MIN)).then_some(value)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa_fits && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}
