//! Field selectors: `spec.nodeName=a,status.phase!=Running`.

use std::fmt;

use super::SelectorError;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field, such as `spec.nodeName`.
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// True if it must differ.
    pub negated: bool,
}

/// Comparisons that must all hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Selects every object.
    pub const fn everything() -> Self {
        Self { terms: Vec::new() }
    }

    /// The field must have this value.
    pub fn exact(field: &str, value: &str) -> Self {
        Self { terms: vec![FieldTerm { field: field.to_owned(), value: value.to_owned(), negated: false }] }
    }

    /// Reads the text form. In values, `\\`, `\,` and `\=` stand for the characters themselves.
    ///
    /// # Errors
    /// When a part is no comparison or has an unknown escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text).into_iter().filter(|part| !part.is_empty()) {
            let Some((field, negated, value)) = split_operator(part) else {
                return Err(SelectorError::Syntax(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, negated });
        }
        Ok(Self { terms })
    }

    /// True if it selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The comparisons.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value the field must have for an object to be selected, if the selector says so.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }

    /// True if an object whose fields `get` looks up is selected; a missing field is empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (get(&t.field).unwrap_or_default() == t.value) != t.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// Splits at commas that no backslash escapes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[start..i]);
            start = i + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// Field, whether it must differ, and the escaped value.
fn split_operator(part: &str) -> Option<(&str, bool, &str)> {
    let at = part.char_indices().find(|(i, c)| *c == '=' || part[*i..].starts_with("!="))?.0;
    let (field, rest) = part.split_at(at);
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, negated, value));
        }
    }
    None
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(special @ ('\\' | ',' | '=')) => out.push(special),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError::Syntax(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            '=' => {
                return Err(SelectorError::Syntax(format!(
                    "invalid field selector: unescaped character in value: = in '{value}'; write \\="
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(field: &str) -> Option<&'static str> {
        match field {
            "spec.nodeName" => Some("a"),
            "odd" => Some("x,y=z\\"),
            _ => None,
        }
    }

    #[test]
    fn comparisons_hold_together() {
        for (text, expected) in [
            ("", true),
            ("spec.nodeName=a", true),
            ("spec.nodeName==a", true),
            ("spec.nodeName!=a", false),
            ("spec.nodeName=a,missing=", true),
            ("spec.nodeName=a,missing=x", false),
            ("missing!=x", true),
            ("odd=x\\,y\\=z\\\\", true),
            (",spec.nodeName=a,", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(get), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse("spec.nodeName=a").unwrap().requires_exact("spec.nodeName"), Some("a"));
        assert_eq!(FieldSelector::parse("spec.nodeName!=a").unwrap().requires_exact("spec.nodeName"), None);
    }

    #[test]
    fn errors_name_the_part() {
        let error = |text: &str| FieldSelector::parse(text).unwrap_err().to_string();
        assert_eq!(error("a=b,c"), "invalid selector: 'a=b,c'; can't understand 'c'");
        assert!(error("a=\\x").contains("invalid escape sequence: \\x"));
        assert!(error("a=b=c").contains("unescaped character in value"));
    }

    proptest! {
        #[test]
        fn any_value_survives_its_text(value in "\\PC{0,20}") {
            let selector = FieldSelector::exact("spec.nodeName", &value);
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-c.=!,\\\\]{0,20}") {
            let parsed = FieldSelector::parse(&text);
            prop_assert!(parsed.is_ok() || parsed.is_err());
        }
    }
}
