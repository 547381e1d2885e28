//! Selectors on whole objects.

use api::{Object, StatusError};

/// What a list or watch is about.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) namespace: String,
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Equals(String),
    Differs(String),
    Exists,
    Absent,
}

// === impl Selection ===

impl Selection {
    pub(super) fn new(namespace: &str, labels: &str, fields: &str) -> Result<Self, StatusError> {
        Ok(Self { namespace: namespace.to_owned(), labels: parse(labels)?, fields: parse(fields)? })
    }

    pub(super) fn matches(&self, object: &dyn Object) -> bool {
        let meta = object.meta();
        if !self.namespace.is_empty() && self.namespace != meta.namespace {
            return false;
        }
        if !self.labels.iter().all(|wanted| wanted.test.holds(meta.labels.get(&wanted.key).map(String::as_str))) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let value = object.to_value().unwrap_or_default();
        self.fields.iter().all(|wanted| {
            let found = value.pointer(&format!("/{}", wanted.key.replace('.', "/")));
            let text = match found {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            wanted.test.holds(Some(&text))
        })
    }
}

// === impl Test ===

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Equals(wanted) => value == Some(wanted),
            Self::Differs(unwanted) => value != Some(unwanted),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Requirement>, StatusError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            if part.contains([' ', '(']) {
                return Err(StatusError::bad_request(format!("the test server does not know the selector {part:?}")));
            }
            let (key, test) = if let Some((key, value)) = part.split_once("!=") {
                (key, Test::Differs(value.to_owned()))
            } else if let Some((key, value)) = part.split_once('=') {
                (key, Test::Equals(value.trim_start_matches('=').to_owned()))
            } else if let Some(key) = part.strip_prefix('!') {
                (key, Test::Absent)
            } else {
                (part, Test::Exists)
            };
            Ok(Requirement { key: key.to_owned(), test })
        })
        .collect()
}
