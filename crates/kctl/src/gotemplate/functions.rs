//! The functions of templates.

use std::cmp::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    format::{print, printf, println, sprint},
    value::Val,
};

const INCOMPATIBLE: &str = "incompatible types for comparison";

/// Calls a function.
///
/// # Errors
/// When there is none of this name, or it cannot take the arguments.
pub fn call(name: &str, arguments: &[Val]) -> Result<Val, String> {
    let (least, most) = match name {
        "print" | "println" | "html" | "js" | "urlquery" => (0, usize::MAX),
        "printf" | "index" | "slice" | "exists" => (1, usize::MAX),
        "len" | "not" | "base64decode" => (1, 1),
        "eq" => (1, usize::MAX),
        "ne" | "lt" | "le" | "gt" | "ge" => (2, 2),
        _ => return Err(format!("function {name:?} not defined")),
    };
    if arguments.len() < least || arguments.len() > most {
        let want = if least == most { least.to_string() } else { format!("at least {least}") };
        return Err(format!("wrong number of args for {name}: want {want} got {}", arguments.len()));
    }
    let failed = |what: String| format!("error calling {name}: {what}");
    match name {
        "print" => Ok(Val::text(print(arguments))),
        "println" => Ok(Val::text(println(arguments))),
        "printf" => match &arguments[0] {
            Val::Text(format) => Ok(Val::text(printf(format, &arguments[1..]))),
            other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
        },
        "html" => Ok(Val::text(html(&joined(arguments)))),
        "js" => Ok(Val::text(js(&joined(arguments)))),
        "urlquery" => Ok(Val::text(url_query(&joined(arguments)))),
        "not" => Ok(Val::Bool(!arguments[0].truth())),
        "len" => length(&arguments[0]).map_err(failed),
        "index" => index(&arguments[0], &arguments[1..]).map_err(failed),
        "slice" => slice(&arguments[0], &arguments[1..]).map_err(failed),
        "exists" => Ok(Val::Bool(index(&arguments[0], &arguments[1..]).is_ok_and(|value| !matches!(value, Val::Missing)))),
        "base64decode" => base64decode(&arguments[0]).map_err(failed),
        "eq" => equal_any(&arguments[0], &arguments[1..]).map(Val::Bool).map_err(failed),
        "ne" => equal(&arguments[0], &arguments[1]).map(|same| Val::Bool(!same)).map_err(failed),
        _ => {
            let order = order(&arguments[0], &arguments[1]).map_err(failed)?;
            Ok(Val::Bool(match name {
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }))
        }
    }
}

fn joined(arguments: &[Val]) -> String {
    match arguments {
        [Val::Text(text)] => text.to_string(),
        several => print(several),
    }
}

fn length(value: &Val) -> Result<Val, String> {
    let length = match value {
        Val::Text(text) => text.len(),
        Val::List(items) => items.len(),
        Val::Map(members) => members.len(),
        Val::Missing | Val::Nil => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

/// A place in something of this length, the end counted if allowed.
fn place(key: &Val, length: usize) -> Result<usize, String> {
    match key {
        Val::Int(at) => match usize::try_from(*at) {
            Ok(place) if place < length => Ok(place),
            _ => Err(format!("index out of range: {at}")),
        },
        Val::Missing | Val::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    }
}

fn index(value: &Val, keys: &[Val]) -> Result<Val, String> {
    let mut value = value.clone();
    for key in keys {
        value = match &value {
            Val::List(items) => items[place(key, items.len())?].clone(),
            Val::Text(text) => Val::Int(text.as_bytes()[place(key, text.len())?].into()),
            Val::Map(members) => match key {
                Val::Text(key) => members.get(&**key).cloned().unwrap_or(Val::Missing),
                other => return Err(format!("value has type {}; should be string", other.type_name())),
            },
            Val::Missing | Val::Nil => return Err("index of untyped nil".to_owned()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice(value: &Val, bounds: &[Val]) -> Result<Val, String> {
    let length = match value {
        Val::List(items) => items.len(),
        Val::Text(text) => text.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() > 2 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let bound = |at: usize, default| bounds.get(at).map_or(Ok(default), |bound| place(bound, length + 1));
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Val::List(items) => Val::List(std::rc::Rc::new(items[from..to].to_vec())),
        other => Val::text(String::from_utf8_lossy(&sprint(other).as_bytes()[from..to])),
    })
}

fn base64decode(value: &Val) -> Result<Val, String> {
    let Val::Text(text) = value else { return Err(format!("wrong type for value; expected string; got {}", value.type_name())) };
    let decoded = STANDARD.decode(text.trim()).map_err(|error| format!("base64 decode failed: {error}"))?;
    Ok(Val::text(String::from_utf8_lossy(&decoded)))
}

fn equal_any(value: &Val, others: &[Val]) -> Result<bool, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(value, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Val, b: &Val) -> Result<bool, String> {
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
        (Val::Int(a), Val::Int(b)) => Ok(a == b),
        #[allow(clippy::float_cmp, reason = "it is what was asked")]
        (Val::Float(a), Val::Float(b)) => Ok(a == b),
        (Val::Text(a), Val::Text(b)) => Ok(a == b),
        (a, b) if a.is_nil() || b.is_nil() => Ok(a.is_nil() && b.is_nil()),
        (Val::List(_), Val::List(_)) | (Val::Map(_), Val::Map(_)) => {
            Err(format!("non-comparable type {}: {}", a.type_name(), sprint(a)))
        }
        _ => Err(INCOMPATIBLE.to_owned()),
    }
}

fn order(a: &Val, b: &Val) -> Result<Option<Ordering>, String> {
    let basic = |value: &Val| matches!(value, Val::Int(_) | Val::Float(_) | Val::Text(_) | Val::Bool(_));
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Ok(Some(a.cmp(b))),
        (Val::Float(a), Val::Float(b)) => Ok(a.partial_cmp(b)),
        (Val::Text(a), Val::Text(b)) => Ok(Some(a.cmp(b))),
        (a, b) if basic(a) && basic(b) && a.type_name() != b.type_name() => Err(INCOMPATIBLE.to_owned()),
        _ => Err("invalid type for comparison".to_owned()),
    }
}

fn html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out += &format!("\\u{:04X}", u32::from(c)),
            c if c.is_control() => out += &format!("\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out
}

fn url_query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
