//! `kctl patch` and `kctl replace`

use anyhow::{Context as _, bail};
use api::yaml;
use client::{Dynamic, Patch};
use serde_json::Value;

use super::apply::{LAST_APPLIED, remembered};
use crate::{
    Session,
    failures::Failures,
    manifest::{FileArgs, Manifest, ValidateArgs},
    objects,
    resource_args::{Named, ObjectArgs},
    write::{WriteArgs, unchanged},
};

/// How a patch is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum PatchType {
    /// Lists of objects are merged by their key.
    #[default]
    Strategic,
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
}

/// Change parts of an object
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl patch node node-1 -p '{\"spec\":{\"unschedulable\":true}}'
  kctl patch rc web --type=merge -p 'spec: {replicas: 3}'
  kctl patch svc web --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/sessionAffinity\"}]'
  kctl patch pod web --patch-file=change.yaml")]
pub struct Args {
    #[command(flatten)]
    objects: ObjectArgs,
    /// The patch, JSON or YAML
    #[arg(short = 'p', long, value_name = "PATCH", required_unless_present = "patch_file")]
    patch: Option<String>,
    /// File with the patch, JSON or YAML
    #[arg(long, value_name = "FILE", conflicts_with = "patch")]
    patch_file: Option<String>,
    /// How the patch is written: strategic, merge, json
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t, hide_possible_values = true)]
    patch_type: PatchType,
    /// The part of the object to change, such as status or scale
    #[arg(long, value_name = "NAME", default_value = "")]
    subresource: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// Replace objects by what files say
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl replace -f web.yaml
  kctl get rc web -o yaml | sed s/v1/v2/ | kctl replace -f -
  kctl replace --force -f web.yaml                delete it and create it again")]
pub struct ReplaceArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Delete the object and create it again
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    validate: ValidateArgs,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs `patch`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let value = args.value()?;
    let patch = match args.patch_type {
        PatchType::Strategic => Patch::Strategic(value),
        PatchType::Merge => Patch::Merge(value),
        PatchType::Json => Patch::Json(value),
    };
    let found = args.objects.resolve(session).await?;
    let mut failures = Failures::default();
    for named in &found {
        let outcome = send(session, &args, named, &patch).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

impl Args {
    fn value(&self) -> anyhow::Result<Value> {
        let (name, text) = match (&self.patch, &self.patch_file) {
            (Some(text), _) => ("--patch", text.clone()),
            (None, file) => {
                let file = file.as_deref().unwrap_or_default();
                (file, std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?)
            }
        };
        match yaml::parse(name, text.as_bytes())?.as_slice() {
            [one] => Ok(one.value.clone()),
            // `null`: a patch of nothing.
            [] if !text.trim().is_empty() => Ok(Value::Null),
            several => bail!("{name}: one patch is wanted, found {}", several.len()),
        }
    }
}

async fn send(session: &Session, args: &Args, named: &Named, patch: &Patch) -> anyhow::Result<()> {
    let old = objects::get(session, named.kind, &named.namespace, &named.name).await?;
    if args.write.client_only() {
        let (kind, value) = match patch {
            Patch::Strategic(value) => (api::patch::PatchType::Strategic, value),
            Patch::Merge(value) => (api::patch::PatchType::Merge, value),
            Patch::Json(value) => (api::patch::PatchType::Json, value),
        };
        let new = api::patch::Patch::new(kind, value.clone())?.apply(objects::to_value(&old)?, named.kind.message())?;
        return args.write.done(session, named.kind, &new, "patched");
    }
    let api = args.write.api(session, named.kind, &named.namespace)?;
    let request = api.patch_subresource::<Dynamic>(&named.name, &args.subresource, patch);
    let new = session.shown(&format!("changing {}", named.display()), request).await?;
    let what = if unchanged(&old, &new) { "patched (no change)" } else { "patched" };
    // A subresource such as scale is another kind, but the object was changed.
    args.write.done(session, named.kind, &objects::to_value(&new)?, what)
}

/// Runs `replace`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run_replace(session: &Session, mut args: ReplaceArgs) -> anyhow::Result<()> {
    args.write.validation = args.validate.validate;
    if args.files.is_empty() {
        bail!("must specify -f: the file, folder or - (standard input) with what to replace");
    }
    let mut failures = Failures::default();
    for manifest in args.files.objects(session, args.write.validation)? {
        let outcome = replace(session, &args, &manifest).await;
        failures.check(session, outcome.map_err(|error| manifest.locate(error, "replacing")))?;
    }
    failures.finish()
}

async fn replace(session: &Session, args: &ReplaceArgs, manifest: &Manifest) -> anyhow::Result<()> {
    if manifest.name().is_empty() {
        bail!("{}: metadata.name is not set", manifest.origin);
    }
    let old = objects::get_opt(session, manifest.kind, manifest.namespace(), manifest.name()).await?;
    let applied = old.as_ref().is_some_and(|old| client::Item::meta(old).annotations.contains_key(LAST_APPLIED));
    let value = if applied { remembered(&manifest.value)? } else { manifest.value.clone() };
    if args.write.client_only() {
        return args.write.done(session, manifest.kind, &value, "replaced");
    }
    let api = args.write.api(session, manifest.kind, manifest.namespace())?;
    let what = format!("replacing {}", crate::kinds::display(manifest.kind, manifest.name()));
    let stored = if args.force {
        if old.is_some() {
            let named =
                Named { kind: manifest.kind, namespace: manifest.namespace().to_owned(), name: manifest.name().to_owned() };
            super::delete::delete_and_wait(session, &named).await?;
        }
        session.shown(&what, api.create_json(&objects::fresh(value))).await?
    } else {
        session.shown(&what, api.update_json(manifest.name(), "", &value)).await?
    };
    args.write.done_with(session, &stored, "replaced")
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn patches_of_every_type_are_sent() {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(named("a"));
        assert_eq!(bench.ok_words(&["patch", "cm", "a", "-p", "data: {k: v}"]).await, "configmap/a patched\n");
        let json = r#"[{"op":"replace","path":"/data/k","value":"w"}]"#;
        assert_eq!(bench.ok_words(&["patch", "cm/a", "--type=json", "-p", json]).await, "configmap/a patched\n");
        assert_eq!(bench.server.find::<ConfigMap>("default", "a").unwrap().data["k"], "w");
        assert!(bench.fails("patch cm a -p {").await.contains("--patch: document 1, line 1"));
    }

    #[tokio::test]
    async fn replace_takes_the_file_for_all_there_is() {
        let bench = Bench::new();
        let mut map: ConfigMap = named("a");
        map.data.insert("old".into(), "1".into());
        bench.server.put(map);
        let file = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {new: '2'}\n";
        assert_eq!(bench.with_input(file).ok("replace -f -").await, "configmap/a replaced\n");
        let data = bench.server.find::<ConfigMap>("default", "a").unwrap().data;
        assert_eq!(data.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(bench.with_input(file).ok("replace --force -f -").await, "configmap/a replaced\n");
        assert!(bench.with_input(&file.replace("name: a", "name: b")).fails("replace -f -").await.contains("NotFound"));
    }
}
