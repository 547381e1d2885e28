//! Steps of a path into a document, in upstream's order and words.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde_json::{Number, Value};

/// The name of a field: that of the schema, or one that was read.
pub type Name = Cow<'static, str>;

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the field or the map's entry of this name.
    Field(Name),
    /// Into the item of a keyed list that has these values in its keys, which are in the order of their names.
    Key(Vec<(Name, Value)>),
    /// Into the item of a set that has this value.
    Value(Value),
    /// Into the item at this place of a list.
    Index(i64),
}

/// A path into a document. Its text is upstream's, such as `.spec.ports[port=80,protocol="TCP"].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(pub Vec<Step>);

impl Step {
    /// Into a field.
    pub fn field(name: impl Into<Name>) -> Self {
        Self::Field(name.into())
    }

    /// Into the item with these keys, in whatever order.
    pub fn key(mut keys: Vec<(Name, Value)>) -> Self {
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self::Key(keys)
    }
}

impl FieldPath {
    /// A path of fields only.
    pub fn of(fields: &[&'static str]) -> Self {
        Self(fields.iter().map(|&field| Step::field(field)).collect())
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |step: &Self| match step {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        };
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let pairs = a.iter().zip(b).map(|((a, x), (b, y))| a.cmp(b).then_with(|| compare_values(x, y)));
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Upstream's order: numbers, texts, booleans, lists, maps, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b).map(|((a, x), (b, y))| a.cmp(b).then_with(|| compare_values(x, y)));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    let number = |n: &Number| n.as_f64().unwrap_or_default();
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        // Equal only if written alike, so that the order agrees with equality.
        _ => number(a).total_cmp(&number(b)).then_with(|| a.is_i64().cmp(&b.is_i64())),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                f.write_str("[")?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| step.fmt(f))
    }
}
