//! The order of merged lists: the patch's items in the patch's order, the others where they stood, as nearly as both can be had.

use std::collections::HashMap;

use serde_json::Value;

/// What identifies an item: the value of its merge key, or the item itself in a set.
pub(super) fn identity<'a>(item: &'a Value, merge_key: Option<&str>) -> &'a Value {
    merge_key.and_then(|key| item.get(key)).unwrap_or(item)
}

/// Where the items of a list are, found by what identifies them, so that merging long lists stays linear.
pub(super) struct Places(HashMap<String, usize>);

impl Places {
    /// The places of a list's items; the first counts where several are the same.
    pub fn new(list: &[Value], merge_key: Option<&str>) -> Self {
        let mut places = HashMap::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            places.entry(identity(item, merge_key).to_string()).or_insert(i);
        }
        Self(places)
    }

    /// The place of what this identifies.
    pub fn get(&self, identity: &Value) -> Option<usize> {
        self.0.get(&identity.to_string()).copied()
    }

    /// Notes a place unless the item has one.
    pub fn add(&mut self, identity: &Value, place: usize) {
        self.0.entry(identity.to_string()).or_insert(place);
    }
}

/// Puts `merged` in order: items that `wanted` lists as `wanted` has them, the rest relative to them as in `server`.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], server: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let (wanted, server) = (Places::new(wanted, merge_key), Places::new(server, merge_key));
    let (mut listed, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, merge_key);
        let on_server = server.get(id);
        match wanted.get(id) {
            Some(place) => listed.push((place, on_server, item)),
            None => others.push((on_server.unwrap_or(usize::MAX), on_server, item)),
        }
    }
    listed.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, ..)| *place);
    interleave(others, listed)
}

/// An item with the place it is sorted by and its place on the server.
type Placed = (usize, Option<usize>, Value);

/// Inserts each of `others` before the first of `listed` that comes after it on the server; both keep their own order.
fn interleave(others: Vec<Placed>, listed: Vec<Placed>) -> Vec<Value> {
    let mut out = Vec::with_capacity(others.len() + listed.len());
    let (mut others, mut listed) = (others.into_iter().peekable(), listed.into_iter().peekable());
    loop {
        let first = match (others.peek(), listed.peek()) {
            (Some((_, other, _)), Some((_, item, _))) => other.zip(*item).is_some_and(|(other, item)| other < item),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return out,
        };
        let next = if first { others.next() } else { listed.next() };
        out.extend(next.map(|(.., item)| item));
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
