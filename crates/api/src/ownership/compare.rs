//! The fields of a document, and what is different between two.

use serde_json::Value;

use super::{
    document::{Document, Encoded, Item, is_leaf},
    path::Step,
    set::{FieldSet, Node},
    shape::Shape,
};
use crate::schema::{FieldType, Message};

/// What is different between two documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What only the new one has, lists and objects themselves included.
    pub added: FieldSet,
    /// What has another value.
    pub modified: FieldSet,
    /// What only the old one has, lists and objects themselves included.
    pub removed: FieldSet,
}

impl Comparison {
    /// From one JSON document to another.
    pub fn of_values(shape: Shape<'_>, old: &Value, new: &Value) -> Self {
        compare(shape, Some(old), Some(new)).into()
    }

    /// From one object of a compiled kind to another, both in the encoding that this crate makes.
    pub fn of_encoded(message: &'static Message, old: &[u8], new: &[u8]) -> Self {
        compare(message.shape(), Some(Encoded::object(message, old)), Some(Encoded::object(message, new))).into()
    }

    /// True if nothing is different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What was added or modified.
    pub fn written(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    pub(super) fn into_written(self) -> FieldSet {
        match (self.added.is_empty(), self.modified.is_empty()) {
            (true, _) => self.modified,
            (_, true) => self.added,
            (false, false) => self.written(),
        }
    }

    /// The comparison without the places of `places`, and without what is, or lies below, a place of `below`.
    #[must_use]
    pub fn without(mut self, places: &FieldSet, below: &FieldSet) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.take_away(places, false);
            set.take_away(below, true);
        }
        self
    }
}

/// The fields that a JSON document sets, as an applied configuration owns them: its leaves, the items of its lists, and what is null or
/// empty.
pub fn fields_of(shape: Shape<'_>, value: &Value) -> FieldSet {
    own_fields(shape, value).children
}

fn own_fields(shape: Shape<'_>, value: &Value) -> Node {
    let mut node = Node::default();
    match shape {
        Shape::Leaf => node.member = true,
        _ if is_leaf(shape, value) => {
            // Null in place of something with parts is told by its parent.
            node.member = matches!(shape, Shape::Untyped);
        }
        Shape::Struct(_) | Shape::Map(_) | Shape::Untyped => {
            for (name, inner, value) in value.fields(shape) {
                let mut child = own_fields(inner, value);
                let named = matches!(shape, Shape::Struct(place) if place.field(&name).is_some());
                child.member |= !named || value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                node.children.push(&Step::Field(name), child);
            }
        }
        Shape::Set | Shape::Keyed(_) => {
            for Item { step, shape, values } in value.items(shape) {
                let children = match values[..] {
                    [value] => own_fields(shape, value).children,
                    // Duplicates have one owner together.
                    _ => FieldSet::default(),
                };
                node.children.push(&step, Node { member: true, children });
            }
        }
    }
    node
}

/// What one place contributes to a comparison.
#[derive(Default)]
struct Difference {
    added: Node,
    modified: Node,
    removed: Node,
}

impl From<Difference> for Comparison {
    fn from(difference: Difference) -> Self {
        let Difference { added, modified, removed } = difference;
        Self { added: added.children, modified: modified.children, removed: removed.children }
    }
}

/// Whether a value has no parts, in this representation.
trait Parts {
    fn whole(self, shape: Shape<'_>) -> bool;
    /// Both are empty: then they are compared as wholes.
    fn has_no_parts(self) -> bool;
}

impl Parts for &Value {
    fn whole(self, shape: Shape<'_>) -> bool {
        // Null in place of something with parts has none.
        is_leaf(shape, self) && (!self.is_null() || matches!(shape, Shape::Leaf | Shape::Untyped))
    }

    fn has_no_parts(self) -> bool {
        match self {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => self.is_null(),
        }
    }
}

impl Parts for Encoded<'_> {
    fn whole(self, shape: Shape<'_>) -> bool {
        matches!(shape, Shape::Leaf | Shape::Untyped)
    }

    fn has_no_parts(self) -> bool {
        match self {
            Self::Repeated(_, bytes) => bytes.is_empty(),
            // An object without content can still have fields that are always there.
            Self::One(FieldType::Message(message), bytes) => bytes.is_empty() && !message.fields.iter().any(|field| field.always),
            Self::One(..) => false,
        }
    }
}

fn compare<'a, D: Document<'a> + Parts>(shape: Shape<'_>, old: Option<D>, new: Option<D>) -> Difference {
    let mut difference = Difference::default();
    match (old, new) {
        (None, None) => return difference,
        (Some(old), Some(new)) if old.equals(new) => return difference,
        _ => {}
    }
    let whole = |side: Option<D>| side.is_some_and(|value| value.whole(shape));
    let empty = |side: Option<D>| side.is_none_or(Parts::has_no_parts);
    if whole(old) || whole(new) || (empty(old) && empty(new)) {
        match (old, new) {
            (Some(_), Some(_)) => difference.modified.member = true,
            (None, _) => difference.added.member = true,
            (_, None) => difference.removed.member = true,
        }
        // A value that becomes one of another nature takes its parts along.
        if let (Shape::Untyped, Some(old), Some(new)) = (shape, old, new) {
            difference.removed.children = compare(shape, Some(old), None).removed.children;
            difference.added.children = compare(shape, None, Some(new)).added.children;
        }
        return difference;
    }
    if matches!(shape, Shape::Set | Shape::Keyed(_)) {
        let items = |side: Option<D>| side.map(|value| value.items(shape)).unwrap_or_default();
        pair(items(old), items(new), |item| &item.step, |old, new| compare_items(old, new, &mut difference));
    } else {
        let fields = |side: Option<D>| side.map(|value| value.fields(shape)).unwrap_or_default();
        pair(
            fields(old),
            fields(new),
            |(name, ..)| name,
            |old, new| {
                let inner = new.as_ref().or(old.as_ref()).map_or(Shape::Untyped, |(_, shape, _)| *shape);
                let parts = compare(inner, old.as_ref().map(|(.., value)| *value), new.as_ref().map(|(.., value)| *value));
                if let Some((name, ..)) = new.or(old) {
                    difference.push(&Step::Field(name), parts);
                }
            },
        );
    }
    difference.added.member = old.is_none();
    difference.removed.member = new.is_none();
    difference
}

fn compare_items<'a, D: Document<'a> + Parts>(old: Option<Item<'_, D>>, new: Option<Item<'_, D>>, difference: &mut Difference) {
    let single = |side: &Option<Item<'_, D>>| side.as_ref().is_none_or(|item| item.values.len() == 1);
    let parts = if single(&old) && single(&new) {
        let shape = new.as_ref().or(old.as_ref()).map_or(Shape::Leaf, |item| item.shape);
        let value = |side: &Option<Item<'_, D>>| side.as_ref().and_then(|item| item.values.first().copied());
        compare(shape, value(&old), value(&new))
    } else {
        // Items under one step cannot be told apart: they are one value together.
        let mut parts = Difference::default();
        match (&old, &new) {
            (Some(old), Some(new)) => {
                let same =
                    old.values.len() == new.values.len() && old.values.iter().zip(&new.values).all(|(old, new)| old.equals(*new));
                parts.modified.member = !same;
            }
            (None, _) => parts.added.member = true,
            (_, None) => parts.removed.member = true,
        }
        parts
    };
    if let Some(item) = new.or(old) {
        difference.push(&item.step, parts);
    }
}

impl Difference {
    fn push(&mut self, step: &Step, parts: Self) {
        self.added.children.push(step, parts.added);
        self.modified.children.push(step, parts.modified);
        self.removed.children.push(step, parts.removed);
    }
}

/// Brings together what two ordered lists have under the same key.
fn pair<T, K: Ord>(old: Vec<T>, new: Vec<T>, key: impl Fn(&T) -> &K, mut both: impl FnMut(Option<T>, Option<T>)) {
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => key(a).cmp(key(b)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return,
        };
        match order {
            std::cmp::Ordering::Less => both(old.next(), None),
            std::cmp::Ordering::Greater => both(None, new.next()),
            std::cmp::Ordering::Equal => both(old.next(), new.next()),
        }
    }
}
