//! JSON text as a value, with the fields that stand in it twice: a map would keep the last of them and say nothing.

use std::{cell::RefCell, fmt};

use api::rules::Path;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads a text; answers the value and the paths of the fields that occur more than once.
///
/// # Errors
/// When the text is not JSON, or nested too deeply.
pub(super) fn parse(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let duplicates = RefCell::default();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Node { at: &Path::root(), duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates.into_inner()))
}

/// Reads what stands at a path.
#[derive(Clone, Copy)]
struct Node<'a> {
    at: &'a Path<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Node { at: &self.at.index(list.len()), ..self })? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let at = self.at.field(&name);
            let value = fields.next_value_seed(Node { at: &at, ..self })?;
            if map.contains_key(&name) {
                self.duplicates.borrow_mut().push(at.to_string());
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_that_stand_twice_are_told() {
        let text = br#"{"a": 1, "l": [{}, {"b": null, "c": {"d": 1, "d": 2}, "b": 3}], "a": "x"}"#;
        let (value, duplicates) = parse(text).unwrap();
        assert_eq!(value, serde_json::json!({"a": "x", "l": [{}, {"b": 3, "c": {"d": 2}}]}));
        assert_eq!(duplicates, ["l[1].c.d", "l[1].b", "a"]);
    }

    #[test]
    fn text_that_is_too_deep_or_goes_on_after_its_end_is_refused() {
        assert!(parse("[".repeat(10_000).as_bytes()).unwrap_err().to_string().starts_with("recursion limit exceeded"));
        assert!(parse(b"{} {}").unwrap_err().to_string().starts_with("trailing characters"));
        assert!(parse(b"").is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_it_was_written(value in json()) {
            let read = parse(value.to_string().as_bytes()).unwrap();
            prop_assert_eq!(read, (value, Vec::new()));
        }

        #[test]
        fn random_text_never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let ours = parse(&text).map(|(value, _)| value).ok();
            prop_assert_eq!(ours, serde_json::from_slice::<Value>(&text).ok());
        }
    }
}
