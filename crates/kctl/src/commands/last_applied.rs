//! `kctl apply view-last-applied` and `set-last-applied`

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use client::Item as _;
use serde_json::Value;

use super::apply::{LAST_APPLIED, remembered};
use crate::{
    Session,
    failures::Failures,
    kinds,
    manifest::{FileArgs, Validation},
    objects,
    resource_args::ObjectArgs,
    write::WriteArgs,
};

/// What `apply` remembers.
#[derive(Debug, Subcommand)]
pub enum LastApplied {
    ViewLastApplied(ViewArgs),
    SetLastApplied(SetArgs),
}

/// Show what was applied last
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl apply view-last-applied rc/web
  kctl apply view-last-applied -f web.yaml -o json")]
pub struct ViewArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    /// How to print: yaml or json
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Form,
}

/// Remember files as what was applied last, and change nothing else
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl apply set-last-applied -f web.yaml
  kctl apply set-last-applied -f web.yaml --create-annotation    for objects that were never applied")]
pub struct SetArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Also for objects that remember nothing yet
    #[arg(long)]
    create_annotation: bool,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Form {
    #[default]
    Yaml,
    Json,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, what: LastApplied) -> anyhow::Result<()> {
    match what {
        LastApplied::ViewLastApplied(args) => view(session, &args).await,
        LastApplied::SetLastApplied(args) => set(session, &args).await,
    }
}

async fn view(session: &Session, args: &ViewArgs) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for named in args.objects.resolve(session).await? {
        let text = async {
            let object = objects::get(session, named.kind, &named.namespace, &named.name).await?;
            let Some(text) = object.meta().annotations.get(LAST_APPLIED) else {
                bail!("no last-applied-configuration annotation found on resource: {}", named.display());
            };
            let value: Value = serde_json::from_str(text)
                .with_context(|| format!("{}: its annotation {LAST_APPLIED} is no JSON", named.display()))?;
            Ok(match args.output {
                Form::Yaml => api::yaml::to_yaml(&value),
                Form::Json => serde_json::to_string_pretty(&value)? + "\n",
            })
        };
        if let Some(text) = failures.check(session, text.await)? {
            session.console.print(text)?;
        }
    }
    failures.finish()
}

async fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    if args.files.is_empty() {
        bail!("must specify -f or -k: the file, folder or - (standard input) with what to remember");
    }
    let mut failures = Failures::default();
    for manifest in args.files.objects(session, Validation::Strict)? {
        let annotated = remembered(&manifest.value)?;
        let text = &annotated["metadata"]["annotations"][LAST_APPLIED];
        let decide = |old: &Value| {
            let known = old.pointer("/metadata/annotations").and_then(|annotations| annotations.get(LAST_APPLIED));
            if known.is_none() && !args.create_annotation {
                bail!(
                    "no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with \
                     --create-annotation",
                    kinds::display(manifest.kind, manifest.name())
                );
            }
            let mut new = old.clone();
            objects::set(&mut new, &["metadata", "annotations", LAST_APPLIED], text.clone());
            Ok(Some(new))
        };
        let changed = args.write.change(session, manifest.kind, manifest.namespace(), manifest.name(), decide).await;
        if let Some((object, _)) = failures.check(session, changed)? {
            args.write.done(session, manifest.kind, &object, "configured")?;
        }
    }
    failures.finish()
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1'}\n";

    #[tokio::test]
    async fn what_was_applied_is_shown_and_set() {
        let bench = Bench::new();
        bench.with_input(MAP).ok("create -f -").await;
        let error = bench.fails("apply view-last-applied cm/m").await;
        assert!(error.contains("no last-applied-configuration annotation found on resource: configmap/m"), "{error}");
        assert!(bench.with_input(MAP).fails("apply set-last-applied -f -").await.contains("--create-annotation"));
        let set = "apply set-last-applied -f - --create-annotation";
        assert_eq!(bench.with_input(&MAP.replace("'1'", "'2'")).ok(set).await, "configmap/m configured\n");
        let text = bench.ok("apply view-last-applied cm/m").await;
        assert!(text.contains("data:\n  a: \"2\"\n") && !text.contains("annotations"), "{text}");
        assert!(bench.ok("apply view-last-applied cm m -o json").await.contains("\"a\": \"2\""));
        assert!(bench.ok("get cm m -o jsonpath={.data.a}").await == "1");
    }
}
