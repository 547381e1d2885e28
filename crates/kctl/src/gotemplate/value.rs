//! Values of templates.

use std::{collections::BTreeMap, rc::Rc};

use serde_json::Value;

/// A value. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Val {
    /// What a map has not.
    Missing,
    /// `nil`, or JSON's null.
    Nil,
    Bool(bool),
    /// A number of the template.
    Int(i64),
    /// A number of the object, or one with a fraction.
    Float(f64),
    Text(Rc<str>),
    List(Rc<Vec<Val>>),
    Map(Rc<BTreeMap<String, Val>>),
}

impl From<&Value> for Val {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nil,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Self::text(text),
            Value::Array(items) => Self::List(Rc::new(items.iter().map(Self::from).collect())),
            Value::Object(members) => {
                Self::Map(Rc::new(members.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect()))
            }
        }
    }
}

impl Val {
    /// A text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// What `if` goes by: whatever is not empty.
    pub fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(members) => !members.is_empty(),
        }
    }

    /// True if there is no value.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Missing | Self::Nil)
    }

    /// Its type as Go names it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
        }
    }
}
