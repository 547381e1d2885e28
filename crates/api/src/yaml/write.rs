//! JSON values as YAML in the form `kubectl` prints: keys sorted, lists not indented, quotes only where they are needed.

use serde_json::{Map, Value};

use super::scalar::is_ambiguous;
use crate::quote;

/// The value as a YAML document that ends with a newline.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0),
        other => {
            write_scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// `inside_item`: the first line continues one that holds the list's dash.
fn write_map(out: &mut String, map: &Map<String, Value>, depth: usize, inside_item: bool) {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (i, (key, value)) in entries.into_iter().enumerate() {
        if i > 0 || !inside_item {
            indent(out, depth);
        }
        write_text(out, key, None);
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                write_map(out, map, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, depth);
            }
            scalar => {
                out.push(' ');
                write_scalar(out, scalar, depth + 1);
                out.push('\n');
            }
        }
    }
}

fn write_list(out: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(out, map, depth + 1, true),
            Value::Array(items) if !items.is_empty() => {
                // The inner list starts on the dash's own line.
                let mut inner = String::new();
                write_list(&mut inner, items, depth + 1);
                out.push_str(inner.trim_start_matches(' '));
            }
            scalar => {
                write_scalar(out, scalar, depth + 1);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(text) => write_text(out, text, Some(depth)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// `depth` is where the lines of a block go; `None` where there can be no block.
fn write_text(out: &mut String, text: &str, depth: Option<usize>) {
    let printable =
        |c: char| c == '\n' || c == '\t' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}'));
    if let Some(depth) = depth
        && text.contains('\n')
        && text.chars().all(printable)
        && !text.starts_with([' ', '\t', '\n'])
        && !text.contains(" \n")
        && !text.contains("\t\n")
        && !text.ends_with([' ', '\t'])
    {
        return write_block(out, text, depth);
    }
    if text.chars().all(|c| printable(c) && c != '\n' && c != '\t') {
        if is_ambiguous(text) {
            // Quoted as kubectl quotes what would be read as another type.
            write_double_quoted(out, text);
        } else if is_plain(text) {
            out.push_str(text);
        } else {
            out.push('\'');
            out.push_str(&text.replace('\'', "''"));
            out.push('\'');
        }
    } else {
        write_double_quoted(out, text);
    }
}

fn write_block(out: &mut String, text: &str, depth: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
    // The newline that ends the entry is the first of those kept.
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
}

/// True if the text stands for itself without quotes.
fn is_plain(text: &str) -> bool {
    let first_is_safe = match text.as_bytes() {
        [] => false,
        [b'-' | b'?' | b':', rest @ ..] => rest.first().is_some_and(|b| *b != b' '),
        [first, ..] => !b",[]{}#&*!|>'\"%@`= ".contains(first),
    };
    let marker = text.starts_with("---") || text.starts_with("...");
    first_is_safe && !marker && !text.contains(": ") && !text.contains(" #") && !text.ends_with([':', ' '])
}

fn write_double_quoted(out: &mut String, text: &str) {
    out.push_str(&quote::double(text, |c| match c {
        '\0' => Some("\\0".to_owned()),
        c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => Some(format!("\\u{:04x}", u32::from(c))),
        _ => None,
    }));
}
