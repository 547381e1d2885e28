//! The static tables of messages and kinds, and what the types themselves gain: `Resource`, getters with shared defaults.

use std::fmt::Write as _;

use heck::ToShoutySnakeCase;
use protox::prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::model::{Cardinality, Field, Message, Type, flag, text, texts};

/// Writes `tables.rs`.
pub fn render(messages: &[Message]) -> String {
    let mut out = String::from("use std::borrow::Cow::Borrowed; use crate::{kind::*, names::Format, resource::*, schema::*};\n");
    for m in messages.iter().filter(|m| m.has_json) {
        message_table(&mut out, m, messages);
    }
    for m in messages {
        getters(&mut out, m, messages);
    }
    let mut kinds: Vec<(String, String)> = Vec::new();
    for m in messages {
        if let Some(r) = &m.resource {
            let order = format!("{}/{}/{}", text(r, "group"), text(r, "version"), text(r, "plural"));
            kinds.push((order, kind_table(&mut out, m, r, messages)));
        }
    }
    kinds.sort();
    let list: Vec<String> = kinds.iter().map(|(_, name)| format!("&{name}")).collect();
    writeln!(out, "/// Every kind, ordered by group, version and plural.\npub static KINDS: &[&Kind] = &[{}];", list.join(", "))
        .ok();
    let all: Vec<String> = messages.iter().filter(|m| m.has_json).map(|m| format!("&{}", table_name(&m.name))).collect();
    writeln!(out, "/// Every message of the schema.\npub static MESSAGES: &[&Message] = &[{}];", all.join(", ")).ok();
    out
}

fn table_name(full_name: &str) -> String {
    format!("MESSAGE_{}", full_name.replace('.', "_").to_shouty_snake_case())
}

fn strings(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|s| format!("{s:?}")).collect();
    format!("&[{}]", quoted.join(", "))
}

/// A `List<Text>`.
fn borrowed(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|s| format!("Borrowed({s:?})")).collect();
    format!("Borrowed(&[{}])", quoted.join(", "))
}

fn texts_of(r: &DynamicMessage, option: &str) -> String {
    borrowed(&texts(r, option))
}

fn message_table(out: &mut String, m: &Message, messages: &[Message]) {
    writeln!(out, "/// The schema of `{}`.", m.name).ok();
    writeln!(
        out,
        "pub static {}: Message = Message {{ name: {:?}, doc: {:?}, atomic: {}, fields: &[",
        table_name(&m.name),
        m.name,
        m.doc,
        m.atomic
    )
    .ok();
    for f in &m.fields {
        field_entry(out, f, messages);
    }
    writeln!(out, "] }};").ok();
}

fn field_entry(out: &mut String, f: &Field, messages: &[Message]) {
    let o = &f.options;
    let ty = match &f.ty {
        Type::Bool => "FieldType::Bool".to_owned(),
        Type::I32 => "FieldType::I32".to_owned(),
        Type::I64 => "FieldType::I64".to_owned(),
        Type::F64 => "FieldType::F64".to_owned(),
        Type::String => "FieldType::String".to_owned(),
        Type::Bytes => "FieldType::Bytes".to_owned(),
        Type::Message(name) => match messages.iter().find(|m| m.name == *name).and_then(|m| m.odd) {
            Some("Either") => format!("FieldType::Either(&{})", table_name(name)),
            Some(odd) => format!("FieldType::{odd}"),
            None => format!("FieldType::Message(&{})", table_name(name)),
        },
    };
    let cardinality = match f.cardinality {
        Cardinality::Plain | Cardinality::Optional => "Singular",
        Cardinality::List => "List",
        Cardinality::Map => "Map",
    };
    let list = if o.list_set {
        "ListType::Set".to_owned()
    } else if o.list_map_keys.is_empty() {
        "ListType::Atomic".to_owned()
    } else {
        format!("ListType::Map({})", strings(&o.list_map_keys))
    };
    let optional = |s: &String| if s.is_empty() { "None".to_owned() } else { format!("Some({s:?})") };
    let format = o.format.as_ref().map_or("None".to_owned(), |f| format!("Some(Format::{f})"));
    writeln!(
        out,
        "Field {{ number: {}, json: {:?}, doc: {:?}, ty: {ty}, cardinality: Cardinality::{cardinality}, inline: {}, required: {}, \
         default: {}, one_of: {}, min: {:?}, max: {:?}, format: {format}, immutable: {}, merge_key: {}, merge_set: {}, \
         retain_keys: {}, list: {list}, atomic: {}, always: {} }},",
        f.number,
        f.json,
        f.doc,
        o.inline,
        o.required || o.non_empty,
        optional(&o.default),
        strings(&o.one_of),
        o.min,
        o.max,
        o.immutable,
        optional(&o.merge_key),
        o.merge_set,
        o.retain_keys,
        o.atomic,
        o.required,
    )
    .ok();
}

/// For each singular message field: a getter that never fails, and one that makes the message if it is missing.
fn getters(out: &mut String, m: &Message, messages: &[Message]) {
    writeln!(
        out,
        "impl SharedDefault for {0} {{ fn shared_default() -> &'static Self {{ \
         static DEFAULT: std::sync::LazyLock<{0}> = std::sync::LazyLock::new({0}::default); &DEFAULT }} }}",
        m.rust
    )
    .ok();
    // A getter of that name would hide the constructor.
    let gets = |f: &&Field| f.cardinality == Cardinality::Optional && is_known(f, messages) && f.rust != "default";
    let singular = m.fields.iter().filter(gets);
    let mut body = String::new();
    for f in singular {
        let Type::Message(name) = &f.ty else { continue };
        let Some(target) = messages.iter().find(|m| m.name == *name) else { continue };
        let (ident, bare) = (&f.rust, f.rust.trim_start_matches("r#"));
        let as_ref = if f.boxed { "as_deref" } else { "as_ref" };
        writeln!(
            body,
            "/// `{bare}`, or its default if unset.\npub fn {ident}(&self) -> &{0} {{ self.{ident}.{as_ref}().unwrap_or_else(|| <{0}>::shared_default()) }}\n\
             /// `{bare}`, made first if unset.\npub fn {bare}_mut(&mut self) -> &mut {0} {{ self.{ident}.get_or_insert_default() }}",
            target.rust
        )
        .ok();
    }
    if !body.is_empty() && m.has_json {
        writeln!(out, "impl {} {{\n{body}}}", m.rust).ok();
    }
}

fn is_known(f: &Field, messages: &[Message]) -> bool {
    matches!(&f.ty, Type::Message(name) if messages.iter().any(|m| m.name == *name))
}

fn kind_table(out: &mut String, m: &Message, r: &DynamicMessage, messages: &[Message]) -> String {
    let kind = m.name.rsplit('.').next().unwrap_or_default();
    let (group, version, plural) = (text(r, "group"), text(r, "version"), text(r, "plural"));
    let singular = Some(text(r, "singular")).filter(|s| !s.is_empty()).unwrap_or_else(|| kind.to_lowercase());
    let storage = text(r, "storage");
    let storage = if storage.is_empty() { "None".to_owned() } else { format!("Some(Borrowed({storage:?}))") };
    let verbs = Some(texts(r, "verbs")).filter(|v| !v.is_empty()).unwrap_or_else(|| {
        let all = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        all.iter().map(|v| (*v).to_owned()).collect()
    });
    let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
    let format = enum_name(r, "name_format").unwrap_or_else(|| "DnsSubdomain".to_owned());
    let selectable: Vec<String> = texts(r, "selectable").iter().map(|s| selectable(m, s, messages)).collect();
    let name = format!("KIND_{}", m.name.replace('.', "_").to_shouty_snake_case());
    writeln!(
        out,
        "/// How `{kind}` is served.\npub static {name}: Kind = Kind {{ group: Borrowed({group:?}), version: Borrowed({version:?}), \
         api_version: Borrowed({api_version:?}), kind: Borrowed({kind:?}), plural: Borrowed({plural:?}), singular: Borrowed({singular:?}), \
         short_names: {}, namespaced: {}, storage: {storage}, subresources: {}, categories: {}, \
         columns: Borrowed(&[{}]), selectable: Borrowed(&[{}]), verbs: {}, name_format: Format::{format}, schema: Schema::Compiled(&{}), \
         type_url: Borrowed(\"type.googleapis.com/{}\"), codec: Typed::<{rust}>::CODEC }};\n\
         static HANDLE_{name}: KindRef = KindRef::of(&{name});",
        texts_of(r, "short_names"),
        !flag(r, "cluster_scoped"),
        texts_of(r, "subresources"),
        texts_of(r, "categories"),
        columns(r),
        selectable.join(", "),
        borrowed(&verbs),
        table_name(&m.name),
        m.name,
        rust = m.rust,
    )
    .ok();
    let has_status = m.fields.iter().any(|f| f.rust == "status");
    let copy_status = if has_status { "self.status.clone_from(&other.status);" } else { "let _no_status = other;" };
    assert!(m.metadata_is_object_meta, "{} is a resource without ObjectMeta", m.name);
    writeln!(
        out,
        "impl Resource for {} {{ const KIND: &'static Kind = &{name};\n\
         const HANDLE: &'static KindRef = &HANDLE_{name};\n\
         fn metadata(&self) -> &crate::meta::v1::ObjectMeta {{ self.metadata() }}\n\
         fn metadata_mut(&mut self) -> &mut crate::meta::v1::ObjectMeta {{ self.metadata.get_or_insert_default() }}\n\
         fn copy_status_from(&mut self, other: &Self) {{ {copy_status} }} }}",
        m.rust
    )
    .ok();
    name
}

fn enum_name(r: &DynamicMessage, field: &str) -> Option<String> {
    let number = r.get_field_by_name(field)?.as_enum_number().filter(|n| *n != 0)?;
    let descriptor = r.descriptor().get_field_by_name(field)?.kind();
    let value = descriptor.as_enum()?.get_value(number)?;
    Some(heck::ToUpperCamelCase::to_upper_camel_case(value.name()))
}

fn columns(r: &DynamicMessage) -> String {
    let list = r.get_field_by_name("columns");
    let items = list.as_deref().and_then(Value::as_list).unwrap_or_default();
    let columns = items.iter().filter_map(Value::as_message).map(|c| {
        let priority = c.get_field_by_name("priority").and_then(|v| v.as_i32()).unwrap_or_default();
        format!("Column {{ name: Borrowed({:?}), path: Borrowed({:?}), priority: {priority} }}", text(c, "name"), text(c, "path"))
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// `label` or `label=path`: the field numbers that lead to the value.
fn selectable(m: &Message, entry: &str, messages: &[Message]) -> String {
    let (label, path) = entry.split_once('=').unwrap_or((entry, entry));
    let (mut at, mut numbers, mut boolean) = (Some(m), Vec::new(), false);
    for segment in path.split('.') {
        let field = at.and_then(|m| m.fields.iter().find(|f| f.json == segment));
        let Some(field) = field else { panic!("{}: selectable field {path} does not exist", m.name) };
        numbers.push(field.number.to_string());
        boolean = field.ty == Type::Bool;
        at = match &field.ty {
            Type::Message(name) => messages.iter().find(|m| m.name == *name),
            _ => None,
        };
    }
    format!("Selectable {{ label: Borrowed({label:?}), numbers: Borrowed(&[{}]), boolean: {boolean} }}", numbers.join(", "))
}
