//! Macros: over lists and maps, with a name for a value, with the value of an optional.

use std::sync::Arc;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators},
};

use super::{
    compile::{Compiler, Typed},
    functions,
    node::{Fold, FoldKind, Node},
    types::{Decl, Kind},
};

type Answer = Result<Typed, String>;

/// What the parser made of `all`, `exists`, `exists_one`, `map` and `filter` with one variable.
pub(super) fn comprehension(compiler: &mut Compiler, c: &ComprehensionExpr) -> Answer {
    let strange = || "comprehension is of no known macro".to_owned();
    let Expr::Call(step) = &c.loop_step.expr else { return Err(strange()) };
    let last = |call: &CallExpr| call.args.last().cloned().ok_or_else(strange);
    let (kind, filter, body) = match (&c.accu_init.expr, step.func_name.as_str()) {
        (Expr::Literal(LiteralValue::Boolean(b)), operators::LOGICAL_AND) if *b.inner() => (FoldKind::All, None, last(step)?),
        (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_OR) => (FoldKind::Exists, None, last(step)?),
        (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL) => {
            (FoldKind::ExistsOne, None, step.args.first().cloned().ok_or_else(strange)?)
        }
        (Expr::List(_), operators::ADD) => (FoldKind::Map, None, appended(step).ok_or_else(strange)?),
        (Expr::List(_), operators::CONDITIONAL) => {
            let condition = step.args.first().cloned().ok_or_else(strange)?;
            let item = step.args.get(1).and_then(|then| if let Expr::Call(add) = &then.expr { appended(add) } else { None });
            let item = item.ok_or_else(strange)?;
            match &item.expr {
                // `filter` and `map(x, p, x)` are the same.
                Expr::Ident(name) if *name == c.iter_var => (FoldKind::Filter, None, condition),
                _ => (FoldKind::Map, Some(condition), item),
            }
        }
        _ => return Err(strange()),
    };
    let range = compiler.expr(&c.iter_range)?;
    fold(compiler, range, kind, &[&c.iter_var], filter.as_ref(), &body)
}

/// `x` of `@result + [x]`.
fn appended(add: &CallExpr) -> Option<IdedExpr> {
    match add.args.last().map(|arg| &arg.expr) {
        Some(Expr::List(list)) => list.elements.first().cloned(),
        _ => None,
    }
}

/// The macros that the parser leaves alone; none if the call is of none of them.
///
/// # Errors
/// When it is, and wrong.
pub(super) fn macros(compiler: &mut Compiler, target: &IdedExpr, call: &CallExpr) -> Result<Option<Typed>, String> {
    let idents: Vec<&str> =
        call.args.iter().map_while(|arg| if let Expr::Ident(name) = &arg.expr { Some(name.as_str()) } else { None }).collect();
    let is_cel = matches!(&target.expr, Expr::Ident(name) if name == "cel");
    Ok(Some(match (call.func_name.as_str(), call.args.as_slice(), idents.as_slice()) {
        ("bind", [_, value, body], [name, ..]) if is_cel => bind(compiler, name, value, body)?,
        ("optMap" | "optFlatMap", [_, body], [name, ..]) => {
            optional_map(compiler, target, call.func_name == "optFlatMap", name, body)?
        }
        ("all", [_, _, body], [i, v, ..]) => two(compiler, target, FoldKind::All, [i, v], None, body)?,
        ("exists", [_, _, body], [i, v, ..]) => two(compiler, target, FoldKind::Exists, [i, v], None, body)?,
        ("existsOne" | "exists_one", [_, _, body], [i, v, ..]) => two(compiler, target, FoldKind::ExistsOne, [i, v], None, body)?,
        ("transformList", [_, _, body], [i, v, ..]) => two(compiler, target, FoldKind::Map, [i, v], None, body)?,
        ("transformList", [_, _, filter, body], [i, v, ..]) => two(compiler, target, FoldKind::Map, [i, v], Some(filter), body)?,
        ("transformMap", [_, _, body], [i, v, ..]) => two(compiler, target, FoldKind::TransformMap, [i, v], None, body)?,
        ("transformMap", [_, _, filter, body], [i, v, ..]) => {
            two(compiler, target, FoldKind::TransformMap, [i, v], Some(filter), body)?
        }
        _ => return Ok(None),
    }))
}

fn two(
    compiler: &mut Compiler,
    target: &IdedExpr,
    kind: FoldKind,
    names: [&str; 2],
    filter: Option<&IdedExpr>,
    body: &IdedExpr,
) -> Answer {
    let range = compiler.expr(target)?;
    fold(compiler, range, kind, &names, filter, body)
}

fn bind(compiler: &mut Compiler, name: &str, value: &IdedExpr, body: &IdedExpr) -> Answer {
    let value = compiler.expr(value)?;
    let body = compiler.with(vec![(name.to_owned(), value.decl)], body)?;
    let cost = value.cost.saturating_add(body.cost).saturating_add(1);
    Ok(Typed { node: Node::Bind(Box::new([value.node, body.node])), decl: body.decl, cost })
}

fn optional_map(compiler: &mut Compiler, target: &IdedExpr, flat: bool, name: &str, body: &IdedExpr) -> Answer {
    let target = compiler.expr(target)?;
    let inner = match &target.decl.kind {
        Kind::Optional(inner) => (**inner).clone(),
        Kind::Dyn => Decl::any(),
        _ => return Err(format!("found no matching overload for 'optMap' applied to '{}'", target.decl)),
    };
    let body = compiler.with(vec![(name.to_owned(), inner)], body)?;
    let decl = match (&body.decl.kind, flat) {
        (Kind::Optional(_) | Kind::Dyn, true) => body.decl,
        (_, true) => return Err(format!("optFlatMap needs an optional, found '{}'", body.decl)),
        (_, false) => Decl::new(Kind::Optional(Arc::new(body.decl))),
    };
    let cost = target.cost.saturating_add(body.cost).saturating_add(2);
    Ok(Typed { node: Node::OptionalMap(Box::new([target.node, body.node]), flat), decl, cost })
}

fn fold(
    compiler: &mut Compiler,
    range: Typed,
    kind: FoldKind,
    names: &[&str],
    filter: Option<&IdedExpr>,
    body: &IdedExpr,
) -> Answer {
    let (key, item) = match &range.decl.kind {
        Kind::List(items, _) => (Decl::new(Kind::Int), (**items).clone()),
        Kind::Map(keys, values) => ((**keys).clone(), (**values).clone()),
        Kind::Dyn => (Decl::any(), Decl::any()),
        _ => {
            let decl = &range.decl;
            return Err(format!(
                "expression of type '{decl}' cannot be range of a comprehension (must be list, map, or dynamic)"
            ));
        }
    };
    let single = if matches!(range.decl.kind, Kind::Map(..)) { key.clone() } else { item.clone() };
    let vars = match names {
        [key_name, item_name] => vec![((*key_name).to_owned(), key.clone()), ((*item_name).to_owned(), item)],
        [name] => vec![((*name).to_owned(), single.clone())],
        _ => return Err("a macro has one or two variables".to_owned()),
    };
    let filter = filter.map(|filter| compiler.with(vars.clone(), filter)).transpose()?;
    let body = compiler.with(vars, body)?;
    let condition = if kind == FoldKind::Map || kind == FoldKind::TransformMap { filter.as_ref() } else { Some(&body) };
    if let Some(wrong) = condition.filter(|condition| !functions::accepts('b', &condition.decl)) {
        return Err(format!("expected type 'bool' but found '{}'", wrong.decl));
    }
    let count = range.decl.max;
    // What the comprehension that the macro stands for costs besides the body: for each item, and once.
    let (each, once) = match kind {
        FoldKind::All => (3, 1),
        FoldKind::Exists => (4, 1),
        FoldKind::ExistsOne => (2, 2),
        FoldKind::Map | FoldKind::Filter => (12, 11),
        FoldKind::TransformMap => (12, 31),
    };
    let each = body.cost.saturating_add(filter.as_ref().map_or(0, |filter| filter.cost)).saturating_add(each);
    let cost = range.cost.saturating_add(count.saturating_mul(each)).saturating_add(once);
    let decl = match kind {
        FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Decl::new(Kind::Bool),
        FoldKind::Map => Decl::list(body.decl, count),
        FoldKind::Filter => match &range.decl.kind {
            Kind::List(..) => range.decl.clone(),
            _ => Decl::list(single, count),
        },
        FoldKind::TransformMap => Decl { kind: Kind::Map(Arc::new(key), Arc::new(body.decl)), max: count },
    };
    let fold = Fold { range: range.node, kind, two: names.len() == 2, filter: filter.map(|filter| filter.node), body: body.node };
    Ok(Typed { node: Node::Fold(Box::new(fold)), decl, cost })
}
