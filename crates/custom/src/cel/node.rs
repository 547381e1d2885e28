//! Compiled expressions.

use std::sync::Arc;

use super::{functions::Row, value::Val};
use crate::schema::Pattern;

/// One step of an expression.
#[derive(Debug)]
pub(super) enum Node {
    /// A literal.
    Const(Val<'static>),
    /// A variable, by its place: 0 is `self`, 1 is `oldSelf`, then those of macros from the outside to the inside.
    Var(usize),
    /// A field, by the name that expressions use.
    Select(Box<Node>, Box<str>),
    /// True if the field is there.
    Has(Box<Node>, Box<str>),
    /// The field as an optional.
    OptionalSelect(Box<Node>, Box<str>),
    /// An item or the value under a key.
    Index(Box<[Node; 2]>),
    /// That as an optional.
    OptionalIndex(Box<[Node; 2]>),
    /// Either operand may decide alone.
    And(Box<[Node; 2]>),
    /// Either operand may decide alone.
    Or(Box<[Node; 2]>),
    /// Negation of a boolean.
    Not(Box<Node>),
    /// Condition, what if, what else.
    If(Box<[Node; 3]>),
    /// Equality, or its opposite.
    Equal(Box<[Node; 2]>, bool),
    /// A list, or the keys of a map, holds the first.
    In(Box<[Node; 2]>),
    /// An operator on numbers, texts, times, lists.
    Operator(Operator, Box<[Node; 2]>),
    /// The opposite number.
    Negate(Box<Node>),
    /// A list; true for items that are optional.
    List(Vec<(Node, bool)>),
    /// A map; true for entries whose value is optional.
    Map(Vec<(Node, Node, bool)>),
    /// A macro over a list or map.
    Fold(Box<Fold>),
    /// A name for a value: the value, then what is done with it.
    Bind(Box<[Node; 2]>),
    /// `optMap`, or `optFlatMap` if true: the optional, then what is done with its value.
    OptionalMap(Box<[Node; 2]>, bool),
    /// `or` and `orValue` (true): the second is not looked at if the first is there.
    OptionalOr(Box<[Node; 2]>, bool),
    /// `matches` with an expression that is a literal.
    Matches(Box<Node>, Arc<Pattern>),
    /// A function: which of these takes the values is known at run time.
    Call(Vec<&'static Row>, Vec<Node>),
}

/// An operator on two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// A macro over a list or map.
#[derive(Debug)]
pub(super) struct Fold {
    /// What is gone through.
    pub range: Node,
    /// What is made of it.
    pub kind: FoldKind,
    /// The item has two variables: index or key, and value.
    pub two: bool,
    /// Items for which this is false are passed over.
    pub filter: Option<Node>,
    /// What is computed for each item; the key, for a transformed map's entries.
    pub body: Node,
}

/// What a macro makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoldKind {
    /// True if the body holds for all.
    All,
    /// True if it holds for one or more.
    Exists,
    /// True if it holds for one.
    ExistsOne,
    /// What the body makes of each.
    Map,
    /// The items for which the body holds.
    Filter,
    /// A map with the same keys.
    TransformMap,
}
