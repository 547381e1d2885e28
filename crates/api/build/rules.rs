//! Defaults and single-field validation as code: one `Rules` implementation a message.

use std::fmt::Write as _;

use crate::model::{Cardinality, Field, Message, Type};

/// Writes `rules.rs`.
pub fn render(messages: &[Message]) -> String {
    let mut out = String::from("use crate::{names::Format, rules::*};\n");
    for m in messages.iter().filter(|m| m.has_json && is_object(m)) {
        let (mut defaults, mut validate, mut update) = (String::new(), String::new(), String::new());
        for f in &m.fields {
            let target = match &f.ty {
                Type::Message(name) => messages.iter().find(|m| m.name == *name),
                _ => None,
            };
            let (nested, odd) = (target.is_some_and(is_object), target.and_then(|m| m.odd));
            default(&mut defaults, m, f, nested);
            if odd == Some("Quantity") {
                settle(&mut defaults, f);
            }
            check(&mut validate, f, nested, odd);
            immutable(&mut update, f, nested);
        }
        writeln!(
            out,
            "#[allow(unused_variables)]\nimpl Rules for {} {{\nfn set_defaults(&mut self) {{\n{defaults}}}\n\
             fn validate(&self, at: &Path<'_>, errors: &mut FieldErrors) {{\n{validate}}}\n\
             fn validate_update(&self, old: &Self, at: &Path<'_>, errors: &mut FieldErrors) {{\n{update}}}\n}}",
            m.rust
        )
        .ok();
    }
    out
}

/// True if the message has fields of its own to look at.
fn is_object(m: &Message) -> bool {
    matches!(m.odd, None | Some("Either"))
}

fn default(out: &mut String, m: &Message, f: &Field, nested: bool) {
    let ident = &f.rust;
    if !f.options.default.is_empty() {
        let literal = match f.ty {
            Type::String => format!("{}.to_owned()", f.options.default),
            Type::Bool | Type::I32 | Type::I64 | Type::F64 => f.options.default.clone(),
            _ => panic!("{}.{}: only scalars have defaults in the schema", m.name, f.json),
        };
        match f.cardinality {
            Cardinality::Optional => writeln!(out, "self.{ident}.get_or_insert_with(|| {literal});").ok(),
            Cardinality::Plain => writeln!(out, "if is_default(&self.{ident}) {{ self.{ident} = {literal}; }}").ok(),
            _ => panic!("{}.{}: only scalars have defaults in the schema", m.name, f.json),
        };
    }
    if nested {
        let each = match f.cardinality {
            Cardinality::Map => format!("for item in self.{ident}.values_mut()"),
            Cardinality::List => format!("for item in &mut self.{ident}"),
            _ => format!("if let Some(item) = &mut self.{ident}"),
        };
        writeln!(out, "{each} {{ item.set_defaults(); }}").ok();
    }
}

/// Quantities are kept in one form, and in lists of resources no finer than a thousandth.
fn settle(out: &mut String, f: &Field) {
    let ident = &f.rust;
    match f.cardinality {
        Cardinality::Map => writeln!(out, "self.{ident}.values_mut().for_each(settle_in_list);").ok(),
        _ => writeln!(out, "self.{ident}.iter_mut().for_each(settle);").ok(),
    };
}

/// How a path to the field is written in generated code.
fn path(f: &Field) -> String {
    if f.options.inline { "at".to_owned() } else { format!("&at.field({:?})", f.json) }
}

fn check(out: &mut String, f: &Field, nested: bool, odd: Option<&str>) {
    let (ident, o) = (&f.rust, &f.options);
    if o.non_empty {
        let empty = match (f.cardinality, &f.ty) {
            (Cardinality::Optional, Type::Message(_)) => format!("self.{ident}.is_none()"),
            (Cardinality::Optional, _) => format!("self.{ident}.as_ref().is_none_or(is_default)"),
            _ => format!("is_default(&self.{ident})"),
        };
        writeln!(out, "if {empty} {{ errors.required({}); }}", path(f)).ok();
    }
    let scalar_checks = scalar_checks(f, odd);
    if !scalar_checks.is_empty() {
        match f.cardinality {
            Cardinality::Plain if f.ty == Type::String => {
                writeln!(out, "{{ let v = &self.{ident}; let path = {}; if !v.is_empty() {{ {scalar_checks} }} }}", path(f)).ok()
            }
            Cardinality::Plain => writeln!(out, "{{ let v = &self.{ident}; let path = {}; {scalar_checks} }}", path(f)).ok(),
            Cardinality::Optional => {
                writeln!(out, "if let Some(v) = &self.{ident} {{ let path = {}; {scalar_checks} }}", path(f)).ok()
            }
            Cardinality::List => writeln!(
                out,
                "for (i, v) in self.{ident}.iter().enumerate() {{ let list = at.field({:?}); let path = &list.index(i); {scalar_checks} }}",
                f.json
            )
            .ok(),
            Cardinality::Map => writeln!(
                out,
                "for (key, v) in &self.{ident} {{ let map = at.field({:?}); let path = &map.key(key); {scalar_checks} }}",
                f.json
            )
            .ok(),
        };
    }
    if nested {
        match f.cardinality {
            Cardinality::List => writeln!(
                out,
                "for (i, item) in self.{ident}.iter().enumerate() {{ item.validate(&at.field({:?}).index(i), errors); }}",
                f.json
            )
            .ok(),
            Cardinality::Map => {
                writeln!(out, "for (key, item) in &self.{ident} {{ item.validate(&at.field({:?}).key(key), errors); }}", f.json)
                    .ok()
            }
            _ => writeln!(out, "if let Some(item) = &self.{ident} {{ item.validate({}, errors); }}", path(f)).ok(),
        };
    }
}

fn scalar_checks(f: &Field, odd: Option<&str>) -> String {
    let o = &f.options;
    let mut out = String::new();
    // In protobuf these can hold what their JSON cannot say.
    if matches!(odd, Some("Time" | "Json")) || odd == Some("Quantity") && o.format.is_none() {
        out.push_str("v.check_value(path, errors);");
    }
    if !o.one_of.is_empty() {
        write!(out, "one_of(v, &{:?}, path, errors);", o.one_of).ok();
    }
    if o.min.is_some() || o.max.is_some() {
        write!(out, "range(i64::from(*v), {:?}, {:?}, path, errors);", o.min, o.max).ok();
    }
    if let Some(format) = &o.format {
        let call = match (format.as_str(), f.cardinality) {
            // Labels are checked per entry: the key by its own form, the value by another.
            ("Labels", Cardinality::Map) => "label(key, v, path, errors);".to_owned(),
            ("NonNegativeQuantity", _) => "v.check_format(Format::NonNegativeQuantity, path, errors);".to_owned(),
            // Elsewhere it is the key that has a form.
            (_, Cardinality::Map) => format!("map_key(key, Format::{format}, path, errors);"),
            _ => format!("v.check_format(Format::{format}, path, errors);"),
        };
        out.push_str(&call);
    }
    out
}

fn immutable(out: &mut String, f: &Field, nested: bool) {
    let ident = &f.rust;
    if f.options.immutable {
        writeln!(out, "if self.{ident} != old.{ident} {{ errors.immutable({}); }}", path(f)).ok();
    } else if nested && f.cardinality == Cardinality::Optional {
        writeln!(
            out,
            "if let (Some(new), Some(old)) = (&self.{ident}, &old.{ident}) {{ new.validate_update(old, {}, errors); }}",
            path(f)
        )
        .ok();
    }
}
