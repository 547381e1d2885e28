//! Reading JSON into a value with a say about keys that stand twice in one object, of which `serde_json` silently keeps the last.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::rules::Path;

/// Says what comes of a key that is given twice: an error, or the last value wins.
pub(crate) type OnDuplicate<'a> = &'a mut dyn FnMut(&str, &Path<'_>) -> Result<(), String>;

/// Reads one value.
pub(crate) struct Tree<'a> {
    pub at: &'a Path<'a>,
    pub on_duplicate: OnDuplicate<'a>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(Tree { at: &self.at.index(list.len()), on_duplicate: &mut *self.on_duplicate })?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let at = self.at.field(&key);
            let value = entries.next_value_seed(Tree { at: &at, on_duplicate: &mut *self.on_duplicate })?;
            if map.contains_key(&key) {
                (self.on_duplicate)(&key, &at).map_err(de::Error::custom)?;
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
