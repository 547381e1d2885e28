//! Says exactly what in a JSON object does not fit the schema: unknown fields, wrong types, each with its path.
//!
//! Runs before typed decoding, which would stop at the first error and ignores unknown fields.

use serde_json::Value;

use crate::{
    duration,
    meta::v1::Time,
    quantity,
    resource::Kind,
    schema::{Cardinality, Field, FieldType, Message},
};

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.containers[0].prots`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// True for a field the schema does not know; such fields may be dropped, all other problems may not.
    pub unknown: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.unknown {
            write!(f, "unknown field \"{}\"{}", self.path, self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// All that does not fit `kind` in `value`, in the order of the document.
pub fn check(kind: &Kind, value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    match value {
        Value::Object(_) => message(kind.message, value, "", true, &mut problems),
        other => problems.push(wrong_type("", "an object", other)),
    }
    problems
}

fn message(m: &Message, value: &Value, path: &str, top: bool, problems: &mut Vec<Problem>) {
    let Value::Object(map) = value else {
        problems.push(wrong_type(path, "an object", value));
        return;
    };
    for (key, value) in map {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match m.field(key) {
            _ if top && (key == "apiVersion" || key == "kind") => {
                if !value.is_string() {
                    problems.push(wrong_type(&at, "text", value));
                }
            }
            Some(f) => field(f, value, &at, problems),
            None => {
                let hint = closest(m, key).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
                problems.push(Problem { path: at, message: hint, unknown: true });
            }
        }
    }
}

fn field(f: &Field, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    if value.is_null() {
        return;
    }
    match (f.cardinality, value) {
        (Cardinality::Singular, _) => scalar(f.ty, value, path, problems),
        (Cardinality::List, Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                scalar(f.ty, item, &format!("{path}[{i}]"), problems);
            }
        }
        (Cardinality::Map, Value::Object(map)) => {
            for (key, item) in map.iter().filter(|(_, v)| !v.is_null()) {
                scalar(f.ty, item, &format!("{path}.{key}"), problems);
            }
        }
        (Cardinality::List, other) => problems.push(wrong_type(path, "a list", other)),
        (Cardinality::Map, other) => problems.push(wrong_type(path, "an object", other)),
    }
}

fn scalar(ty: FieldType, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    let expected = match (ty, value) {
        (FieldType::Message(m), _) => return message(m, value, path, false, problems),
        (FieldType::Json, _) | (FieldType::Bool, Value::Bool(_)) | (FieldType::String | FieldType::Bytes, Value::String(_)) => {
            return;
        }
        (FieldType::F64, Value::Number(_)) => return,
        (FieldType::I64, Value::Number(n)) if n.is_i64() => return,
        (FieldType::I32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
        (FieldType::IntOrString, Value::String(_)) => return,
        (FieldType::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
        (FieldType::Strings, Value::Array(items)) if items.iter().all(Value::is_string) => return,
        (FieldType::Time, Value::String(text)) => return problem(path, text.parse::<Time>().err(), problems),
        (FieldType::Duration, Value::String(text)) => return problem(path, duration::parse(text).err(), problems),
        (FieldType::Quantity, Value::String(text)) => return problem(path, quantity::canonical(text).err(), problems),
        (FieldType::Quantity, Value::Number(n)) => return problem(path, quantity::canonical(&n.to_string()).err(), problems),
        (FieldType::Bool, _) => "true or false",
        (FieldType::I32, _) => "a 32-bit integer",
        (FieldType::I64, _) => "an integer",
        (FieldType::F64, _) => "a number",
        (FieldType::String | FieldType::Bytes, _) => "text",
        (FieldType::IntOrString, _) => "an integer or text",
        (FieldType::Strings, _) => "a list of texts",
        (FieldType::Time, _) => "a time in RFC 3339",
        (FieldType::Duration, _) => "a duration such as 1m30s",
        (FieldType::Quantity, _) => "a quantity such as 500m or 2Gi",
    };
    problems.push(wrong_type(path, expected, value));
}

fn problem(path: &str, error: Option<impl std::fmt::Display>, problems: &mut Vec<Problem>) {
    if let Some(error) = error {
        problems.push(Problem { path: path.to_owned(), message: error.to_string(), unknown: false });
    }
}

fn wrong_type(path: &str, expected: &str, found: &Value) -> Problem {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("the text {s:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Problem { path: path.to_owned(), message: format!("wrong type: {expected} is wanted here, found {found}"), unknown: false }
}

/// The field whose name differs least, if it is near enough to be a slip of the fingers.
fn closest(m: &Message, key: &str) -> Option<&'static str> {
    let names = m.json_fields().into_iter().map(|f| (distance(f.json, key), f.json));
    names.filter(|(d, name)| *d <= 1 + name.len() / 5).min().map(|(_, name)| name)
}

/// Edit distance, ignoring case; two neighbours swapped count as two edits.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Resource, core::v1::Pod};

    fn problems(value: Value) -> Vec<String> {
        check(Pod::KIND, &value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_object_has_no_problems() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(problems(pod), Vec::<String>::new());
    }

    #[test]
    fn unknown_fields_are_named_with_their_path_and_the_likely_name() {
        let found = problems(json!({"spec": {"containers": [{"name": "c", "imagePullPolcy": "Always"}]}}));
        assert_eq!(found, ["unknown field \"spec.containers[0].imagePullPolcy\"; did you mean \"imagePullPolicy\"?"]);
    }

    #[test]
    fn wrong_types_say_what_is_wanted_and_what_is_there() {
        let found = problems(json!({"spec": {"containers": {"name": "c"}, "hostNetwork": "yes"}}));
        assert_eq!(
            found,
            [
                "spec.containers: wrong type: a list is wanted here, found an object",
                "spec.hostNetwork: wrong type: true or false is wanted here, found the text \"yes\"",
            ]
        );
    }
}
