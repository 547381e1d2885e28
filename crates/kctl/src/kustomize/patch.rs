//! Patches of the objects.

use std::path::Path;

use anyhow::{Context as _, bail};
use api::{
    patch::{Patch, PatchType},
    selector::Selector,
    yaml,
};
use regex::Regex;
use serde_json::Value;

use super::{
    Item,
    file::{self, Kustomization, Target},
};
use crate::objects::{self, text};

/// Applies `patchesStrategicMerge` and `patches`.
///
/// # Errors
/// What cannot be read, does not fit, or names no object.
pub fn run(root: &Path, kustomization: &Kustomization, items: &mut Vec<Item>) -> anyhow::Result<()> {
    for entry in &kustomization.patches_strategic_merge {
        let what = || format!("patchesStrategicMerge: {}", entry.lines().next().unwrap_or_default());
        // A file, or the patch itself.
        let inline = entry.contains('\n') || entry.contains(": ");
        let patches = if inline { documents(entry) } else { file::documents(root, entry) }.with_context(what)?;
        for patch in patches {
            merge(patch, None, &file::Patch::default(), items).with_context(what)?;
        }
    }
    for (number, patch) in kustomization.patches.iter().enumerate() {
        apply(root, patch, items).with_context(|| format!("patches[{number}] {}", patch.path))?;
    }
    Ok(())
}

/// Applies `patchesJson6902`.
///
/// # Errors
/// As those of [`run`].
pub fn run_json(root: &Path, kustomization: &Kustomization, items: &mut Vec<Item>) -> anyhow::Result<()> {
    for (number, patch) in kustomization.patches_json6902.iter().enumerate() {
        let what = || format!("patchesJson6902[{number}] {}", patch.path);
        if patch.target.is_none() {
            bail!("{}: must specify the target", what());
        }
        apply(root, patch, items).with_context(what)?;
    }
    Ok(())
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    Ok(yaml::parse("the patch", text.as_bytes())?.into_iter().map(|document| document.value).collect())
}

fn apply(root: &Path, patch: &file::Patch, items: &mut Vec<Item>) -> anyhow::Result<()> {
    let documents = match (patch.path.as_str(), patch.patch.as_str()) {
        ("", "") => bail!("must specify one of patch and path"),
        (path, "") => file::documents(root, path)?,
        ("", text) => documents(text)?,
        _ => bail!("patch and path can't be set at the same time"),
    };
    for document in documents {
        match (document, &patch.target) {
            (document @ Value::Array(_), Some(target)) => json(document, target, items)?,
            (Value::Array(_), None) => bail!("a JSON patch needs a target"),
            (document, target) => merge(document, target.as_ref(), patch, items)?,
        }
    }
    Ok(())
}

fn json(document: Value, target: &Target, items: &mut [Item]) -> anyhow::Result<()> {
    let patch = Patch::new(PatchType::Json, document)?;
    let chosen = chosen(target, items)?;
    if chosen.is_empty() {
        bail!("it matches no object: {}", describe(target));
    }
    for at in chosen {
        let item = &mut items[at];
        let schema = item.schema().and_then(|kind| kind.message());
        let name = item.name().to_owned();
        item.value = patch.apply(item.value.take(), schema).with_context(|| format!("{} {name}", item.known.0))?;
    }
    Ok(())
}

/// Applies a patch that looks like the object.
fn merge(document: Value, target: Option<&Target>, options: &file::Patch, items: &mut Vec<Item>) -> anyhow::Result<()> {
    let chosen = match target {
        Some(target) => chosen(target, items)?,
        None => named(&document, items)?,
    };
    if chosen.is_empty() {
        let (kind, name) = (text(&document, "/kind"), text(&document, "/metadata/name"));
        bail!("no matches for Id {kind} {name}; failed to find unique target for patch");
    }
    if text(&document, "/$patch") == "delete" {
        let mut at = 0;
        items.retain(|_| {
            at += 1;
            !chosen.contains(&(at - 1))
        });
        return Ok(());
    }
    let may = |option: &str| options.options.get(option) == Some(&true);
    for at in chosen {
        let item = &mut items[at];
        let mut document = document.clone();
        // What the object is called and is stays.
        for (pointer, path, allowed) in [
            ("/metadata/name", ["metadata", "name"].as_slice(), may("allowNameChange")),
            ("/metadata/namespace", &["metadata", "namespace"], false),
            ("/kind", &["kind"], may("allowKindChange")),
            ("/apiVersion", &["apiVersion"], may("allowKindChange")),
        ] {
            let own = item.value.pointer(pointer).cloned();
            match own {
                Some(own) if !allowed || document.pointer(pointer).is_none() => objects::set(&mut document, path, own),
                None if document.pointer(pointer).is_some() && !allowed => {
                    document.pointer_mut("/metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("namespace"));
                }
                _ => {}
            }
        }
        let (kind, schema) = match item.schema().and_then(|kind| kind.message()) {
            Some(schema) => (PatchType::Strategic, Some(schema)),
            None => (PatchType::Merge, None),
        };
        let what = format!("{} {}", item.kind(), item.name());
        item.value = Patch::new(kind, document)?.apply(item.value.take(), schema).with_context(|| what)?;
    }
    Ok(())
}

/// The object that a patch names itself.
fn named(document: &Value, items: &[Item]) -> anyhow::Result<Vec<usize>> {
    let field = |pointer| text(document, pointer);
    let (kind, name, namespace) = (field("/kind"), field("/metadata/name"), field("/metadata/namespace"));
    if kind.is_empty() || name.is_empty() {
        bail!("a patch without a target needs apiVersion, kind and metadata.name of the object that it is for");
    }
    let group = field("/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    let fits = |item: &Item| {
        item.kind() == kind
            && (item.group() == group)
            && (item.name() == name || item.known.0 == name)
            && (namespace.is_empty() || item.namespace() == namespace || item.known.1 == namespace)
    };
    let found: Vec<usize> = (0..items.len()).filter(|&at| fits(&items[at])).collect();
    if found.len() > 1 {
        bail!("multiple matches for Id {kind} {name}; failed to find unique target for patch");
    }
    Ok(found)
}

/// The objects that a target chooses.
fn chosen(target: &Target, items: &[Item]) -> anyhow::Result<Vec<usize>> {
    let pattern = |text: &str| match text {
        "" => Ok(None),
        text => Regex::new(&format!("^(?:{text})$")).map(Some).with_context(|| format!("target: \"{text}\"")),
    };
    let (group, version, kind) = (pattern(&target.group)?, pattern(&target.version)?, pattern(&target.kind)?);
    let (name, namespace) = (pattern(&target.name)?, pattern(&target.namespace)?);
    let (labels, annotations) = (Selector::parse(&target.label_selector)?, Selector::parse(&target.annotation_selector)?);
    let fits = |pattern: &Option<Regex>, value: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(value));
    let chooses = |item: &Item| {
        let api_version = text(&item.value, "/apiVersion");
        let metadata = |field: &str, key: &str| Some(item.value.get("metadata")?.get(field)?.get(key)?.as_str()?.to_owned());
        let own = |selector: &Selector, field: &str| {
            let pairs: std::collections::BTreeMap<String, String> = item.value["metadata"]
                .get(field)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(key, _)| Some((key.clone(), metadata(field, key)?)))
                .collect();
            selector.matches(|key| pairs.get(key).map(String::as_str))
        };
        fits(&group, item.group())
            && fits(&version, api_version.rsplit('/').next().unwrap_or_default())
            && fits(&kind, item.kind())
            && (fits(&name, item.name()) || fits(&name, &item.known.0))
            && (fits(&namespace, item.namespace()) || fits(&namespace, &item.known.1))
            && own(&labels, "labels")
            && own(&annotations, "annotations")
    };
    Ok((0..items.len()).filter(|&at| chooses(&items[at])).collect())
}

fn describe(target: &Target) -> String {
    let fields = [("group", &target.group), ("kind", &target.kind), ("name", &target.name), ("namespace", &target.namespace)];
    let given: Vec<String> =
        fields.iter().filter(|(_, value)| !value.is_empty()).map(|(field, value)| format!("{field} {value}")).collect();
    given.join(", ")
}
