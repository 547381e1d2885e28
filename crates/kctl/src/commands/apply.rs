//! `kctl apply`

use anyhow::{Context as _, bail};
use api::{patch::create_three_way_patch, selector::Selector};
use client::{Dynamic, Item as _, Patch};
use serde_json::Value;

use super::last_applied::{self, LastApplied};

use crate::{
    Session,
    failures::Failures,
    kinds,
    manifest::{FileArgs, Manifest, ValidateArgs, Validation},
    objects,
    write::{WriteArgs, unchanged},
};

/// Where what was applied is remembered, so that the next time what is no longer wanted can be told from what others set.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes that the annotations of an object may have in all.
const MAX_REMEMBERED: usize = 256 << 10;
/// How often a change that met another one is tried again.
const ATTEMPTS: u32 = 5;

/// Make objects as files say, creating or changing them
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kctl apply -f web.yaml
  kctl apply -f manifests/ -R                     all files of a folder and the folders in it
  kctl apply -f https://example.org/web.yaml
  kctl apply -k overlays/production               what a kustomization.yaml puts together
  cat web.yaml | kctl apply -f -
  kctl apply -f web.yaml --dry-run=server         only say what would be done"
)]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    write: WriteArgs,
    /// Only objects of the files whose labels match
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    #[command(flatten)]
    validate: ValidateArgs,
    /// Delete and create objects whose change is refused
    #[arg(long)]
    force: bool,
    #[command(subcommand)]
    last: Option<LastApplied>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, mut args: Args) -> anyhow::Result<()> {
    if let Some(last) = args.last {
        return last_applied::run(session, last).await;
    }
    args.write.validation = args.validate.validate;
    if args.files.is_empty() {
        bail!("must specify -f: the file, folder or - (standard input) with what to apply");
    }
    let manifests = selected(session, &args.files, args.write.validation, args.selector.as_deref())?;
    if manifests.is_empty() {
        bail!("no objects passed to apply");
    }
    if let Some(nameless) = manifests.iter().find(|m| m.name().is_empty()) {
        bail!("{}: metadata.name is not set; `kctl create` can generate names, `kctl apply` cannot", nameless.origin);
    }
    let wanted: Vec<Value> = manifests.iter().map(wanted).collect::<anyhow::Result<_>>()?;
    let mut failures = Failures::default();
    for (manifest, wanted) in manifests.iter().zip(wanted) {
        let outcome = apply(session, &args, manifest, wanted).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

/// The objects of files whose labels match.
///
/// # Errors
/// When the selector or a file cannot be read.
pub fn selected(
    session: &Session,
    files: &FileArgs,
    validation: Validation,
    selector: Option<&str>,
) -> anyhow::Result<Vec<Manifest>> {
    let selector = Selector::parse(selector.unwrap_or_default())?;
    let mut manifests = files.objects(session, validation)?;
    manifests.retain(|m| {
        let labels = m.value.pointer("/metadata/labels").and_then(Value::as_object);
        selector.matches(|key| labels?.get(key)?.as_str())
    });
    Ok(manifests)
}

/// What is sent, if it has room for the annotation that remembers it.
fn wanted(manifest: &Manifest) -> anyhow::Result<Value> {
    let wanted = remembered(&manifest.value)?;
    let size = wanted["metadata"]["annotations"][LAST_APPLIED].as_str().map(str::len).unwrap_or_default();
    if size > MAX_REMEMBERED {
        bail!(
            "{}: {} has {size} bytes as JSON, and `kctl apply` remembers objects of {MAX_REMEMBERED} at most: use `kctl create` and \
             `kctl replace` for this one",
            manifest.origin,
            display(manifest)
        );
    }
    Ok(wanted)
}

async fn apply(session: &Session, args: &Args, manifest: &Manifest, wanted: Value) -> anyhow::Result<()> {
    for attempt in 1.. {
        let live = match objects::get_opt(session, manifest.kind, manifest.namespace(), manifest.name()).await {
            Err(error) if args.write.client_only() && session.client.get().is_none() => {
                return Err(error.context("kctl apply asks the server what exists, also with --dry-run=client"));
            }
            live => live?,
        };
        let outcome = match &live {
            None => create(session, &args.write, manifest, &wanted).await,
            Some(live) => change(session, &args.write, manifest, &wanted, live).await,
        };
        let error = match outcome {
            Ok((object, what)) => return args.write.done(session, manifest.kind, &object, what),
            Err(error) => error,
        };
        let refused = error.downcast_ref::<client::Error>();
        let raced = refused.is_some_and(|error| error.is_conflict() || error.is_already_exists());
        if raced && attempt < ATTEMPTS {
            continue;
        }
        if args.force && live.is_some() && (raced || refused.is_some_and(is_invalid)) {
            return replace(session, args, manifest, &wanted).await;
        }
        return Err(manifest.locate(error, "applying"));
    }
    Ok(())
}

/// What applying an object would store, as the server says without storing it. The annotation that remembers it is left as it is.
///
/// # Errors
/// What the server refuses.
pub async fn dry_run(session: &Session, write: &WriteArgs, manifest: &Manifest, live: Option<&Dynamic>) -> anyhow::Result<Value> {
    let mut wanted = manifest.value.clone();
    if let Some(Value::Object(annotations)) = wanted.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    let (object, _) = match live {
        None => create(session, write, manifest, &wanted).await?,
        Some(live) => change(session, write, manifest, &wanted, live).await?,
    };
    Ok(object)
}

async fn create(
    session: &Session,
    write: &WriteArgs,
    manifest: &Manifest,
    wanted: &Value,
) -> anyhow::Result<(Value, &'static str)> {
    if write.client_only() {
        return Ok((wanted.clone(), "created"));
    }
    let api = write.api(session, manifest.kind, manifest.namespace())?;
    let created = session.shown(&doing("creating", manifest), api.create_json(wanted)).await?;
    Ok((objects::to_value(&created)?, "created"))
}

async fn change(
    session: &Session,
    write: &WriteArgs,
    manifest: &Manifest,
    wanted: &Value,
    live: &Dynamic,
) -> anyhow::Result<(Value, &'static str)> {
    let patch = patch(session, manifest, wanted, live)?;
    if patch.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok((objects::to_value(live)?, "unchanged"));
    }
    if write.client_only() {
        let parsed = api::patch::Patch::new(api::patch::PatchType::Strategic, patch)?;
        return Ok((parsed.apply(objects::to_value(live)?, manifest.kind.message())?, "configured"));
    }
    let api = write.api(session, manifest.kind, manifest.namespace())?;
    let stored = session.shown(&doing("changing", manifest), api.patch(manifest.name(), &Patch::Strategic(patch))).await?;
    let what = if unchanged(live, &stored) { "unchanged" } else { "configured" };
    Ok((objects::to_value(&stored)?, what))
}

fn patch(session: &Session, manifest: &Manifest, wanted: &Value, live: &Dynamic) -> anyhow::Result<Value> {
    let last = match live.meta().annotations.get(LAST_APPLIED) {
        Some(text) => serde_json::from_str(text).with_context(|| {
            format!("{}: its annotation {LAST_APPLIED} is no JSON; remove it with `kctl annotate`", display(manifest))
        })?,
        None => {
            session.console.note(format!(
                "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kctl apply. kctl apply should only \
                 be used on resources created declaratively by either kctl create --save-config or kctl apply. The missing annotation \
                 will be patched automatically.",
                manifest.kind.plural,
                manifest.name()
            ));
            Value::Null
        }
    };
    create_three_way_patch(&last, wanted, &objects::to_value(live)?, manifest.kind.message())
        .with_context(|| format!("{}: cannot tell what to change", manifest.origin))
}

/// Deletes the object, waits until it is gone, and creates it.
async fn replace(session: &Session, args: &Args, manifest: &Manifest, wanted: &Value) -> anyhow::Result<()> {
    let named = crate::resource_args::Named {
        kind: manifest.kind,
        namespace: manifest.namespace().to_owned(),
        name: manifest.name().to_owned(),
    };
    super::delete::delete_and_wait(session, &named).await?;
    let (created, _) = create(session, &args.write, manifest, &objects::fresh(wanted.clone()))
        .await
        .map_err(|error| manifest.locate(error, "creating"))?;
    args.write.done(session, manifest.kind, &created, "configured")
}

/// The object with the annotation that remembers it.
///
/// # Errors
/// When the object cannot be written as JSON.
pub fn remembered(object: &Value) -> anyhow::Result<Value> {
    let mut plain = object.clone();
    if let Some(Value::Object(annotations)) = plain.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    let text = serde_json::to_string(&plain)? + "\n";
    objects::set(&mut plain, &["metadata", "annotations", LAST_APPLIED], text.into());
    Ok(plain)
}

fn is_invalid(error: &client::Error) -> bool {
    error.status().is_some_and(|status| status.reason() == api::status::Reason::Invalid)
}

fn display(manifest: &Manifest) -> String {
    kinds::display(manifest.kind, manifest.name())
}

fn doing(what: &str, manifest: &Manifest) -> String {
    format!("{what} {}", display(manifest))
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;

    use crate::testing::Bench;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: '1'\n  b: '2'\n";

    #[tokio::test]
    async fn an_object_is_created_left_alone_and_configured() {
        let bench = Bench::new();
        assert_eq!(bench.with_input(MAP).ok("apply -f -").await, "configmap/m created\n");
        assert_eq!(bench.with_input(MAP).ok("apply -f -").await, "configmap/m unchanged\n");
        // Somebody else adds a key, which stays; a key that is no longer wanted goes.
        let mut map = bench.server.find::<ConfigMap>("default", "m").unwrap();
        map.data.insert("c".into(), "3".into());
        bench.server.put(map);
        assert_eq!(bench.with_input(&MAP.replace("  b: '2'\n", "")).ok("apply -f -").await, "configmap/m configured\n");
        let map = bench.server.find::<ConfigMap>("default", "m").unwrap();
        assert_eq!(map.data.keys().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[tokio::test]
    async fn a_bad_document_leaves_nothing_half_done() {
        let bench =
            Bench::new().input(&format!("{MAP}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndatum: {{}}\n"));
        let errors = bench.fails("apply -f -").await;
        assert!(errors.contains("standard input: document 2, line 12: unknown field \"datum\""), "{errors}");
        assert!(bench.server.all::<ConfigMap>().is_empty());
    }

    #[tokio::test]
    async fn an_object_too_large_to_be_remembered_is_refused_before_anything_is_done() {
        let large = MAP.replace("name: m", "name: large").replace("'1'", &"x".repeat(300 << 10));
        let bench = Bench::new().input(&format!("{MAP}---\n{large}"));
        let errors = bench.fails("apply -f -").await;
        assert!(errors.starts_with("error: standard input: document 2, line 9: configmap/large has "), "{errors}");
        assert!(errors.contains("use `kctl create`") && bench.server.all::<ConfigMap>().is_empty(), "{errors}");
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing() {
        let bench = Bench::new();
        assert_eq!(bench.with_input(MAP).ok("apply -f - --dry-run=client").await, "configmap/m created (dry run)\n");
        assert!(bench.server.all::<ConfigMap>().is_empty());
        bench.with_input(MAP).ok("apply -f -").await;
        let changed = MAP.replace("'1'", "'3'");
        let said = bench.with_input(&changed).ok("apply -f - --dry-run=server").await;
        assert_eq!(said, "configmap/m configured (server dry run)\n");
        assert_eq!(bench.server.find::<ConfigMap>("default", "m").unwrap().data["a"], "1");
        let said = bench.with_input(MAP).ok("apply -f - --dry-run=server").await;
        assert_eq!(said, "configmap/m unchanged (server dry run)\n");
    }

    #[tokio::test]
    async fn force_makes_anew_what_cannot_be_changed() {
        let bench = Bench::new();
        bench.with_input(MAP).ok("apply -f -").await;
        let old = bench.server.find::<ConfigMap>("default", "m").unwrap();
        let invalid = api::StatusError::new(api::status::Reason::Invalid, "ConfigMap \"m\" is invalid: data: field is immutable");
        bench.server.fail_next("patch", "configmaps", invalid);
        // As `get -o yaml` shows it, and edited.
        let text = bench.ok("get cm m -o yaml").await.replace("\"1\"", "\"3\"");
        assert_eq!(bench.with_input(&text).ok("apply --force -f -").await, "configmap/m configured\n");
        let new = bench.server.find::<ConfigMap>("default", "m").unwrap();
        assert!(new.metadata().uid != old.metadata().uid && new.data["a"] == "3", "{new:?}");
    }

    #[tokio::test]
    async fn what_the_server_refuses_is_located() {
        let bench = Bench::new().input(MAP);
        let mut status = api::StatusError::new(api::status::Reason::Invalid, "ConfigMap \"m\" is invalid: data[a]: no");
        let cause = api::meta::v1::StatusCause { field: "data[a]".into(), ..Default::default() };
        // Two faults of one field.
        status = status.with_cause(cause.clone()).with_cause(cause);
        bench.server.fail_next("create", "configmaps", status);
        let errors = bench.fails("apply -f -").await;
        assert!(errors.contains("document 1, line 1") && errors.matches("[data[a] is at line 6]").count() == 1, "{errors}");
    }
}
