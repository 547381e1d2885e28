//! Label and field selectors of lists and watches, turned into what the store's index answers.

use std::sync::Arc;

use api::{
    Kind, StatusError,
    selector::{FieldSelector, Selector},
};
use store::{IndexKey, KindLayout, Selection};

/// The selectors of one request.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    labels: Selector,
    fields: FieldSelector,
}

impl Selectors {
    /// Parses selectors in text form; empty text selects everything.
    ///
    /// # Errors
    /// When one of them is malformed; says where.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, StatusError> {
        let labels =
            labels.parse().map_err(|e| StatusError::bad_request(format!("unable to parse label selector {labels:?}: {e}")))?;
        let fields =
            fields.parse().map_err(|e| StatusError::bad_request(format!("unable to parse field selector {fields:?}: {e}")))?;
        Ok(Self { labels, fields })
    }

    /// The one value a field must have, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.fields.requires_exact(field)
    }

    /// What the store is asked for.
    ///
    /// # Errors
    /// When a field is named that this kind cannot be selected by.
    pub fn selection(&self, kind: &Kind, layout: &Arc<KindLayout>, namespace: &str) -> Result<Selection, StatusError> {
        let namespace = match self.exact("metadata.namespace") {
            Some(wanted) if namespace.is_empty() && kind.namespaced => wanted,
            _ => namespace,
        };
        let mut selection = match self.exact("metadata.name") {
            Some(name) if !kind.namespaced || !namespace.is_empty() => Selection::object(namespace, name),
            _ if namespace.is_empty() => Selection::all(),
            _ => Selection::namespace(namespace),
        };
        let mut places = Vec::new();
        for requirement in self.fields.terms() {
            let place = match requirement.field.as_str() {
                "metadata.name" => Place::Name,
                "metadata.namespace" => Place::Namespace,
                field => match layout.field(field) {
                    Some(place) => Place::Selectable(place),
                    None => {
                        return Err(StatusError::bad_request(format!(
                            "field label not supported: {field}; {} can be selected by {}",
                            kind.plural,
                            supported(kind)
                        )));
                    }
                },
            };
            if let (Place::Selectable(field), false, None) = (&place, requirement.negated, &selection.index) {
                selection = selection.with_index(IndexKey::Field { field: *field, value: requirement.value.clone() });
            }
            places.push((place, requirement.clone()));
        }
        if places.is_empty() && self.labels.is_everything() {
            return Ok(selection);
        }
        let (labels, layout) = (self.labels.clone(), layout.clone());
        Ok(selection.with_filter(move |entry| {
            let fields_match = places.iter().all(|(place, requirement)| {
                let equal = match place {
                    Place::Name => entry.name() == requirement.value,
                    Place::Namespace => entry.namespace() == requirement.value,
                    Place::Selectable(field) => {
                        layout.fields.get(*field).is_some_and(|f| entry.field(f) == requirement.value.as_str())
                    }
                };
                equal != requirement.negated
            });
            fields_match && labels.matches(|key| entry.label(key))
        }))
    }
}

/// Where a field selector looks.
enum Place {
    Name,
    Namespace,
    Selectable(usize),
}

fn supported(kind: &Kind) -> String {
    let mut fields = vec!["metadata.name"];
    if kind.namespaced {
        fields.push("metadata.namespace");
    }
    fields.extend(kind.selectable.iter().map(|s| &*s.label));
    fields.join(", ")
}
