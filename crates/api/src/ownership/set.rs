//! Sets of fields, as trees of steps.

use std::cmp::Ordering;

use super::{
    path::{FieldPath, Step},
    shape::Shape,
};

/// A set of places in a document. Invariant: steps are in order, each once, and none leads nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(super) nodes: Vec<(Step, Node)>,
}

/// What of a set lies behind a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The place itself.
    pub member: bool,
    /// What lies below it.
    pub children: FieldSet,
}

impl Node {
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// What two sets are combined to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

impl Operation {
    const fn keeps(self, left: bool, right: bool) -> bool {
        match self {
            Self::Union => left || right,
            Self::Intersection => left && right,
            Self::Difference => left && !right,
        }
    }
}

impl FieldSet {
    /// True if no place is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many places are in it.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|(_, node)| usize::from(node.member) + node.children.len()).sum()
    }

    /// Puts a place in. The root is in no set.
    pub fn insert(&mut self, path: &FieldPath) {
        let Some((last, parents)) = path.0.split_last() else { return };
        let mut set = self;
        for step in parents {
            set = &mut set.node_mut(step).children;
        }
        set.node_mut(last).member = true;
    }

    fn node_mut(&mut self, step: &Step) -> &mut Node {
        let at = match self.nodes.binary_search_by(|(s, _)| s.cmp(step)) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, (step.clone(), Node::default()));
                at
            }
        };
        &mut self.nodes[at].1
    }

    /// Adds what comes after everything that is in, or nothing if it leads nowhere.
    pub(super) fn push(&mut self, step: &Step, node: Node) {
        if node.is_empty() {
            return;
        }
        debug_assert!(self.nodes.last().is_none_or(|(last, _)| last < step), "steps are added in order");
        self.nodes.push((step.clone(), node));
    }

    /// What lies behind a step.
    pub(super) fn node(&self, step: &Step) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|(s, _)| s.cmp(step)).ok()?;
        self.nodes.get(at).map(|(_, node)| node)
    }

    /// True if the place is in the set.
    pub fn contains(&self, path: &FieldPath) -> bool {
        let Some((last, parents)) = path.0.split_last() else { return false };
        let set = parents.iter().try_fold(self, |set, step| set.node(step).map(|node| &node.children));
        set.and_then(|set| set.node(last)).is_some_and(|node| node.member)
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, Operation::Union)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, Operation::Intersection)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, Operation::Difference)
    }

    fn combine(&self, other: &Self, operation: Operation) -> Self {
        let (mut left, mut right) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut nodes = Vec::with_capacity(match operation {
            Operation::Union => self.nodes.len().max(other.nodes.len()),
            Operation::Intersection => 0,
            Operation::Difference => self.nodes.len(),
        });
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            match order {
                Ordering::Less => {
                    nodes.extend(left.next().filter(|_| operation != Operation::Intersection).cloned());
                }
                Ordering::Greater => nodes.extend(right.next().filter(|_| operation == Operation::Union).cloned()),
                Ordering::Equal => {
                    if let (Some((step, a)), Some((_, b))) = (left.next(), right.next()) {
                        let children = a.children.combine(&b.children, operation);
                        let node = Node { member: operation.keeps(a.member, b.member), children };
                        if !node.is_empty() {
                            nodes.push((step.clone(), node));
                        }
                    }
                }
            }
        }
    }

    /// What is in this set, but neither in the other nor below a place of it.
    #[must_use]
    pub fn outside(&self, other: &Self) -> Self {
        let mut left = self.clone();
        left.take_away(other, true);
        left
    }

    /// Takes the places of the other set away, and what lies below them if so wanted.
    pub(super) fn take_away(&mut self, other: &Self, below: bool) {
        for (step, cut) in &other.nodes {
            let Ok(at) = self.nodes.binary_search_by(|(s, _)| s.cmp(step)) else { continue };
            let node = &mut self.nodes[at].1;
            if cut.member && below {
                *node = Node::default();
            } else {
                node.member &= !cut.member;
                node.children.take_away(&cut.children, below);
            }
            if node.is_empty() {
                self.nodes.remove(at);
            }
        }
    }

    /// The set together with the fields of structs that lead to what is in it.
    #[must_use]
    pub(super) fn with_fields_on_the_way(&self, shape: Shape<'_>) -> Self {
        let below = |(step, node): &(Step, Node)| {
            let (inner, named) = match (shape, step) {
                (Shape::Struct(place), Step::Field(name)) => match place.field(name) {
                    Some(inner) => (inner, true),
                    None => (Shape::Untyped, false),
                },
                (Shape::Map(place) | Shape::Keyed(place), _) => (place.item(), false),
                _ => (Shape::Untyped, false),
            };
            (step.clone(), Node { member: node.member || named, children: node.children.with_fields_on_the_way(inner) })
        };
        Self { nodes: self.nodes.iter().map(below).collect() }
    }

    /// Every place that is in the set, in order.
    pub fn paths(&self) -> Vec<FieldPath> {
        fn walk(set: &FieldSet, at: &mut Vec<Step>, found: &mut Vec<FieldPath>) {
            for (step, node) in &set.nodes {
                at.push(step.clone());
                if node.member {
                    found.push(FieldPath(at.clone()));
                }
                walk(&node.children, at, found);
                at.pop();
            }
        }
        let mut found = Vec::new();
        walk(self, &mut Vec::new(), &mut found);
        found
    }
}

impl FromIterator<FieldPath> for FieldSet {
    fn from_iter<I: IntoIterator<Item = FieldPath>>(paths: I) -> Self {
        let mut set = Self::default();
        paths.into_iter().for_each(|path| set.insert(&path));
        set
    }
}
