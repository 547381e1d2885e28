//! Regular expressions in RE2's syntax, matched in time linear in the text.
//!
//! The crate `regex` has the same engine and nearly the same syntax. What differs is translated: `\d`, `\w`, `\s` and `\b` mean ASCII,
//! `[`, `&&`, `--` and `~~` inside a class are themselves, `{` that begins no repetition is itself, and `\Q…\E` quotes.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Most bytes of a compiled expression.
const MAX_SIZE: usize = 1 << 20;
/// Deepest nesting of groups.
const MAX_NEST: u32 = 64;

/// A compiled expression with its text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When the text is no expression, or one that would take too much memory; says why in a line.
    pub fn new(text: &str) -> Result<Self, String> {
        let compiled =
            RegexBuilder::new(&translate(text)).size_limit(MAX_SIZE).dfa_size_limit(MAX_SIZE).nest_limit(MAX_NEST).build();
        let regex = compiled.map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => "expression too large".to_owned(),
            // The first lines repeat the expression.
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        })?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// The expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the expression matches somewhere in the text.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The first match.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.regex.find(text).map(|found| found.as_str())
    }

    /// Every match that does not overlap the one before, from the left.
    pub fn find_all<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.regex.find_iter(text).map(|found| found.as_str())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// RE2's syntax in that of the crate `regex`.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(rest, false, &mut out),
            '[' => rest = class(rest, &mut out),
            '{' if !begins_repetition(rest) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    out
}

/// What follows a backslash.
fn escape<'t>(rest: &'t str, in_class: bool, out: &mut String) -> &'t str {
    let Some(c) = rest.chars().next() else {
        out.push('\\');
        return rest;
    };
    let after = &rest[c.len_utf8()..];
    match c {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.push_str("[\\t\\n\\f\\r ]"),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("\\B"),
        'Q' if !in_class => {
            let (quoted, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            return after;
        }
        c => {
            out.push('\\');
            out.push(c);
            // A class or a character by its name in braces.
            if matches!(c, 'p' | 'P' | 'x')
                && let Some((name, rest)) = after.strip_prefix('{').and_then(|name| name.split_once('}'))
            {
                out.push_str(&format!("{{{name}}}"));
                return rest;
            }
        }
    }
    after
}

/// What follows the bracket that opens a class.
fn class<'t>(rest: &'t str, out: &mut String) -> &'t str {
    out.push('[');
    let (mut rest, mut first) = (rest, true);
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        let named = rest.strip_prefix("[:").and_then(|name| name.split_once(":]"));
        let after = &rest[c.len_utf8()..];
        match c {
            ']' if !first => {
                out.push(']');
                return after;
            }
            '\\' => rest = escape(after, true, out),
            '[' if named.is_some() => {
                let (name, after) = named.unwrap_or_default();
                out.push_str(&format!("[:{name}:]"));
                rest = after;
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                rest = after;
            }
            c => {
                out.push(c);
                rest = after;
            }
        }
        first = false;
    }
    rest
}

/// True after the brace of `{2}`, `{2,}` or `{2,3}`.
fn begins_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest.split_once('}') else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        Some((min, max)) => number(min) && (max.is_empty() || number(max)),
        None => number(inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn re2s_syntax_means_what_it_means_to_re2() {
        for (pattern, yes, no) in [
            (r"^\d+$", "123", "١٢٣"),
            (r"^\w+$", "a_1", "é"),
            (r"^[\d.]+$", "1.2", "a"),
            (r"^[[]$", "[", "a"),
            (r"^[]a]+$", "]a", "["),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[^\s]$", "x", " "),
            (r"^a{$", "a{", "a"),
            (r"^a{2}$", "aa", "a"),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^[[:alpha:]-]+$", "a-b", "1"),
            (r"\bfoo\b", "a foo b", "afoob"),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "web-1", "-web"),
            (r"^\p{Greek}$", "α", "a"),
        ] {
            let compiled = Pattern::new(pattern).unwrap();
            assert!(compiled.matches(yes) && !compiled.matches(no), "{pattern}");
        }
    }

    #[test]
    fn what_would_take_too_much_is_refused() {
        assert_eq!(Pattern::new("(a{1000}){1000}").unwrap_err(), "expression too large");
        assert!(Pattern::new(&"(".repeat(10_000)).is_err());
        assert!(Pattern::new("(?=a)").unwrap_err().contains("look-around"));
        assert!(Pattern::new("[").is_err() && Pattern::new("\\").is_err());
    }
}
