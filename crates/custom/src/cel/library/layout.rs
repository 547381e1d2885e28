//! `format`: values in a text, by verbs as of `printf`.

use super::{
    super::{
        Budget, Fault, MAX_TEXT,
        value::{Val, show_double},
    },
    convert, too_large,
};

/// Most digits after the point.
const MAX_PRECISION: usize = 100;

/// The text with each verb replaced by the next value of the list.
///
/// # Errors
/// When a verb is unknown, does not fit its value, or has none.
pub fn format(layout: &str, list: &Val<'_>, budget: &mut Budget) -> Result<String, Fault> {
    let mut out = String::new();
    let (mut rest, mut next) = (layout, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = precision(rest)?;
        let verb = after.chars().next().ok_or_else(|| Fault::other("unexpected end of format string"))?;
        rest = &after[verb.len_utf8()..];
        let value = list.item(next).ok_or_else(|| Fault::other(format!("index {next} out of range")))?;
        next += 1;
        budget.spend(1)?;
        write(&mut out, verb, precision, &value, budget)?;
        if out.len() > MAX_TEXT {
            return Err(too_large());
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn precision(text: &str) -> Result<(usize, &str), Fault> {
    let Some(after) = text.strip_prefix('.') else { return Ok((6, text)) };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let precision = after[..digits].parse::<usize>().ok().filter(|p| *p <= MAX_PRECISION);
    Ok((precision.ok_or_else(|| Fault::other("invalid precision in format string"))?, &after[digits..]))
}

fn write(out: &mut String, verb: char, precision: usize, value: &Val<'_>, budget: &mut Budget) -> Result<(), Fault> {
    let wrong = || Fault::other(format!("error during formatting: %{verb} does not take a value of type {}", value.type_name()));
    let text = match (verb, value) {
        ('s', _) => return show(out, value, budget),
        ('d', Val::Int(_) | Val::Uint(_)) => plain(value),
        ('f', Val::Double(d)) => format!("{d:.precision$}"),
        #[expect(clippy::cast_precision_loss, reason = "a floating-point number is asked for")]
        ('f', Val::Int(int)) => format!("{:.precision$}", *int as f64),
        ('e', Val::Double(d)) => {
            let text = format!("{d:.precision$e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        ('b', Val::Bool(b)) => i32::from(*b).to_string(),
        ('b', Val::Int(int)) => signed(*int, format!("{:b}", int.unsigned_abs())),
        ('b', Val::Uint(int)) => format!("{int:b}"),
        ('o', Val::Int(int)) => signed(*int, format!("{:o}", int.unsigned_abs())),
        ('o', Val::Uint(int)) => format!("{int:o}"),
        ('x', Val::Int(int)) => signed(*int, format!("{:x}", int.unsigned_abs())),
        ('X', Val::Int(int)) => signed(*int, format!("{:X}", int.unsigned_abs())),
        ('x', Val::Uint(int)) => format!("{int:x}"),
        ('X', Val::Uint(int)) => format!("{int:X}"),
        ('x' | 'X', Val::String(text)) => hex(text.as_str().as_bytes(), verb, out.len())?,
        ('x' | 'X', Val::Bytes(bytes)) => hex(bytes, verb, out.len())?,
        ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X', _) => return Err(wrong()),
        _ => return Err(Fault::other(format!("unrecognized formatting clause \"{verb}\""))),
    };
    out.push_str(&text);
    Ok(())
}

fn signed(int: i64, digits: String) -> String {
    if int < 0 { format!("-{digits}") } else { digits }
}

fn hex(bytes: &[u8], verb: char, before: usize) -> Result<String, Fault> {
    if bytes.len() * 2 + before > MAX_TEXT {
        return Err(too_large());
    }
    let digit = |b: &u8| if verb == 'x' { format!("{b:02x}") } else { format!("{b:02X}") };
    Ok(bytes.iter().map(digit).collect())
}

fn plain(value: &Val<'_>) -> String {
    match value {
        Val::Int(int) => int.to_string(),
        Val::Uint(int) => int.to_string(),
        Val::Double(d) => show_double(*d).into_owned(),
        other => convert::show(other).unwrap_or_default(),
    }
}

/// Any value, lists and maps with what is in them.
fn show(out: &mut String, value: &Val<'_>, budget: &mut Budget) -> Result<(), Fault> {
    budget.spend(1)?;
    if out.len() > MAX_TEXT {
        return Err(too_large());
    }
    match value {
        Val::Null => out.push_str("null"),
        Val::List(_) | Val::JsonList(..) => {
            out.push('[');
            let mut i = 0;
            while let Some(item) = value.item(i) {
                if i > 0 {
                    out.push_str(", ");
                }
                show(out, &item, budget)?;
                i += 1;
            }
            out.push(']');
        }
        Val::Map(_) | Val::JsonMap(..) => {
            out.push('{');
            for (i, key) in value.keys().iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                show(out, key, budget)?;
                out.push_str(": ");
                if let Some(value) = key.to_key().and_then(|key| value.entry(&key)) {
                    show(out, &value, budget)?;
                }
            }
            out.push('}');
        }
        other => {
            let wrong =
                || Fault::other(format!("error during formatting: %s does not take a value of type {}", other.type_name()));
            let text = convert::show(other).ok_or_else(wrong)?;
            budget.spend(text.len() as u64 / 10)?;
            out.push_str(&text);
        }
    }
    Ok(())
}
