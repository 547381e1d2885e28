//! Texts. Places are counted in characters.

use super::{
    super::{Budget, Fault, MAX_LIST, MAX_TEXT, value::Val},
    int, layout, made, made_list, text, too_large,
};
use crate::schema::Pattern;

type Answer<'a> = Result<Val<'a>, Fault>;

fn number<'a>(n: usize) -> Val<'a> {
    Val::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn out_of_range(index: i64) -> Fault {
    Fault::other(format!("index out of range: {index}"))
}

/// Characters.
pub fn size<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(number(text(args, 0)?.chars().count()))
}

/// Part of the text.
pub fn contains<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(text(args, 0)?.contains(text(args, 1)?)))
}

/// Begins with the text.
pub fn starts_with<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
}

/// Ends with the text.
pub fn ends_with<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
}

/// A pattern known at run time only: compiling it takes time in proportion to its length.
fn pattern(args: &[Val<'_>], budget: &mut Budget) -> Result<Pattern, Fault> {
    let pattern = text(args, 1)?;
    budget.spend(100 + 20 * pattern.len() as u64)?;
    Pattern::new(pattern).map_err(|why| Fault::other(format!("error parsing regexp: {why}")))
}

/// Matches somewhere.
pub fn matches<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    Ok(Val::Bool(pattern(args, budget)?.matches(text(args, 0)?)))
}

/// The first match, or nothing.
pub fn find<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    made(pattern(args, budget)?.find(text(args, 0)?).unwrap_or_default().to_owned())
}

/// All matches, or as many.
pub fn find_all<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let limit = if args.len() > 2 { usize::try_from(int(args, 2)?).unwrap_or(usize::MAX) } else { usize::MAX };
    made_list(pattern(args, budget)?.find_all(text(args, 0)?).take(limit))
}

/// The character at a place; nothing at the end.
pub fn char_at<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (text, index) = (text(args, 0)?, int(args, 1)?);
    match usize::try_from(index).ok().map(|i| (text.chars().nth(i), i)) {
        Some((Some(c), _)) => made(c.to_string()),
        Some((None, i)) if i == text.chars().count() => made(String::new()),
        _ => Err(out_of_range(index)),
    }
}

/// Byte at which a character begins; the end for as many as there are.
fn byte(text: &str, index: i64) -> Result<usize, Fault> {
    let at = usize::try_from(index).map_err(|_| out_of_range(index))?;
    text.char_indices().map(|(i, _)| i).chain([text.len()]).nth(at).ok_or_else(|| out_of_range(index))
}

/// Where the text stands first, from a place on; -1 for nowhere.
pub fn index_of<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (whole, part) = (text(args, 0)?, text(args, 1)?);
    let from = if args.len() > 2 { byte(whole, int(args, 2)?)? } else { 0 };
    Ok(whole[from..].find(part).map_or(Val::Int(-1), |at| number(whole[..from + at].chars().count())))
}

/// Where the text stands last, up to a place; -1 for nowhere.
pub fn last_index_of<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (whole, part) = (text(args, 0)?, text(args, 1)?);
    let end = if args.len() > 2 { byte(whole, int(args, 2)?)?.saturating_add(part.len()) } else { whole.len() };
    let searched = whole.get(..end.min(whole.len())).unwrap_or(whole);
    Ok(searched.rfind(part).map_or(Val::Int(-1), |at| number(whole[..at].chars().count())))
}

/// ASCII letters made small.
pub fn lower_ascii<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    made(text(args, 0)?.to_ascii_lowercase())
}

/// ASCII letters made large.
pub fn upper_ascii<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    made(text(args, 0)?.to_ascii_uppercase())
}

/// Without white space around.
pub fn trim<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    made(text(args, 0)?.trim().to_owned())
}

/// Back to front.
pub fn reverse<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    made(text(args, 0)?.chars().rev().collect())
}

/// With one text in place of another, everywhere or so many times.
pub fn replace<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let (whole, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let limit = if args.len() > 3 { usize::try_from(int(args, 3)?).unwrap_or(usize::MAX) } else { usize::MAX };
    let count = whole.matches(old).take(limit).count();
    if count.saturating_mul(new.len()).saturating_add(whole.len()) > MAX_TEXT {
        return Err(too_large());
    }
    budget.spend((count * new.len()) as u64 / 10)?;
    made(whole.replacen(old, new, limit))
}

/// The parts between the separators, or as many parts.
pub fn split<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (whole, separator) = (text(args, 0)?, text(args, 1)?);
    let limit = if args.len() > 2 { int(args, 2)? } else { -1 };
    match usize::try_from(limit) {
        Ok(0) => Ok(Val::list(Vec::new())),
        // Between characters, but not before the first and after the last, as Go has it.
        Ok(limit) if separator.is_empty() => {
            let end = whole.char_indices().nth(limit - 1).map_or(whole.len(), |(i, _)| i);
            let tail = Some(&whole[end..]).filter(|tail| !tail.is_empty());
            made_list(characters(&whole[..end]).chain(tail))
        }
        Err(_) if separator.is_empty() => made_list(characters(whole)),
        Ok(limit) => made_list(whole.splitn(limit, separator)),
        Err(_) => made_list(whole.split(separator)),
    }
}

fn characters(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices().map(|(i, c)| &text[i..i + c.len_utf8()])
}

/// From a place, to another or the end.
pub fn substring<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let (whole, start) = (text(args, 0)?, int(args, 1)?);
    let from = byte(whole, start)?;
    let to = if args.len() > 2 { byte(whole, int(args, 2)?)? } else { whole.len() };
    if from > to {
        return Err(Fault::other(format!("invalid substring range. start: {start}, end: {}", int(args, 2)?)));
    }
    made(whole[from..to].to_owned())
}

/// The texts of a list with a separator between them.
pub fn join<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let list = args.first().ok_or(Fault::Overload)?;
    let mut out = String::new();
    for i in 0..usize::try_from(list.size()).unwrap_or(MAX_LIST) {
        let item = list.item(i).ok_or(Fault::Overload)?;
        let part = item.as_str().ok_or(Fault::Overload)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(part);
        budget.spend(1 + (part.len() + separator.len()) as u64 / 10)?;
        if out.len() > MAX_TEXT {
            return Err(too_large());
        }
    }
    made(out)
}

/// The text with `%s` and the like replaced by the values of the list.
pub fn format<'a>(args: &[Val<'a>], budget: &mut Budget) -> Answer<'a> {
    made(layout::format(text(args, 0)?, args.get(1).ok_or(Fault::Overload)?, budget)?)
}

/// The text in double quotes.
pub fn quote<'a>(args: &[Val<'a>], _: &mut Budget) -> Answer<'a> {
    let mut out = String::from("\"");
    for c in text(args, 0)?.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    made(out)
}
