//! From an expression's text to nodes: names are resolved, types checked, and the worst that it can cost is added up.

use std::sync::Arc;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, ListExpr, LiteralValue, SelectExpr, operators},
    parser::PrattParser,
};

use super::{
    fold,
    functions::{self, NAMESPACES, ROWS, Row},
    node::{Node, Operator},
    types::{Decl, Kind},
    value::Val,
};
use crate::schema::Pattern;

/// Longest expression, in bytes.
const MAX_LENGTH: usize = 64 << 10;
/// Longest message about an expression, in bytes.
const MAX_MESSAGE: usize = 500;
/// Most parts of an expression.
const MAX_NODES: usize = 20_000;
/// Deepest nesting of an expression.
const MAX_DEPTH: usize = 120;
/// The parser's own bound, of which conditions in a row take no notice.
const PARSER_DEPTH: u16 = 100;
/// Stack for parsing: each condition in a row takes some of it, and as much to be dropped.
const STACK: usize = 256 << 20;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    /// What is evaluated.
    pub node: Node,
    /// What comes of it.
    pub decl: Decl,
    /// The worst that it can cost.
    pub cost: u64,
    /// It names `oldSelf`.
    pub uses_old: bool,
}

/// Runs something with as much stack as compiling needs.
///
/// # Errors
/// When the system has no thread to give.
pub(super) fn with_stack<T: Send>(run: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK).spawn_scoped(scope, run)?;
        thread.join().map_err(|_| std::io::Error::other("the compiler of CEL expressions failed"))
    })
}

/// Compiles an expression over `self` and `oldSelf`. Needs the stack of [`with_stack`].
///
/// # Errors
/// What is wrong with the expression, for its author.
pub(super) fn compile(source: &str, this: &Decl, optional_old: bool) -> Result<Program, String> {
    if source.len() > MAX_LENGTH {
        return Err(format!("expression is longer than {MAX_LENGTH} bytes"));
    }
    let parser = PrattParser::new()
        .max_recursion_depth(PARSER_DEPTH)
        .max_expression_node_count(MAX_NODES)
        .enable_optional_syntax(true)
        .enable_ident_escape_syntax(true);
    let parsed = parser.parse(source).map_err(|e| cut(e.to_string()))?;
    let old = if optional_old { Decl::new(Kind::Optional(Arc::new(this.clone()))) } else { this.clone() };
    let vars = vec![("self".to_owned(), this.clone()), ("oldSelf".to_owned(), old)];
    let mut compiler = Compiler { vars, depth: 0, uses_old: false };
    let Typed { node, decl, cost } = compiler.expr(&parsed)?;
    Ok(Program { node, decl, cost, uses_old: compiler.uses_old })
}

/// As much of a message as people read: the parser's quote the expression.
fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    message
}

/// A node with its type and the worst that it can cost.
pub(super) struct Typed {
    pub node: Node,
    pub decl: Decl,
    pub cost: u64,
}

impl Typed {
    pub fn new(node: Node, kind: Kind, cost: u64) -> Self {
        Self { node, decl: Decl::new(kind), cost }
    }
}

/// The variables in sight.
pub(super) struct Compiler {
    pub vars: Vec<(String, Decl)>,
    depth: usize,
    uses_old: bool,
}

type Answer = Result<Typed, String>;

impl Compiler {
    /// Compiles one part.
    pub fn expr(&mut self, expr: &IdedExpr) -> Answer {
        if self.depth == MAX_DEPTH {
            return Err(format!("expression is nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let typed = match &expr.expr {
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => self.list(list, false),
            Expr::Map(map) => self.map(map.entries.iter().map(|entry| &entry.expr)),
            Expr::Comprehension(comprehension) => fold::comprehension(self, comprehension),
            Expr::Struct(object) => Err(format!("undeclared reference to '{}'", object.type_name)),
            Expr::Unspecified => Err("expression is incomplete".to_owned()),
        };
        self.depth -= 1;
        typed
    }

    /// Compiles a part in which more variables are in sight.
    pub fn with(&mut self, vars: Vec<(String, Decl)>, expr: &IdedExpr) -> Answer {
        let before = self.vars.len();
        self.vars.extend(vars);
        let typed = self.expr(expr);
        self.vars.truncate(before);
        typed
    }

    fn ident(&mut self, name: &str) -> Answer {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(place) = self.vars.iter().rposition(|(known, _)| known == name) {
            self.uses_old |= place == 1;
            return Ok(Typed { node: Node::Var(place), decl: self.vars[place].1.clone(), cost: 1 });
        }
        let types = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
        match types.into_iter().find(|known| *known == name) {
            Some(name) => Ok(Typed::new(Node::Const(Val::Type(name)), Kind::Type, 1)),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, select: &SelectExpr) -> Answer {
        let full_name = match &select.operand.expr {
            Expr::Select(protobuf) => match &protobuf.operand.expr {
                Expr::Ident(google) if google == "google" && protobuf.field == "protobuf" => Some(select.field.as_str()),
                _ => None,
            },
            _ => None,
        };
        match full_name {
            Some("Timestamp") => return Ok(Typed::new(Node::Const(Val::Type("google.protobuf.Timestamp")), Kind::Type, 1)),
            Some("Duration") => return Ok(Typed::new(Node::Const(Val::Type("google.protobuf.Duration")), Kind::Type, 1)),
            _ => {}
        }
        let operand = self.expr(&select.operand)?;
        let decl = field(&operand.decl, &select.field)?;
        let name = select.field.clone().into_boxed_str();
        let (node, decl) = if select.test {
            (Node::Has(Box::new(operand.node), name), Decl::new(Kind::Bool))
        } else {
            (Node::Select(Box::new(operand.node), name), decl)
        };
        Ok(Typed { node, decl, cost: operand.cost.saturating_add(1) })
    }

    /// A list literal; `mixed` if its items may be of several types.
    fn list(&mut self, list: &ListExpr, mixed: bool) -> Answer {
        let items = &list.elements;
        let (mut decl, mut cost, mut nodes) = (None::<Decl>, 10_u64, Vec::with_capacity(items.len()));
        for (i, item) in items.iter().enumerate() {
            let typed = self.expr(item)?;
            let optional = list.optional_indices.contains(&i);
            let item = if optional { unwrapped(&typed.decl)? } else { typed.decl };
            decl = Some(match decl {
                None => item,
                Some(decl) if mixed => decl.join(&item).unwrap_or_else(Decl::any),
                Some(decl) => decl.join(&item).ok_or_else(|| format!("expected type '{decl}' but found '{item}'"))?,
            });
            cost = cost.saturating_add(typed.cost);
            nodes.push((typed.node, optional));
        }
        let decl = Decl::list(decl.unwrap_or_else(Decl::any), items.len() as u64);
        Ok(Typed { node: Node::List(nodes), decl, cost })
    }

    fn map<'e>(&mut self, entries: impl Iterator<Item = &'e EntryExpr>) -> Answer {
        let (mut decls, mut cost, mut nodes) = (None::<(Decl, Decl)>, 30_u64, Vec::new());
        for entry in entries {
            let EntryExpr::MapEntry(entry) = entry else { return Err("expression is incomplete".to_owned()) };
            let (key, value) = (self.expr(&entry.key)?, self.expr(&entry.value)?);
            let value_decl = if entry.optional { unwrapped(&value.decl)? } else { value.decl };
            decls = Some(match decls {
                None => (key.decl, value_decl),
                Some((k, v)) => (k.join(&key.decl).unwrap_or_else(Decl::any), v.join(&value_decl).unwrap_or_else(Decl::any)),
            });
            cost = cost.saturating_add(key.cost).saturating_add(value.cost);
            nodes.push((key.node, value.node, entry.optional));
        }
        let (keys, values) = decls.unwrap_or_else(|| (Decl::any(), Decl::any()));
        let decl = Decl { kind: Kind::Map(Arc::new(keys), Arc::new(values)), max: nodes.len() as u64 };
        Ok(Typed { node: Node::Map(nodes), decl, cost })
    }

    fn call(&mut self, call: &CallExpr) -> Answer {
        if let Some(target) = &call.target {
            if let Some(typed) = fold::macros(self, target, call)? {
                return Ok(typed);
            }
            if let Expr::Ident(namespace) = &target.expr
                && NAMESPACES.contains(&namespace.as_str())
                && !self.vars.iter().any(|(name, _)| name == namespace)
            {
                let args = call.args.iter().map(|arg| self.expr(arg)).collect::<Result<Vec<_>, _>>()?;
                return function(&format!("{namespace}.{}", call.func_name), false, args);
            }
        }
        let operands = call.target.as_deref().into_iter().chain(&call.args);
        let formats = call.target.is_some() && call.func_name == "format";
        let operand = |arg: &IdedExpr| match &arg.expr {
            Expr::List(list) if formats => self.list(list, true),
            _ => self.expr(arg),
        };
        let mut args = operands.map(operand).collect::<Result<Vec<_>, _>>()?;
        if call.target.is_some() {
            return match (call.func_name.as_str(), args.len()) {
                ("or" | "orValue", 2) => optional_or(call.func_name == "orValue", args),
                (name, _) => function(name, true, args),
            };
        }
        let [first, second, third] = [0, 1, 2].map(|i| (args.len() > i).then_some(i));
        match (call.func_name.as_str(), first, second, third) {
            (operators::LOGICAL_NOT, Some(_), None, _) => unary(args.remove(0), call),
            (operators::NEGATE, Some(_), None, _) => negate(args.remove(0)),
            (operators::CONDITIONAL, _, _, Some(_)) => conditional(args),
            (name, Some(_), Some(_), None) => {
                let (b, a) = (args.remove(1), args.remove(0));
                binary(name, a, b).unwrap_or_else(|pair| function(name, false, Vec::from(*pair)))
            }
            (name, ..) => function(name, false, args),
        }
    }
}

fn constant(literal: &LiteralValue) -> Typed {
    let (value, decl) = match literal {
        LiteralValue::Boolean(b) => (Val::Bool(*b.inner()), Decl::new(Kind::Bool)),
        LiteralValue::Int(int) => (Val::Int(*int.inner()), Decl::new(Kind::Int)),
        LiteralValue::UInt(int) => (Val::Uint(*int.inner()), Decl::new(Kind::Uint)),
        LiteralValue::Double(d) => (Val::Double(*d.inner()), Decl::new(Kind::Double)),
        LiteralValue::Null => (Val::Null, Decl::new(Kind::Null)),
        LiteralValue::String(text) => (Val::text(text.inner()), Decl::text(text.inner().len() as u64)),
        LiteralValue::Bytes(bytes) => {
            let bytes: Arc<[u8]> = bytes.inner().into();
            let max = bytes.len() as u64;
            (Val::Bytes(bytes), Decl { kind: Kind::Bytes, max })
        }
    };
    Typed { node: Node::Const(value), decl, cost: 0 }
}

/// The type of a field.
fn field(decl: &Decl, name: &str) -> Result<Decl, String> {
    match &decl.kind {
        Kind::Object(fields) => {
            let found = fields.0.get(name).map(|field| field.decl.clone());
            found.ok_or_else(|| format!("undefined field '{name}'"))
        }
        Kind::Map(_, values) => Ok((**values).clone()),
        Kind::Dyn => Ok(Decl::any()),
        Kind::Optional(inner) => Ok(Decl::new(Kind::Optional(Arc::new(field(inner, name)?)))),
        _ => Err(format!("type '{decl}' does not support field selection")),
    }
}

fn unwrapped(decl: &Decl) -> Result<Decl, String> {
    match &decl.kind {
        Kind::Optional(inner) => Ok((**inner).clone()),
        Kind::Dyn => Ok(Decl::any()),
        _ => Err(format!("expected type 'optional_type({decl})' but found '{decl}'")),
    }
}

fn no_overload(name: &str, member: bool, args: &[Typed]) -> String {
    let names: Vec<String> = args.iter().map(|arg| arg.decl.to_string()).collect();
    let applied = match names.split_first() {
        Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
        _ => format!("({})", names.join(", ")),
    };
    format!("found no matching overload for '{name}' applied to '{applied}'")
}

/// A call of a function of the libraries.
fn function(name: &str, member: bool, args: Vec<Typed>) -> Answer {
    let known: Vec<&'static Row> = ROWS.iter().filter(|row| row.name == name && row.member == member).collect();
    if known.is_empty() {
        return Err(format!("undeclared reference to '{name}' (in container '')"));
    }
    let fits = |row: &&'static Row| {
        row.args.len() == args.len() && row.args.chars().zip(&args).all(|(letter, arg)| functions::accepts(letter, &arg.decl))
    };
    let rows: Vec<&'static Row> = known.into_iter().filter(fits).collect();
    let Some(row) = rows.first() else { return Err(no_overload(name, member, &args)) };
    let decls: Vec<Decl> = args.iter().map(|arg| arg.decl.clone()).collect();
    let decl = if rows.len() > 1 { Decl::any() } else { functions::result(row, &decls) };
    let sizes: Vec<u64> = decls.iter().map(|decl| decl.max).collect();
    let item = if let Some(Kind::List(items, _)) = decls.first().map(|decl| &decl.kind) { items.max } else { 1 };
    let worst = rows.iter().map(|row| row.cost.steps(&sizes, item)).max().unwrap_or(1);
    let cost = args.iter().map(|arg| arg.cost).fold(worst.max(1), u64::saturating_add);
    let mut nodes: Vec<Node> = args.into_iter().map(|arg| arg.node).collect();
    if name == "matches"
        && let Some(Node::Const(Val::String(pattern))) = nodes.get(1)
    {
        let pattern = Pattern::new(pattern.as_str()).map_err(|why| format!("invalid matches argument: {why}"))?;
        return Ok(Typed { node: Node::Matches(Box::new(nodes.remove(0)), Arc::new(pattern)), decl, cost });
    }
    Ok(Typed { node: Node::Call(rows, nodes), decl, cost })
}

fn expect_bool(name: &str, args: &[&Typed]) -> Result<(), String> {
    if args.iter().all(|arg| functions::accepts('b', &arg.decl)) {
        return Ok(());
    }
    let names: Vec<String> = args.iter().map(|arg| arg.decl.to_string()).collect();
    Err(format!("found no matching overload for '{name}' applied to '({})'", names.join(", ")))
}

fn unary(operand: Typed, call: &CallExpr) -> Answer {
    expect_bool(&call.func_name, &[&operand])?;
    Ok(Typed::new(Node::Not(Box::new(operand.node)), Kind::Bool, operand.cost.saturating_add(1)))
}

fn negate(operand: Typed) -> Answer {
    if !matches!(operand.decl.kind, Kind::Int | Kind::Double | Kind::Duration | Kind::Dyn) {
        return Err(no_overload("-_", false, &[operand]));
    }
    Ok(Typed { node: Node::Negate(Box::new(operand.node)), decl: operand.decl, cost: operand.cost.saturating_add(1) })
}

fn conditional(mut args: Vec<Typed>) -> Answer {
    let (Some(no), Some(yes), Some(condition)) = (args.pop(), args.pop(), args.pop()) else {
        return Err("expression is incomplete".to_owned());
    };
    expect_bool("_?_:_", &[&condition])?;
    let decl = match yes.decl.join(&no.decl) {
        Some(decl) => decl,
        None => return Err(no_overload("_?_:_", false, &[condition, yes, no])),
    };
    let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
    Ok(Typed { node: Node::If(Box::new([condition.node, yes.node, no.node])), decl, cost })
}

fn optional_or(value: bool, mut args: Vec<Typed>) -> Answer {
    let (Some(other), Some(this)) = (args.pop(), args.pop()) else { return Err("expression is incomplete".to_owned()) };
    let inner = unwrapped(&this.decl)?;
    let theirs = if value { other.decl.clone() } else { unwrapped(&other.decl)? };
    let Some(joined) = inner.join(&theirs) else {
        return Err(no_overload(if value { "orValue" } else { "or" }, true, &[this, other]));
    };
    let decl = if value { joined } else { Decl::new(Kind::Optional(Arc::new(joined))) };
    let cost = this.cost.saturating_add(other.cost).saturating_add(1);
    Ok(Typed { node: Node::OptionalOr(Box::new([this.node, other.node]), value), decl, cost })
}

/// An operator with two operands; gives them back if it is none.
fn binary(name: &str, a: Typed, b: Typed) -> Result<Answer, Box<[Typed; 2]>> {
    use Operator::{Add, Divide, Greater, GreaterEqual, Less, LessEqual, Modulo, Multiply, Subtract};
    Ok(match name {
        operators::LOGICAL_AND | operators::LOGICAL_OR => logical(name == operators::LOGICAL_AND, a, b),
        operators::EQUALS => equality(a, b, true),
        operators::NOT_EQUALS => equality(a, b, false),
        operators::IN => membership(a, b),
        operators::INDEX => index(a, b, false),
        operators::OPT_INDEX => index(a, b, true),
        operators::OPT_SELECT => optional_select(a, b),
        operators::ADD => arithmetic(Add, name, a, b),
        operators::SUBSTRACT => arithmetic(Subtract, name, a, b),
        operators::MULTIPLY => arithmetic(Multiply, name, a, b),
        operators::DIVIDE => arithmetic(Divide, name, a, b),
        operators::MODULO => arithmetic(Modulo, name, a, b),
        operators::LESS => ordering(Less, name, a, b),
        operators::LESS_EQUALS => ordering(LessEqual, name, a, b),
        operators::GREATER => ordering(Greater, name, a, b),
        operators::GREATER_EQUALS => ordering(GreaterEqual, name, a, b),
        _ => return Err(Box::new([a, b])),
    })
}

fn logical(and: bool, a: Typed, b: Typed) -> Answer {
    expect_bool(if and { operators::LOGICAL_AND } else { operators::LOGICAL_OR }, &[&a, &b])?;
    let cost = a.cost.saturating_add(b.cost);
    let operands = Box::new([a.node, b.node]);
    Ok(Typed::new(if and { Node::And(operands) } else { Node::Or(operands) }, Kind::Bool, cost))
}

fn is_number(decl: &Decl) -> bool {
    matches!(decl.kind, Kind::Int | Kind::Uint | Kind::Double)
}

fn equality(a: Typed, b: Typed, wanted: bool) -> Answer {
    let numbers = is_number(&a.decl) && is_number(&b.decl);
    if !numbers && a.decl.join(&b.decl).is_none() {
        return Err(no_overload(if wanted { operators::EQUALS } else { operators::NOT_EQUALS }, false, &[a, b]));
    }
    let compared = a.decl.max.min(b.decl.max).div_ceil(10);
    let cost = a.cost.saturating_add(b.cost).saturating_add(compared);
    Ok(Typed::new(Node::Equal(Box::new([a.node, b.node]), wanted), Kind::Bool, cost))
}

fn membership(a: Typed, b: Typed) -> Answer {
    let cost = match &b.decl.kind {
        Kind::List(items, _) if is_number(items) && is_number(&a.decl) || items.join(&a.decl).is_some() => b.decl.max,
        Kind::Map(keys, _) if keys.join(&a.decl).is_some() => 1,
        Kind::Dyn => b.decl.max,
        _ => return Err(no_overload(operators::IN, false, &[a, b])),
    };
    let cost = a.cost.saturating_add(b.cost).saturating_add(cost);
    Ok(Typed::new(Node::In(Box::new([a.node, b.node])), Kind::Bool, cost))
}

fn index(a: Typed, b: Typed, optional: bool) -> Answer {
    let name = if optional { operators::OPT_INDEX } else { operators::INDEX };
    let inner = if let Kind::Optional(inner) = &a.decl.kind { (**inner).clone() } else { a.decl.clone() };
    let found = match &inner.kind {
        Kind::List(items, _) if is_number(&b.decl) || matches!(b.decl.kind, Kind::Dyn) => (**items).clone(),
        Kind::Map(keys, values) if keys.join(&b.decl).is_some() => (**values).clone(),
        Kind::Dyn => Decl::any(),
        _ => return Err(no_overload(name, false, &[a, b])),
    };
    let optional_result = optional || matches!(a.decl.kind, Kind::Optional(_));
    let decl = if optional_result { Decl::new(Kind::Optional(Arc::new(found))) } else { found };
    let cost = a.cost.saturating_add(b.cost).saturating_add(1);
    let operands = Box::new([a.node, b.node]);
    Ok(Typed { node: if optional { Node::OptionalIndex(operands) } else { Node::Index(operands) }, decl, cost })
}

fn optional_select(a: Typed, b: Typed) -> Answer {
    let Node::Const(Val::String(name)) = &b.node else { return Err("expression is incomplete".to_owned()) };
    let inner = if let Kind::Optional(inner) = &a.decl.kind { (**inner).clone() } else { a.decl.clone() };
    let decl = Decl::new(Kind::Optional(Arc::new(field(&inner, name.as_str())?)));
    let name = name.as_str().into();
    Ok(Typed { node: Node::OptionalSelect(Box::new(a.node), name), decl, cost: a.cost.saturating_add(1) })
}

fn arithmetic(operator: Operator, name: &str, a: Typed, b: Typed) -> Answer {
    use Kind::{Bytes, Double, Duration, Dyn, Int, List, String, Timestamp, Uint};
    use Operator::{Add, Modulo, Subtract};
    let max = a.decl.max.saturating_add(b.decl.max);
    let decl = match (operator, &a.decl.kind, &b.decl.kind) {
        (_, Dyn, _) | (_, _, Dyn) => Some(Decl::any()),
        (_, Int, Int) | (_, Uint, Uint) => Some(a.decl.clone()),
        (operator, Double, Double) if operator != Modulo => Some(a.decl.clone()),
        (Add, String, String) | (Add, Bytes, Bytes) => Some(Decl { kind: a.decl.kind.clone(), max }),
        (Add, List(..), List(..)) => a.decl.join(&b.decl).map(|decl| Decl { max, ..decl }),
        (Add, Timestamp, Duration) | (Add, Duration, Timestamp) | (Subtract, Timestamp, Duration) => Some(Decl::new(Timestamp)),
        (Add | Subtract, Duration, Duration) | (Subtract, Timestamp, Timestamp) => Some(Decl::new(Duration)),
        _ => None,
    };
    let Some(decl) = decl else { return Err(no_overload(name, false, &[a, b])) };
    let joins = matches!(decl.kind, String | Bytes | List(..) | Dyn);
    let own = if joins { max.div_ceil(10) } else { 1 };
    let cost = a.cost.saturating_add(b.cost).saturating_add(own);
    Ok(Typed { node: Node::Operator(operator, Box::new([a.node, b.node])), decl, cost })
}

fn ordering(operator: Operator, name: &str, a: Typed, b: Typed) -> Answer {
    use Kind::{Bool, Bytes, Double, Duration, Dyn, Int, String, Timestamp, Uint};
    let ordered = |decl: &Decl| matches!(decl.kind, Bool | Int | Uint | Double | String | Bytes | Timestamp | Duration | Dyn);
    let numbers = is_number(&a.decl) && is_number(&b.decl);
    if !(numbers || ordered(&a.decl) && ordered(&b.decl) && a.decl.join(&b.decl).is_some()) {
        return Err(no_overload(name, false, &[a, b]));
    }
    let cost = a.cost.saturating_add(b.cost).saturating_add(a.decl.max.min(b.decl.max).div_ceil(10));
    Ok(Typed::new(Node::Operator(operator, Box::new([a.node, b.node])), Kind::Bool, cost))
}
