//! Lists and sets.

use std::cmp::Ordering;

use super::super::{
    Budget, Fault,
    value::{Val, compare, contains, contains_all, equal},
};

type Answer<'a> = Result<Val<'a>, Fault>;

fn list<'v, 'a>(args: &'v [Val<'a>], i: usize) -> Result<&'v Val<'a>, Fault> {
    args.get(i).ok_or(Fault::Overload)
}

fn items<'v, 'a>(value: &'v Val<'a>) -> impl Iterator<Item = Val<'a>> + 'v {
    (0..).map_while(|i| value.item(i))
}

/// How many.
pub fn size<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Int(i64::try_from(list(args, 0)?.size()).unwrap_or(i64::MAX)))
}

/// None is less than the one before it.
pub fn is_sorted<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let mut before: Option<Val<'a>> = None;
    for item in items(list(args, 0)?) {
        if let Some(before) = &before
            && compare(before, &item).ok_or(Fault::Overload)? == Ordering::Greater
        {
            return Ok(Val::Bool(false));
        }
        before = Some(item);
    }
    Ok(Val::Bool(true))
}

/// All together; 0 for none.
pub fn sum<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let mut all = items(list(args, 0)?);
    let first = all.next().unwrap_or(Val::Int(0));
    all.try_fold(first, |sum, item| super::super::eval::add(&sum, &item, budget))
}

fn extreme<'a>(args: &[Val<'a>], name: &str, wanted: Ordering) -> Answer<'a> {
    let mut all = items(list(args, 0)?);
    let first = all.next().ok_or_else(|| Fault::other(format!("{name} called on empty list")))?;
    all.try_fold(first, |best, item| Ok(if compare(&item, &best).ok_or(Fault::Overload)? == wanted { item } else { best }))
}

/// The least.
pub fn min<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    extreme(args, "min", Ordering::Less)
}

/// The greatest.
pub fn max<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    extreme(args, "max", Ordering::Greater)
}

/// Where the value stands first; -1 for nowhere.
pub fn index_of<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    for (at, item) in items(list(args, 0)?).enumerate() {
        if equal(&item, list(args, 1)?, budget)? {
            return Ok(Val::Int(i64::try_from(at).unwrap_or(i64::MAX)));
        }
    }
    Ok(Val::Int(-1))
}

/// Where the value stands last; -1 for nowhere.
pub fn last_index_of<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let mut found = -1;
    for (at, item) in items(list(args, 0)?).enumerate() {
        if equal(&item, list(args, 1)?, budget)? {
            found = i64::try_from(at).unwrap_or(i64::MAX);
        }
    }
    Ok(Val::Int(found))
}

/// Every item of the second stands in the first.
pub fn sets_contains<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    contains_all(list(args, 1)?, list(args, 0)?, budget).map(Val::Bool)
}

/// Each holds all of the other.
pub fn sets_equivalent<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let (a, b) = (list(args, 0)?, list(args, 1)?);
    Ok(Val::Bool(contains_all(a, b, budget)? && contains_all(b, a, budget)?))
}

/// An item stands in both.
pub fn sets_intersects<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    for item in items(list(args, 0)?) {
        if contains(list(args, 1)?, &item, budget)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}
