//! From a definition to the kinds that are served: one for each served version, with the schema by which its objects are judged.

use std::{borrow::Cow, sync::Arc};

use api::{
    Kind,
    apiextensions::v1::{
        CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion, JsonSchemaProps,
    },
    kind::{Column, Selectable, Text},
    names::Format,
    rules::{FieldErrors, Path},
    schema::{DynamicSchema, Schema as KindSchema},
    strict::Problem,
    unstructured,
};
use serde_json::{Map, Value, json};

use crate::{
    cel::Rules,
    schema::{self, Schema, Type},
};

/// Why a definition makes no kinds.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A version's schema cannot be read.
    #[error("version {version:?}: {source}")]
    Schema {
        /// The version.
        version: String,
        /// What is wrong with it.
        #[source]
        source: schema::Error,
    },
    /// The rules cannot be compiled.
    #[error("version {version:?}: the rules cannot be compiled: {source}")]
    Rules {
        /// The version.
        version: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The kinds that an established definition serves, under the names that were accepted. All versions share one place in etcd.
///
/// # Errors
/// When a version's schema is none, which no definition holds that was checked.
pub fn kinds(definition: &CustomResourceDefinition) -> Result<Vec<Kind>, Error> {
    definition.spec().versions.iter().filter(|version| version.served).map(|version| kind(definition, version)).collect()
}

fn kind(definition: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Result<Kind, Error> {
    let (spec, names) = (definition.spec(), definition.status().accepted_names());
    let schema = CustomSchema::new(version)?;
    let text = |text: &str| Text::from(text.to_owned());
    let texts = |list: &[String]| Cow::Owned(list.iter().map(|item| text(item)).collect());
    let selectable = version.selectable_fields.iter().map(|field| Selectable {
        label: text(field.json_path.trim_start_matches('.')),
        numbers: Cow::Borrowed(&[]),
        boolean: schema.schema.at_path(&field.json_path).is_some_and(|field| field.ty == Type::Boolean),
    });
    let subresources = version.subresources();
    let subresources = [("status", subresources.status.is_some()), ("scale", subresources.scale.is_some())];
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    Ok(Kind {
        group: text(&spec.group),
        version: text(&version.name),
        api_version: format!("{}/{}", spec.group, version.name).into(),
        kind: text(&names.kind),
        plural: text(&names.plural),
        singular: text(&names.singular),
        short_names: texts(&names.short_names),
        namespaced: spec.scope == "Namespaced",
        storage: Some(format!("{}/{}", spec.group, names.plural).into()),
        subresources: subresources.into_iter().filter(|(_, served)| *served).map(|(name, _)| Text::Borrowed(name)).collect(),
        categories: texts(&names.categories),
        columns: columns(&version.additional_printer_columns).into(),
        selectable: selectable.collect::<Vec<_>>().into(),
        verbs: verbs.map(Text::Borrowed).to_vec().into(),
        name_format: Format::DnsSubdomain,
        schema: KindSchema::Dynamic(Arc::new(schema)),
        type_url: Text::Borrowed(unstructured::TYPE_URL),
        codec: unstructured::CODEC,
    })
}

/// The columns that the version names, or the age alone.
fn columns(columns: &[CustomResourceColumnDefinition]) -> Vec<Column> {
    if columns.is_empty() {
        return vec![Column { name: "Age".into(), path: "=age".into(), priority: 0 }];
    }
    let plain = |path: &str| path.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
    let column = |column: &CustomResourceColumnDefinition| {
        let path = &column.json_path;
        let path = match column.r#type.as_str() {
            "date" => format!("=since {path}"),
            _ if plain(path) => path.clone(),
            _ => format!("=jsonPath {path}"),
        };
        Column { name: column.name.clone().into(), path: path.into(), priority: column.priority }
    };
    columns.iter().map(column).collect()
}

/// A version's schema and rules, by which its objects are pruned, defaulted and judged.
#[derive(Debug)]
pub struct CustomSchema {
    schema: Schema,
    rules: Rules,
    said: JsonSchemaProps,
}

impl CustomSchema {
    /// The schema of a version.
    ///
    /// # Errors
    /// When it is none, or its rules cannot be compiled.
    pub fn new(version: &CustomResourceDefinitionVersion) -> Result<Self, Error> {
        let said = version.schema().open_api_v3_schema().clone();
        let name = || version.name.clone();
        let schema = Schema::new(&said).map_err(|source| Error::Schema { version: name(), source })?;
        let rules = Rules::new(&schema).map_err(|source| Error::Rules { version: name(), source })?;
        Ok(Self { schema, rules, said })
    }

    /// The schema as pruning, defaults and validation read it.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }
}

impl DynamicSchema for CustomSchema {
    fn prune(&self, object: &mut Map<String, Value>) -> Vec<Problem> {
        let unknown = |path: String| Problem { message: format!("unknown field \"{path}\""), path, unknown: true };
        schema::prune(object, &self.schema).0.into_iter().map(unknown).collect()
    }

    fn set_defaults(&self, object: &mut Map<String, Value>) {
        schema::set_defaults(object, &self.schema);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let mut found = FieldErrors::default();
        schema::validate(object, &self.schema, &Path::root(), &mut found);
        if let Some(old) = old {
            // What was wrong before and did not change may stay.
            let mut before = FieldErrors::default();
            schema::validate(old, &self.schema, &Path::root(), &mut before);
            found.forgive(&before);
        }
        // Rules may count on what the schema says, so that their faults would hide what is really wrong.
        let blocks =
            |reason| matches!(reason, "FieldValueRequired" | "FieldValueTooLong" | "FieldValueTooMany" | "FieldValueTypeInvalid");
        if !found.0.iter().any(|error| blocks(error.reason)) {
            self.rules.validate(object, old, &mut found);
        } else if !self.rules.is_empty() {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            found.invalid_because(&Path::root(), why);
        }
        errors.0.extend(found.0);
    }

    fn open_api(&self) -> Value {
        let mut value = serde_json::to_value(&self.said).unwrap_or_default();
        let whole = [
            ("apiVersion", json!({"type": "string", "description": "Group and version of the object's schema."})),
            ("kind", json!({"type": "string", "description": "Name of the object's kind."})),
            ("metadata", json!({"type": "object", "description": "Name, labels and the rest of what every object carries."})),
        ];
        if let Some(properties) = value.as_object_mut().map(|map| map.entry("properties").or_insert_with(|| json!({}))) {
            for (name, schema) in whole {
                if let Some(map) = properties.as_object_mut() {
                    map.entry(name).or_insert(schema);
                }
            }
        }
        value
    }
}
