//! `kubectl`'s JSONPath templates, such as `{range .items[*]}{.metadata.name}{"\n"}{end}`, over JSON.
//!
//! A template is text with expressions in braces; it is parsed once and can be printed for many values.

mod eval;
mod parse;

use serde_json::Value;

/// Deepest nesting of filters, ranges and unions in a template.
const MAX_DEPTH: usize = 50;
/// Most values that the steps of a template may yield, all together.
const MAX_RESULTS: usize = 10_000_000;
/// Most bytes of text that a template may print.
const MAX_OUTPUT: usize = 256 << 20;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
    allow_missing: bool,
}

/// Why a template cannot be read or printed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// The template cannot be read.
    #[error("error parsing jsonpath {template}, {why}")]
    Parse {
        /// The template.
        template: String,
        /// What is wrong.
        why: String,
    },
    /// A field does not exist.
    #[error("{0} is not found")]
    NotFound(String),
    /// An index or slice does not fit the list, or the value is no list.
    #[error("{0}")]
    Index(String),
    /// Values that cannot be compared.
    #[error("{0}")]
    Compare(String),
    /// The template yields too much.
    #[error("the template yields more than {MAX_RESULTS} values or {MAX_OUTPUT} bytes")]
    TooMany,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Text outside braces.
    Text(String),
    /// `{.a.b}`: steps from the current value.
    Path(Vec<Step>),
    /// `{"text"}`.
    Literal(Value),
    /// `{range .a[*]}…{end}`.
    Range {
        /// What is gone through.
        steps: Vec<Step>,
        /// What is printed of each.
        body: Vec<Self>,
        /// Whether `{end}` is there.
        closed: bool,
    },
}

/// One step of a path: from each value to some values.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// `$`: back to the whole value.
    Root,
    /// `.name` or `['name']`.
    Field(String),
    /// `[start:end:step]`, also a plain index.
    Slice(Slice),
    /// `[0,2]` or `['a','b']`.
    Union(Vec<Vec<Self>>),
    /// `.*` or `[*]`.
    Wildcard,
    /// `..`: the value and all below it.
    Recursive,
    /// `[?(@.a==1)]`.
    Filter(Filter),
}

/// A part of a list; negative numbers count from its end.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    step: Option<i64>,
    /// `[n]`: one item, which must exist.
    single: bool,
}

/// A condition on items.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    /// None: the left side must exist.
    comparison: Option<(Comparison, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Reads a template. Text outside braces is printed as it is.
    ///
    /// # Errors
    /// When an expression is not closed or not understood.
    pub fn parse(template: &str) -> Result<Self, JsonPathError> {
        let nodes = parse::template(template).map_err(|why| JsonPathError::Parse { template: template.to_owned(), why })?;
        Ok(Self { text: template.to_owned(), nodes, allow_missing: false })
    }

    /// Reads an expression that may lack its braces or leading dot, as columns and conditions have it: `metadata.name`,
    /// `.metadata.name`, `{.metadata.name}`.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn parse_relaxed(expression: &str) -> Result<Self, JsonPathError> {
        let inner = expression.trim();
        let inner = inner.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(inner).trim();
        let dot = if inner.starts_with(['.', '[', '$', '@']) || inner.is_empty() { "" } else { "." };
        Self::parse(&format!("{{{dot}{inner}}}"))
    }

    /// Lets missing fields yield nothing instead of an error. An index outside a list stays one.
    #[must_use]
    pub fn allow_missing(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// The template as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The values that the template's first expression yields.
    ///
    /// # Errors
    /// When a field is missing (unless allowed) or a step does not fit its value.
    pub fn values<'v>(&self, value: &'v Value) -> Result<Vec<&'v Value>, JsonPathError> {
        let steps = self.nodes.iter().find_map(|node| if let Node::Path(steps) = node { Some(steps) } else { None });
        steps.map_or(Ok(Vec::new()), |steps| eval::Evaluator::new(value, self.allow_missing).path(steps, value))
    }

    /// The text that the template makes of a value.
    ///
    /// # Errors
    /// When a field is missing (unless allowed) or a step does not fit its value.
    pub fn print(&self, value: &Value) -> Result<String, JsonPathError> {
        let mut out = String::new();
        eval::Evaluator::new(value, self.allow_missing).print(&self.nodes, value, &mut out)?;
        Ok(out)
    }
}

/// A value as `kubectl` prints it: text without quotes, objects and lists as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
