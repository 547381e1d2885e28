//! Selectors on whole objects.

use api::{
    Object, StatusError,
    selector::{FieldSelector, Selector, SelectorError},
};

/// What a list or watch is about.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    namespace: String,
    labels: Selector,
    fields: FieldSelector,
}

// === impl Selection ===

impl Selection {
    pub(super) fn new(namespace: &str, labels: &str, fields: &str) -> Result<Self, StatusError> {
        let wrong = |error: SelectorError| StatusError::bad_request(error.to_string());
        let (labels, fields) = (Selector::parse(labels).map_err(wrong)?, FieldSelector::parse(fields).map_err(wrong)?);
        Ok(Self { namespace: namespace.to_owned(), labels, fields })
    }

    pub(super) fn matches(&self, object: &dyn Object) -> bool {
        let meta = object.meta();
        if !self.namespace.is_empty() && self.namespace != meta.namespace || !self.labels.matches_map(&meta.labels) {
            return false;
        }
        if self.fields.is_everything() {
            return true;
        }
        let value = object.to_value().unwrap_or_default();
        self.fields.matches(|field| {
            let found = value.pointer(&format!("/{}", field.replace('.', "/")));
            Some(found.and_then(serde_json::Value::as_str).unwrap_or_default())
        })
    }
}
