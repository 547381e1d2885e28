//! `kctl delete`

use std::time::Duration;

use anyhow::bail;
use api::meta::v1::{DeleteOptions, Preconditions};
use client::{Change, Dynamic, Item as _, Metadata, WatchParams};
use futures::TryStreamExt as _;

use crate::{
    Session,
    error::Exit,
    failures::Failures,
    resource_args::{Named, ObjectArgs},
    write::DryRun,
};

/// Delete objects
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl delete pod web-x7k2p
  kctl delete -f web.yaml                         what a file created
  kctl delete pods,svc -l app=web                 by label
  kctl delete pod web --now                       with a second's grace only
  kctl delete pod web --force                     without waiting for its node
  kctl delete pods --all --wait=false")]
pub struct Args {
    #[command(flatten)]
    objects: ObjectArgs,
    /// Seconds that pods get to end, 1 at least without --force; their own figure if not given
    #[arg(long, value_name = "SECONDS", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// Forget the object at once, even if its node does not answer
    #[arg(long)]
    force: bool,
    /// The same as --grace-period=1
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL", hide_possible_values = true)]
    wait: bool,
    /// How long to wait, such as 30s; 0 for as long as it takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = super::duration)]
    timeout: Duration,
    /// It is no error if an object does not exist
    #[arg(long)]
    ignore_not_found: bool,
    /// What becomes of objects that the deleted ones own: background, foreground or orphan
    #[arg(long, value_name = "HOW", default_value = "background", num_args = 0..=1, default_missing_value = "background",
        require_equals = true, value_parser = ["background", "foreground", "orphan", "true", "false"], hide_possible_values = true)]
    cascade: String,
    /// Only say what would be done: client or server
    #[arg(long, value_enum, value_name = "WHO", default_value_t, hide_default_value = true, hide_possible_values = true,
        num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    dry_run: DryRun,
    /// `name` prints only kind and name
    #[arg(short = 'o', long, value_name = "FORMAT", value_parser = ["name"])]
    output: Option<String>,
}

/// An object on its way out.
struct Going {
    named: Named,
    uid: String,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let options = args.options()?;
    let objects = args.objects.resolve(session).await?;
    if objects.is_empty() {
        session.console.note("No resources found");
        return Ok(());
    }
    if args.force {
        session.console.note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely.",
        );
    }
    // What vanishes between being listed and being deleted has been deleted as asked.
    let ignore_not_found = args.ignore_not_found || args.objects.all || args.objects.select.is_set();
    let (mut failures, mut going) = (Failures::default(), Vec::new());
    for named in objects {
        let outcome = delete(session, &args, &options, &named).await;
        let gone = |error: &anyhow::Error| error.downcast_ref().is_some_and(client::Error::is_not_found);
        if ignore_not_found && outcome.as_ref().is_err_and(gone) {
            continue;
        }
        if let Some(uid) = failures.check(session, outcome)?.flatten() {
            going.push(Going { named, uid });
        }
    }
    if args.wait && args.dry_run == DryRun::None {
        let what = match going.as_slice() {
            [one] => format!("waiting until {} is gone", one.named.display()),
            several => format!("waiting until {} objects are gone", several.len()),
        };
        let work = async {
            for one in &going {
                wait_gone(session, &one.named, &one.uid).await?;
            }
            anyhow::Ok(())
        };
        let work = session.shown(&what, work);
        if args.timeout.is_zero() {
            work.await?;
        } else if let Ok(outcome) = tokio::time::timeout(args.timeout, work).await {
            outcome?;
        } else {
            let message =
                "error: timed out waiting for the condition: the objects are being deleted, but are not gone yet".to_owned();
            return Err(Exit { code: 1, message: Some(message) }.into());
        }
    }
    failures.finish()
}

impl Args {
    fn options(&self) -> anyhow::Result<DeleteOptions> {
        let grace = match (self.grace_period, self.now, self.force) {
            (grace, _, true) if grace > 0 => bail!("--force and --grace-period greater than 0 cannot be specified together"),
            (_, _, true) => Some(0),
            // None at all would make the server forget the pod while its containers may still run: that takes --force.
            (_, true, _) | (0, ..) => Some(1),
            (grace, ..) if grace > 0 => Some(grace),
            _ => None,
        };
        let policy = match self.cascade.as_str() {
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            _ => "Background",
        };
        Ok(DeleteOptions {
            grace_period_seconds: grace,
            propagation_policy: Some(policy.to_owned()),
            dry_run: if self.dry_run == DryRun::Server { vec!["All".to_owned()] } else { Vec::new() },
            ..DeleteOptions::default()
        })
    }
}

/// Deletes one object. Returns its UID if it is still on its way out.
async fn delete(session: &Session, args: &Args, options: &DeleteOptions, named: &Named) -> anyhow::Result<Option<String>> {
    let api = session.client()?.dynamic(named.kind, &named.namespace);
    let mut uid = None;
    if args.dry_run == DryRun::Client {
        session.shown(&format!("reading {}", named.display()), api.get(&named.name)).await?;
    } else {
        let deleted = session.shown(&format!("deleting {}", named.display()), api.delete(&named.name, options)).await?;
        let still_there = |object: &Dynamic| !deleted.gone && !object.meta().uid.is_empty();
        uid = deleted.object.as_ref().filter(|object| still_there(object)).map(|object| object.meta().uid.clone());
    }
    if args.output.is_some() {
        session.console.line(named.display())?;
        return Ok(uid);
    }
    let what = if args.force { "force deleted" } else { "deleted" };
    let suffix = match args.dry_run {
        DryRun::None => "",
        DryRun::Server => " (server dry run)",
        DryRun::Client => " (dry run)",
    };
    session.console.line(format!("{} \"{}\" {what}{suffix}", crate::kinds::qualified_singular(named.kind), named.name))?;
    Ok(uid)
}

/// Waits until the object is gone; another one of the same name counts as gone.
///
/// # Errors
/// Whatever the server says.
pub async fn wait_gone(session: &Session, named: &Named, uid: &str) -> anyhow::Result<()> {
    let api = session.client()?.metadata(named.kind, &named.namespace);
    let mut backoff = client::Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let watched = async {
            let params = WatchParams::from_now().fields(format!("metadata.name={}", named.name));
            let mut stream = api.watch(&params).await?;
            let mut seen = false;
            while let Some(event) = stream.try_next().await? {
                match event.change {
                    Change::Added(object) | Change::Modified(object) => {
                        if object.meta().uid != uid {
                            return Ok(true);
                        }
                        seen = true;
                    }
                    Change::Deleted(_) => return Ok(true),
                    Change::Bookmark { initial_events_end } if initial_events_end && !seen => return Ok(true),
                    Change::Bookmark { .. } => {}
                }
            }
            Ok(false)
        };
        let watched: client::Result<bool> = watched.await;
        match watched {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if error.is_unavailable() || error.is_expired() => {}
            // A namespace's own objects cannot be read once it is gone.
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Deletes an object and waits until it is gone.
///
/// # Errors
/// Whatever the server says.
pub async fn delete_and_wait(session: &Session, named: &Named) -> anyhow::Result<()> {
    let api = session.client()?.metadata(named.kind, &named.namespace);
    let what = format!("deleting {}", named.display());
    let old: Metadata = session.shown(&what, api.get(&named.name)).await?;
    let preconditions = Some(Preconditions { uid: Some(old.meta().uid.clone()), ..Preconditions::default() });
    let options = DeleteOptions { preconditions, propagation_policy: Some("Background".to_owned()), ..DeleteOptions::default() };
    let api = session.client()?.dynamic(named.kind, &named.namespace);
    let deleted = session.shown(&what, api.delete(&named.name, &options)).await?;
    if !deleted.gone {
        let what = format!("waiting until {} is gone", named.display());
        session.shown(&what, wait_gone(session, named, &old.meta().uid)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Pod};

    use crate::testing::{Bench, named};

    #[tokio::test]
    async fn objects_are_deleted_by_name_selector_and_file() {
        let bench = Bench::new();
        for name in ["a", "b", "c", "d"] {
            let mut map: ConfigMap = named(name);
            map.metadata_mut().labels.insert("app".into(), name.into());
            bench.server.put(map);
        }
        assert_eq!(bench.ok("delete cm a").await, "configmap \"a\" deleted\n");
        assert_eq!(bench.ok("delete cm -l app=b -o name").await, "configmap/b\n");
        let file = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
        assert_eq!(bench.with_input(file).ok("delete -f -").await, "configmap \"c\" deleted\n");
        assert_eq!(bench.ok("delete cm d --dry-run=client").await, "configmap \"d\" deleted (dry run)\n");
        assert_eq!(bench.ok("delete cm --all").await, "configmap \"d\" deleted\n");
        assert!(bench.fails("delete cm a").await.contains("Error from server (NotFound): configmaps \"a\" not found"));
        assert_eq!(bench.ok("delete cm a --ignore-not-found=true").await, "");
        assert!(bench.fails("delete cm").await.contains("no name was specified"));
        assert!(bench.fails("delete cm --all -l a=b").await.contains("cannot set --all and --selector at the same time"));
        let fields = "delete cm --all --field-selector=metadata.name=a";
        assert!(bench.fails(fields).await.contains("cannot set --all and --field-selector at the same time"));
    }

    #[tokio::test]
    async fn delete_waits_until_the_object_is_gone() {
        let bench = Bench::new();
        let mut pod: Pod = named("p");
        pod.metadata_mut().finalizers.push("x/y".into());
        bench.server.put(pod);
        let session = bench.session(&["delete"]);
        let deleting = tokio::spawn(async move { crate::cli::run_line(session, &["delete", "pod", "p"]).await });
        bench.output_has("deleted").await;
        assert!(!deleting.is_finished());
        bench.server.remove::<Pod>("default", "p");
        assert_eq!(deleting.await.unwrap(), 0);
    }
}
