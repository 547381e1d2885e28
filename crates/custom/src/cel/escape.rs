//! Names of fields in expressions: what CEL cannot say of a name is written out.

/// Words that CEL keeps for itself.
const RESERVED: [&str; 18] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
];
/// What stands for what, the double underscore first.
const ESCAPES: [(&str, &str); 4] = [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// The name under which expressions reach a field; none if there is no way to say it.
pub(crate) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let sayable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(sayable) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let found = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain));
        let (plain, written) = found.copied().unwrap_or((&rest[..c.len_utf8()], &rest[..c.len_utf8()]));
        out.push_str(written);
        rest = &rest[plain.len()..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_upstream_does() {
        for (name, escaped) in [
            ("replicas", Some("replicas")),
            ("a.b", Some("a__dot__b")),
            ("x-prop", Some("x__dash__prop")),
            ("a/b", Some("a__slash__b")),
            ("redact__d", Some("redact__underscores__d")),
            ("namespace", Some("__namespace__")),
            ("____", Some("__underscores____underscores__")),
            ("1a", None),
            ("a b", None),
            ("é", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }
}
