//! Go's template language (package text/template as documented) over JSON, for `-o go-template`.
//!
//! Numbers of an object are floats, as kubectl's are: `{{.metadata.generation}}` of a million prints `1e+06`. Beside the language's
//! own functions there are kubectl's `exists` and `base64decode`; `call` is not there, as there is nothing to call.

mod eval;
mod format;
mod functions;
mod lex;
mod parse;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;

use serde_json::Value;

use self::parse::Tree;

/// A template that can be executed.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    tree: Tree,
    allow_missing: bool,
}

/// What is wrong with a template, or with what it is executed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Error(String);

// === impl Error ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An error at an offset of the text.
    fn at(text: &str, offset: usize, what: impl fmt::Display) -> Self {
        let (line, _) = place(text, offset);
        Self(format!("template: output:{line}: {what}"))
    }

    /// An error while a part of the text is executed.
    fn executing(text: &str, (from, to): (usize, usize), what: impl fmt::Display) -> Self {
        let (line, column) = place(text, from);
        let part = text.get(from..to).unwrap_or_default();
        Self(format!("template: output:{line}:{column}: executing \"output\" at <{part}>: {what}"))
    }
}

/// Line from 1 and column from 0, as the language's own messages have them.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |at| at + 1))
}

// === impl Template ===

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self { text: text.to_owned(), tree: parse::parse(text)?, allow_missing: true })
    }

    /// Whether a key that a map has not is `<no value>` (as without this) or an error.
    #[must_use]
    pub fn allow_missing(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// What the template makes of a value.
    ///
    /// # Errors
    /// When a field is asked of what has none, or a function cannot take its arguments.
    pub fn execute(&self, value: &Value) -> Result<String, Error> {
        eval::execute(&self.text, &self.tree, value::Val::from(value), self.allow_missing)
    }
}
