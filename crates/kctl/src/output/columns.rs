//! Tables of objects: the columns of their kind, and those that flags add.

use api::{Kind, print};
use jiff::Timestamp;
use serde_json::Value;

use super::Table;
use crate::{kinds, objects::text};

/// What a table of objects shows beside the kind's own columns.
#[derive(Clone, Debug, Default)]
pub struct TableOptions {
    /// The columns of wide output too.
    pub wide: bool,
    /// No heading.
    pub no_headers: bool,
    /// A first column with the namespace.
    pub namespace: bool,
    /// A last column with all labels.
    pub labels: bool,
    /// A column for each of these labels.
    pub label_columns: Vec<String>,
    /// Names as `pod/web`.
    pub kind_prefix: bool,
    /// A first column with what happened to the object.
    pub events: bool,
}

/// Writes objects, of one kind after another, into tables.
#[derive(Debug)]
pub struct Tables {
    options: TableOptions,
    table: Table,
    kind: Option<&'static Kind>,
}

// === impl Tables ===

impl Tables {
    /// No rows yet.
    pub fn new(options: TableOptions) -> Self {
        Self { options, table: Table::default(), kind: None }
    }

    /// Adds an object. Returns what has to be printed before, if it is the first of another kind.
    pub fn push(&mut self, kind: &'static Kind, object: &Value, now: Timestamp, event: &str) -> String {
        let mut before = String::new();
        if self.kind != Some(kind) {
            before = self.table.take();
            if self.kind.is_some() {
                before.push('\n');
            }
            self.kind = Some(kind);
            self.table = Table::default();
            if !self.options.no_headers {
                self.table.push(self.heading(kind));
            }
        }
        self.table.push(self.cells(kind, object, now, event));
        before
    }

    /// The rows that have not been printed.
    pub fn take(&mut self) -> String {
        self.table.take()
    }

    fn heading(&self, kind: &Kind) -> Vec<String> {
        let options = &self.options;
        let mut heading = Vec::new();
        heading.extend(options.events.then(|| "EVENT".to_owned()));
        heading.extend(options.namespace.then(|| "NAMESPACE".to_owned()));
        heading.extend((!names_itself(kind)).then(|| "NAME".to_owned()));
        let shown = kind.columns.iter().filter(|column| options.wide || column.priority == 0);
        heading.extend(shown.map(|column| column.name.to_uppercase()));
        if kind.columns.is_empty() {
            heading.push("AGE".to_owned());
        }
        heading.extend(options.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or(label).to_uppercase()));
        heading.extend(options.labels.then(|| "LABELS".to_owned()));
        heading
    }

    fn cells(&self, kind: &'static Kind, object: &Value, now: Timestamp, event: &str) -> Vec<String> {
        let options = &self.options;
        let mut cells = Vec::new();
        cells.extend(options.events.then(|| event.to_owned()));
        cells.extend(options.namespace.then(|| text(object, "/metadata/namespace").to_owned()));
        if !names_itself(kind) {
            let name = text(object, "/metadata/name");
            cells.push(if options.kind_prefix { kinds::display(kind, name) } else { name.to_owned() });
        }
        let shown = kind.columns.iter().zip(print::cells(kind, object, now));
        cells.extend(shown.filter(|(column, _)| options.wide || column.priority == 0).map(|(_, cell)| cell));
        if kind.columns.is_empty() {
            cells.push(print::age(text(object, "/metadata/creationTimestamp"), now));
        }
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let label = |key: &String| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned();
        cells.extend(options.label_columns.iter().map(label));
        if options.labels {
            let all = labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            let all: Vec<_> = all.collect();
            cells.push(if all.is_empty() { "<none>".to_owned() } else { all.join(",") });
        }
        cells
    }
}

/// True if the name is one of the kind's own columns, as for events.
fn names_itself(kind: &Kind) -> bool {
    kind.columns.iter().any(|column| column.name == "Name")
}

#[cfg(test)]
mod tests {
    use api::{
        Resource as _,
        core::v1::{ConfigMap, Event, Namespace},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_of_several_kinds_stand_apart() {
        let now: Timestamp = "2024-01-01T00:00:10Z".parse().unwrap();
        let mut tables = Tables::new(TableOptions {
            namespace: true,
            kind_prefix: true,
            labels: true,
            label_columns: vec!["x/app".into()],
            ..TableOptions::default()
        });
        let map = json!({"metadata": {"name": "a", "namespace": "d", "labels": {"x/app": "web"},
            "creationTimestamp": "2024-01-01T00:00:00Z"}, "data": {"k": "v"}});
        let mut out = tables.push(ConfigMap::KIND, &map, now, "");
        out += &tables.push(Namespace::KIND, &json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}}), now, "");
        out += &tables.take();
        assert_eq!(
            out,
            "NAMESPACE   NAME          DATA   AGE   APP   LABELS\n\
             d           configmap/a   1      10s   web   x/app=web\n\
             \n\
             NAMESPACE   NAME          STATUS   AGE         APP   LABELS\n\
             \u{20}           namespace/n   Active   <unknown>         <none>\n"
        );
    }

    #[test]
    fn events_begin_with_their_age() {
        let mut tables = Tables::new(TableOptions::default());
        tables.push(Event::KIND, &json!({"reason": "Started", "type": "Normal"}), Timestamp::UNIX_EPOCH, "");
        assert!(tables.take().starts_with("LAST SEEN"));
    }
}
