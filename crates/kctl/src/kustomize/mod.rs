//! Kustomizations: folders whose `kustomization.yaml` says how the objects of other files and folders are put together.
//!
//! Fields are upstream's as documented; one that is not supported is refused by name. Files are read in or below their own folder
//! only. Objects of kinds that the schema does not know are patched as RFC 7386 has it, since it is not known how their lists merge.

mod file;
mod generate;
mod images;
mod labels;
mod order;
mod patch;
mod references;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use api::{Kind, yaml};
use serde_json::Value;

use self::file::Kustomization;
use crate::{
    kinds,
    objects::{self, text},
};

/// Deepest nesting of folders that name each other.
const MAX_DEPTH: usize = 32;
/// Kinds whose names a prefix or suffix leaves alone.
const NAMED_BY_OTHERS: [&str; 3] = ["CustomResourceDefinition", "APIService", "Namespace"];
/// Kinds without a namespace that the schema does not know.
const CLUSTER_SCOPED: [&str; 9] = [
    "APIService",
    "CustomResourceDefinition",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "PersistentVolume",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
];

/// An object on its way.
#[derive(Clone, Debug)]
struct Item {
    value: Value,
    /// Name and namespace as the other objects of this folder know them.
    known: (String, String),
    /// Its name ends with a hash of what it holds.
    hashed: bool,
}

/// The objects of a folder, in the order in which they can be created.
///
/// # Errors
/// What cannot be read, done, or is not supported, with its file.
pub fn build(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let (mut items, order) = level(folder, Vec::new(), &mut Vec::new(), false)?;
    items.iter_mut().for_each(Item::settle);
    for item in items.iter_mut().filter(|item| item.hashed) {
        let name = format!("{}-{}", item.name(), generate::hash(&item.value));
        item.rename(&name);
    }
    references::update(&mut items);
    let mut values: Vec<Value> = items.into_iter().map(|item| item.value).collect();
    if order.as_deref() != Some("fifo") {
        order::sort(&mut values);
    }
    Ok(values)
}

/// The objects of a folder as YAML documents.
///
/// # Errors
/// As those of [`build`].
pub fn render(folder: &Path) -> anyhow::Result<String> {
    Ok(build(folder)?.iter().map(yaml::to_yaml).collect::<Vec<_>>().join("---\n"))
}

/// One folder's objects, after those that it gets if it is a component. Also returns the order it asks for.
fn level(
    folder: &Path,
    given: Vec<Item>,
    above: &mut Vec<PathBuf>,
    component: bool,
) -> anyhow::Result<(Vec<Item>, Option<String>)> {
    let root = folder.canonicalize().with_context(|| format!("cannot read the folder {}", folder.display()))?;
    if above.contains(&root) {
        bail!("cycle detected: {} is reached from itself", folder.display());
    }
    if above.len() >= MAX_DEPTH {
        bail!("{}: folders are nested too deeply", folder.display());
    }
    above.push(root.clone());
    let (kustomization, path) = file::read(&root, component)?;
    let mut items = given;
    for entry in kustomization.resources.iter().chain(&kustomization.bases) {
        let more = load(&root, entry, above).with_context(|| format!("{}: resources: {entry}", path.display()))?;
        for item in more {
            add(&mut items, item).with_context(|| format!("{}: resources: {entry}", path.display()))?;
        }
    }
    for entry in &kustomization.components {
        let target = root.join(entry);
        items = level(&target, items, above, true).with_context(|| format!("{}: components: {entry}", path.display()))?.0;
    }
    let order = kustomization.sort_options.as_ref().map(|options| options.order.clone());
    transform(&root, &kustomization, &mut items).with_context(|| path.display().to_string())?;
    above.pop();
    Ok((items, order))
}

fn transform(root: &Path, kustomization: &Kustomization, items: &mut Vec<Item>) -> anyhow::Result<()> {
    items.iter_mut().for_each(Item::settle);
    generate::run(root, kustomization, items)?;
    patch::run(root, kustomization, items)?;
    if let Some(namespace) = kustomization.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        items.iter_mut().for_each(|item| item.move_to(namespace));
    }
    let (prefix, suffix) = (&kustomization.name_prefix, &kustomization.name_suffix);
    if !prefix.is_empty() || !suffix.is_empty() {
        for item in items.iter_mut().filter(|item| !NAMED_BY_OTHERS.contains(&item.kind())) {
            item.rename(&format!("{prefix}{}{suffix}", item.name()));
        }
    }
    labels::run(kustomization, items);
    patch::run_json(root, kustomization, items)?;
    images::replicas(&kustomization.replicas, items)?;
    images::run(&kustomization.images, items);
    references::update(items);
    Ok(())
}

/// What an entry of `resources` names: a folder, or a file with objects.
fn load(root: &Path, entry: &str, above: &mut Vec<PathBuf>) -> anyhow::Result<Vec<Item>> {
    if entry.contains("://") || entry.starts_with("git@") || entry.contains("?ref=") {
        bail!("resources are not fetched from elsewhere: fetch it first and name the folder");
    }
    let path = root.join(entry);
    if path.is_dir() {
        return Ok(level(&path, Vec::new(), above, false)?.0);
    }
    let mut items = Vec::new();
    for document in file::documents(root, entry)? {
        flatten(document, &mut items).with_context(|| format!("{}: its objects", path.display()))?;
    }
    Ok(items)
}

/// The objects of a document: itself, or the items of a List.
fn flatten(value: Value, items: &mut Vec<Item>) -> anyhow::Result<()> {
    if let Value::Object(map) = &value
        && let (Some(Value::Array(list)), true) = (map.get("items"), text(&value, "/kind").ends_with("List"))
    {
        return list.iter().try_for_each(|item| flatten(item.clone(), items));
    }
    for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
        if text(&value, pointer).is_empty() {
            bail!("{} is not set", pointer[1..].replace('/', "."));
        }
    }
    items.push(Item::new(value));
    Ok(())
}

fn add(items: &mut Vec<Item>, item: Item) -> anyhow::Result<()> {
    if items.iter().any(|other| other.is_same(&item)) {
        bail!("may not add resource with an already registered id: {} {}", item.kind(), item.name());
    }
    items.push(item);
    Ok(())
}

// === impl Item ===

impl Item {
    fn new(value: Value) -> Self {
        let mut item = Self { value, known: (String::new(), String::new()), hashed: false };
        item.settle();
        item
    }

    /// From here on it is known by the name that it has.
    fn settle(&mut self) {
        self.known = (self.name().to_owned(), self.namespace().to_owned());
    }

    fn kind(&self) -> &str {
        text(&self.value, "/kind")
    }

    fn name(&self) -> &str {
        text(&self.value, "/metadata/name")
    }

    fn namespace(&self) -> &str {
        text(&self.value, "/metadata/namespace")
    }

    fn group(&self) -> &str {
        text(&self.value, "/apiVersion").rsplit_once('/').map_or("", |(group, _)| group)
    }

    fn schema(&self) -> Option<&'static Kind> {
        kinds::known().by_api_version(text(&self.value, "/apiVersion"), self.kind()).map(|kind| kind.forever())
    }

    fn is_namespaced(&self) -> bool {
        self.schema().map_or_else(|| !CLUSTER_SCOPED.contains(&self.kind()), |kind| kind.namespaced)
    }

    fn is_same(&self, other: &Self) -> bool {
        let id =
            |item: &Self| (item.group().to_owned(), item.kind().to_owned(), item.name().to_owned(), item.namespace().to_owned());
        id(self) == id(other)
    }

    fn rename(&mut self, name: &str) {
        objects::set(&mut self.value, &["metadata", "name"], name.into());
    }

    fn move_to(&mut self, namespace: &str) {
        if self.kind() == "Namespace" && self.group().is_empty() {
            self.rename(namespace);
        } else if self.is_namespaced() {
            objects::set(&mut self.value, &["metadata", "namespace"], namespace.into());
        }
        // Every namespace has this service account, so it need not be among the objects.
        for subject in self.value.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            if text(subject, "/kind") == "ServiceAccount" && text(subject, "/name") == "default" {
                objects::set(subject, &["namespace"], namespace.into());
            }
        }
    }
}
