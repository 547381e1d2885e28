//! Values of expressions. What came as JSON is looked at where it is, not copied.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use api::quantity::Quantity;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::Offset,
};
use serde_json::{Map, Value};

use super::{
    Budget, Fault,
    types::{Decl, Fields, Kind},
};
use crate::schema::ListType;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(Arc<Vec<Val<'a>>>),
    Map(Arc<BTreeMap<Key, Val<'a>>>),
    /// A list of the object, what its items are, and how it is compared.
    JsonList(&'a [Value], &'a Decl, &'a ListType),
    /// A map of the object, and what its values are.
    JsonMap(&'a Map<String, Value>, &'a Decl),
    /// An object of the object, and what its fields are.
    JsonObject(&'a Map<String, Value>, &'a Fields),
    Optional(Option<Arc<Val<'a>>>),
    Type(&'static str),
    Quantity(Quantity),
    Url(Arc<url::Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Format(&'static str),
}

/// A text, of the object or made on the way.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// Key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Bool(bool),
    Int(i128),
    String(Arc<str>),
}

impl<'a> Val<'a> {
    /// A text made on the way.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A list.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    /// Something that may be there.
    pub fn optional(value: Option<Self>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text.as_str()) } else { None }
    }

    /// A value of the object, as its schema declares it.
    pub fn from_json(value: &'a Value, decl: &'a Decl) -> Self {
        match (value, &decl.kind) {
            (Value::Null, _) => Self::Null,
            (Value::Bool(b), _) => Self::Bool(*b),
            (Value::Number(n), Kind::Double) => Self::Double(n.as_f64().unwrap_or_default()),
            #[expect(clippy::cast_possible_truncation, reason = "a whole number, written as 1.0")]
            (Value::Number(n), Kind::Int) if n.is_f64() => Self::Int(n.as_f64().unwrap_or_default() as i64),
            (Value::Number(n), _) => match n.as_i64() {
                Some(int) => Self::Int(int),
                None => n.as_u64().map_or_else(|| Self::Double(n.as_f64().unwrap_or_default()), Self::Uint),
            },
            (Value::String(text), kind) => from_text(text, kind),
            (Value::Array(list), Kind::List(items, order)) => Self::JsonList(list, items, order),
            (Value::Object(map), Kind::Map(_, values)) => Self::JsonMap(map, values),
            (Value::Object(map), Kind::Object(fields)) => Self::JsonObject(map, fields),
            // Validation refuses the object for it.
            (Value::Array(_) | Value::Object(_), _) => Self::Null,
        }
    }

    /// Name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) | Self::JsonList(..) => "list",
            Self::Map(_) | Self::JsonMap(..) => "map",
            Self::JsonObject(..) => "object",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// Bytes of a text, items of a list or map; 1 for all else.
    pub fn size(&self) -> u64 {
        let size = match self {
            Self::String(text) => text.as_str().len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::JsonList(list, ..) => list.len(),
            Self::Map(map) => map.len(),
            Self::JsonMap(map, _) | Self::JsonObject(map, _) => map.len(),
            _ => 1,
        };
        size as u64
    }

    /// The item at a place; none if the value is no list or the list is shorter.
    pub fn item(&self, index: usize) -> Option<Self> {
        match self {
            Self::List(list) => list.get(index).cloned(),
            Self::JsonList(list, items, _) => list.get(index).map(|value| Self::from_json(value, items)),
            _ => None,
        }
    }

    /// The value under a key of a map.
    pub fn entry(&self, key: &Key) -> Option<Self> {
        match (self, key) {
            (Self::Map(map), _) => map.get(key).cloned(),
            (Self::JsonMap(map, values), Key::String(key)) => map.get(&**key).map(|value| Self::from_json(value, values)),
            (Self::JsonObject(_, _), Key::String(key)) => self.field(key),
            _ => None,
        }
    }

    /// The field of an object or the value of a map, by the name that expressions use. Null where it cannot be is nothing.
    pub fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::JsonObject(map, fields) => {
                let field = fields.0.get(name)?;
                let value = map.get(&field.json).filter(|value| field.nullable || !value.is_null())?;
                Some(Self::from_json(value, &field.decl))
            }
            Self::JsonMap(map, values) => map.get(name).map(|value| Self::from_json(value, values)),
            Self::Map(map) => map.get(&Key::String(name.into())).cloned(),
            _ => None,
        }
    }

    /// Keys of a map or fields of an object.
    pub fn keys(&self) -> Vec<Val<'a>> {
        match self {
            Self::Map(map) => map.keys().map(Key::to_val).collect(),
            Self::JsonMap(map, _) => map.keys().map(|key| Self::String(Text::Borrowed(key))).collect(),
            _ => Vec::new(),
        }
    }

    /// The key that the value is, if it can be one.
    pub fn to_key(&self) -> Option<Key> {
        match self {
            Self::Bool(b) => Some(Key::Bool(*b)),
            Self::Int(int) => Some(Key::Int(i128::from(*int))),
            Self::Uint(int) => Some(Key::Int(i128::from(*int))),
            #[expect(clippy::cast_possible_truncation, reason = "a whole number of moderate size")]
            Self::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Some(Key::Int(*d as i128)),
            Self::String(text) => Some(Key::String(text.as_str().into())),
            _ => None,
        }
    }
}

impl Key {
    /// The key as a value.
    pub fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(int) => i64::try_from(*int).map_or_else(|_| Val::Uint(u64::try_from(*int).unwrap_or_default()), Val::Int),
            Self::String(text) => Val::String(Text::Shared(text.clone())),
        }
    }
}

fn from_text<'a>(text: &'a str, kind: &Kind) -> Val<'a> {
    let made = match kind {
        Kind::Bytes => STANDARD.decode(text).ok().map(|bytes| Val::Bytes(bytes.into())),
        Kind::Duration => api::duration::parse(text).ok().map(Val::Duration),
        Kind::Timestamp => timestamp(text).map(Val::Timestamp),
        _ => None,
    };
    // What is not of its form is refused by validation, and only a text until then.
    made.unwrap_or(Val::String(Text::Borrowed(text)))
}

/// A moment in RFC 3339, or the start of a day.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    match text.parse::<Date>() {
        Ok(date) if text.len() == 10 => Offset::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok(),
        _ => text.parse().ok(),
    }
}

/// Equality, of numbers across types, of sets and maps without order. Costs a step for each value that is looked at.
pub(crate) fn equal(a: &Val<'_>, b: &Val<'_>, budget: &mut Budget) -> Result<bool, Fault> {
    budget.spend(1)?;
    Ok(match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::String(a), Val::String(b)) => {
            let (a, b) = (a.as_str(), b.as_str());
            budget.spend(a.len().min(b.len()) as u64 / 10)?;
            a == b
        }
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
        (Val::Duration(a), Val::Duration(b)) => a == b,
        (Val::Type(a), Val::Type(b)) | (Val::Format(a), Val::Format(b)) => a == b,
        (Val::Quantity(a), Val::Quantity(b)) => a == b,
        (Val::Url(a), Val::Url(b)) => a == b,
        (Val::Ip(a), Val::Ip(b)) => a == b,
        (Val::Cidr(a, n), Val::Cidr(b, m)) => a == b && n == m,
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b, budget)?,
            (a, b) => a.is_none() && b.is_none(),
        },
        (Val::List(_) | Val::JsonList(..), Val::List(_) | Val::JsonList(..)) => lists(a, b, budget)?,
        (Val::JsonObject(x, _), Val::JsonObject(y, fields)) => {
            let mut same = true;
            for name in fields.0.keys() {
                same = same && options(a.field(name).as_ref(), b.field(name).as_ref(), budget)?;
            }
            same && (!fields.0.is_empty() || x.len() == y.len())
        }
        (Val::Map(_) | Val::JsonMap(..), Val::Map(_) | Val::JsonMap(..)) => {
            if a.size() != b.size() {
                return Ok(false);
            }
            for key in a.keys() {
                budget.spend(1)?;
                let Some(key) = key.to_key() else { return Ok(false) };
                if !options(a.entry(&key).as_ref(), b.entry(&key).as_ref(), budget)? {
                    return Ok(false);
                }
            }
            true
        }
        _ => number(a, b) == Some(Ordering::Equal),
    })
}

fn options(a: Option<&Val<'_>>, b: Option<&Val<'_>>, budget: &mut Budget) -> Result<bool, Fault> {
    match (a, b) {
        (Some(a), Some(b)) => equal(a, b, budget),
        (a, b) => Ok(a.is_none() && b.is_none()),
    }
}

fn lists(a: &Val<'_>, b: &Val<'_>, budget: &mut Budget) -> Result<bool, Fault> {
    if a.size() != b.size() {
        return Ok(false);
    }
    let unordered = matches!(a, Val::JsonList(_, _, order) if **order != ListType::Atomic);
    if unordered {
        return contains_all(a, b, budget);
    }
    let mut i = 0;
    while let (Some(x), Some(y)) = (a.item(i), b.item(i)) {
        if !equal(&x, &y, budget)? {
            return Ok(false);
        }
        i += 1;
    }
    Ok(true)
}

/// True if every item of one list stands in the other.
pub(super) fn contains_all(items: &Val<'_>, list: &Val<'_>, budget: &mut Budget) -> Result<bool, Fault> {
    let mut i = 0;
    while let Some(item) = items.item(i) {
        if !contains(list, &item, budget)? {
            return Ok(false);
        }
        i += 1;
    }
    Ok(true)
}

/// True if the item stands in the list.
pub(super) fn contains(list: &Val<'_>, item: &Val<'_>, budget: &mut Budget) -> Result<bool, Fault> {
    let mut i = 0;
    while let Some(other) = list.item(i) {
        if equal(&other, item, budget)? {
            return Ok(true);
        }
        i += 1;
    }
    Ok(false)
}

/// Which of two values comes first; none if they are not of one ordered type.
pub(crate) fn compare(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::String(a), Val::String(b)) => Some(a.as_str().cmp(b.as_str())),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        _ => number(a, b),
    }
}

/// How two numbers of any type compare.
fn number(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |value: &Val<'_>| match value {
        Val::Int(int) => Some(i128::from(*int)),
        Val::Uint(int) => Some(i128::from(*int)),
        _ => None,
    };
    let double = |value: &Val<'_>| if let Val::Double(d) = value { Some(*d) } else { None };
    match (whole(a), whole(b), double(a), double(b)) {
        (Some(a), Some(b), ..) => Some(a.cmp(&b)),
        (_, _, Some(a), Some(b)) => a.partial_cmp(&b),
        (Some(a), _, _, Some(b)) => mixed(a, b),
        (_, Some(b), Some(a), _) => mixed(b, a).map(Ordering::reverse),
        _ => None,
    }
}

/// How a whole number compares to one that may have more digits than fit.
fn mixed(a: i128, b: f64) -> Option<Ordering> {
    const BEYOND: f64 = 1e20;
    if b.is_nan() {
        return None;
    }
    if b.abs() >= BEYOND {
        return Some(if b > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    #[expect(clippy::cast_possible_truncation, reason = "its whole part, which is less than 1e20")]
    let floor = b.floor() as i128;
    Some(a.cmp(&floor).then(if b.fract() == 0.0 { Ordering::Equal } else { Ordering::Less }))
}

/// Text as error messages and `string()` show numbers: without a needless fraction.
pub(super) fn show_double(d: f64) -> Cow<'static, str> {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    if d != 0.0 && (d.abs() >= 1e21 || d.abs() < 1e-4) {
        let text = format!("{d:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |digits| ("-", digits));
        return format!("{mantissa}e{sign}{digits:0>2}").into();
    }
    format!("{d}").into()
}
