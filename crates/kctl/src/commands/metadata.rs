//! `kctl label` and `kctl annotate`

use anyhow::bail;
use api::names::{Format, check};
use serde_json::Value;

use crate::{
    Session,
    failures::Failures,
    objects::{self, members},
    resource_args::{Named, ObjectArgs},
    write::WriteArgs,
};

/// Add, change or remove labels
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl label pod web tier=front
  kctl label pods -l app=web tier=back --overwrite
  kctl label pod web tier-                        remove it
  kctl label node node-1 --list")]
pub struct LabelArgs {
    #[command(flatten)]
    common: Common,
}

/// Add, change or remove annotations
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl annotate pod web note='restarted by hand'
  kctl annotate pods --all note-                  remove it")]
pub struct AnnotateArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// TYPE NAME … or TYPE/NAME …, then KEY=VALUE to set and KEY- to remove
    #[command(flatten)]
    objects: ObjectArgs,
    /// Change keys that have another value now
    #[arg(long)]
    overwrite: bool,
    /// Show what there is
    #[arg(long)]
    list: bool,
    /// Only if this is the object's resource version
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What sets labels apart from annotations.
struct Field {
    name: &'static str,
    pointer: &'static str,
    done: &'static str,
    undone: &'static str,
    both: &'static str,
    unchanged: &'static str,
    value_format: Option<Format>,
}

const LABELS: Field = Field {
    name: "labels",
    pointer: "/metadata/labels",
    done: "labeled",
    undone: "unlabeled",
    both: "modified",
    unchanged: "not labeled",
    value_format: Some(Format::LabelValue),
};

const ANNOTATIONS: Field = Field {
    name: "annotations",
    pointer: "/metadata/annotations",
    done: "annotated",
    undone: "annotated",
    both: "annotated",
    unchanged: "annotated",
    value_format: None,
};

/// What to do with one key: a value, or `None` to remove it.
type Change = (String, Option<String>);

/// Runs `label`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn label(session: &Session, args: LabelArgs) -> anyhow::Result<()> {
    run(session, args.common, &LABELS).await
}

/// Runs `annotate`.
///
/// # Errors
/// What went wrong, for the user.
pub async fn annotate(session: &Session, args: AnnotateArgs) -> anyhow::Result<()> {
    run(session, args.common, &ANNOTATIONS).await
}

async fn run(session: &Session, mut args: Common, field: &'static Field) -> anyhow::Result<()> {
    // The first word is a kind, unless files name the objects.
    let kinds = usize::from(args.objects.files.is_empty());
    let changes = take_changes(&mut args.objects.resources, kinds, field)?;
    if changes.is_empty() && !args.list {
        bail!("at least one {} update is required: KEY=VALUE to set, KEY- to remove", field.name.trim_end_matches('s'));
    }
    let objects = args.objects.resolve(session).await?;
    if objects.is_empty() {
        session.console.note("No resources found");
    }
    if objects.len() > 1 && args.resource_version.is_some() {
        bail!("--resource-version may only be used with a single resource");
    }
    let mut failures = Failures::default();
    for named in &objects {
        let outcome = if args.list {
            list(session, named, field, objects.len() > 1).await
        } else {
            change(session, &args, named, &changes, field).await
        };
        failures.check(session, outcome)?;
    }
    failures.finish()
}

/// Takes the changes off the end of the words; the first `kinds` of them are none, whatever they look like.
fn take_changes(words: &mut Vec<String>, kinds: usize, field: &Field) -> anyhow::Result<Vec<Change>> {
    let is_change = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().skip(kinds).position(is_change).map_or(words.len(), |at| at + kinds);
    let mut changes: Vec<Change> = Vec::new();
    for word in words.split_off(first.min(words.len())) {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key.to_owned(), Some(value.to_owned())),
            (None, Some(key)) => (key.to_owned(), None),
            (None, None) => bail!("all resources must be specified before {} changes: {word}", field.name.trim_end_matches('s')),
        };
        check(Format::QualifiedName, &key).map_err(|why| anyhow::anyhow!("invalid key \"{key}\": {why}"))?;
        if let (Some(format), Some(value)) = (field.value_format, &value) {
            check(format, value).map_err(|why| anyhow::anyhow!("invalid label value: \"{value}\": {why}"))?;
        }
        if changes.iter().any(|(known, _)| *known == key) {
            bail!("cannot change key \"{key}\" twice in one command");
        }
        changes.push((key, value));
    }
    Ok(changes)
}

async fn list(session: &Session, named: &Named, field: &Field, several: bool) -> anyhow::Result<()> {
    let object = objects::to_value(&objects::get(session, named.kind, &named.namespace, &named.name).await?)?;
    if several {
        session.console.line(format!("Listing {} for {}:", field.name, named.display()))?;
    }
    for (key, value) in members(&object, field.pointer) {
        session.console.line(format!("{}{key}={}", if several { " " } else { "" }, api::jsonpath::text(value)))?;
    }
    Ok(())
}

async fn change(session: &Session, args: &Common, named: &Named, changes: &[Change], field: &Field) -> anyhow::Result<()> {
    let (mut set, mut removed) = (false, false);
    let decide = |old: &Value| {
        if let Some(wanted) = &args.resource_version
            && objects::text(old, "/metadata/resourceVersion") != wanted
        {
            bail!(
                "{}: its resource version is {}, not {wanted}",
                named.display(),
                objects::text(old, "/metadata/resourceVersion")
            );
        }
        let mut new = old.clone();
        (set, removed) = (false, false);
        for (key, value) in changes {
            let current = old.pointer(field.pointer).and_then(|map| map.get(key)).and_then(Value::as_str);
            match value {
                Some(value) => {
                    if let Some(current) = current.filter(|current| !args.overwrite && current != value) {
                        let found = format!("'{key}' already has a value ({current})");
                        if field.name == "annotations" {
                            bail!("--overwrite is false but found the following declared annotation(s): {found}");
                        }
                        bail!("{found}, and --overwrite is false");
                    }
                    set = true;
                    objects::set(&mut new, &["metadata", field.name, key], value.as_str().into());
                }
                None => {
                    if current.is_none() {
                        session.console.note(format!("{} \"{key}\" not found.", field.name.trim_end_matches('s')));
                    } else if let Some(Value::Object(map)) = new.pointer_mut(field.pointer) {
                        map.remove(key);
                        removed = true;
                    }
                }
            }
        }
        Ok(Some(new))
    };
    let (object, changed) = args.write.change(session, named.kind, &named.namespace, &named.name, decide).await?;
    let what = match (changed, set, removed) {
        (false, ..) => field.unchanged,
        (true, true, true) => field.both,
        (true, false, _) => field.undone,
        (true, ..) => field.done,
    };
    args.write.done(session, named.kind, &object, what)
}

#[cfg(test)]
mod tests {
    use api::core::v1::ConfigMap;

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn labels_are_set_changed_and_removed() {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(named("a"));
        let labels = || bench.server.find::<ConfigMap>("default", "a").unwrap().metadata().labels.clone();
        assert_eq!(bench.ok("label cm a app=web x/y=").await, "configmap/a labeled\n");
        assert_eq!(bench.ok("label cm/a app=web").await, "configmap/a not labeled\n");
        assert!(bench.fails("label cm a app=db").await.contains("'app' already has a value (web), and --overwrite is false"));
        assert_eq!(bench.ok("label cm a app=db --overwrite=true").await, "configmap/a labeled\n");
        assert_eq!(bench.ok("label cm a more=1 x/y-").await, "configmap/a modified\n");
        assert_eq!(bench.ok("label cm a app=db x/y-").await, "configmap/a not labeled\n");
        assert_eq!(bench.ok("label cm --all app- more-").await, "configmap/a unlabeled\n");
        assert!(labels().is_empty());
        assert!(bench.fails("label cm a app=b@d").await.contains("invalid label value: \"b@d\""));
        assert!(bench.fails("label cm a").await.contains("at least one label update is required"));
        let file = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        assert_eq!(bench.with_input(file).ok("label -f - app=web").await, "configmap/a labeled\n");
        assert_eq!(labels()["app"], "web");
        assert_eq!(bench.ok_words(&["annotate", "cm", "a", "note=a b"]).await, "configmap/a annotated\n");
        assert_eq!(bench.ok("annotate cm a --list").await, "note=a b\n");
        let declared = "--overwrite is false but found the following declared annotation(s): 'note' already has a value (a b)";
        assert!(bench.fails("annotate cm a note=c").await.contains(declared));
    }

    #[tokio::test]
    async fn a_change_that_loses_a_race_is_made_again() {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(named("a"));
        let conflict = api::StatusError::new(api::status::Reason::Conflict, "changed");
        bench.server.fail_next("patch", "configmaps", conflict);
        assert_eq!(bench.ok("label cm a app=web").await, "configmap/a labeled\n");
    }
}
