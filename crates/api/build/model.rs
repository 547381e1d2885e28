//! The schema as the generators want it: every message of the API with its fields' options resolved.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use heck::{ToSnakeCase, ToUpperCamelCase};
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

/// Messages whose JSON is not an object of their fields; their serde is hand-written in `src/json.rs`. `Either` is the object of its inlined
/// field, or what its other field holds.
const ODD: &[(&str, &str)] = &[
    ("k8s.io.apimachinery.pkg.apis.meta.v1.Time", "Time"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime", "Time"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.Duration", "Duration"),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1", "Json"),
    ("k8s.io.apimachinery.pkg.runtime.RawExtension", "Json"),
    ("k8s.io.apimachinery.pkg.api.resource.Quantity", "Quantity"),
    ("k8s.io.apimachinery.pkg.util.intstr.IntOrString", "IntOrString"),
    ("k8s.io.api.authentication.v1.ExtraValue", "Strings"),
    ("k8s.io.api.authorization.v1.ExtraValue", "Strings"),
    ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON", "Json"),
    ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "Either"),
    ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "Either"),
    ("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "Either"),
];

/// One message.
pub struct Message {
    /// Full protobuf name, without a leading dot.
    pub name: String,
    /// Path of the Rust type from the crate root.
    pub rust: String,
    pub doc: String,
    pub fields: Vec<Field>,
    /// How the JSON looks if it is no object; see [`ODD`].
    pub odd: Option<&'static str>,
    pub resource: Option<DynamicMessage>,
    /// False for the services' own messages, which have no JSON.
    pub has_json: bool,
    pub metadata_is_object_meta: bool,
    /// Server-side apply: one value with one owner.
    pub atomic: bool,
}

/// How often a field occurs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cardinality {
    /// Proto3 singular scalar: absent means zero.
    Plain,
    /// `Option` in Rust: messages and `optional` scalars.
    Optional,
    List,
    Map,
}

/// What a field holds (the value, for a map).
#[derive(Clone, PartialEq, Eq)]
pub enum Type {
    Bool,
    I32,
    I64,
    F64,
    String,
    Bytes,
    /// Index into the list of messages by full name.
    Message(String),
}

/// One field.
pub struct Field {
    pub number: u32,
    /// Rust identifier, raw where it must be.
    pub rust: String,
    pub json: String,
    pub doc: String,
    pub ty: Type,
    pub cardinality: Cardinality,
    /// The message may contain itself, so that prost boxes it.
    pub boxed: bool,
    pub options: Options,
}

/// `ferrokube.Field`, resolved.
#[derive(Default)]
pub struct Options {
    pub inline: bool,
    pub required: bool,
    pub non_empty: bool,
    pub default: String,
    pub one_of: Vec<String>,
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub format: Option<String>,
    pub immutable: bool,
    pub merge_key: String,
    pub merge_set: bool,
    pub retain_keys: bool,
    pub list_set: bool,
    pub list_map_keys: Vec<String>,
    pub atomic: bool,
}

/// Every `.proto` file below `root`, as names relative to it, in a stable order.
pub fn proto_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                found.push(path.strip_prefix(root).map_err(io::Error::other)?.to_path_buf());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// All messages in declaration order, without map entries and well-known types.
pub fn messages(pool: &DescriptorPool) -> Result<Vec<Message>, Box<dyn Error>> {
    let extension = |name| pool.get_extension_by_name(name).ok_or(format!("extension {name} is not declared"));
    let (resource, field, atomic) =
        (extension("ferrokube.resource")?, extension("ferrokube.field")?, extension("ferrokube.atomic")?);
    Ok(pool
        .all_messages()
        .filter(|m| !m.is_map_entry() && !m.full_name().starts_with("google.protobuf"))
        .filter(|m| m.parent_file().name() != "ferrokube/options.proto")
        .map(|m| message(&m, &resource, &field, &atomic))
        .collect())
}

fn message(
    m: &MessageDescriptor,
    resource: &ExtensionDescriptor,
    field: &ExtensionDescriptor,
    atomic: &ExtensionDescriptor,
) -> Message {
    let metadata = m.get_field_by_name("metadata").map(|f| f.kind());
    Message {
        name: m.full_name().to_owned(),
        rust: rust_path(m),
        doc: comment(m.parent_file().file_descriptor_proto(), m.path()),
        fields: m.fields().map(|f| self::field(&f, field)).collect(),
        odd: ODD.iter().find(|(name, _)| *name == m.full_name()).map(|(_, odd)| *odd),
        resource: m.options().get_extension(resource).as_message().filter(|_| m.options().has_extension(resource)).cloned(),
        has_json: m.full_name().starts_with("k8s.io."),
        atomic: m.options().get_extension(atomic).as_bool().unwrap_or_default(),
        metadata_is_object_meta: metadata.is_some_and(|k| k.as_message().is_some_and(|m| m.name() == "ObjectMeta")),
    }
}

fn field(f: &FieldDescriptor, extension: &ExtensionDescriptor) -> Field {
    let (kind, cardinality) = if f.is_map() {
        let value = f.kind().as_message().map(|entry| entry.map_entry_value_field().kind());
        (value.unwrap_or(Kind::String), Cardinality::Map)
    } else if f.is_list() {
        (f.kind(), Cardinality::List)
    } else if f.supports_presence() {
        (f.kind(), Cardinality::Optional)
    } else {
        (f.kind(), Cardinality::Plain)
    };
    let ty = match kind {
        Kind::Bool => Type::Bool,
        Kind::Int32 | Kind::Enum(_) | Kind::Uint32 => Type::I32,
        Kind::Double => Type::F64,
        Kind::String => Type::String,
        Kind::Bytes => Type::Bytes,
        Kind::Message(m) => Type::Message(m.full_name().to_owned()),
        _ => Type::I64,
    };
    let raw = f.options();
    let options = raw.get_extension(extension);
    Field {
        number: f.number(),
        rust: rust_ident(&f.name().to_snake_case()),
        json: f.json_name().to_owned(),
        doc: comment(f.parent_file().file_descriptor_proto(), f.path()),
        ty,
        cardinality,
        boxed: cardinality == Cardinality::Optional && nests(f),
        options: options.as_message().map(resolve).unwrap_or_default(),
    }
}

/// True if what the field holds leads back to the message that has the field, over singular fields alone.
fn nests(f: &FieldDescriptor) -> bool {
    let holder = f.parent_message();
    let (mut open, mut seen) = (vec![f.kind()], Vec::new());
    while let Some(kind) = open.pop() {
        let Kind::Message(m) = kind else { continue };
        if m == *holder {
            return true;
        }
        if !seen.contains(&m) {
            open.extend(m.fields().filter(|f| !f.is_list() && !f.is_map()).map(|f| f.kind()));
            seen.push(m);
        }
    }
    false
}

fn resolve(o: &DynamicMessage) -> Options {
    let format = match o.get_field_by_name("format").as_deref() {
        Some(Value::EnumNumber(n)) if *n != 0 => {
            let descriptor = o.descriptor().get_field_by_name("format").map(|f| f.kind());
            let name = descriptor.as_ref().and_then(|k| k.as_enum()).and_then(|e| e.get_value(*n)).map(|v| v.name().to_owned());
            name.map(|n| n.to_upper_camel_case())
        }
        _ => None,
    };
    Options {
        inline: flag(o, "inline"),
        required: flag(o, "required"),
        non_empty: flag(o, "non_empty"),
        default: text(o, "default"),
        one_of: texts(o, "one_of"),
        min: number(o, "min"),
        max: number(o, "max"),
        format,
        immutable: flag(o, "immutable"),
        merge_key: text(o, "merge_key"),
        merge_set: flag(o, "merge_set"),
        retain_keys: flag(o, "retain_keys"),
        list_set: flag(o, "list_set"),
        list_map_keys: texts(o, "list_map_keys"),
        atomic: flag(o, "atomic"),
    }
}

/// A boolean option, false if unset.
pub fn flag(o: &DynamicMessage, name: &str) -> bool {
    o.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or_default()
}

/// A string option, empty if unset.
pub fn text(o: &DynamicMessage, name: &str) -> String {
    o.get_field_by_name(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A repeated string option.
pub fn texts(o: &DynamicMessage, name: &str) -> Vec<String> {
    let list = o.get_field_by_name(name);
    let items = list.as_deref().and_then(Value::as_list).unwrap_or_default();
    items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// An integer option, if set.
pub fn number(o: &DynamicMessage, name: &str) -> Option<i64> {
    o.has_field_by_name(name).then(|| o.get_field_by_name(name).and_then(|v| v.as_i64())).flatten()
}

fn comment(file: &protox::prost_reflect::prost_types::FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let found = locations.filter(|l| l.path == path).find_map(|l| l.leading_comments.as_deref());
    found.unwrap_or_default().split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Where prost puts the type: packages become modules, names become UpperCamelCase.
fn rust_path(m: &MessageDescriptor) -> String {
    let modules = m.package_name().split('.').map(|p| p.to_snake_case());
    let mut path: Vec<String> = modules.collect();
    path.push(m.name().to_upper_camel_case());
    format!("crate::generated::{}", path.join("::"))
}

fn rust_ident(name: &str) -> String {
    match name {
        "type" | "continue" | "ref" | "match" | "macro" | "use" | "where" | "static" | "enum" => format!("r#{name}"),
        _ => name.to_owned(),
    }
}
