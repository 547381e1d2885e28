//! JSON as upstream has it: `apiVersion` and `kind` around an object, and the messages whose JSON is not an object of their fields.
//!
//! The derives on the generated types call the helpers here; the attributes are chosen by `build/attributes.rs`.

use std::{collections::BTreeMap, fmt};

use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, DeserializeOwned, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::Value;

use crate::{
    Resource, SharedDefault,
    apiextensions::v1::{Json, JsonSchemaProps, JsonSchemaPropsOrArray, JsonSchemaPropsOrBool, JsonSchemaPropsOrStringArray},
    authentication::v1::ExtraValue as AuthenticationExtra,
    authorization::v1::ExtraValue as AuthorizationExtra,
    duration,
    intstr::IntOrString,
    kind::Kind,
    meta::v1::{Duration, FieldsV1, MicroTime, ObjectMeta, Time},
    quantity,
    resource::Quantity,
    runtime::RawExtension,
};

/// Why an object could not be read from or written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value does not fit the type.
    #[error(transparent)]
    Value(#[from] serde_json::Error),
    /// What is stored of an object has no JSON form. Other objects are not touched by that.
    #[error("{kind} {name:?} cannot be shown as JSON: {source}")]
    NoJson {
        /// Kind of the object.
        kind: String,
        /// Its name, after its namespace and a slash if it has one.
        name: String,
        /// The value that has none.
        #[source]
        source: serde_json::Error,
    },
    /// The object says it is of another kind.
    #[error("the object is a {found}, but a {expected} is wanted here")]
    WrongKind {
        /// What is wanted, as `apiVersion/kind`.
        expected: String,
        /// What the object says.
        found: String,
    },
    /// The value is not a JSON object.
    #[error("a JSON object is wanted here")]
    NotAnObject,
}

/// The object's JSON with `apiVersion` and `kind`. A time that JSON cannot say is the nearest that it can.
///
/// # Errors
/// When a value has no JSON form, such as raw JSON that does not parse. The error names the object.
pub fn to_value<K: Resource>(object: &K) -> Result<Value, Error> {
    let mut value = serde_json::to_value(object).map_err(|source| no_json(K::KIND, object.metadata(), source))?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".to_owned(), K::KIND.api_version.as_ref().into());
        map.insert("kind".to_owned(), K::KIND.kind.as_ref().into());
    }
    Ok(value)
}

/// The error of an object that has no JSON form.
pub(crate) fn no_json(kind: &Kind, meta: &ObjectMeta, source: serde_json::Error) -> Error {
    let name = if meta.namespace.is_empty() { meta.name.clone() } else { format!("{}/{}", meta.namespace, meta.name) };
    Error::NoJson { kind: kind.kind.to_string(), name, source }
}

/// Reads an object. `apiVersion` and `kind` may be absent but must not differ; unknown fields are ignored (see [`crate::strict`]).
///
/// # Errors
/// When the value is of another kind or does not fit the type.
pub fn from_value<K: Resource>(value: Value) -> Result<K, Error> {
    check_kind(K::KIND, &value)?;
    Ok(serde_json::from_value(value)?)
}

/// Refuses an object that says it is of another kind; it need not say anything.
pub(crate) fn check_kind(wanted: &Kind, value: &Value) -> Result<(), Error> {
    let Value::Object(map) = value else { return Err(Error::NotAnObject) };
    let text = |key| map.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let (api_version, kind) = (text("apiVersion").unwrap_or(&wanted.api_version), text("kind").unwrap_or(&wanted.kind));
    if (api_version, kind) != (&*wanted.api_version, &*wanted.kind) {
        let expected = format!("{}/{}", wanted.api_version, wanted.kind);
        return Err(Error::WrongKind { expected, found: format!("{api_version}/{kind}") });
    }
    Ok(())
}

/// `skip_serializing_if` of plain scalars.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads `null` as absent.
pub(crate) fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Reads a map in which `null` is an empty value.
pub(crate) fn map<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<BTreeMap<String, T>, D::Error> {
    let entries = Option::<BTreeMap<String, Option<T>>>::deserialize(d)?.unwrap_or_default();
    Ok(entries.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Writes an unset required object as `{}`.
pub(crate) fn or_empty<S: Serializer, T: Serialize + SharedDefault>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
    value.as_ref().unwrap_or_else(|| T::shared_default()).serialize(s)
}

/// Writes whole numbers as such: `3`, not `3.0`.
#[expect(clippy::cast_possible_truncation, reason = "only numbers that an i64 holds exactly")]
pub(crate) fn number<'a, S: Serializer>(value: impl Into<Option<&'a f64>>, s: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.into() {
        None => s.serialize_none(),
        Some(v) if v.fract() == 0.0 && v.abs() <= EXACT => s.serialize_i64(*v as i64),
        Some(v) => s.serialize_f64(*v),
    }
}

/// Reads a message whose fields stand in the parent's object; absent if none of them does.
pub(crate) fn inline<'de, D, T>(d: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    Ok(Some(T::deserialize(d)?).filter(|value| *value != T::default()))
}

/// Maps from strings to bytes, base64 in JSON.
pub(crate) mod base64_map {
    use base64::Engine as _;

    use super::{BTreeMap, Bytes, Deserialize, Deserializer, STANDARD, Serializer, de};

    /// Writes bytes as base64.
    ///
    /// # Errors
    /// When the serializer cannot take it.
    pub fn serialize<S: Serializer>(map: &BTreeMap<String, Bytes>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(map.iter().map(|(k, v)| (k, STANDARD.encode(v))))
    }

    /// Reads bytes from base64.
    ///
    /// # Errors
    /// When a value is no base64, or the deserializer gives something else.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, Bytes>, D::Error> {
        let map = Option::<BTreeMap<String, Option<String>>>::deserialize(d)?.unwrap_or_default();
        let decode = |(key, text): (String, Option<String>)| match STANDARD.decode(text.unwrap_or_default().as_bytes()) {
            Ok(bytes) => Ok((key, Bytes::from(bytes))),
            Err(e) => Err(de::Error::custom(format!("{key}: the value is not base64: {e}"))),
        };
        map.into_iter().map(decode).collect()
    }
}

/// Bytes, base64 in JSON.
pub(crate) mod base64_bytes {
    use base64::Engine as _;

    use super::{Bytes, Deserialize, Deserializer, STANDARD, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        let text = Option::<String>::deserialize(d)?.unwrap_or_default();
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(|e| de::Error::custom(format!("the value is not base64: {e}")))
    }
}

// === times and durations ===

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for MicroTime {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MicroTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let t: Time = String::deserialize(d)?.parse().map_err(de::Error::custom)?;
        Ok(Self { seconds: t.seconds, nanos: t.nanos })
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&duration::format(self.duration))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let duration = duration::parse(&String::deserialize(d)?).map_err(de::Error::custom)?;
        Ok(Self { duration })
    }
}

// === amounts, numbers or text ===

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.string)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(d)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null => "0".to_owned(),
            other => return Err(de::Error::custom(format!("{other}: a quantity such as 500m or 2Gi is wanted here"))),
        };
        Ok(Self { string: quantity::stored(&text).map_err(de::Error::custom)? })
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.as_int() {
            Some(int) => s.serialize_i32(int),
            None => s.serialize_str(&self.str_val),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct IntOrStr;
        impl Visitor<'_> for IntOrStr {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or text")
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<IntOrString, E> {
                i32::try_from(v).map(IntOrString::from).map_err(|_| E::custom(format!("{v} does not fit in 32 bits")))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<IntOrString, E> {
                i32::try_from(v).map(IntOrString::from).map_err(|_| E::custom(format!("{v} does not fit in 32 bits")))
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::from(v))
            }
        }
        d.deserialize_any(IntOrStr)
    }
}

// === raw JSON and lists of text ===

macro_rules! raw_json {
    ($($ty:ty),*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if self.raw.is_empty() {
                    return s.serialize_none();
                }
                let value: Value = serde_json::from_slice(&self.raw).map_err(serde::ser::Error::custom)?;
                value.serialize(s)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let raw = serde_json::to_vec(&Value::deserialize(d)?).map_err(de::Error::custom)?;
                Ok(Self { raw: raw.into() })
            }
        }
    )*};
}
raw_json!(FieldsV1, RawExtension, Json);

macro_rules! strings {
    ($($ty:ty),*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.items.serialize(s)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Ok(Self { items: Vec::deserialize(d)? })
            }
        }
    )*};
}
strings!(AuthenticationExtra, AuthorizationExtra);

// === a schema, or something simpler ===

macro_rules! either {
    ($ty:ty, $expecting:literal, $other:ident: $write:expr, $($visit:tt)*) => {
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                match &self.schema {
                    Some(schema) => schema.serialize(s),
                    None => self.$other.serialize(s),
                }
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $ty;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$ty, A::Error> {
                        let schema = JsonSchemaProps::deserialize(MapAccessDeserializer::new(map))?;
                        Ok($write(schema))
                    }

                    $($visit)*
                }
                d.deserialize_any(Either)
            }
        }
    };
}
either!(
    JsonSchemaPropsOrBool, "a schema, true or false",
    allows: |schema| JsonSchemaPropsOrBool { allows: true, schema: Some(Box::new(schema)) },
    fn visit_bool<E: de::Error>(self, allows: bool) -> Result<JsonSchemaPropsOrBool, E> {
        Ok(JsonSchemaPropsOrBool { allows, schema: None })
    }
);
either!(
    JsonSchemaPropsOrArray, "a schema or a list of schemas",
    json_schemas: |schema| JsonSchemaPropsOrArray { schema: Some(Box::new(schema)), json_schemas: Vec::new() },
    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<JsonSchemaPropsOrArray, A::Error> {
        let json_schemas = Vec::deserialize(SeqAccessDeserializer::new(items))?;
        Ok(JsonSchemaPropsOrArray { schema: None, json_schemas })
    }
);
either!(
    JsonSchemaPropsOrStringArray, "a schema or a list of names",
    property: |schema| JsonSchemaPropsOrStringArray { schema: Some(schema), property: Vec::new() },
    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<JsonSchemaPropsOrStringArray, A::Error> {
        let property = Vec::deserialize(SeqAccessDeserializer::new(items))?;
        Ok(JsonSchemaPropsOrStringArray { schema: None, property })
    }
);

/// Reads any deserialisable value, for messages that are not resources.
///
/// # Errors
/// When the value does not fit the type.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::v1::{Pod, Secret, Volume};

    #[test]
    fn upstream_names_and_odd_types_survive_both_ways() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "b", "creationTimestamp": "2024-01-02T03:04:05Z"},
            "spec": {
                "hostIPC": true,
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1536Mi"}}],
                "containers": [{
                    "name": "c", "image": "i",
                    "resources": {"limits": {"cpu": "1500m"}},
                    "livenessProbe": {"httpGet": {"port": "web"}, "periodSeconds": 3},
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                }],
            },
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let typed: Pod = from_value(pod.clone()).unwrap();
        assert_eq!(typed.status().pod_ips[0].ip, "10.0.0.1");
        assert_eq!(to_value(&typed).unwrap(), pod);
    }

    #[test]
    fn null_reads_as_absent() {
        let pod: Pod = from_value(
            json!({"metadata": {"name": null, "labels": null, "creationTimestamp": null}, "spec": {"containers": null}}),
        )
        .unwrap();
        assert_eq!(pod.spec().containers.len(), 0);
    }

    #[test]
    fn an_inlined_message_with_a_wrong_type_is_an_error_not_an_absence() {
        assert!(serde_json::from_value::<Volume>(json!({"name": "v", "emptyDir": 5})).is_err());
    }

    #[test]
    fn bytes_are_base64_and_bad_base64_names_its_key() {
        let secret: Secret = from_value(json!({"data": {"k": "aGk="}})).unwrap();
        assert_eq!(&secret.data["k"][..], b"hi");
        let error = from_value::<Secret>(json!({"data": {"k": "%"}})).unwrap_err().to_string();
        assert!(error.contains("k: the value is not base64"), "{error}");
    }

    #[test]
    fn another_kind_is_refused() {
        assert!(matches!(from_value::<Secret>(json!({"kind": "Pod", "apiVersion": "v1"})), Err(Error::WrongKind { .. })));
    }
}
