//! What a `kustomization.yaml` says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use api::yaml;
use serde::Deserialize;
use serde_json::Value;

/// Names that the file may have.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Fields of upstream's that are not supported here, with what to do instead.
const UNSUPPORTED: [(&str, &str); 15] = [
    ("buildMetadata", "leave it out"),
    ("configurations", "none is needed for kinds of this cluster"),
    ("crds", "none is needed for kinds of this cluster"),
    ("generators", "use configMapGenerator or secretGenerator"),
    ("helmCharts", "render the chart first"),
    ("helmGlobals", "render the chart first"),
    ("helmChartInflationGenerator", "render the chart first"),
    ("inventory", "leave it out"),
    ("openapi", "leave it out"),
    ("replacements", "use patches"),
    ("transformers", "use patches"),
    ("validators", "leave it out: the server checks objects"),
    ("vars", "use patches"),
    ("imageTags", "use images"),
    ("helm", "render the chart first"),
];

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kustomization {
    pub api_version: String,
    pub kind: String,
    /// Of no meaning.
    pub metadata: Value,
    pub resources: Vec<String>,
    /// An older name for folders among `resources`.
    pub bases: Vec<String>,
    pub components: Vec<String>,
    pub namespace: Option<String>,
    pub name_prefix: String,
    pub name_suffix: String,
    pub common_labels: BTreeMap<String, String>,
    pub labels: Vec<Labels>,
    pub common_annotations: BTreeMap<String, String>,
    pub images: Vec<Image>,
    pub replicas: Vec<Replicas>,
    pub config_map_generator: Vec<Generator>,
    pub secret_generator: Vec<Generator>,
    pub generator_options: Options,
    pub patches: Vec<Patch>,
    pub patches_strategic_merge: Vec<String>,
    pub patches_json6902: Vec<Patch>,
    pub sort_options: Option<SortOptions>,
}

/// Labels, and where they go.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Labels {
    pub pairs: BTreeMap<String, String>,
    #[serde(default)]
    pub include_selectors: bool,
    #[serde(default)]
    pub include_templates: bool,
}

/// Another name, tag or digest for an image.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Image {
    pub name: String,
    pub new_name: String,
    #[serde(deserialize_with = "scalar")]
    pub new_tag: String,
    pub tag_suffix: String,
    pub digest: String,
}

/// How many replicas an object has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicas {
    pub name: String,
    pub count: i64,
}

/// A ConfigMap or Secret to make.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Generator {
    pub name: String,
    pub namespace: String,
    /// `create`, `merge` or `replace`.
    pub behavior: String,
    /// Of a Secret.
    #[serde(rename = "type")]
    pub secret_type: String,
    pub literals: Vec<String>,
    pub files: Vec<String>,
    pub envs: Vec<String>,
    /// An older form of `envs`.
    pub env: String,
    pub options: Options,
}

/// What generated objects have in common.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub disable_name_suffix_hash: bool,
    pub immutable: bool,
}

/// A patch and what it is for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Patch {
    pub path: String,
    pub patch: String,
    pub target: Option<Target>,
    pub options: BTreeMap<String, bool>,
}

/// Which objects; each text is a regular expression for all of the value.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Target {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub label_selector: String,
    pub annotation_selector: String,
}

/// The order of what comes out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SortOptions {
    /// `legacy` or `fifo`.
    pub order: String,
}

/// A text, or what YAML takes for a number.
fn scalar<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// Reads the file of a folder.
///
/// # Errors
/// When there is none or more than one, or it says what is not understood.
pub fn read(root: &Path, component: bool) -> anyhow::Result<(Kustomization, PathBuf)> {
    let found: Vec<PathBuf> = NAMES.iter().map(|name| root.join(name)).filter(|path| path.is_file()).collect();
    let path = match found.as_slice() {
        [one] => one.clone(),
        [] => bail!(
            "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'",
            root.display()
        ),
        _ => bail!("found multiple kustomization files under {}", root.display()),
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut documents = documents(root, name)?;
    let mut value = match documents.len() {
        0 => Value::Object(serde_json::Map::new()),
        1 => documents.remove(0),
        count => bail!("{}: one document is wanted, found {count}", path.display()),
    };
    let Value::Object(fields) = &mut value else { bail!("{}: a mapping is wanted", path.display()) };
    // What is left empty is not there.
    fields.retain(|_, value| !value.is_null());
    if let Some((field, remedy)) = UNSUPPORTED.iter().find(|(field, _)| fields.contains_key(*field)) {
        bail!("{}: the field \"{field}\" is not supported: {remedy}", path.display());
    }
    let kustomization: Kustomization =
        serde_json::from_value(value).with_context(|| format!("{}: it is no kustomization", path.display()))?;
    let wanted = if component { "Component" } else { "Kustomization" };
    match kustomization.kind.as_str() {
        "" => {}
        kind if kind == wanted => {}
        kind => bail!("{}: its kind is {kind}, and {wanted} is wanted here", path.display()),
    }
    match kustomization.sort_options.as_ref().map(|options| options.order.as_str()) {
        None | Some("legacy" | "fifo") => {}
        Some(order) => bail!("{}: sortOptions.order: legacy or fifo is wanted, not \"{order}\"", path.display()),
    }
    Ok((kustomization, path))
}

/// The bytes of a file in or below a folder.
///
/// # Errors
/// When it is elsewhere, too large, or cannot be read.
pub fn bytes(root: &Path, entry: &str) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let path = root.join(entry);
    let real = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    if !real.starts_with(root) {
        bail!("security; file '{}' is not in or below '{}'", real.display(), root.display());
    }
    let file = std::fs::File::open(&real).with_context(|| format!("cannot read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(yaml::MAX_SIZE as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > yaml::MAX_SIZE {
        bail!("{} has more than {} bytes", path.display(), yaml::MAX_SIZE);
    }
    Ok(bytes)
}

/// The YAML or JSON documents of a file in or below a folder.
///
/// # Errors
/// As those of [`bytes`], and when it is neither.
pub fn documents(root: &Path, entry: &str) -> anyhow::Result<Vec<Value>> {
    let documents = yaml::parse(&root.join(entry).display().to_string(), &bytes(root, entry)?)?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}
