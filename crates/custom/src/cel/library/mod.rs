//! What the functions do. Each takes its arguments with the types that its row in [`super::functions::ROWS`] names.

pub(super) mod amounts;
pub(super) mod convert;
mod layout;
pub(super) mod lists;
pub(super) mod net;
pub(super) mod optional;
pub(super) mod strings;
pub(super) mod time;

use super::{Fault, MAX_LIST, MAX_TEXT, value::Val};

/// The text that an argument is.
fn text<'v>(args: &'v [Val<'_>], i: usize) -> Result<&'v str, Fault> {
    args.get(i).and_then(Val::as_str).ok_or(Fault::Overload)
}

/// The whole number that an argument is.
fn int(args: &[Val<'_>], i: usize) -> Result<i64, Fault> {
    if let Some(Val::Int(int)) = args.get(i) { Ok(*int) } else { Err(Fault::Overload) }
}

/// A text that was made, if it is not too long.
fn made<'a>(text: String) -> Result<Val<'a>, Fault> {
    if text.len() > MAX_TEXT { Err(too_large()) } else { Ok(Val::text(text)) }
}

/// A list of texts, if there are not too many.
fn made_list<'a, 't>(texts: impl Iterator<Item = &'t str>) -> Result<Val<'a>, Fault> {
    let list: Vec<Val<'a>> = texts.take(MAX_LIST + 1).map(Val::text).collect();
    if list.len() > MAX_LIST { Err(too_large()) } else { Ok(Val::list(list)) }
}

/// The result would be larger than an object can be.
fn too_large() -> Fault {
    Fault::other("the result is too large")
}
