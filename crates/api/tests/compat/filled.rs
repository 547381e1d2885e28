//! Another crate's object with every field that its own type knows, whatever our schema says.
//!
//! A type's `Deserialize` names the fields of each struct it wants; this deserialiser has them all.

use k8s_openapi::serde::{
    Deserializer, de,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::{Error, Value, json};

/// Entries of each list and map.
const ENTRIES: usize = 2;

/// Gives every type what it asks for.
#[derive(Clone, Copy)]
pub struct Filler {
    /// What the object says it is.
    pub api_version: &'static str,
    pub kind: &'static str,
    /// The last newtype that was asked for, which decides how a text looks.
    newtype: &'static str,
    /// The field that is being filled.
    field: &'static str,
    /// Fields of the one type that contains itself, inside of which we are.
    recursive: &'static [&'static str],
}

/// The type that contains itself, and its fields that do.
const RECURSIVE: &str = "JSONSchemaProps";
const RECURSES: [&str; 11] = [
    "items",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "properties",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
];

impl Filler {
    pub fn new(api_version: &'static str, kind: &'static str) -> Self {
        Self { api_version, kind, newtype: "", field: "", recursive: &[] }
    }

    fn text(self) -> &'static str {
        match (self.newtype, self.field) {
            ("Time" | "MicroTime", _) => "2024-01-02T03:04:05Z",
            ("Quantity", _) => "3Gi",
            (_, "apiVersion") => self.api_version,
            (_, "kind") => self.kind,
            // Also base64, for bytes.
            _ => "text",
        }
    }
}

impl<'de> Deserializer<'de> for Filler {
    type Error = Error;

    /// A number or text, or free JSON.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.newtype {
            "FieldsV1" | "RawExtension" | "JSON" => json!({"f:a": {"f:b": {}}}).deserialize_any(visitor),
            "CustomResourceSubresourceStatus" => json!({}).deserialize_any(visitor),
            // A schema or something simpler.
            _ if RECURSES.contains(&self.field) => {
                visitor.visit_map(Fields { filler: self, rest: self.recursive, shallow: true })
            }
            _ => visitor.visit_str(self.text()),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(7)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(7)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(1.5)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(Self { newtype: name, ..self })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Entries { filler: self, at: 0 })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { filler: self, at: 0 })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let shallow = name == RECURSIVE && !self.recursive.is_empty();
        let recursive = if name == RECURSIVE { fields } else { self.recursive };
        visitor.visit_map(Fields { filler: Self { newtype: "", recursive, ..self }, rest: fields, shallow })
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

/// Entries of a list or a map.
struct Entries {
    filler: Filler,
    at: usize,
}

impl<'de> SeqAccess<'de> for Entries {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.at += 1;
        if self.at > ENTRIES { Ok(None) } else { seed.deserialize(self.filler).map(Some) }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.at += 1;
        let key = format!("k{}", self.at - 1);
        if self.at > ENTRIES { Ok(None) } else { seed.deserialize(Value::from(key)).map(Some) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.filler)
    }
}

/// Fields of a struct.
struct Fields {
    filler: Filler,
    rest: &'static [&'static str],
    /// Leaves out what would contain the type again.
    shallow: bool,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let name = loop {
            let Some((name, rest)) = self.rest.split_first() else { return Ok(None) };
            self.rest = rest;
            if !(self.shallow && RECURSES.contains(name)) {
                break name;
            }
        };
        self.filler.field = name;
        let name: StrDeserializer<'_, Error> = de::IntoDeserializer::into_deserializer(*name);
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.filler)
    }
}
