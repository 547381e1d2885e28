//! What a schema's values are to CEL: types, with how large their values can get.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::schema::{ListType, Schema, Type};

/// Most bytes of a request, from which follows how large what has no limit can get.
pub(super) const MAX_REQUEST: u64 = 3 << 20;

/// Type of an expression.
#[derive(Clone, Debug)]
pub(crate) struct Decl {
    /// What it is.
    pub kind: Kind,
    /// Most bytes of a text, or items of a list or map; a bound from above.
    pub max: u64,
}

/// What an expression is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Known at run time only.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Decl>, Arc<ListType>),
    /// Keys, values.
    Map(Arc<Decl>, Arc<Decl>),
    Object(Arc<Fields>),
    Optional(Arc<Decl>),
    Type,
    Quantity,
    Url,
    Ip,
    Cidr,
    Format,
}

/// Fields of an object by their name in CEL: their name in JSON, their type, and whether null is a value.
#[derive(Debug, Default)]
pub(crate) struct Fields(pub BTreeMap<String, Field>);

/// A field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    /// Name in JSON.
    pub json: String,
    /// What its values are.
    pub decl: Decl,
    /// Null is a value.
    pub nullable: bool,
}

impl Decl {
    /// A type without a size of its own.
    pub fn new(kind: Kind) -> Self {
        Self { kind, max: 1 }
    }

    /// A text of at most so many bytes.
    pub fn text(max: u64) -> Self {
        Self { kind: Kind::String, max }
    }

    /// A list, compared as lists are.
    pub fn list(items: Self, max: u64) -> Self {
        Self { kind: Kind::List(Arc::new(items), Arc::default()), max }
    }

    /// Anything.
    pub fn any() -> Self {
        Self { kind: Kind::Dyn, max: MAX_REQUEST }
    }

    /// The type of both, if there is one.
    pub fn join(&self, other: &Self) -> Option<Self> {
        let max = self.max.max(other.max);
        let kind = match (&self.kind, &other.kind) {
            (Kind::Dyn, _) | (_, Kind::Dyn) => Kind::Dyn,
            (Kind::Null, kind) | (kind, Kind::Null) => kind.clone(),
            (Kind::List(a, order), Kind::List(b, _)) => Kind::List(Arc::new(a.join(b)?), order.clone()),
            (Kind::Map(k, v), Kind::Map(l, w)) => Kind::Map(Arc::new(k.join(l)?), Arc::new(v.join(w)?)),
            (Kind::Optional(a), Kind::Optional(b)) => Kind::Optional(Arc::new(a.join(b)?)),
            (Kind::Object(a), Kind::Object(b)) if Arc::ptr_eq(a, b) || same_fields(a, b) => Kind::Object(a.clone()),
            (Kind::Object(_), Kind::Object(_)) => return None,
            (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) => a.clone(),
            _ => return None,
        };
        Some(Self { kind, max })
    }
}

fn same_fields(a: &Fields, b: &Fields) -> bool {
    a.0.len() == b.0.len() && a.0.iter().zip(&b.0).all(|(a, b)| a.0 == b.0 && a.1.decl.join(&b.1.decl).is_some())
}

impl fmt::Display for Decl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kind {
            Kind::List(items, _) => return write!(f, "list({items})"),
            Kind::Map(keys, values) => return write!(f, "map({keys}, {values})"),
            Kind::Optional(inner) => return write!(f, "optional_type({inner})"),
            Kind::Dyn => "dyn",
            Kind::Null => "null",
            Kind::Bool => "bool",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Double => "double",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Timestamp => "timestamp",
            Kind::Duration => "duration",
            Kind::Object(_) => "object",
            Kind::Type => "type",
            Kind::Quantity => "kubernetes.Quantity",
            Kind::Url => "kubernetes.URL",
            Kind::Ip => "net.IP",
            Kind::Cidr => "net.CIDR",
            Kind::Format => "kubernetes.NamedFormat",
        };
        f.write_str(name)
    }
}

/// What the values of a schema are to CEL; none where nothing is known of them. Whole objects show their names.
pub(crate) fn declare(schema: &Schema, whole: bool) -> Option<Decl> {
    if schema.int_or_string {
        return Some(Decl { kind: Kind::Dyn, max: MAX_REQUEST - 2 });
    }
    Some(match schema.ty {
        Type::Any => return None,
        Type::Boolean => Decl::new(Kind::Bool),
        Type::Integer => Decl::new(Kind::Int),
        Type::Number => Decl::new(Kind::Double),
        Type::String => text(schema),
        Type::Array => {
            let items = schema.items.as_deref()?;
            let max = bound(schema.limits.items.max).unwrap_or_else(|| (MAX_REQUEST - 2) / (least_size(items) + 1));
            Decl { kind: Kind::List(Arc::new(declare(items, items.embedded)?), Arc::new(schema.list.clone())), max }
        }
        Type::Object => match schema.values() {
            Some(values) => {
                let max = bound(schema.limits.properties.max).unwrap_or_else(|| (MAX_REQUEST - 2) / (least_size(values) + 6));
                let keys = Decl::text(MAX_REQUEST);
                Decl { kind: Kind::Map(Arc::new(keys), Arc::new(declare(values, values.embedded)?)), max }
            }
            None => object(schema, whole || schema.embedded),
        },
    })
}

fn bound(limit: Option<i64>) -> Option<u64> {
    limit.map(|limit| u64::try_from(limit).unwrap_or_default())
}

/// Text, or what its form makes of it.
fn text(schema: &Schema) -> Decl {
    let (kind, longest) = match schema.limits.format.as_str() {
        "byte" => (Kind::Bytes, MAX_REQUEST - 2),
        "duration" => return Decl { kind: Kind::Duration, max: 32 },
        "date" => return Decl { kind: Kind::Timestamp, max: 12 },
        "date-time" | "datetime" => return Decl { kind: Kind::Timestamp, max: 35 },
        _ => (Kind::String, MAX_REQUEST - 2),
    };
    let listed = schema.limits.one_of.iter().filter_map(|v| v.as_str()).map(|text| text.len() as u64).max();
    // A character takes four bytes at most.
    let max = listed.or_else(|| bound(schema.limits.length.max).map(|max| max.saturating_mul(4))).unwrap_or(longest);
    Decl { kind, max }
}

fn object(schema: &Schema, whole: bool) -> Decl {
    let mut fields = BTreeMap::new();
    let mut add = |json: &str, decl: Decl, nullable: bool| {
        if let Some(name) = super::escape::escape(json) {
            fields.insert(name, Field { json: json.to_owned(), decl, nullable });
        }
    };
    for (name, field) in &schema.properties {
        if let Some(decl) = declare(field, field.embedded) {
            add(name, decl, field.nullable);
        }
    }
    if whole {
        let name = |name: &str| {
            let known = schema.properties.get("metadata").and_then(|metadata| metadata.properties.get(name));
            known.and_then(|field| declare(field, false)).unwrap_or_else(|| Decl::text(MAX_REQUEST))
        };
        let names =
            ["name", "generateName"].map(|n| (n.to_owned(), Field { json: n.to_owned(), decl: name(n), nullable: false }));
        let metadata = Fields(names.into_iter().collect());
        add("apiVersion", Decl::text(MAX_REQUEST), false);
        add("kind", Decl::text(MAX_REQUEST), false);
        add("metadata", Decl::new(Kind::Object(Arc::new(metadata))), false);
    }
    Decl::new(Kind::Object(Arc::new(Fields(fields))))
}

/// Fewest bytes that a value takes in JSON: from it follows how many of them a request can hold.
pub(super) fn least_size(schema: &Schema) -> u64 {
    if schema.int_or_string {
        return 1;
    }
    match schema.ty {
        Type::Any | Type::Array | Type::String => match schema.limits.format.as_str() {
            "date" if schema.ty == Type::String => 12,
            "date-time" | "datetime" if schema.ty == Type::String => 22,
            "duration" if schema.ty == Type::String => 3,
            _ => 2,
        },
        Type::Integer | Type::Number => 1,
        Type::Boolean => 4,
        Type::Object => {
            let needed = schema.limits.required.iter().filter_map(|name| Some((name, schema.properties.get(name)?)));
            let needed = needed.filter(|(_, field)| field.default.is_none());
            2 + needed.map(|(name, field)| name.len() as u64 + 4 + least_size(field)).sum::<u64>()
        }
    }
}
