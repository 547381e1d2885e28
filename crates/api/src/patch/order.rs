//! The order of merged lists: the patch's items in the patch's order, the others where they stood, as nearly as both can be had.

use std::cmp::Ordering;

use serde_json::Value;

/// What identifies an item: the value of its merge key, or the item itself in a set.
pub(super) fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> &'a Value {
    merge_key.and_then(|key| item.get(key)).unwrap_or(item)
}

fn position(list: &[Value], item: &Value, merge_key: Option<&str>) -> Option<usize> {
    let wanted = identity(item, merge_key);
    list.iter().position(|candidate| identity(candidate, merge_key) == wanted)
}

/// Puts `merged` in order: items that `wanted` lists as `wanted` has them, the rest relative to them as in `server`.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let (mut listed, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(wanted, item, merge_key).is_some());
    listed.sort_by_key(|item| position(wanted, item, merge_key));
    others.sort_by_key(|item| position(server, item, merge_key).unwrap_or(usize::MAX));
    interleave(others, listed, server, merge_key)
}

/// Inserts each of `others` before the first of `listed` that comes after it in `server`; both keep their own order.
fn interleave(others: Vec<Value>, listed: Vec<Value>, server: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let mut out = Vec::with_capacity(others.len() + listed.len());
    let (mut others, mut listed) = (others.into_iter().peekable(), listed.into_iter().peekable());
    loop {
        let first = match (others.peek(), listed.peek()) {
            (Some(other), Some(item)) => {
                let places = position(server, other, merge_key).zip(position(server, item, merge_key));
                places.is_some_and(|(other, item)| other.cmp(&item) == Ordering::Less)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return out,
        };
        out.extend(if first { others.next() } else { listed.next() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(text: &str) -> Vec<Value> {
        text.chars().map(|c| json!(c.to_string())).collect()
    }

    #[test]
    fn listed_items_keep_the_wanted_order_and_the_rest_their_places() {
        for (merged, wanted, server, expected) in [
            ("abc", "", "abc", "abc"),
            ("abc", "cba", "abc", "cba"),
            ("abc", "ca", "abc", "bca"),
            ("abcx", "xa", "abc", "xabc"),
            ("dab", "b", "ab", "abd"),
        ] {
            assert_eq!(arrange(list(merged), &list(wanted), &list(server), None), list(expected), "{merged} {wanted} {server}");
        }
    }
}
