//! Text in double quotes, as YAML, JSON and Go have it in common.

/// The text in double quotes. `escape` says how a character is written that the common escapes (of quotes, backslashes, tabs and line ends) do not
/// cover; `None` for as it is.
pub fn double(text: &str, escape: impl Fn(char) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => match escape(c) {
                Some(escaped) => out.push_str(&escaped),
                None => out.push(c),
            },
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_closed_once() {
        let quoted = double("a\"b\\c\n\r\t\u{7}é", |c| c.is_control().then(|| format!("<{:x}>", u32::from(c))));
        assert_eq!(quoted, r#""a\"b\\c\n\r\t<7>é""#);
    }
}
