//! `kctl diff`

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use api::yaml;
use serde_json::{Map, Value};

use super::apply;
use crate::{
    Session,
    error::{self, Exit},
    manifest::{FileArgs, Manifest, Validation},
    objects,
    write::{DryRun, WriteArgs},
};

/// The environment variable that names the program which compares.
const PROGRAM: &str = "KUBECTL_EXTERNAL_DIFF";
/// How often an object that changes meanwhile is looked at.
const ATTEMPTS: u32 = 4;
/// Exit code of what went wrong; 1 says that there are differences.
const FAILED: u8 = 2;

/// Show what applying files would change
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl diff -f web.yaml
  kctl diff -k overlays/production
  cat web.yaml | kctl diff -f -
  KUBECTL_EXTERNAL_DIFF=\"diff -N -u --color=always\" kctl diff -f web.yaml

The exit code is 0 if nothing would change, 1 if something would, and above 1 if that cannot be told.")]
pub struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Only objects of the files whose labels match
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// Also show who manages which field
    #[arg(long)]
    show_managed_fields: bool,
    /// Who makes the change, as recorded with the object
    #[arg(long, value_name = "NAME", hide = true)]
    field_manager: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// An exit with code 1 if there are differences; what went wrong, with a code above 1.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match compare(session, &args).await {
        Ok(0) => Ok(()),
        Ok(code) => Err(Exit::silent(code)),
        Err(failure) => match failure.downcast::<Exit>() {
            Ok(exit) => Err(Exit { code: exit.code.max(FAILED), ..exit }.into()),
            Err(failure) => Err(Exit { code: FAILED, message: Some(error::describe(&failure)) }.into()),
        },
    }
}

async fn compare(session: &Session, args: &Args) -> anyhow::Result<u8> {
    if args.files.is_empty() {
        bail!("must specify -f or -k: the file, folder or - (standard input) with what to compare");
    }
    let manifests = apply::selected(session, &args.files, Validation::Strict, args.selector.as_deref())?;
    let folder = |prefix| tempfile::Builder::new().prefix(prefix).tempdir().context("cannot make a temporary folder");
    let (live_folder, merged_folder) = (folder("LIVE-")?, folder("MERGED-")?);
    for manifest in &manifests {
        if manifest.name().is_empty() {
            bail!("{}: metadata.name is not set; `kctl create` can generate names, `kctl diff` cannot", manifest.origin);
        }
        let (mut live, mut merged) = both(session, args, manifest).await.map_err(|error| manifest.locate(error, "comparing"))?;
        if !args.show_managed_fields {
            live.iter_mut().for_each(without_managers);
            without_managers(&mut merged);
        }
        if manifest.kind.api_version == "v1" && manifest.kind.kind == "Secret" {
            mask(&mut live, &mut merged);
        }
        if let Some(live) = live {
            write(live_folder.path(), manifest, &live)?;
        }
        write(merged_folder.path(), manifest, &merged)?;
    }
    show(session, live_folder.path(), merged_folder.path())
}

/// An object as it is, if it exists, and as it would be.
async fn both(session: &Session, args: &Args, manifest: &Manifest) -> anyhow::Result<(Option<Value>, Value)> {
    let write = WriteArgs { dry_run: DryRun::Server, field_manager: args.field_manager.clone(), ..WriteArgs::default() };
    let mut attempt = 1;
    loop {
        let live = objects::get_opt(session, manifest.kind, manifest.namespace(), manifest.name()).await?;
        match apply::dry_run(session, &write, manifest, live.as_ref()).await {
            Ok(merged) => return Ok((live.as_ref().map(objects::to_value).transpose()?, merged)),
            Err(error) => {
                let raced = error.downcast_ref::<client::Error>().is_some_and(client::Error::is_conflict);
                if !raced || attempt == ATTEMPTS {
                    return Err(error);
                }
            }
        }
        attempt += 1;
    }
}

fn without_managers(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
}

/// Shows of a Secret which values change, and no value.
fn mask(live: &mut Option<Value>, merged: &mut Value) {
    let data = |object: &Value| object.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, after) = (live.as_ref().map(data).unwrap_or_default(), data(merged));
    let masked = |own: &Map<String, Value>, other: &Map<String, Value>, when: &str| {
        let text = |key: &String, value: &Value| match other.get(key) {
            Some(theirs) if theirs != value => format!("*** ({when})"),
            _ => "***".to_owned(),
        };
        Value::Object(own.iter().map(|(key, value)| (key.clone(), text(key, value).into())).collect())
    };
    if let Some(live) = live.as_mut().filter(|live| live.get("data").is_some()) {
        live["data"] = masked(&before, &after, "before");
    }
    if merged.get("data").is_some() {
        merged["data"] = masked(&after, &before, "after");
    }
    for object in live.iter_mut().chain([merged]) {
        // It holds the values too.
        if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations")
            && let Some(text) = annotations.get_mut(apply::LAST_APPLIED)
        {
            *text = "***".into();
        }
    }
}

fn write(folder: &Path, manifest: &Manifest, object: &Value) -> anyhow::Result<()> {
    let kind = manifest.kind;
    let group = if kind.group.is_empty() { String::new() } else { format!("{}.", kind.group) };
    // A name may hold what a file name may not.
    let name = manifest.name().replace('/', "%2F");
    let path = folder.join(format!("{group}{}.{}.{}.{name}", kind.version, kind.kind, manifest.namespace()));
    std::fs::write(&path, yaml::to_yaml(object)).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs the program that compares, shows what it prints and returns its exit code: 0 or 1.
fn show(session: &Session, live: &Path, merged: &Path) -> anyhow::Result<u8> {
    let wanted = std::env::var(PROGRAM).unwrap_or_default();
    let (program, flags) = program(&wanted);
    let outcome = Command::new(program).args(flags).arg(live).arg(merged).stderr(Stdio::inherit()).output();
    let outcome = outcome.with_context(|| format!("cannot run {program}: install it, or name another program in ${PROGRAM}"))?;
    session.console.print(&outcome.stdout)?;
    match outcome.status.code() {
        Some(0) => Ok(0),
        Some(1) => Ok(1),
        _ => bail!("{program} failed: {}", outcome.status),
    }
}

/// The program and its flags; words that are neither a flag nor plain are left out, as in kubectl.
fn program(wanted: &str) -> (&str, Vec<&str>) {
    let mut words = wanted.split(' ').filter(|word| !word.is_empty());
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '=');
    match words.next() {
        Some(program) => (program, words.filter(plain).collect()),
        None => ("diff", vec!["-u", "-N"]),
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Secret};

    use super::*;
    use crate::testing::Bench;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: '1'\n";

    #[tokio::test]
    async fn a_difference_is_shown_and_is_the_exit_code() {
        let bench = Bench::new();
        let text = bench.with_input(MAP).exits("diff -f -", 1).await;
        assert!(text.contains("/v1.ConfigMap.default.m") && text.contains("\n+  a: \"1\"\n"), "{text}");
        assert!(bench.server.all::<ConfigMap>().is_empty());
        bench.with_input(MAP).ok("apply -f -").await;
        assert_eq!(bench.with_input(MAP).ok("diff -f -").await, "");
        let text = bench.with_input(&MAP.replace("'1'", "'2'")).exits("diff -f -", 1).await;
        assert!(text.contains("\n-  a: \"1\"\n+  a: \"2\"\n"), "{text}");
        assert!(!text.contains("managedFields"));
        assert_eq!(bench.server.find::<ConfigMap>("default", "m").unwrap().data["a"], "1");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_above_one() {
        let bench = Bench::new();
        bench.with_input("kind: Pdo\napiVersion: v1\n").exits("diff -f -", 2).await;
        bench.exits("diff", 2).await;
        bench.exits("diff -f /nowhere", 2).await;
    }

    #[tokio::test]
    async fn a_secrets_values_are_never_shown() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: b2xk, b: c2FtZQ==}\n";
        let bench = Bench::new();
        bench.with_input(secret).ok("apply -f -").await;
        assert_eq!(bench.server.all::<Secret>().len(), 1);
        let text = bench.with_input(&secret.replace("b2xk", "bmV3")).exits("diff -f -", 1).await;
        assert!(text.contains("-  a: '*** (before)'\n") || text.contains("-  a: \"*** (before)\"\n"), "{text}");
        assert!(text.contains("*** (after)"), "{text}");
        assert!(!["b2xk", "bmV3", "c2FtZQ"].iter().any(|value| text.contains(value)), "{text}");
    }

    #[test]
    fn the_program_comes_from_the_environment() {
        assert_eq!(program(""), ("diff", vec!["-u", "-N"]));
        assert_eq!(program("colordiff -N -u --x=1 ;rm $y"), ("colordiff", vec!["-N", "-u", "--x=1"]));
    }
}
