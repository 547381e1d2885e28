//! Evaluation, within a budget.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Budget, Fault, MAX_TEXT, functions,
    node::{Fold, FoldKind, Node, Operator},
    value::{Key, Text, Val, compare, contains, equal},
};

type Answer<'a> = Result<Val<'a>, Fault>;

/// Evaluates an expression over `self` and `oldSelf`.
pub(super) fn evaluate<'a>(node: &'a Node, this: Val<'a>, old: Val<'a>, budget: &mut Budget) -> Answer<'a> {
    Eval { vars: vec![this, old], budget }.node(node)
}

struct Eval<'a, 'b> {
    vars: Vec<Val<'a>>,
    budget: &'b mut Budget,
}

impl<'a> Eval<'a, '_> {
    fn node(&mut self, node: &'a Node) -> Answer<'a> {
        self.budget.spend(1)?;
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Var(place) => self.vars.get(*place).cloned().ok_or(Fault::Overload),
            Node::Select(operand, name) => self.select(operand, name),
            Node::Has(operand, name) => Ok(Val::Bool(self.optional_select(operand, name)?.is_some())),
            Node::OptionalSelect(operand, name) => self.optional_select(operand, name).map(Val::optional),
            Node::Index(pair) => self.index(pair),
            Node::OptionalIndex(pair) => self.optional_index(pair),
            Node::And(pair) => self.logical(pair, false),
            Node::Or(pair) => self.logical(pair, true),
            Node::Not(operand) => self.boolean(operand).map(|b| Val::Bool(!b)),
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if self.boolean(condition)? { self.node(yes) } else { self.node(no) }
            }
            Node::Equal(pair, wanted) => {
                let (a, b) = self.pair(pair)?;
                Ok(Val::Bool(equal(&a, &b, self.budget)? == *wanted))
            }
            Node::In(pair) => self.membership(pair),
            Node::Operator(operator, pair) => self.operator(*operator, pair),
            Node::Negate(operand) => self.negate(operand),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(pair) => self.bind(pair),
            Node::OptionalMap(pair, flat) => self.optional_map(pair, *flat),
            Node::OptionalOr(pair, value) => self.optional_or(pair, *value),
            Node::Matches(operand, pattern) => {
                let value = self.node(operand)?;
                let text = value.as_str().ok_or(Fault::Overload)?;
                self.budget.spend(functions::Cost::Regex.steps(&[text.len() as u64, pattern.as_str().len() as u64], 1))?;
                Ok(Val::Bool(pattern.matches(text)))
            }
            Node::Call(rows, args) => self.call(rows, args),
        }
    }

    fn pair(&mut self, pair: &'a [Node; 2]) -> Result<(Val<'a>, Val<'a>), Fault> {
        Ok((self.node(&pair[0])?, self.node(&pair[1])?))
    }

    fn boolean(&mut self, node: &'a Node) -> Result<bool, Fault> {
        if let Val::Bool(b) = self.node(node)? { Ok(b) } else { Err(Fault::Overload) }
    }

    /// Runs with one more variable, or two.
    fn with<T>(&mut self, vars: impl IntoIterator<Item = Val<'a>>, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.vars.len();
        self.vars.extend(vars);
        let result = run(self);
        self.vars.truncate(before);
        result
    }

    #[inline(never)]
    fn select(&mut self, operand: &'a Node, name: &str) -> Answer<'a> {
        let value = self.node(operand)?;
        if let Val::Optional(inner) = &value {
            return Ok(Val::optional(inner.as_ref().and_then(|inner| inner.field(name))));
        }
        value.field(name).ok_or_else(|| Fault::Other(format!("no such key: {name}")))
    }

    #[inline(never)]
    fn optional_select(&mut self, operand: &'a Node, name: &str) -> Result<Option<Val<'a>>, Fault> {
        Ok(match self.node(operand)? {
            Val::Optional(inner) => inner.and_then(|inner| inner.field(name)),
            value => value.field(name),
        })
    }

    fn lookup(value: &Val<'a>, index: &Val<'a>) -> Result<Option<Val<'a>>, Fault> {
        let key = index.to_key();
        match (value, &key) {
            (Val::List(_) | Val::JsonList(..), Some(Key::Int(at))) => Ok(usize::try_from(*at).ok().and_then(|at| value.item(at))),
            (Val::Map(_) | Val::JsonMap(..), Some(key)) => Ok(value.entry(key)),
            _ => Err(Fault::Overload),
        }
    }

    #[inline(never)]
    fn index(&mut self, pair: &'a [Node; 2]) -> Answer<'a> {
        let (value, index) = self.pair(pair)?;
        if let Val::Optional(inner) = &value {
            let found = inner.as_ref().map(|inner| Self::lookup(inner, &index)).transpose()?;
            return Ok(Val::optional(found.flatten()));
        }
        Self::lookup(&value, &index)?.ok_or_else(|| match (&value, index.to_key()) {
            (Val::List(_) | Val::JsonList(..), Some(Key::Int(at))) => Fault::Other(format!("index out of bounds: {at}")),
            (_, Some(Key::String(key))) => Fault::Other(format!("no such key: {key}")),
            (_, Some(Key::Int(key))) => Fault::Other(format!("no such key: {key}")),
            _ => Fault::Other("no such key".to_owned()),
        })
    }

    #[inline(never)]
    fn optional_index(&mut self, pair: &'a [Node; 2]) -> Answer<'a> {
        let (value, index) = self.pair(pair)?;
        let found = match &value {
            Val::Optional(inner) => inner.as_ref().map(|inner| Self::lookup(inner, &index)).transpose()?.flatten(),
            value => Self::lookup(value, &index)?,
        };
        Ok(Val::optional(found))
    }

    /// `&&` or `||`: an operand that decides alone outweighs a fault of the other.
    #[inline(never)]
    fn logical(&mut self, pair: &'a [Node; 2], decisive: bool) -> Answer<'a> {
        let first = self.boolean(&pair[0]);
        match first {
            Ok(b) if b == decisive => return Ok(Val::Bool(decisive)),
            Err(Fault::Budget) => return Err(Fault::Budget),
            _ => {}
        }
        match (first, self.boolean(&pair[1])) {
            (_, Ok(b)) if b == decisive => Ok(Val::Bool(decisive)),
            (_, Err(Fault::Budget)) => Err(Fault::Budget),
            (Err(fault), _) | (Ok(_), Err(fault)) => Err(fault),
            (Ok(_), Ok(b)) => Ok(Val::Bool(b)),
        }
    }

    #[inline(never)]
    fn membership(&mut self, pair: &'a [Node; 2]) -> Answer<'a> {
        let (item, range) = self.pair(pair)?;
        match &range {
            Val::List(_) | Val::JsonList(..) => contains(&range, &item, self.budget).map(Val::Bool),
            Val::Map(_) | Val::JsonMap(..) => Ok(Val::Bool(item.to_key().is_some_and(|key| range.entry(&key).is_some()))),
            _ => Err(Fault::Overload),
        }
    }

    #[inline(never)]
    fn operator(&mut self, operator: Operator, pair: &'a [Node; 2]) -> Answer<'a> {
        let (a, b) = self.pair(pair)?;
        let ordered = |wanted: fn(std::cmp::Ordering) -> bool| compare(&a, &b).map(|order| Val::Bool(wanted(order)));
        let answer = match operator {
            Operator::Add => return add(&a, &b, self.budget),
            Operator::Less => ordered(std::cmp::Ordering::is_lt),
            Operator::LessEqual => ordered(std::cmp::Ordering::is_le),
            Operator::Greater => ordered(std::cmp::Ordering::is_gt),
            Operator::GreaterEqual => ordered(std::cmp::Ordering::is_ge),
            Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => return arithmetic(operator, &a, &b),
        };
        self.budget.spend(a.size().min(b.size()) / 10)?;
        answer.ok_or(Fault::Overload)
    }

    #[inline(never)]
    fn negate(&mut self, operand: &'a Node) -> Answer<'a> {
        match self.node(operand)? {
            Val::Int(int) => int.checked_neg().map(Val::Int).ok_or_else(overflow),
            Val::Double(d) => Ok(Val::Double(-d)),
            Val::Duration(nanos) => nanos.checked_neg().map(Val::Duration).ok_or_else(overflow),
            _ => Err(Fault::Overload),
        }
    }

    #[inline(never)]
    fn list(&mut self, items: &'a [(Node, bool)]) -> Answer<'a> {
        self.budget.spend(10)?;
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.node(item)?, optional) {
                (Val::Optional(inner), true) => list.extend(inner.map(|inner| (*inner).clone())),
                (value, _) => list.push(value),
            }
        }
        Ok(Val::list(list))
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Answer<'a> {
        self.budget.spend(30)?;
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.node(key)?.to_key().ok_or_else(|| Fault::Other("unsupported key type".to_owned()))?;
            let value = match (self.node(value)?, optional) {
                (Val::Optional(None), true) => continue,
                (Val::Optional(Some(inner)), true) => (*inner).clone(),
                (value, _) => value,
            };
            if map.insert(key, value).is_some() {
                return Err(Fault::Other("Failed with repeated key".to_owned()));
            }
        }
        Ok(Val::Map(Arc::new(map)))
    }

    #[inline(never)]
    fn bind(&mut self, pair: &'a [Node; 2]) -> Answer<'a> {
        let value = self.node(&pair[0])?;
        self.with([value], |eval| eval.node(&pair[1]))
    }

    #[inline(never)]
    fn optional_map(&mut self, pair: &'a [Node; 2], flat: bool) -> Answer<'a> {
        let inner = match self.node(&pair[0])? {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => (*inner).clone(),
            _ => return Err(Fault::Overload),
        };
        let made = self.with([inner], |eval| eval.node(&pair[1]))?;
        match made {
            Val::Optional(_) if flat => Ok(made),
            _ if flat => Err(Fault::Overload),
            made => Ok(Val::optional(Some(made))),
        }
    }

    #[inline(never)]
    fn optional_or(&mut self, pair: &'a [Node; 2], value: bool) -> Answer<'a> {
        match self.node(&pair[0])? {
            Val::Optional(Some(inner)) if value => Ok((*inner).clone()),
            there @ Val::Optional(Some(_)) => Ok(there),
            Val::Optional(None) => self.node(&pair[1]),
            _ => Err(Fault::Overload),
        }
    }

    #[inline(never)]
    fn call(&mut self, rows: &'a [&'static functions::Row], nodes: &'a [Node]) -> Answer<'a> {
        let mut args = Vec::with_capacity(nodes.len());
        for node in nodes {
            args.push(self.node(node)?);
        }
        let takes = |row: &&&functions::Row| row.args.chars().zip(&args).all(|(letter, arg)| functions::takes(letter, arg));
        let row = rows.iter().find(takes).ok_or(Fault::Overload)?;
        let sizes: Vec<u64> = args.iter().map(Val::size).collect();
        self.budget.spend(row.cost.steps(&sizes, 1))?;
        let made = (row.run)(&args, self.budget)?;
        // Making something large costs as much as looking at it.
        let made_size = if matches!(made, Val::String(Text::Shared(_)) | Val::Bytes(_)) { made.size() / 10 } else { 1 };
        self.budget.spend(made_size)?;
        Ok(made)
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Fold) -> Answer<'a> {
        let range = self.node(&fold.range)?;
        let keys = match &range {
            Val::List(_) | Val::JsonList(..) => None,
            Val::Map(_) | Val::JsonMap(..) => {
                self.budget.spend(range.size())?;
                Some(range.keys())
            }
            _ => return Err(Fault::Overload),
        };
        let mut state = FoldState::new(fold.kind);
        for at in 0..usize::try_from(range.size()).unwrap_or(usize::MAX) {
            self.budget.spend(2)?;
            let (key, item) = match &keys {
                None => (Val::Int(i64::try_from(at).unwrap_or(i64::MAX)), range.item(at)),
                Some(keys) => {
                    let Some(key) = keys.get(at) else { break };
                    (key.clone(), key.to_key().and_then(|key| range.entry(&key)))
                }
            };
            let Some(item) = item else { break };
            let single = if keys.is_some() { key.clone() } else { item.clone() };
            let vars = if fold.two { vec![key.clone(), item] } else { vec![single.clone()] };
            let made = self.with(vars, |eval| match &fold.filter {
                Some(filter) if !eval.boolean(filter)? => Ok(None),
                _ => eval.node(&fold.body).map(Some),
            });
            if state.step(key, single, made)? {
                break;
            }
        }
        state.finish()
    }
}

/// What a macro has made so far.
struct FoldState<'a> {
    kind: FoldKind,
    count: usize,
    list: Vec<Val<'a>>,
    map: BTreeMap<Key, Val<'a>>,
    /// The first fault, which an item that decides outweighs.
    fault: Option<Fault>,
    decided: bool,
}

impl<'a> FoldState<'a> {
    fn new(kind: FoldKind) -> Self {
        Self { kind, count: 0, list: Vec::new(), map: BTreeMap::new(), fault: None, decided: false }
    }

    /// Takes what came of an item; true if the rest does not matter.
    fn step(&mut self, key: Val<'a>, item: Val<'a>, made: Result<Option<Val<'a>>, Fault>) -> Result<bool, Fault> {
        let absorbs = matches!(self.kind, FoldKind::All | FoldKind::Exists);
        let made = match made {
            Ok(Some(made)) => made,
            Ok(None) => return Ok(false),
            Err(fault) if absorbs && fault != Fault::Budget => {
                self.fault.get_or_insert(fault);
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        };
        match (self.kind, made) {
            (FoldKind::All | FoldKind::Exists, Val::Bool(b)) => self.decided = b == (self.kind == FoldKind::Exists),
            (FoldKind::ExistsOne, Val::Bool(b)) => self.count += usize::from(b),
            (FoldKind::Filter, Val::Bool(true)) => self.list.push(item),
            (FoldKind::Filter, Val::Bool(false)) => {}
            (FoldKind::Map, made) => self.list.push(made),
            (FoldKind::TransformMap, made) => {
                self.map.insert(key.to_key().ok_or(Fault::Overload)?, made);
            }
            _ => return Err(Fault::Overload),
        }
        Ok(self.decided)
    }

    fn finish(self) -> Answer<'a> {
        Ok(match (self.kind, self.fault) {
            (FoldKind::All | FoldKind::Exists, _) if self.decided => Val::Bool(self.kind == FoldKind::Exists),
            (_, Some(fault)) => return Err(fault),
            (FoldKind::All, _) => Val::Bool(true),
            (FoldKind::Exists, _) => Val::Bool(false),
            (FoldKind::ExistsOne, _) => Val::Bool(self.count == 1),
            (FoldKind::Map | FoldKind::Filter, _) => Val::list(self.list),
            (FoldKind::TransformMap, _) => Val::Map(Arc::new(self.map)),
        })
    }
}

fn overflow() -> Fault {
    Fault::Other("integer overflow".to_owned())
}

/// `a + b`.
pub(super) fn add<'a>(a: &Val<'a>, b: &Val<'a>, budget: &mut Budget) -> Answer<'a> {
    let too_large = || Fault::Other("the result is too large".to_owned());
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a.checked_add(*b).map(Val::Int).ok_or_else(overflow),
        (Val::Uint(a), Val::Uint(b)) => a.checked_add(*b).map(Val::Uint).ok_or_else(overflow),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::Duration(a), Val::Duration(b)) => a.checked_add(*b).map(Val::Duration).ok_or_else(overflow),
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => t
            .checked_add(jiff::SignedDuration::from_nanos(*d))
            .map(Val::Timestamp)
            .map_err(|_| Fault::Other("timestamp overflow".to_owned())),
        (Val::String(x), Val::String(y)) => {
            let (x, y) = (x.as_str(), y.as_str());
            budget.spend((x.len() + y.len()).div_ceil(10) as u64)?;
            if x.len() + y.len() > MAX_TEXT { Err(too_large()) } else { Ok(Val::text(format!("{x}{y}"))) }
        }
        (Val::Bytes(x), Val::Bytes(y)) => {
            budget.spend((x.len() + y.len()).div_ceil(10) as u64)?;
            if x.len() + y.len() > MAX_TEXT { Err(too_large()) } else { Ok(Val::Bytes([&**x, &**y].concat().into())) }
        }
        (Val::List(_) | Val::JsonList(..), Val::List(_) | Val::JsonList(..)) => join(a, b, budget),
        _ => Err(Fault::Overload),
    }
}

/// Both lists in one: of a set what is new, of a map what has new keys, in place of what has the same.
fn join<'a>(a: &Val<'a>, b: &Val<'a>, budget: &mut Budget) -> Answer<'a> {
    budget.spend(a.size() + b.size())?;
    let items = |list: &Val<'a>| (0..).map_while(|i| list.item(i)).collect::<Vec<_>>();
    let mut joined = items(a);
    let order = if let Val::JsonList(_, _, order) = a { Some(*order) } else { None };
    for item in items(b) {
        let place = match order {
            None | Some(crate::schema::ListType::Atomic) => None,
            Some(crate::schema::ListType::Set) => position(&joined, |other| equal(other, &item, budget))?,
            Some(crate::schema::ListType::Map(keys)) => position(&joined, |other| same_keys(other, &item, keys, budget))?,
        };
        match place {
            Some(place) => joined[place] = item,
            None => joined.push(item),
        }
    }
    Ok(Val::list(joined))
}

fn position<'a>(list: &[Val<'a>], mut is: impl FnMut(&Val<'a>) -> Result<bool, Fault>) -> Result<Option<usize>, Fault> {
    for (i, item) in list.iter().enumerate() {
        if is(item)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[String], budget: &mut Budget) -> Result<bool, Fault> {
    for key in keys.iter().filter_map(|key| super::escape::escape(key)) {
        let same = match (a.field(&key), b.field(&key)) {
            (Some(a), Some(b)) => equal(&a, &b, budget)?,
            (a, b) => a.is_none() && b.is_none(),
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn arithmetic<'a>(operator: Operator, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
    use Operator::{Divide, Modulo, Multiply, Subtract};
    let zero = |operator| Fault::Other(if operator == Modulo { "modulus by zero" } else { "division by zero" }.to_owned());
    match (operator, a, b) {
        (Divide | Modulo, Val::Int(_), Val::Int(0)) | (Divide | Modulo, Val::Uint(_), Val::Uint(0)) => Err(zero(operator)),
        (Subtract, Val::Int(a), Val::Int(b)) => a.checked_sub(*b).map(Val::Int).ok_or_else(overflow),
        (Multiply, Val::Int(a), Val::Int(b)) => a.checked_mul(*b).map(Val::Int).ok_or_else(overflow),
        (Divide, Val::Int(a), Val::Int(b)) => a.checked_div(*b).map(Val::Int).ok_or_else(overflow),
        (Modulo, Val::Int(a), Val::Int(b)) => a.checked_rem(*b).map(Val::Int).ok_or_else(overflow),
        (Subtract, Val::Uint(a), Val::Uint(b)) => a.checked_sub(*b).map(Val::Uint).ok_or_else(overflow),
        (Multiply, Val::Uint(a), Val::Uint(b)) => a.checked_mul(*b).map(Val::Uint).ok_or_else(overflow),
        (Divide, Val::Uint(a), Val::Uint(b)) => a.checked_div(*b).map(Val::Uint).ok_or_else(overflow),
        (Modulo, Val::Uint(a), Val::Uint(b)) => a.checked_rem(*b).map(Val::Uint).ok_or_else(overflow),
        (Subtract, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Multiply, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        (Divide, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        (Subtract, Val::Duration(a), Val::Duration(b)) => a.checked_sub(*b).map(Val::Duration).ok_or_else(overflow),
        (Subtract, Val::Timestamp(a), Val::Timestamp(b)) => i64::try_from(a.as_nanosecond() - b.as_nanosecond())
            .map(Val::Duration)
            .map_err(|_| Fault::Other("duration overflow".to_owned())),
        (Subtract, Val::Timestamp(t), Val::Duration(d)) => t
            .checked_sub(jiff::SignedDuration::from_nanos(*d))
            .map(Val::Timestamp)
            .map_err(|_| Fault::Other("timestamp overflow".to_owned())),
        _ => Err(Fault::Overload),
    }
}
