//! `kctl wait`

use std::{str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use api::jsonpath::{self, Template};
use client::{Change, Dynamic, WatchParams};
use futures::TryStreamExt as _;
use serde_json::Value;

use crate::{
    Session,
    error::Exit,
    failures::Failures,
    objects::{self, list, text},
    resource_args::{Named, ObjectArgs},
};

/// Wait until objects are as wanted
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl wait pod web --for=condition=Ready
  kctl wait pods -l app=web --for=condition=Ready --timeout=60s
  kctl wait pod web --for=delete
  kctl wait pod web --for=jsonpath='{.status.phase}'=Running
  kctl wait node --all --for=condition=Ready=true")]
pub struct Args {
    #[command(flatten)]
    objects: ObjectArgs,
    /// What to wait for: condition=NAME[=STATUS], jsonpath='{PATH}'[=VALUE], create, delete
    #[arg(long = "for", value_name = "WHAT")]
    what: What,
    /// How long at most; 0 looks once, -1 waits for a week
    #[arg(long, value_name = "TIME", default_value = "30s", allow_hyphen_values = true, value_parser = timeout)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Clone, Debug)]
enum What {
    Create,
    Delete,
    Condition { name: String, status: String },
    Path { template: Template, value: Option<String> },
}

fn timeout(value: &str) -> Result<Duration, String> {
    if value.starts_with('-') { Ok(Duration::from_secs(7 * 24 * 3600)) } else { super::duration(value) }
}

impl FromStr for What {
    type Err = anyhow::Error;

    fn from_str(spec: &str) -> anyhow::Result<Self> {
        if spec.eq_ignore_ascii_case("create") {
            return Ok(Self::Create);
        }
        if spec.eq_ignore_ascii_case("delete") {
            return Ok(Self::Delete);
        }
        if let Some(condition) = spec.strip_prefix("condition=") {
            let (name, status) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Self::Condition { name: name.to_owned(), status: status.to_owned() });
        }
        if let Some(path) = spec.strip_prefix("jsonpath=") {
            let path = path.trim_matches('\'');
            // The value comes after the path's closing brace.
            let end = path.rfind('}').map_or_else(|| path.find('=').unwrap_or(path.len()), |brace| brace + 1);
            let (expression, rest) = path.split_at(end);
            let value = match rest.trim_start_matches('\'') {
                "" => None,
                rest => Some(
                    rest.strip_prefix("==")
                        .or_else(|| rest.strip_prefix('='))
                        .with_context(|| format!("{spec}: jsonpath='{{PATH}}'=VALUE is wanted"))?,
                ),
            };
            let template = Template::parse_relaxed(expression)?.allow_missing(true);
            let value = value.map(|value| value.trim_matches(['"', '\'']).to_owned());
            return Ok(Self::Path { template, value });
        }
        bail!(
            "unrecognized condition: \"{spec}\"; known are condition=NAME[=STATUS], jsonpath='{{PATH}}'[=VALUE], create and delete"
        )
    }
}

impl What {
    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Create, object) => object.is_some(),
            (Self::Delete, object) => object.is_none(),
            (_, None) => false,
            (Self::Condition { name, status }, Some(object)) => {
                let is = |condition: &&Value| text(condition, "/type").eq_ignore_ascii_case(name);
                let found = list(object, "/status/conditions").iter().find(is);
                // A condition about an older state of the object says nothing.
                let seen = |condition: &Value| condition.get("observedGeneration").and_then(Value::as_i64);
                let generation = objects::number(object, "/metadata/generation");
                found.is_some_and(|found| {
                    text(found, "/status").eq_ignore_ascii_case(status) && seen(found).is_none_or(|seen| seen >= generation)
                })
            }
            (Self::Path { template, value }, Some(object)) => {
                let Ok(found) = template.values(object) else { return false };
                match value {
                    None => !found.is_empty(),
                    Some(value) => matches!(found.as_slice(), [one] if jsonpath::text(one) == *value),
                }
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let found = args.objects.resolve(session).await?;
    if found.is_empty() {
        if matches!(args.what, What::Delete) {
            return Ok(());
        }
        bail!("no matching resources found");
    }
    let mut failures = Failures::default();
    let start = tokio::time::Instant::now();
    for named in &found {
        let left = args.timeout.saturating_sub(start.elapsed());
        let outcome = wait(session, &args.what, named, left).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

async fn wait(session: &Session, what: &What, named: &Named, timeout: Duration) -> anyhow::Result<()> {
    if !matches!(what, What::Create | What::Delete) {
        // An object that does not exist has no conditions, and may never have.
        objects::get(session, named.kind, &named.namespace, &named.name).await?;
    }
    until(session, named, &format!("waiting for {}", named.display()), timeout, |object| what.holds(object)).await?;
    session.console.line(format!("{} condition met", named.display()))?;
    Ok(())
}

/// Waits until `holds` is true of an object, or of its absence.
///
/// # Errors
/// When it is not within `timeout`, and whatever the server says.
pub async fn until(
    session: &Session,
    named: &Named,
    what: &str,
    timeout: Duration,
    holds: impl Fn(Option<&Value>) -> bool,
) -> anyhow::Result<()> {
    let work = session.shown(what, watch(session, named, holds));
    // A timeout of zero still looks once.
    match tokio::time::timeout(timeout.max(Duration::from_secs(1)), work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let message = format!("error: timed out waiting for the condition on {}/{}", named.kind.plural, named.name);
            session.console.note(message);
            Err(Exit::silent(1))
        }
    }
}

async fn watch(session: &Session, named: &Named, holds: impl Fn(Option<&Value>) -> bool) -> anyhow::Result<()> {
    let api = session.client()?.dynamic(named.kind, &named.namespace);
    let mut backoff = client::Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let watched: anyhow::Result<bool> = async {
            let mut stream = api.watch(&WatchParams::from_now().fields(format!("metadata.name={}", named.name))).await?;
            let mut exists = false;
            while let Some(event) = stream.try_next().await? {
                let object: Option<Dynamic> = match event.change {
                    Change::Added(object) | Change::Modified(object) => Some(object),
                    Change::Deleted(_) => None,
                    Change::Bookmark { initial_events_end: true } if !exists => None,
                    Change::Bookmark { .. } => continue,
                };
                exists = object.is_some();
                let value = object.as_ref().map(objects::to_value).transpose()?;
                if holds(value.as_ref()) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        .await;
        let passing = |error: &anyhow::Error| {
            error.downcast_ref().is_some_and(|error: &client::Error| error.is_unavailable() || error.is_expired())
        };
        match watched {
            Ok(true) => return Ok(()),
            Err(error) if !passing(&error) => return Err(error),
            _ => tokio::time::sleep(backoff.next_delay()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;
    use crate::testing::{Bench, named};

    #[test]
    fn every_form_of_condition_is_understood() {
        let holds = |spec: &str, object: Value| spec.parse::<What>().unwrap().holds(Some(&object));
        let ready = serde_json::json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(holds("condition=Ready", ready.clone()));
        assert!(holds("condition=ready=True", ready.clone()));
        assert!(!holds("condition=Ready=false", ready.clone()));
        assert!(holds("jsonpath={.status.phase}=Running", ready.clone()));
        assert!(holds("jsonpath='{.status.phase}'=Running", ready.clone()));
        assert!(holds("jsonpath={.status.phase}", ready.clone()));
        assert!(!holds("jsonpath={.status.podIP}", ready));
        assert!("ready".parse::<What>().is_err());
    }

    #[tokio::test]
    async fn wait_ends_when_the_condition_holds_and_fails_when_time_is_up() {
        let bench = Bench::new();
        bench.server.put::<Pod>(named("p"));
        let errors = bench.fails("wait pod p --for=jsonpath={.status.phase}=Running --timeout=0s").await;
        assert_eq!(errors, "error: timed out waiting for the condition on pods/p\n");
        let server = bench.server.clone();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut pod: Pod = named("p");
            pod.status_mut().phase = "Running".into();
            server.put(pod);
        });
        assert_eq!(bench.ok("wait pod p --for=jsonpath={.status.phase}=Running").await, "pod/p condition met\n");
        later.await.unwrap();
        assert!(bench.fails("wait pod x --for=condition=Ready").await.contains("NotFound"));
        assert_eq!(bench.ok("wait pod x --for=delete").await, "pod/x condition met\n");
    }
}
