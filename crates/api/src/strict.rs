//! Says exactly what in a JSON object does not fit the schema: unknown fields, fields given twice, wrong types, each with its path.
//!
//! Runs before typed decoding, which would stop at the first error and ignores unknown fields.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::{
    duration,
    kind::Kind,
    meta::v1::Time,
    quantity::Quantity,
    rules::Path,
    schema::{Cardinality, Field, FieldType, Message},
    tables::{
        MESSAGE_K8S_IO_APIMACHINERY_PKG_APIS_META_V1_OBJECT_META as OBJECT_META,
        MESSAGE_K8S_IO_APIMACHINERY_PKG_APIS_META_V1_PARTIAL_OBJECT_METADATA as PARTIAL_OBJECT_METADATA,
    },
    tree::Tree,
};

/// Most nested messages of one object. They take far more memory than their encoding: two bytes can be a container.
const MAX_MESSAGES: usize = 50_000;
/// Deepest nesting of messages. The protobuf decoder goes to a hundred levels, of which an entry of a map takes two.
const MAX_DEPTH: usize = 40;
/// Most problems that are told.
const MAX_PROBLEMS: usize = 100;
/// Longest name for which a similar one is looked for.
const MAX_NAME: usize = 64;

/// The one message beside the kinds themselves that says of what type it is, and stands inside others.
const DELETE_OPTIONS: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.containers[0].prots`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// True for a field that the schema does not know, or that is given twice: what is too much may be dropped, other problems may not.
    pub unknown: bool,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.unknown { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Reads JSON text, with a problem for each field that is given twice; the last one counts.
///
/// # Errors
/// When the text is no JSON, or nested too deeply.
pub fn parse(text: &[u8]) -> Result<(Value, Vec<Problem>), serde_json::Error> {
    let mut problems = Vec::new();
    let mut note = |_: &str, at: &Path<'_>| {
        let path = at.to_string();
        problems.push(Problem { message: format!("duplicate field \"{path}\""), path, unknown: true });
        Ok(())
    };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Tree { at: &Path::root(), on_duplicate: &mut note }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, problems))
}

/// What does not fit `kind` in `value`, in the order of the document; not more than a hundred problems. Of a kind made at run time only the
/// metadata is looked at: the rest is for its own schema.
pub fn check(kind: &Kind, value: &Value) -> Vec<Problem> {
    let mut problems = Problems { list: Vec::new(), messages: 0, depth: 0 };
    match (value, kind.message()) {
        (Value::Object(_), Some(schema)) => message(schema, value, "", true, &mut problems),
        (Value::Object(object), None) => {
            if let Some(metadata) = object.get("metadata").filter(|metadata| !metadata.is_null()) {
                message(&OBJECT_META, metadata, "metadata", false, &mut problems);
            }
        }
        (other, _) => problems.push(wrong_type("", "an object", other)),
    }
    problems.list
}

/// Refuses an encoded object of `kind` with so many nested messages that decoding it would take memory out of all proportion. What is not
/// well-formed is left to the decoder to refuse.
///
/// # Errors
/// When there are too many, with the limit.
pub fn check_protobuf(kind: &Kind, encoded: &[u8]) -> Result<(), String> {
    let mut left = MAX_MESSAGES;
    // A kind made at run time has its metadata in the same place; the rest is JSON.
    let message = kind.message().unwrap_or(&PARTIAL_OBJECT_METADATA);
    match count_messages(message, encoded, &mut left) {
        None if left == 0 => Err(too_many()),
        _ => Ok(()),
    }
}

fn too_many() -> String {
    format!("the object has more than {MAX_MESSAGES} nested objects; split it into several objects")
}

/// Counts down the messages inside; `None` at zero, or where the encoding is not well-formed.
fn count_messages(m: &Message, mut encoded: &[u8], left: &mut usize) -> Option<()> {
    while encoded.has_remaining() {
        let (number, wire_type) = decode_key(&mut encoded).ok()?;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut encoded).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut encoded).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (inner, rest) = encoded.split_at_checked(length)?;
        encoded = rest;
        let field = m.fields.iter().find(|field| field.number == number);
        let is = |field: &'static Field| match field.ty {
            FieldType::Message(m) | FieldType::Either(m) => Some((m, field.cardinality)),
            _ => None,
        };
        if let (WireType::LengthDelimited, Some((m, cardinality))) = (wire_type, field.and_then(is)) {
            *left = left.checked_sub(1)?;
            if cardinality != Cardinality::Map {
                count_messages(m, inner, left)?;
            }
        }
    }
    Some(())
}

/// What was found so far.
struct Problems {
    list: Vec<Problem>,
    /// Objects seen.
    messages: usize,
    /// Objects around the one that is looked at.
    depth: usize,
}

impl Problems {
    fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    fn enough(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS || self.messages > MAX_MESSAGES
    }
}

fn message(m: &Message, value: &Value, path: &str, top: bool, problems: &mut Problems) {
    let Value::Object(map) = value else {
        problems.push(wrong_type(path, "an object", value));
        return;
    };
    problems.messages += 1;
    if problems.messages == MAX_MESSAGES + 1 {
        problems.push(Problem { path: path.to_owned(), message: too_many(), unknown: false });
    }
    if problems.depth == MAX_DEPTH {
        let message = format!("objects are nested more than {MAX_DEPTH} deep here");
        problems.push(Problem { path: path.to_owned(), message, unknown: false });
        return;
    }
    problems.depth += 1;
    fields(m, map, path, top, problems);
    problems.depth -= 1;
}

fn fields(m: &Message, map: &serde_json::Map<String, Value>, path: &str, top: bool, problems: &mut Problems) {
    for (key, value) in map {
        if problems.enough() {
            return;
        }
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match m.field(key) {
            _ if (top || m.name == DELETE_OPTIONS) && (key == "apiVersion" || key == "kind") => {
                if !value.is_string() {
                    problems.push(wrong_type(&at, "text", value));
                }
            }
            Some(f) => field(f, value, &at, problems),
            None => {
                let hint = closest(m, key).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
                problems.push(Problem { message: format!("unknown field \"{at}\"{hint}"), path: at, unknown: true });
            }
        }
    }
}

fn field(f: &Field, value: &Value, path: &str, problems: &mut Problems) {
    if value.is_null() {
        return;
    }
    match (f.cardinality, value) {
        (Cardinality::Singular, _) => scalar(f.ty, value, path, problems),
        (Cardinality::List, Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                if problems.enough() {
                    return;
                }
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

fn scalar(ty: FieldType, value: &Value, path: &str, problems: &mut Problems) {
    let expected = match (ty, value) {
        (FieldType::Message(m), _) => return message(m, value, path, false, problems),
        (FieldType::Either(m), _) => return either(m, value, path, problems),
        (FieldType::Json, _) | (FieldType::Bool, Value::Bool(_)) | (FieldType::String, Value::String(_)) => return,
        (FieldType::Bytes, Value::String(text)) => {
            let error = STANDARD.decode(text).err().map(|e| format!("the value is not base64: {e}"));
            return problem(path, error, problems);
        }
        (FieldType::F64, Value::Number(_)) => return,
        (FieldType::I64, Value::Number(n)) if n.is_i64() => return,
        (FieldType::I32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
        (FieldType::IntOrString, Value::String(_)) => return,
        (FieldType::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return,
        (FieldType::Strings, Value::Array(items)) if items.iter().all(Value::is_string) => return,
        (FieldType::Time, Value::String(text)) => return problem(path, text.parse::<Time>().err(), problems),
        (FieldType::Duration, Value::String(text)) => return problem(path, duration::parse(text).err(), problems),
        (FieldType::Quantity, Value::String(text)) => return problem(path, Quantity::parse(text).err(), problems),
        (FieldType::Quantity, Value::Number(n)) => return problem(path, Quantity::parse(&n.to_string()).err(), problems),
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

/// An object of the inlined message, or what the other field is.
fn either(m: &'static Message, value: &Value, path: &str, problems: &mut Problems) {
    let other = m.fields.iter().find(|f| !f.inline);
    match (FieldType::Either(m).message(), other) {
        (Some(schema), _) if value.is_object() => message(schema, value, path, false, problems),
        (_, Some(Field { cardinality: Cardinality::Singular, ty: FieldType::Bool, .. })) if value.is_boolean() => {}
        (_, Some(other @ Field { cardinality: Cardinality::List, .. })) if value.is_array() => {
            field(other, value, path, problems)
        }
        (_, Some(Field { ty: FieldType::Bool, .. })) => problems.push(wrong_type(path, "an object, true or false", value)),
        _ => problems.push(wrong_type(path, "an object or a list", value)),
    }
}

fn problem(path: &str, error: Option<impl std::fmt::Display>, problems: &mut Problems) {
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
    if key.len() > MAX_NAME {
        return None;
    }
    let key = key.to_lowercase();
    let names = m.json_fields().into_iter().map(|f| (strsim::osa_distance(&f.json.to_lowercase(), &key), f.json));
    names.filter(|(d, name)| *d <= 1 + name.len() / 5).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{KINDS, KindRef, Resource, core::v1::Pod, sample::Sampler};

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
        let swapped = problems(json!({"spec": {"containers": [{"nmae": "c"}]}}));
        assert_eq!(swapped, ["unknown field \"spec.containers[0].nmae\"; did you mean \"name\"?"]);
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

    #[test]
    fn fields_given_twice_are_named_with_their_path_and_the_last_counts() {
        let text = br#"{"kind": "Pod", "spec": {"containers": [{"name": "a"}, {"name": "b", "name": "c"}], "x.y": 1, "x.y": 2}, "kind": "Pod"}"#;
        let (value, problems) = parse(text).unwrap();
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["duplicate field \"spec.containers[1].name\"", "duplicate field \"spec.x.y\"", "duplicate field \"kind\""]
        );
        assert!(problems.iter().all(|problem| problem.unknown));
        assert_eq!(value, serde_json::from_slice::<Value>(text).unwrap());
        assert!(parse(b"{} {}").is_err() && parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn an_object_that_would_take_memory_out_of_all_proportion_is_refused() {
        let spec: Vec<u8> = [0x12, 0].repeat(MAX_MESSAGES);
        let mut pod = vec![0x12];
        prost::encoding::encode_varint(spec.len() as u64, &mut pod);
        pod.extend(spec);
        assert!(check_protobuf(Pod::KIND, &pod).unwrap_err().contains("more than 50000 nested objects"));
        let containers = json!({"spec": {"containers": vec![json!({}); MAX_MESSAGES]}});
        let found = problems(containers);
        assert!(found.iter().any(|problem| problem.contains("more than 50000 nested objects")), "{found:?}");
        for kind in KINDS {
            let full = KindRef::of(kind).from_value(Sampler::full(14).object(kind.message().unwrap())).unwrap();
            assert_eq!(check_protobuf(kind, &full.encode()), Ok(()), "{kind:?}");
        }
    }

    #[test]
    fn thousands_of_problems_are_told_in_part_and_in_time() {
        let unknown: serde_json::Map<String, Value> = (0..100_000).map(|i| (format!("restartPolicyX{i}"), json!(1))).collect();
        let started = std::time::Instant::now();
        assert_eq!(problems(json!({ "spec": unknown })).len(), MAX_PROBLEMS);
        assert_eq!(problems(json!({"spec": {"x".repeat(1 << 20): 1}})).len(), 1);
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    /// Puts something else in place of the `n`th value, counted from the outside; what is left of `n` if there are fewer.
    fn replace(value: &mut Value, n: usize, with: &Value) -> Option<usize> {
        if n == 0 {
            *value = with.clone();
            return None;
        }
        let inner: Box<dyn Iterator<Item = &mut Value>> = match value {
            Value::Array(items) => Box::new(items.iter_mut()),
            Value::Object(map) => Box::new(map.values_mut()),
            _ => Box::new(std::iter::empty()),
        };
        let mut left = n - 1;
        for item in inner {
            left = replace(item, left, with)?;
        }
        Some(left)
    }

    fn anything() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,6}".prop_map(Value::from),
            Just(json!("2024-01-01T00:00:00Z")),
            Just(json!(u64::MAX)),
            Just(json!([])),
            Just(json!({})),
            Just(json!([null])),
            Just(json!({"a": null})),
            Just(json!({"name": ["a"]})),
        ]
    }

    proptest! {
        #[test]
        fn what_cannot_be_decoded_is_named_with_its_path(seed: u64, n in 1..400_usize, with in anything()) {
            for kind in KINDS {
                let mut value = Sampler::random(seed, 60, 5).object(kind.message().unwrap());
                replace(&mut value, n, &with);
                let wrong: Vec<Problem> = check(kind, &value).into_iter().filter(|problem| !problem.unknown).collect();
                if let Err(error) = KindRef::of(kind).from_value(value.clone()) {
                    prop_assert!(!wrong.is_empty(), "{:?}: {} in {}", kind, error, value);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let read = parse(&bytes);
            prop_assert!(read.is_ok() || read.is_err());
        }

        #[test]
        fn any_json_like_text_is_read_as_serde_reads_it(text in "[{}\\[\\]:,\"ab0-2.e \\\\-]{0,40}") {
            let plain: Option<Value> = serde_json::from_str(&text).ok();
            prop_assert_eq!(parse(text.as_bytes()).ok().map(|(value, _)| value), plain);
        }
    }
}
