//! Walking values.

use std::cell::Cell;

use serde_json::Value;

use super::{Comparison, Filter, JsonPathError, MAX_OUTPUT, MAX_RESULTS, Node, Operand, Slice, Step, text};

type Result<T> = std::result::Result<T, JsonPathError>;

/// Evaluates against one value.
pub(super) struct Evaluator<'v> {
    root: &'v Value,
    allow_missing: bool,
    /// Values that all steps have yielded so far.
    yielded: Cell<usize>,
}

impl<'v> Evaluator<'v> {
    pub fn new(root: &'v Value, allow_missing: bool) -> Self {
        Self { root, allow_missing, yielded: Cell::new(0) }
    }

    /// Appends the text of the parts, seen from `here`.
    ///
    /// # Errors
    /// When a path cannot be followed.
    pub fn print(&self, nodes: &[Node], here: &'v Value, out: &mut String) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Literal(value) => out.push_str(&text(value)),
                Node::Path(steps) => {
                    let texts: Vec<String> = self.path(steps, here)?.into_iter().map(text).collect();
                    out.push_str(&texts.join(" "));
                }
                Node::Range { steps, body, closed } => {
                    for item in self.path(steps, here)? {
                        self.print(body, item, out)?;
                    }
                    if !closed {
                        // As in client-go: nothing tells where to go on after it, so it goes on with what comes first.
                        self.print(body, here, out)?;
                    }
                }
            }
            if out.len() > MAX_OUTPUT {
                return Err(JsonPathError::TooMany);
            }
        }
        Ok(())
    }

    /// The values that the steps lead to.
    ///
    /// # Errors
    /// When a step of the path cannot be taken.
    pub fn path(&self, steps: &[Step], here: &'v Value) -> Result<Vec<&'v Value>> {
        self.walk(steps, here, self.allow_missing)
    }

    fn walk(&self, steps: &[Step], here: &'v Value, allow_missing: bool) -> Result<Vec<&'v Value>> {
        let mut values = vec![here];
        // After `..` most values lack the next step; that is no error.
        let mut anywhere = false;
        for step in steps {
            let (mut next, asked) = (Vec::new(), !values.is_empty());
            for value in values {
                let before = next.len();
                self.step(step, value, Missing { allowed: allow_missing, anywhere }, &mut next)?;
                self.spend(1 + next.len() - before)?;
            }
            // What some of them have is not missing.
            if let Step::Field(name) = step
                && next.is_empty()
                && asked
                && !allow_missing
                && !anywhere
            {
                return Err(JsonPathError::NotFound(name.clone()));
            }
            anywhere = *step == Step::Recursive;
            values = next;
        }
        Ok(values)
    }

    /// Keeps nested ranges and filters from yielding without end.
    fn spend(&self, values: usize) -> Result<()> {
        let yielded = self.yielded.get().saturating_add(values);
        self.yielded.set(yielded);
        if yielded > MAX_RESULTS { Err(JsonPathError::TooMany) } else { Ok(()) }
    }

    fn step(&self, step: &Step, value: &'v Value, missing: Missing, out: &mut Vec<&'v Value>) -> Result<()> {
        let Missing { allowed, anywhere } = missing;
        match step {
            Step::Root => out.push(self.root),
            Step::Field(name) => out.extend(value.get(name)),
            Step::Wildcard => match value {
                Value::Array(items) => out.extend(items),
                Value::Object(map) => out.extend(map.values()),
                _ => {}
            },
            Step::Recursive => descend(value, out)?,
            Step::Slice(part) => match value {
                Value::Array(items) => slice(*part, items, anywhere, out)?,
                Value::Null => {}
                _ if anywhere => {}
                _ => return Err(JsonPathError::Index(format!("{} is not array or slice", kind(value)))),
            },
            Step::Union(choices) => {
                for steps in choices {
                    out.extend(self.walk(steps, value, allowed)?);
                }
            }
            Step::Filter(filter) => {
                let items: Vec<&Value> = match value {
                    Value::Array(items) => items.iter().collect(),
                    Value::Object(map) => map.values().collect(),
                    Value::Null => Vec::new(),
                    _ if anywhere => Vec::new(),
                    _ => {
                        return Err(JsonPathError::Index(format!(
                            "{} is not array or slice and cannot be filtered",
                            kind(value)
                        )));
                    }
                };
                for item in items {
                    if self.holds(filter, item)? {
                        out.push(item);
                    }
                }
            }
        }
        Ok(())
    }

    fn holds(&self, filter: &Filter, item: &'v Value) -> Result<bool> {
        let left = self.operand(&filter.left, item)?;
        let Some((comparison, right)) = &filter.comparison else { return Ok(!left.is_empty()) };
        match (left.as_slice(), self.operand(right, item)?.as_slice()) {
            ([left], [right]) => compare(*comparison, left, right),
            ([], _) | (_, []) => Ok(false),
            _ => Err(JsonPathError::Compare("can only compare one element at a time".to_owned())),
        }
    }

    fn operand<'a>(&self, operand: &'a Operand, item: &'v Value) -> Result<Vec<&'a Value>>
    where
        'v: 'a,
    {
        match operand {
            Operand::Literal(value) => Ok(vec![value]),
            // What is missing in an item only means that the item does not match.
            Operand::Path(steps) => self.walk(steps, item, true),
        }
    }
}

/// What becomes of a step that leads nowhere.
#[derive(Clone, Copy)]
struct Missing {
    /// The user said that fields may be missing.
    allowed: bool,
    /// The value is one of all that `..` found, so that the step may not fit it.
    anywhere: bool,
}

/// A part of a list. Bounds outside it are errors, as in client-go, unless the list is one of all that `..` found.
fn slice<'v>(slice: Slice, items: &'v [Value], anywhere: bool, out: &mut Vec<&'v Value>) -> Result<()> {
    let length = items.len() as i64;
    let from_end = |i: i64| if i < 0 { i.saturating_add(length) } else { i };
    let start = from_end(slice.start.unwrap_or(0));
    let end = if slice.single { start.saturating_add(1) } else { from_end(slice.end.unwrap_or(length)) };
    let step = slice.step.unwrap_or(1);
    if start == end {
        return Ok(());
    }
    let outside = |index: i64| format!("array index out of bounds: index {index}, length {length}");
    let wrong = if !(0..length).contains(&start) {
        outside(start)
    } else if !(0..=length).contains(&end) {
        outside(end.saturating_sub(1))
    } else if start > end {
        format!("starting index {start} is greater than ending index {end}")
    } else if step < 1 {
        "step must be > 0".to_owned()
    } else {
        let range = &items[start as usize..end as usize];
        out.extend(range.iter().step_by(usize::try_from(step).unwrap_or(usize::MAX)));
        return Ok(());
    };
    if anywhere { Ok(()) } else { Err(JsonPathError::Index(wrong)) }
}

fn compare(comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let ordering = match (left, right) {
        (Value::Number(l), Value::Number(r)) => match (l.as_i64(), r.as_i64()) {
            (Some(l), Some(r)) => Some(l.cmp(&r)),
            _ => l.as_f64().zip(r.as_f64()).and_then(|(l, r)| l.partial_cmp(&r)),
        },
        (Value::String(l), Value::String(r)) => Some(l.cmp(r)),
        (Value::Bool(l), Value::Bool(r)) => Some(l.cmp(r)),
        _ => None,
    };
    match (comparison, ordering) {
        (Comparison::Equal, _) => Ok(ordering.map_or(left == right, |o| o == Equal)),
        (Comparison::NotEqual, _) => Ok(ordering.map_or(left != right, |o| o != Equal)),
        (Comparison::Less, Some(o)) => Ok(o == Less),
        (Comparison::LessOrEqual, Some(o)) => Ok(o != Greater),
        (Comparison::Greater, Some(o)) => Ok(o == Greater),
        (Comparison::GreaterOrEqual, Some(o)) => Ok(o != Less),
        (_, None) => Err(JsonPathError::Compare(format!("cannot compare {} with {}", kind(left), kind(right)))),
    }
}

/// The value and all below it, parents first.
fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>) -> Result<()> {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        out.push(value);
        if out.len() > MAX_RESULTS {
            return Err(JsonPathError::TooMany);
        }
        match value {
            Value::Array(items) => waiting.extend(items.iter().rev()),
            Value::Object(map) => waiting.extend(map.values().collect::<Vec<_>>().into_iter().rev()),
            _ => {}
        }
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
