//! Kinds made at run time, for tests.

use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::{
    kind::{Kind, KindRef},
    names::Format,
    rules::FieldErrors,
    schema::{DynamicSchema, Schema},
    strict::Problem,
    unstructured::{CODEC, TYPE_URL},
};

#[derive(Debug)]
struct Anything;

impl DynamicSchema for Anything {
    fn prune(&self, _: &mut Map<String, Value>) -> Vec<Problem> {
        Vec::new()
    }

    fn set_defaults(&self, _: &mut Map<String, Value>) {}

    fn validate(&self, _: &Value, _: Option<&Value>, _: &mut FieldErrors) {}

    fn open_api(&self) -> Value {
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// A namespaced kind that takes any object.
pub fn custom_kind(group: &str, version: &str, kind: &str) -> KindRef {
    let plural = format!("{}s", kind.to_lowercase());
    KindRef::from(Kind {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        api_version: format!("{group}/{version}").into(),
        kind: kind.to_owned().into(),
        singular: kind.to_lowercase().into(),
        storage: Some(format!("{group}/{plural}").into()),
        plural: plural.into(),
        short_names: Vec::new().into(),
        namespaced: true,
        subresources: Vec::new().into(),
        categories: Vec::new().into(),
        columns: Vec::new().into(),
        selectable: Vec::new().into(),
        verbs: Vec::new().into(),
        name_format: Format::DnsSubdomain,
        schema: Schema::Dynamic(Arc::new(Anything)),
        type_url: TYPE_URL.into(),
        codec: CODEC,
    })
}
