//! How the store lays out each kind: derived from the table of kinds.

use std::borrow::Cow;

use api::{KINDS, Kind};
use store::{FieldKind, FieldLayout, KindLayout};

/// Fields that many clients each select one value of: each kubelet its own pods.
const INDEXED: &[(&str, &str)] = &[("pods", "spec.nodeName")];

/// The layouts of all stored kinds.
pub fn layouts() -> Vec<KindLayout> {
    KINDS.iter().filter_map(|kind| layout(kind)).collect()
}

fn layout(kind: &'static Kind) -> Option<KindLayout> {
    let storage = kind.storage?;
    let fields = kind.selectable.iter().map(|s| FieldLayout {
        json_path: Cow::Borrowed(s.label),
        path: Cow::Borrowed(s.numbers),
        kind: if s.boolean { FieldKind::Bool } else { FieldKind::Text },
        indexed: INDEXED.contains(&(kind.plural, s.label)),
    });
    Some(KindLayout {
        name: Cow::Owned(kind.qualified_plural()),
        api_version: Cow::Borrowed(kind.api_version),
        kind: Cow::Borrowed(kind.kind),
        prefix: Cow::Owned(format!("/registry/{storage}/")),
        namespaced: kind.namespaced,
        fields: fields.collect(),
    })
}
