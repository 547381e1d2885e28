//! Paths to fields, as rules and selectable fields name them: `.spec.color`, `.map['a.b']`.

use super::Schema;

/// The field that a path leads to, and the path as error messages write it. `brackets` allows `['name']`.
///
/// # Errors
/// Why the path leads nowhere.
pub fn resolve<'s>(path: &str, schema: &'s Schema, brackets: bool) -> Result<(String, &'s Schema), String> {
    let (mut rest, mut found, mut shown) = (path, schema, String::new());
    while !rest.is_empty() {
        let (name, after) = if let Some(after) = rest.strip_prefix("['").filter(|_| brackets) {
            quoted(after)?
        } else if rest.starts_with('[') {
            let why = if brackets { "expected single quoted string" } else { "array notation is not allowed" };
            return Err(why.to_owned());
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            if end == 0 {
                return Err("unexpected end of JSON path".to_owned());
            }
            (after[..end].to_owned(), &after[end..])
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        };
        let is_key = found.properties.is_empty() && found.values().is_some();
        found = found
            .field(&name)
            .filter(|_| is_key || found.properties.contains_key(&name))
            .ok_or("does not refer to a valid field")?;
        match (is_key, shown.is_empty()) {
            (true, _) => shown.push_str(&format!("[{name}]")),
            (false, true) => shown = name,
            (false, false) => shown.push_str(&format!(".{name}")),
        }
        rest = after;
    }
    if shown.is_empty() { Err("does not refer to a valid field".to_owned()) } else { Ok((shown, found)) }
}

/// What stands before the closing quote and bracket, and what follows them.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\'' => {
                let after = text[i + 1..].strip_prefix(']').ok_or("expected ] after the single quoted string")?;
                return Ok((out, after));
            }
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(c @ ('\'' | '\\')) => out.push(c),
                other => {
                    return Err(format!(
                        "invalid string literal: invalid escape char {}",
                        other.map(String::from).unwrap_or_default()
                    ));
                }
            },
            c => out.push(c),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}
