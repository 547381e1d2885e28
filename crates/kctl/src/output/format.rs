//! `-o`: the forms in which objects are printed.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use api::{
    Kind,
    jsonpath::{self, Template},
    yaml,
};
use serde::Serialize as _;
use serde_json::{Value, json};

use super::Table;
use crate::{gotemplate, kinds, objects::text};

/// The `-o` flag.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputArgs {
    /// How to print: wide, yaml, json, name, jsonpath=TEMPLATE, jsonpath-file=FILE, jsonpath-as-json=TEMPLATE, go-template=TEMPLATE,
    /// go-template-file=FILE, custom-columns=NAME:PATH,…, custom-columns-file=FILE
    #[arg(short = 'o', long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Also print who manages which field
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Go template for -o go-template, which need not be given then
    #[arg(long, value_name = "TEMPLATE", value_parser = gotemplate::Template::parse)]
    pub template: Option<gotemplate::Template>,
    /// Whether a template may ask for what an object has not; if not, that is an error
    #[arg(long, value_name = "BOOL", default_value_t = true, hide_default_value = true, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub allow_missing_template_keys: bool,
}

/// A form of output.
#[derive(Clone, Debug)]
pub enum Format {
    /// A table with more columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// `pod/web`.
    Name,
    /// What a JSONPath template makes of it.
    JsonPath(Template),
    /// The values that a JSONPath template finds, as JSON.
    JsonPathAsJson(Template),
    /// What a Go template makes of it; that of `--template` if there is none.
    GoTemplate(Option<gotemplate::Template>),
    /// A table of chosen fields.
    Columns(Vec<(String, Template)>),
}

/// Prints objects in a form for programs.
#[derive(Clone, Debug)]
pub struct Printer {
    format: Format,
    managed_fields: bool,
}

// === impl Format ===

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let file = || std::fs::read_to_string(argument).with_context(|| format!("cannot read {argument}"));
        match name {
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            "jsonpath" | "jsonpath-as-json" if argument.is_empty() => bail!("template format specified but no template given"),
            "jsonpath" => Ok(Self::JsonPath(template(argument)?)),
            "jsonpath-file" => Ok(Self::JsonPath(template(&file()?)?)),
            "jsonpath-as-json" => Ok(Self::JsonPathAsJson(template(argument)?)),
            "go-template" | "template" if argument.is_empty() => Ok(Self::GoTemplate(None)),
            "go-template" | "template" => Ok(Self::GoTemplate(Some(go_template(argument)?))),
            "go-template-file" | "templatefile" => Ok(Self::GoTemplate(Some(go_template(&file()?)?))),
            "custom-columns" => Ok(Self::Columns(custom_columns(argument)?)),
            "custom-columns-file" => {
                let text = file()?;
                let mut lines = text.lines();
                let words =
                    |line: Option<&str>| line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                let (names, paths) = (words(lines.next()), words(lines.next()));
                if names.is_empty() || names.len() != paths.len() {
                    bail!("{argument}: a line of headings and a line of as many paths are wanted");
                }
                let pairs: Vec<String> = names.iter().zip(&paths).map(|(name, path)| format!("{name}:{path}")).collect();
                Ok(Self::Columns(custom_columns(&pairs.join(","))?))
            }
            _ => bail!(
                "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                 custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,\
                 template,templatefile,wide,yaml"
            ),
        }
    }
}

/// A template for printing. What is not in braces is text.
fn template(text: &str) -> anyhow::Result<Template> {
    Ok(Template::parse(text)?.allow_missing(true))
}

/// What a template makes of a value; what goes wrong is said as kubectl says it.
fn execute(template: &Template, value: &Value) -> anyhow::Result<String> {
    template.print(value).map_err(|why| {
        let text = template.text();
        anyhow::anyhow!(
            "error executing jsonpath {text:?}: Error executing template: {why}. Printing more information for debugging the template:\n\
             \ttemplate was:\n\t\t{text}\n\tobject given to jsonpath engine was:\n\t\t{value}\n"
        )
    })
}

fn go_template(text: &str) -> anyhow::Result<gotemplate::Template> {
    gotemplate::Template::parse(text).map_err(|error| anyhow::anyhow!("error parsing template {text}, {error}"))
}

fn custom_columns(spec: &str) -> anyhow::Result<Vec<(String, Template)>> {
    if spec.is_empty() {
        bail!("custom-columns format specified but no custom columns given");
    }
    let column = |part: &str| match part.split_once(':') {
        // A heading may be empty.
        Some((name, path)) => Ok((name.to_owned(), Template::parse_relaxed(path)?.allow_missing(true))),
        _ => bail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"),
    };
    spec.split(',').map(column).collect()
}

// === impl OutputArgs ===

impl Default for OutputArgs {
    fn default() -> Self {
        Self { output: None, show_managed_fields: false, template: None, allow_missing_template_keys: true }
    }
}

impl OutputArgs {
    /// A printer for programs; `None` for a table.
    pub fn printer(&self) -> Option<Printer> {
        let missing = self.allow_missing_template_keys;
        let format = match (self.output.clone(), &self.template) {
            (Some(Format::GoTemplate(None)) | None, Some(template)) => Format::GoTemplate(Some(template.clone())),
            (output, _) => output?,
        };
        let format = match format {
            Format::Wide => return None,
            Format::JsonPath(template) => Format::JsonPath(template.allow_missing(missing)),
            Format::JsonPathAsJson(template) => Format::JsonPathAsJson(template.allow_missing(missing)),
            Format::GoTemplate(template) => Format::GoTemplate(template.map(|template| template.allow_missing(missing))),
            format => format,
        };
        Some(Printer { format, managed_fields: self.show_managed_fields })
    }

    /// True for the wide table.
    pub fn wide(&self) -> bool {
        matches!(self.output, Some(Format::Wide))
    }
}

// === impl Printer ===

impl Printer {
    /// One object.
    ///
    /// # Errors
    /// When a template does not fit it.
    pub fn one(&self, kind: &Kind, object: Value) -> anyhow::Result<String> {
        match &self.format {
            Format::Name => Ok(format!("{}\n", kinds::display(kind, text(&object, "/metadata/name")))),
            Format::Columns(columns) => self.columns(columns, &[&object], true),
            _ => self.value(&self.stripped(object)),
        }
    }

    /// Several objects as a list.
    ///
    /// # Errors
    /// When a template does not fit it.
    pub fn list(&self, objects: Vec<(&'static Kind, Value)>, headings: bool) -> anyhow::Result<String> {
        match &self.format {
            Format::Name => {
                Ok(objects.iter().map(|(kind, object)| kinds::display(kind, text(object, "/metadata/name")) + "\n").collect())
            }
            Format::Columns(columns) => {
                let objects: Vec<&Value> = objects.iter().map(|(_, object)| object).collect();
                self.columns(columns, &objects, headings)
            }
            _ => {
                let items: Vec<Value> = objects.into_iter().map(|(_, object)| self.stripped(object)).collect();
                self.value(&json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}))
            }
        }
    }

    /// Any value.
    ///
    /// # Errors
    /// When a template does not fit it.
    pub fn value(&self, value: &Value) -> anyhow::Result<String> {
        Ok(match &self.format {
            Format::Json => json_text(value)? + "\n",
            Format::JsonPath(template) => execute(template, value)?,
            Format::JsonPathAsJson(template) => {
                json_text(&Value::Array(template.values(value)?.into_iter().cloned().collect()))? + "\n"
            }
            Format::GoTemplate(Some(template)) => template.execute(value).context("error executing template")?,
            Format::GoTemplate(None) => bail!("template format specified but no template given"),
            _ => yaml::to_yaml(value),
        })
    }

    /// True if documents printed one after another need a separator.
    pub fn separates_documents(&self) -> bool {
        matches!(self.format, Format::Yaml)
    }

    fn columns(&self, columns: &[(String, Template)], objects: &[&Value], headings: bool) -> anyhow::Result<String> {
        let mut table = if headings { Table::new(columns.iter().map(|(name, _)| name)) } else { Table::default() };
        for object in objects {
            let mut cells = Vec::with_capacity(columns.len());
            for (_, path) in columns {
                let values: Vec<String> = path.values(object)?.into_iter().map(jsonpath::text).collect();
                cells.push(if values.is_empty() { "<none>".to_owned() } else { values.join(",") });
            }
            table.push(cells);
        }
        Ok(table.take())
    }

    fn stripped(&self, mut object: Value) -> Value {
        if !self.managed_fields
            && let Some(Value::Object(metadata)) = object.get_mut("metadata")
        {
            metadata.remove("managedFields");
        }
        object
    }
}

/// JSON in kubectl's layout: four spaces.
///
/// # Errors
/// Never for values that were JSON.
fn json_text(value: &Value) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8(out)?)
}

#[cfg(test)]
mod tests {
    use api::{Resource as _, core::v1::Pod};

    use super::*;

    fn printed(format: &str) -> String {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": [{}]}, "spec": {"n": 1}});
        let args = OutputArgs { output: Some(format.parse().unwrap()), ..OutputArgs::default() };
        args.printer().unwrap().one(Pod::KIND, pod).unwrap()
    }

    #[test]
    fn every_form_is_kubectls() {
        assert_eq!(printed("name"), "pod/a\n");
        assert_eq!(printed("yaml"), "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  \"n\": 1\n");
        assert!(printed("json").starts_with("{\n    \"apiVersion\": \"v1\",\n"));
        assert_eq!(printed("jsonpath={.metadata.name}{.missing}"), "a");
        assert_eq!(printed("jsonpath=.spec.n"), ".spec.n");
        assert_eq!(printed("custom-columns=:.metadata.name,B:.spec.n"), "      B\na     1\n");
        assert_eq!(printed("jsonpath-as-json={.spec}"), "[\n    {\n        \"n\": 1\n    }\n]\n");
        assert_eq!(printed("go-template={{.metadata.name}} {{.spec.n}} {{.missing}}"), "a 1 <no value>");
        assert_eq!(printed("template={{range $k, $v := .metadata}}{{$k}}{{end}}"), "name");
        assert_eq!(printed("custom-columns=A:.metadata.name,B:spec.n,C:.x"), "A     B     C\na     1     <none>\n");
    }

    #[test]
    fn a_template_that_does_not_fit_is_an_error_as_kubectls() {
        let args = OutputArgs { output: Some("jsonpath={.l[3]}".parse().unwrap()), ..OutputArgs::default() };
        let error = args.printer().unwrap().one(Pod::KIND, json!({"l": [1]})).unwrap_err().to_string();
        let begin =
            "error executing jsonpath \"{.l[3]}\": Error executing template: array index out of bounds: index 3, length 1. ";
        assert!(error.starts_with(begin) && error.contains("\ttemplate was:\n\t\t{.l[3]}\n"), "{error}");
    }

    #[test]
    fn an_unknown_form_names_the_known_ones() {
        let error = "yml".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("allowed formats are") && error.contains("yaml"), "{error}");
    }
}
