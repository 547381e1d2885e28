//! What ownership asks of a schema: which places have one owner, and which are divided among several.

use std::fmt;

use serde_json::Value;

use super::path::Name;
use crate::schema::{Cardinality, Field, FieldType, ListType, Message};

/// How the value at one place of a document is owned.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'s> {
    /// One value with one owner: a scalar, or a list, map or struct that is atomic.
    Leaf,
    /// An object whose fields are known by name and owned one by one.
    Struct(&'s dyn Place),
    /// An object with keys of any name, owned one by one.
    Map(&'s dyn Place),
    /// A list of scalars, owned one by one by their value.
    Set,
    /// A list of objects, owned one by one by the fields that identify them.
    Keyed(&'s dyn Place),
    /// The schema says nothing: objects are maps, everything else has one owner.
    Untyped,
}

/// A place of a schema that has parts. Implemented for the compiled schema by [`Message`] and [`Field`].
pub trait Place: fmt::Debug + Sync {
    /// How the field of this name is owned; `None` if the struct has no such field. Asked of structs.
    fn field(&self, _name: &str) -> Option<Shape<'_>> {
        None
    }

    /// How each value of a map, or each item of a keyed list, is owned. Asked of maps and keyed lists.
    fn item(&self) -> Shape<'_> {
        Shape::Untyped
    }

    /// The `n`th of the fields that identify an item, from 0. Asked of keyed lists.
    fn key(&self, _n: usize) -> Option<Name> {
        None
    }

    /// What an item that leaves out this key has there. Asked of keyed lists.
    fn key_default(&self, _key: &str) -> Option<Value> {
        None
    }
}

impl Message {
    /// How an object of this message is owned.
    pub fn shape(&'static self) -> Shape<'static> {
        if self.atomic { Shape::Leaf } else { Shape::Struct(self) }
    }
}

impl Place for Message {
    fn field(&self, name: &str) -> Option<Shape<'_>> {
        Some(Self::field(self, name)?.shape())
    }
}

impl FieldType {
    fn shape(self) -> Shape<'static> {
        match self {
            Self::Message(message) => message.shape(),
            _ => Shape::Leaf,
        }
    }
}

impl Field {
    /// How the field is owned.
    pub fn shape(&'static self) -> Shape<'static> {
        match (self.cardinality, self.list) {
            (Cardinality::Singular, _) => self.ty.shape(),
            (Cardinality::Map, _) if self.atomic => Shape::Leaf,
            (Cardinality::Map, _) => Shape::Map(self),
            (Cardinality::List, ListType::Atomic) => Shape::Leaf,
            (Cardinality::List, ListType::Set) => Shape::Set,
            (Cardinality::List, ListType::Map(_)) => Shape::Keyed(self),
        }
    }
}

impl Place for Field {
    fn item(&self) -> Shape<'_> {
        self.ty.shape()
    }

    fn key(&self, n: usize) -> Option<Name> {
        match self.list {
            ListType::Map(keys) => keys.get(n).map(|key| Name::Borrowed(*key)),
            ListType::Atomic | ListType::Set => None,
        }
    }

    fn key_default(&self, key: &str) -> Option<Value> {
        let FieldType::Message(item) = self.ty else { return None };
        serde_json::from_str(item.field(key)?.default?).ok()
    }
}
