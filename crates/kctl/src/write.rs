//! What commands that change objects share: dry runs, what they print, patches that lose a race.

use api::{Kind, ferrokube::v1::WriteOptions};
use client::{Api, Dynamic, Item as _, Patch};
use serde_json::Value;

use crate::{Session, kinds, manifest::Validation, objects, output::OutputArgs};

/// How often a change that met another one is tried again.
const CONFLICT_ATTEMPTS: u32 = 5;

/// What a dry run leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DryRun {
    /// Nothing: the change is made.
    #[default]
    None,
    /// The server checks, but stores nothing.
    Server,
    /// Nothing is sent that changes anything.
    #[value(alias = "true")]
    Client,
}

/// Flags of commands that change objects.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WriteArgs {
    /// Only say what would be done: client (nothing is sent) or server (the server checks it)
    #[arg(long, value_enum, value_name = "WHO", default_value_t, hide_default_value = true, hide_possible_values = true,
        num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: DryRun,
    /// What to print instead of a line about each object.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Who makes the change, as recorded with the object
    #[arg(long, value_name = "NAME", hide = true)]
    pub field_manager: Option<String>,
    /// What the server does about fields that the schema does not know.
    #[arg(skip)]
    pub validation: Validation,
}

// === impl WriteArgs ===

impl WriteArgs {
    /// Access for writing to objects of a kind.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn api(&self, session: &Session, kind: &'static Kind, namespace: &str) -> anyhow::Result<Api<Dynamic>> {
        Ok(session.client()?.dynamic(kind, namespace).with_options(WriteOptions {
            dry_run: self.dry_run == DryRun::Server,
            field_manager: self.field_manager.clone().unwrap_or_default(),
            field_validation: self.validation.wire().to_owned(),
            ..WriteOptions::default()
        }))
    }

    /// True if nothing may be sent.
    pub fn client_only(&self) -> bool {
        self.dry_run == DryRun::Client
    }

    /// Prints what became of an object: `pod/web created`, or the object itself if asked for.
    ///
    /// # Errors
    /// When it cannot be printed.
    pub fn done(&self, session: &Session, kind: &'static Kind, object: &Value, what: &str) -> anyhow::Result<()> {
        match self.output.printer() {
            Some(printer) => {
                if printer.separates_documents() && session.printed_before() {
                    session.console.line("---")?;
                }
                session.console.print(printer.one(kind, object.clone())?)?;
            }
            None => {
                session.console.line(format!(
                    "{} {what}{}",
                    kinds::display(kind, objects::text(object, "/metadata/name")),
                    self.suffix()
                ))?;
            }
        }
        Ok(())
    }

    /// As [`Self::done`], for an object as the server returned it.
    ///
    /// # Errors
    /// As those of [`Self::done`].
    pub fn done_with(&self, session: &Session, object: &Dynamic, what: &str) -> anyhow::Result<()> {
        self.done(session, object.kind().forever(), &objects::to_value(object)?, what)
    }

    /// What a dry run adds to its lines.
    pub fn suffix(&self) -> &'static str {
        match self.dry_run {
            DryRun::None => "",
            DryRun::Server => " (server dry run)",
            DryRun::Client => " (dry run)",
        }
    }

    /// Reads an object, decides on a merge patch for it and applies it; again if somebody else changed the object in between. In a
    /// client-side dry run the object is returned as it would be. Returns `None` for the second value if nothing had to be done.
    ///
    /// # Errors
    /// Not found, refused, or a conflict that does not end.
    pub async fn change(
        &self,
        session: &Session,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        mut decide: impl FnMut(&Value) -> anyhow::Result<Option<Value>>,
    ) -> anyhow::Result<(Value, bool)> {
        let api = self.api(session, kind, namespace)?;
        let mut attempt = 1;
        loop {
            let old = objects::to_value(&objects::get(session, kind, namespace, name).await?)?;
            let Some(new) = decide(&old)? else { return Ok((old, false)) };
            if new == old {
                return Ok((old, false));
            }
            if self.client_only() {
                return Ok((new, true));
            }
            let mut patch = api::patch::create_merge_patch(&old, &new);
            // What was decided holds for this version only.
            objects::set(&mut patch, &["metadata", "resourceVersion"], objects::text(&old, "/metadata/resourceVersion").into());
            let sent =
                session.shown(&format!("changing {}", kinds::display(kind, name)), api.patch(name, &Patch::Merge(patch))).await;
            match sent {
                Ok(stored) => return Ok((objects::to_value(&stored)?, true)),
                Err(error) if error.is_conflict() && attempt < CONFLICT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// True if a write left the stored object as it was, or would have. The answer for a subresource may be of another kind, which tells nothing.
pub fn unchanged(before: &Dynamic, after: &Dynamic) -> bool {
    let same_version = before.meta().resource_version == after.meta().resource_version;
    // A dry run moves no version.
    same_version && (before.kind() != after.kind() || before.0.equals(&*after.0))
}
