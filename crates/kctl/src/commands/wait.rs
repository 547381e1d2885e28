//! `kctl wait`

use std::{str::FromStr, time::Duration};

use anyhow::bail;
use api::jsonpath::{self, Template};
use client::{Change, Dynamic, WatchParams};
use futures::TryStreamExt as _;
use serde_json::Value;

use crate::{
    Session,
    failures::Failures,
    objects::{self, list, text},
    output::OutputArgs,
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
    #[command(flatten)]
    output: OutputArgs,
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
            let (expression, value) = split_path(path);
            let expression = expression.trim_matches('\'');
            if expression.is_empty() {
                bail!("jsonpath expression cannot be empty");
            }
            let template = Template::parse_relaxed(expression)?.allow_missing(true);
            let value = value.map(|value| value.trim_matches(['"', '\'']).to_owned());
            if value.as_ref().is_some_and(String::is_empty) {
                bail!("jsonpath wait has to have a value after equal sign, like --for=jsonpath='{{.status.readyReplicas}}'=3");
            }
            return Ok(Self::Path { template, value });
        }
        bail!(
            "unrecognized condition: \"{spec}\"; known are condition=NAME[=STATUS], jsonpath='{{PATH}}'[=VALUE], create and delete"
        )
    }
}

/// The path, and the value after the equals sign that is neither in the path's brackets nor in quotes.
fn split_path(text: &str) -> (&str, Option<&str>) {
    let (mut depth, mut quote) = (0_usize, None);
    for (i, c) in text.char_indices() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('{' | '[' | '(', None) => depth += 1,
            ('}' | ']' | ')', None) => depth = depth.saturating_sub(1),
            ('=', None) if depth == 0 => {
                let value = &text[i + 1..];
                return (&text[..i], Some(value.strip_prefix('=').unwrap_or(value)));
            }
            _ => {}
        }
    }
    (text, None)
}

impl What {
    /// # Errors
    /// When the path cannot say whether it holds: it leads to several values, or to an object.
    fn holds(&self, object: Option<&Value>) -> anyhow::Result<bool> {
        Ok(match (self, object) {
            (Self::Create, object) => object.is_some(),
            (Self::Delete, object) => object.is_none(),
            (_, None) => false,
            (Self::Condition { name, status }, Some(object)) => {
                let is = |condition: &&Value| text(condition, "/type").eq_ignore_ascii_case(name);
                let found = list(object, "/status/conditions").iter().find(is);
                // A condition about an older state of the object says nothing.
                let seen = |condition: &Value| {
                    let own = condition.get("observedGeneration").and_then(Value::as_i64);
                    own.or_else(|| object.pointer("/status/observedGeneration").and_then(Value::as_i64))
                };
                let generation = objects::number(object, "/metadata/generation");
                found.is_some_and(|found| {
                    text(found, "/status").eq_ignore_ascii_case(status) && seen(found).is_none_or(|seen| seen >= generation)
                })
            }
            (Self::Path { template, value }, Some(object)) => match (template.values(object)?.as_slice(), value) {
                ([], _) => false,
                ([_], None) => true,
                ([Value::Array(_) | Value::Object(_)], Some(_)) => {
                    bail!("jsonpath leads to a nested object or list which is not supported")
                }
                ([one], Some(value)) => jsonpath::text(one) == *value,
                _ => bail!("given jsonpath expression matches more than one value"),
            },
        })
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
        let outcome = wait(session, &args, named, left).await;
        failures.check(session, outcome)?;
    }
    failures.finish()
}

async fn wait(session: &Session, args: &Args, named: &Named, timeout: Duration) -> anyhow::Result<()> {
    let what = &args.what;
    if !matches!(what, What::Create | What::Delete) {
        // An object that does not exist has no conditions, and may never have.
        objects::get(session, named.kind, &named.namespace, &named.name).await?;
    }
    if timeout.is_zero() {
        // Nothing to wait with is left, or was given: it is so, or it is not.
        if !look(session, what, named).await? {
            bail!("condition not met for {}/{}", named.kind.plural, named.name);
        }
    } else {
        until(session, named, &format!("waiting for {}", named.display()), timeout, |object| what.holds(object)).await?;
    }
    if let Some(printer) = args.output.printer()
        && let Some(object) = objects::get_opt(session, named.kind, &named.namespace, &named.name).await?
    {
        let separator = if printer.separates_documents() && session.printed_before() { "---\n" } else { "" };
        let text = printer.one(named.kind, objects::to_value(&object)?)?;
        return Ok(session.console.print(format!("{separator}{text}"))?);
    }
    Ok(session.console.line(format!("{} condition met", named.display()))?)
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
    holds: impl Fn(Option<&Value>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let work = session.shown(what, watch(session, named, holds));
    let late = || anyhow::anyhow!("timed out waiting for the condition on {}/{}", named.kind.plural, named.name);
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late()))
}

/// Looks whether `holds` is true now.
async fn look(session: &Session, what: &What, named: &Named) -> anyhow::Result<bool> {
    let object = objects::get_opt(session, named.kind, &named.namespace, &named.name).await?;
    let value = object.as_ref().map(objects::to_value).transpose()?;
    what.holds(value.as_ref())
}

async fn watch(session: &Session, named: &Named, holds: impl Fn(Option<&Value>) -> anyhow::Result<bool>) -> anyhow::Result<()> {
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
                if holds(value.as_ref())? {
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
        let holds = |spec: &str, object: Value| spec.parse::<What>().unwrap().holds(Some(&object)).unwrap();
        let ready = serde_json::json!({"metadata": {"annotations": {"brace": "{a}", "equals": "a=b"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(holds("condition=Ready", ready.clone()));
        assert!(holds("condition=ready=True", ready.clone()));
        assert!(!holds("condition=Ready=false", ready.clone()));
        assert!(holds("jsonpath={.status.phase}=Running", ready.clone()));
        assert!(holds("jsonpath='{.status.phase}'=Running", ready.clone()));
        assert!(holds("jsonpath={.status.phase}", ready.clone()));
        assert!(holds("jsonpath=.status.phase", ready.clone()));
        assert!(!holds("jsonpath={.status.podIP}", ready.clone()));
        assert!(holds("jsonpath=.status.conditions[?(@.type==\"Ready\")].status=True", ready.clone()));
        assert!(!holds("jsonpath={.status.conditions[?(@.type=='Ready')].status}=False", ready.clone()));
        assert!(holds("jsonpath={.metadata.annotations.brace}={a}", ready.clone()));
        assert!(holds("jsonpath=.metadata.annotations.equals=a=b", ready.clone()));
        assert!("ready".parse::<What>().is_err() && "jsonpath={.a}=".parse::<What>().is_err());
        let error = |spec: &str| spec.parse::<What>().unwrap().holds(Some(&ready)).unwrap_err().to_string();
        assert!(error("jsonpath={.status}=x").contains("nested object"));
        assert!(error("jsonpath={.status.conditions[0]['type','status']}=x").contains("more than one value"));
        assert!(error("jsonpath={.status.conditions[3].type}=x").contains("out of bounds"));
    }

    #[tokio::test]
    async fn wait_ends_when_the_condition_holds_and_fails_when_time_is_up() {
        let bench = Bench::new();
        bench.server.put::<Pod>(named("p"));
        let errors = bench.fails("wait pod p --for=jsonpath={.status.phase}=Running --timeout=0s").await;
        assert_eq!(errors, "error: condition not met for pods/p\n");
        bench.server.put::<Pod>(named("q"));
        let errors = bench.fails("wait pod --all --for=jsonpath={.status.phase}=Running --timeout=50ms").await;
        let late = "error: timed out waiting for the condition on pods/p\nerror: condition not met for pods/q\n";
        assert_eq!(errors, late);
        let mut done: Pod = named("q");
        done.status_mut().phase = "Running".into();
        bench.server.put(done);
        let words = ["wait", "pod", "--all", "--for=jsonpath={.status.phase}=Running", "--timeout=50ms"];
        assert_eq!(crate::cli::run_line(bench.session(&words), &words).await, 1);
        assert_eq!(bench.output(), "pod/q condition met\n");
        assert!(bench.fails("wait pod --all -l a=b --for=create").await.contains("cannot set --all and --selector"));
        let server = bench.server.clone();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut pod: Pod = named("p");
            pod.status_mut().phase = "Running".into();
            server.put(pod);
        });
        assert_eq!(bench.ok("wait pod p --for=jsonpath={.status.phase}=Running").await, "pod/p condition met\n");
        later.await.unwrap();
        assert_eq!(bench.ok("wait pod p --for=create -o name").await, "pod/p\n");
        assert!(bench.fails("wait pod x --for=condition=Ready").await.contains("NotFound"));
        assert_eq!(bench.ok("wait pod x --for=delete").await, "pod/x condition met\n");
    }
}
