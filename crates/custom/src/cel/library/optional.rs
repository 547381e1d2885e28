//! Values that may not be there.

use super::super::{Budget, Fault, value::Val};

type Answer<'a> = Result<Val<'a>, Fault>;

/// Nothing.
pub fn none<'a>(_: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Optional(None))
}

/// The value.
pub fn of<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::optional(args.first().cloned()))
}

/// The value, or nothing if it is empty, zero or false.
pub fn of_non_zero<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let zero = match args.first() {
        None | Some(Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) | Val::Optional(None)) => true,
        Some(Val::Double(d)) => *d == 0.0,
        Some(
            Val::String(_)
            | Val::Bytes(_)
            | Val::List(_)
            | Val::JsonList(..)
            | Val::Map(_)
            | Val::JsonMap(..)
            | Val::JsonObject(..),
        ) => args.first().is_some_and(|value| value.size() == 0),
        Some(_) => false,
    };
    Ok(Val::optional(args.first().filter(|_| !zero).cloned()))
}

/// True if it is there.
pub fn has_value<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(matches!(args.first(), Some(Val::Optional(Some(_))))))
}

/// What is there.
pub fn value<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    match args.first() {
        Some(Val::Optional(Some(value))) => Ok((**value).clone()),
        _ => Err(Fault::other("optional.none() dereference")),
    }
}
