//! ConfigMaps and Secrets made of files and literals.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    Item, add,
    file::{self, Generator, Kustomization, Options},
};
use crate::objects::{self, text};

/// How many letters of the hash a name ends with.
const LETTERS: usize = 10;

/// Makes what a kustomization says.
///
/// # Errors
/// What cannot be read, and a target that is not there.
pub fn run(root: &Path, kustomization: &Kustomization, items: &mut Vec<Item>) -> anyhow::Result<()> {
    let maps = kustomization.config_map_generator.iter().map(|generator| ("ConfigMap", generator));
    let secrets = kustomization.secret_generator.iter().map(|generator| ("Secret", generator));
    for (kind, generator) in maps.chain(secrets) {
        let what = || format!("the generator of {kind} {}", generator.name);
        let options = merged(&kustomization.generator_options, &generator.options);
        let item = make(root, kind, generator, &options).with_context(what)?;
        place(items, item, generator).with_context(what)?;
    }
    Ok(())
}

fn merged(common: &Options, own: &Options) -> Options {
    let both = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.iter().chain(b).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    Options {
        labels: both(&common.labels, &own.labels),
        annotations: both(&common.annotations, &own.annotations),
        disable_name_suffix_hash: common.disable_name_suffix_hash || own.disable_name_suffix_hash,
        immutable: common.immutable || own.immutable,
    }
}

fn make(root: &Path, kind: &str, generator: &Generator, options: &Options) -> anyhow::Result<Item> {
    if generator.name.is_empty() {
        bail!("it has no name");
    }
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": generator.name}});
    let entries = entries(root, generator)?;
    for (key, bytes) in entries {
        let (field, value) = match String::from_utf8(bytes) {
            Ok(text) if kind == "ConfigMap" => ("data", text),
            Ok(text) => ("data", STANDARD.encode(text)),
            Err(error) => (if kind == "ConfigMap" { "binaryData" } else { "data" }, STANDARD.encode(error.into_bytes())),
        };
        objects::set(&mut object, &[field, &key], value.into());
    }
    if kind == "Secret" {
        let secret_type = if generator.secret_type.is_empty() { "Opaque" } else { &generator.secret_type };
        object["type"] = secret_type.into();
    } else if !generator.secret_type.is_empty() {
        bail!("a ConfigMap has no type");
    }
    if !generator.namespace.is_empty() {
        object["metadata"]["namespace"] = generator.namespace.as_str().into();
    }
    for (field, pairs) in [("labels", &options.labels), ("annotations", &options.annotations)] {
        if !pairs.is_empty() {
            object["metadata"][field] = json!(pairs);
        }
    }
    if options.immutable {
        object["immutable"] = true.into();
    }
    Ok(Item { hashed: !options.disable_name_suffix_hash, ..Item::new(object) })
}

/// Adds an object, or changes the one of its name.
fn place(items: &mut Vec<Item>, item: Item, generator: &Generator) -> anyhow::Result<()> {
    let same = |other: &&mut Item| {
        other.kind() == item.kind() && other.known.0 == item.known.0 && (item.known.1.is_empty() || other.known.1 == item.known.1)
    };
    match generator.behavior.as_str() {
        "" | "create" | "unspecified" => return add(items, item),
        "merge" | "replace" => {}
        other => bail!("behavior: create, merge or replace is wanted, not \"{other}\""),
    }
    let Some(target) = items.iter_mut().find(same) else {
        bail!("there is no {} {} to {}", item.kind(), item.name(), generator.behavior);
    };
    target.hashed |= item.hashed;
    if generator.behavior == "replace" {
        for field in ["data", "binaryData"] {
            objects::set(&mut target.value, &[field], Value::Null);
            target.value.as_object_mut().map(|object| object.remove(field));
        }
    }
    for field in ["data", "binaryData"] {
        for (key, value) in item.value.get(field).and_then(Value::as_object).into_iter().flatten() {
            objects::set(&mut target.value, &[field, key], value.clone());
        }
    }
    for field in ["labels", "annotations"] {
        for (key, value) in item.value["metadata"].get(field).and_then(Value::as_object).into_iter().flatten() {
            objects::set(&mut target.value, &["metadata", field, key], value.clone());
        }
    }
    Ok(())
}

/// Keys and what they hold.
fn entries(root: &Path, generator: &Generator) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut entries = Vec::new();
    for file in Some(&generator.env).filter(|env| !env.is_empty()).into_iter().chain(&generator.envs) {
        let text = String::from_utf8(file::bytes(root, file)?).with_context(|| format!("{file} is no UTF-8"))?;
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = match line.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                // A name alone is the variable of that name here.
                None => (line, std::env::var(line.trim_end()).unwrap_or_default()),
            };
            entries.push((key.trim_end().to_owned(), value.into_bytes()));
        }
    }
    for literal in &generator.literals {
        let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            bail!("literals: \"{literal}\": <key>=<value> is wanted");
        };
        let bare = ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
        entries.push((key.to_owned(), bare.as_bytes().to_vec()));
    }
    for entry in &generator.files {
        let (key, path) = match entry.split_once('=') {
            Some((key, path)) => (key.to_owned(), path),
            None => (Path::new(entry).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned(), entry.as_str()),
        };
        if key.is_empty() {
            bail!("files: \"{entry}\": <key>=<file> or a file is wanted");
        }
        entries.push((key, file::bytes(root, path)?));
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.clone())) {
        bail!("the key \"{key}\" is given twice");
    }
    Ok(entries)
}

/// What the name of a ConfigMap or Secret ends with: upstream's hash of its contents, in letters that spell no words.
pub fn hash(object: &Value) -> String {
    let field = |name: &str| object.get(name).cloned();
    let mut hashed = Map::new();
    hashed.insert("data".to_owned(), field("data").unwrap_or_else(|| "".into()));
    hashed.insert("kind".to_owned(), text(object, "/kind").into());
    // As upstream's, which looks for it where no object has it.
    hashed.insert("name".to_owned(), "".into());
    if text(object, "/kind") == "Secret" {
        hashed.insert("type".to_owned(), text(object, "/type").into());
        hashed.extend(field("stringData").map(|data| ("stringData".to_owned(), data)));
    } else {
        hashed.extend(field("binaryData").map(|data| ("binaryData".to_owned(), data)));
    }
    // Keys in order and these letters escaped, as Go writes JSON.
    let sorted: BTreeMap<String, Value> = hashed.into_iter().collect();
    let encoded = json!(sorted).to_string();
    let encoded = encoded.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let encoded = encoded.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    let digest = ring::digest::digest(&ring::digest::SHA256, encoded.as_bytes());
    let digits = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).take(LETTERS);
    digits.filter_map(|digit| b"gh2k456789mbcdtf".get(usize::from(digit)).copied().map(char::from)).collect()
}
