//! `kctl edit`

use std::{io::Write as _, path::Path, process::Command};

use anyhow::{Context as _, bail};
use api::{patch::create_two_way_patch, strict, yaml};
use client::{Dynamic, Patch};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Session,
    error::describe,
    failures::Failures,
    kinds,
    manifest::{ValidateArgs, Validation},
    objects,
    resource_args::{Named, ObjectArgs},
    write::{WriteArgs, unchanged},
};

const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
";

/// Change objects in an editor
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl edit rc web
  kctl edit svc/web svc/db
  KUBE_EDITOR=nano kctl edit node node-1

The editor is that in KUBE_EDITOR or EDITOR, else vi.")]
pub struct Args {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    write: WriteArgs,
    #[command(flatten)]
    validate: ValidateArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, mut args: Args) -> anyhow::Result<()> {
    args.write.validation = args.validate.validate;
    let editor =
        ["KUBE_EDITOR", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let found = args.objects.resolve(session).await?;
    if found.is_empty() {
        bail!("no objects to edit");
    }
    let mut failures = Failures::default();
    for named in &found {
        let outcome = edit(session, &args, named, &editor).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

/// Opens the editor until what it saves is taken, is what was there, or is given up.
async fn edit(session: &Session, args: &Args, named: &Named, editor: &str) -> anyhow::Result<()> {
    let live = objects::get(session, named.kind, &named.namespace, &named.name).await?;
    let mut original = objects::to_value(&live)?;
    if let Some(Value::Object(metadata)) = original.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    let file = Scratch::new(&named.name)?;
    let mut text = format!("{HEADER}{}", yaml::to_yaml(&original));
    let mut reported = String::new();
    loop {
        std::fs::write(&file.path, &text).with_context(|| format!("cannot write {}", file.path.display()))?;
        if let Err(error) = open(editor, &file.path).await {
            if std::fs::read_to_string(&file.path).is_ok_and(|saved| saved != text) {
                session.console.note(format!("A copy of your changes has been stored to \"{}\"", file.keep().display()));
            }
            return Err(error);
        }
        let saved = std::fs::read_to_string(&file.path).with_context(|| format!("cannot read {}", file.path.display()))?;
        let body: String = saved.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
        if saved == text || body.trim().is_empty() {
            session.console.note("Edit cancelled, no changes made.");
            // What was wrong stays wrong; what was typed is not lost.
            if reported.is_empty() {
                return Ok(());
            }
            let reason = reported.trim_start_matches("error: ");
            bail!("{reason}\nA copy of your changes has been stored to \"{}\"", file.keep().display());
        }
        let read = |body: &str| read(named, &original, &file.path, body, args.write.validation);
        reported = match read(&body) {
            Ok(edited) if edited == original => {
                session.console.note("Edit cancelled, no changes made.");
                return Ok(());
            }
            Ok(edited) => match send(session, args, named, &live, &original, &edited).await {
                Ok(()) => return Ok(()),
                Err(error) => describe(&error),
            },
            Err(error) => {
                // Lines are counted as they will stand in the file with this above them.
                let above = with_reason(&describe(&error), "").lines().count();
                let again = read(&("\n".repeat(above) + &body));
                describe(&again.err().unwrap_or(error))
            }
        };
        text = with_reason(&reported, &body);
    }
}

/// The file with what is wrong with it at its head.
fn with_reason(reason: &str, body: &str) -> String {
    let comment: String = reason.lines().map(|line| format!("# {line}\n")).collect();
    format!("{HEADER}{comment}#\n{body}")
}

/// What was saved, if it is an object that fits the schema and is still the same one.
fn read(named: &Named, original: &Value, path: &Path, body: &str, validation: Validation) -> anyhow::Result<Value> {
    let documents = yaml::parse(&path.display().to_string(), body.as_bytes())?;
    let [document] = documents.as_slice() else { bail!("one object is wanted, found {}", documents.len()) };
    let problems: Vec<String> = strict::check(named.kind, &document.value)
        .into_iter()
        .filter(|problem| !problem.unknown || validation == Validation::Strict)
        .map(|problem| format!("line {}: {problem}", document.line_of(&problem.path)))
        .collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    for pointer in ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"] {
        if document.value.pointer(pointer) != original.pointer(pointer) {
            bail!("{} must not be changed: that would be another object", pointer.trim_start_matches('/').replace('/', "."));
        }
    }
    Ok(document.value.clone())
}

async fn send(
    session: &Session,
    args: &Args,
    named: &Named,
    live: &Dynamic,
    original: &Value,
    edited: &Value,
) -> anyhow::Result<()> {
    let patch = create_two_way_patch(original, edited, named.kind.message())?;
    let api = args.write.api(session, named.kind, &named.namespace)?;
    let stored =
        session.shown(&format!("changing {}", named.display()), api.patch(&named.name, &Patch::Strategic(patch))).await?;
    if unchanged(live, &stored) {
        session
            .console
            .note(format!("{} was not changed by this: the fields are the server's.", kinds::display(named.kind, &named.name)));
        return Ok(());
    }
    args.write.done_with(session, &stored, "edited")
}

/// Runs the editor on this terminal.
async fn open(editor: &str, path: &Path) -> anyhow::Result<()> {
    let (editor, path) = (editor.to_owned(), path.to_owned());
    // The editor's own words and quotes are the shell's business. Ctrl-C is the editor's: neither the shell nor we end by it.
    let run = move || {
        Command::new("sh")
            .args(["-c", &format!("trap : INT; {editor} \"$1\""), "edit"])
            .arg(&path)
            .status()
            .with_context(|| format!("cannot start the editor {editor}"))
            .map(|status| (editor, status))
    };
    let _interrupts = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let (editor, status) = tokio::task::spawn_blocking(run).await??;
    if !status.success() {
        bail!("there was a problem with the editor \"{editor}\": {status}");
    }
    Ok(())
}

/// A file that only its owner can read and that goes away unless it is kept.
struct Scratch {
    path: std::path::PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Scratch {
    fn new(name: &str) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        for _ in 0..16 {
            let path = std::env::temp_dir().join(format!("kctl-edit-{safe}-{:08x}.yaml", rand::random::<u32>()));
            match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    file.flush()?;
                    return Ok(Self { path, kept: std::cell::Cell::new(false) });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
        bail!("cannot create a file in {}", std::env::temp_dir().display())
    }

    fn keep(&self) -> &Path {
        self.kept.set(true);
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept.get() {
            // One left behind does no harm.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::os::unix::fs::PermissionsExt as _;

    use api::{Resource as _, core::v1::ConfigMap};

    use super::*;
    use crate::testing::{Bench, named as object};

    /// Edits the ConfigMap `a` with a shell script as the editor; returns what went wrong and what is left of it.
    async fn edited_with(script: &str) -> (Option<String>, ConfigMap) {
        let bench = Bench::new();
        bench.server.put::<ConfigMap>(object("a"));
        let folder = tempfile::tempdir().unwrap();
        let editor = folder.path().join("editor");
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).unwrap();
        let session = bench.session(&[]);
        let objects = ObjectArgs { resources: vec!["cm/a".into()], ..ObjectArgs::default() };
        let args = Args { objects, write: WriteArgs::default(), validate: ValidateArgs::default() };
        let named = Named { kind: ConfigMap::KIND, namespace: "default".into(), name: "a".into() };
        let outcome = edit(&session, &args, &named, &editor.display().to_string()).await;
        (outcome.err().map(|error| error.to_string()), bench.server.find("default", "a").unwrap())
    }

    #[tokio::test]
    async fn a_failed_edit_is_opened_again_with_the_reason_and_its_line() {
        // The second time it reads the reason, which names the line as it stands in the file, and corrects that line.
        let script = r#"line=$(sed -n 's/^# error: line \([0-9]*\): unknown field "dta".*/\1/p' "$1")
            if [ -n "$line" ]; then sed -i "${line}s/.*/data: {k: v}/" "$1"; else echo 'dta: {}' >>"$1"; fi"#;
        let (error, map) = edited_with(script).await;
        assert_eq!((error, map.data["k"].as_str()), (None, "v"));
    }

    #[tokio::test]
    async fn what_was_typed_is_kept_when_an_edit_is_given_up() {
        let script = "grep -q dta \"$1\" || echo 'dta: {}' >>\"$1\"";
        let error = edited_with(script).await.0.unwrap();
        assert!(error.starts_with("line ") && error.contains("unknown field \"dta\""), "{error}");
        let copy = error.split('"').rev().nth(1).unwrap();
        assert!(std::fs::read_to_string(copy).unwrap().ends_with("dta: {}\n"));
        std::fs::remove_file(copy).unwrap();
    }

    #[tokio::test]
    async fn an_interrupt_ends_neither_the_shell_nor_us() {
        // What the terminal does on Ctrl-C, to the two processes that wait for the editor.
        let script = "kill -INT $PPID $(cut -d' ' -f4 /proc/$PPID/stat); echo 'data: {k: v}' >>\"$1\"";
        let (error, map) = edited_with(script).await;
        assert_eq!((error, map.data["k"].as_str()), (None, "v"));
    }

    #[tokio::test]
    async fn a_change_is_sent_and_an_empty_or_equal_file_is_none() {
        assert_eq!(edited_with("echo 'data: {k: w}' >>\"$1\"").await.1.data["k"], "w");
        assert_eq!(edited_with(": >\"$1\"").await.0, None);
        assert_eq!(edited_with("true").await.0, None);
        assert!(edited_with("exit 3").await.0.unwrap().contains("exit status: 3"));
    }

    #[test]
    fn what_was_saved_is_checked() {
        let named = Named { kind: ConfigMap::KIND, namespace: "d".into(), name: "a".into() };
        let original = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "d"}});
        let saved = |body: &str| read(&named, &original, Path::new("f"), body, Validation::Strict).map_err(|e| e.to_string());
        let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: d}\n";
        assert_eq!(saved(&format!("{head}data: {{k: v}}\n")).unwrap()["data"]["k"], "v");
        assert!(saved(&format!("{head}dta: {{}}\n")).unwrap_err().contains("line 4: unknown field \"dta\""));
        assert!(saved(&head.replace("name: a", "name: b")).unwrap_err().contains("metadata.name must not be changed"));
        assert!(saved("a: [").unwrap_err().contains("line"));
    }
}
