//! `kctl scale`

use std::time::Duration;

use anyhow::bail;
use api::autoscaling::v1::Scale;
use client::Dynamic;
use serde_json::json;

use super::wait;
use crate::{
    Session,
    failures::Failures,
    objects,
    resource_args::{Named, ObjectArgs},
    write::WriteArgs,
};

/// How often a change that met another one is tried again.
const ATTEMPTS: u32 = 5;

/// Set how many replicas there are to be
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl scale rc web --replicas=3
  kctl scale rc/web rc/db --replicas=0
  kctl scale rc web --replicas=5 --current-replicas=3   only if there are 3 now
  kctl scale rc web --replicas=5 --timeout=1m           and wait until it is so")]
pub struct Args {
    #[command(flatten)]
    objects: ObjectArgs,
    /// How many
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    replicas: i32,
    /// Only if there are so many now
    #[arg(long, value_name = "COUNT")]
    current_replicas: Option<i32>,
    /// Only if this is the object's resource version
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
    /// Wait until there are so many, at most this long
    #[arg(long, value_name = "TIME", value_parser = super::duration, default_value = "0s", hide_default_value = true)]
    timeout: Duration,
    #[command(flatten)]
    write: WriteArgs,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    if args.replicas < 0 {
        bail!("--replicas={}: the number of replicas must be 0 or more", args.replicas);
    }
    let found = args.objects.resolve(session).await?;
    if found.is_empty() {
        bail!("no objects passed to scale");
    }
    let mut failures = Failures::default();
    for named in &found {
        let outcome = scale(session, &args, named).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

async fn scale(session: &Session, args: &Args, named: &Named) -> anyhow::Result<()> {
    if !named.kind.has_subresource("scale") {
        bail!("cannot scale {}: objects of kind {} have no number of replicas", named.display(), named.kind.kind);
    }
    let api = args.write.api(session, named.kind, &named.namespace)?;
    for attempt in 1.. {
        let mut scale: Scale = session.shown("reading", api.get_scale(&named.name)).await?;
        if let Some(expected) = args.current_replicas.filter(|expected| *expected >= 0 && *expected != scale.spec().replicas) {
            bail!("Expected replicas to be {expected}, was {}", scale.spec().replicas);
        }
        if let Some(expected) = args.resource_version.as_ref().filter(|expected| **expected != scale.metadata().resource_version)
        {
            bail!("Expected resource version to be {expected}, was {}", scale.metadata().resource_version);
        }
        scale.spec_mut().replicas = args.replicas;
        if !args.write.client_only() {
            match session.shown("scaling", api.update_scale(&named.name, &scale)).await {
                Ok(_) => {}
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => continue,
                Err(error) => return Err(error.into()),
            }
        }
        break;
    }
    if args.timeout.is_zero() || args.write.client_only() {
        let shown = json!({"metadata": {"name": named.name}});
        let object = if args.write.output.output.is_some() { objects::to_value(&read(session, named).await?)? } else { shown };
        return args.write.done(session, named.kind, &object, "scaled");
    }
    let wanted = i64::from(args.replicas);
    let reached = |object: &serde_json::Value| objects::number(object, "/status/replicas") == wanted;
    let what = format!("waiting until {} has {wanted} replicas", named.display());
    wait::until(session, named, &what, args.timeout, |object| Ok(object.is_some_and(reached))).await?;
    args.write.done(session, named.kind, &objects::to_value(&read(session, named).await?)?, "scaled")
}

async fn read(session: &Session, named: &Named) -> anyhow::Result<Dynamic> {
    objects::get(session, named.kind, &named.namespace, &named.name).await
}
