//! How the store lays out each kind: derived from the table of kinds.

use std::{borrow::Cow, time::Duration};

use api::{KINDS, Kind, Resource, core::v1::Event};
use store::{Encoding, FieldKind, FieldLayout, KindLayout};

/// Fields that many clients each select one value of: each kubelet its own pods.
const INDEXED: &[(&str, &str)] = &[("pods", "spec.nodeName")];

/// The layouts of all stored kinds. Events are kept for `event_ttl`.
pub fn layouts(event_ttl: Duration) -> Vec<KindLayout> {
    KINDS.iter().filter_map(|kind| layout(kind, event_ttl)).collect()
}

/// The layout of a kind; none if it is not stored.
pub fn layout(kind: &Kind, event_ttl: Duration) -> Option<KindLayout> {
    let storage = kind.storage.as_ref()?;
    let fields = kind.selectable.iter().map(|s| FieldLayout {
        json_path: s.label.clone(),
        path: s.numbers.clone(),
        kind: match (s.boolean, s.numbers.is_empty()) {
            (_, true) => FieldKind::Json,
            (true, false) => FieldKind::Bool,
            (false, false) => FieldKind::Text,
        },
        indexed: INDEXED.contains(&(&*kind.plural, &*s.label)),
    });
    Some(KindLayout {
        name: Cow::Owned(kind.qualified_plural()),
        api_version: kind.api_version.clone(),
        kind: kind.kind.clone(),
        prefix: Cow::Owned(format!("/registry/{storage}/")),
        namespaced: kind.namespaced,
        encoding: if kind.message().is_some() { Encoding::Protobuf } else { Encoding::Json },
        fields: fields.collect(),
        ttl: (kind == Event::KIND).then_some(event_ttl),
    })
}
