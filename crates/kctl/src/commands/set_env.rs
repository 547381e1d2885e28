//! `kctl set env`

use anyhow::{Context as _, bail};
use api::{
    Kind,
    core::v1::{ConfigMap, Secret},
};
use serde_json::{Map, Value, json};

use super::set::{Objects, containers, pod_spec};
use crate::{Session, kinds, objects};

/// Set environment variables of containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl set env rc/web COLOUR=blue SIZE=7
  kctl set env rc/web COLOUR-                     no longer
  kctl set env rc/web --list                      show them
  kctl set env rc/web --from=secret/keys --prefix=APP_
  kctl set env -f web.yaml COLOUR=blue --local -o yaml")]
pub struct Args {
    #[command(flatten)]
    objects: Objects,
    /// Containers to change, with * for any text
    #[arg(short = 'c', long, value_name = "NAMES", default_value = "*")]
    containers: String,
    /// A variable, NAME=VALUE; can be given several times
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Variables for the keys of a ConfigMap or Secret, configmap/NAME or secret/NAME
    #[arg(long, value_name = "TYPE/NAME")]
    from: Option<String>,
    /// With --from, only these keys
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    keys: Vec<String>,
    /// With --from, what the names of the variables begin with
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// Show the variables; with other flags or words, as they would be
    #[arg(long)]
    list: bool,
    /// With --list, also show the values that come from ConfigMaps and Secrets
    #[arg(long, requires = "list")]
    resolve: bool,
    /// Whether variables that exist may change
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
        action = clap::ArgAction::Set, value_name = "BOOL", hide_default_value = true)]
    overwrite: bool,
}

/// What becomes of a variable.
struct Change {
    name: String,
    /// Its entry without the name; `None` to take it away.
    entry: Option<Value>,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, mut args: Args) -> anyhow::Result<()> {
    let words = args.objects.split(|word| word.contains('=') || (word.ends_with('-') && word.len() > 1));
    let mut changes = Vec::new();
    for word in words.iter().chain(&args.env) {
        changes.push(match (word.split_once('='), word.strip_suffix('-')) {
            (Some((name, value)), _) if !name.is_empty() => {
                Change { name: name.to_owned(), entry: Some(json!({"value": value})) }
            }
            (None, Some(name)) => Change { name: name.to_owned(), entry: None },
            _ => bail!("environment variables must be of the form key=value and not \"{word}\""),
        });
    }
    if let Some(from) = &args.from {
        changes.extend(imported(session, &args, from).await?);
    }
    if args.list {
        return list(session, &args, &changes).await;
    }
    if changes.is_empty() {
        bail!("at least one environment variable must be provided: <name>=<value>, <name>- or --from");
    }
    let set = |kind: &'static Kind, object: &mut Value| set(&args, &changes, kind, object);
    args.objects.change(session, "env updated", set).await
}

fn set(args: &Args, changes: &[Change], kind: &Kind, object: &mut Value) -> anyhow::Result<()> {
    let mut any = false;
    for (_, container) in containers(pod_spec(kind, object)?, &args.containers) {
        any = true;
        for change in changes {
            apply(args.overwrite, change, container)?;
        }
    }
    if any { Ok(()) } else { bail!("it has no containers matching \"{}\"", args.containers) }
}

fn apply(overwrite: bool, change: &Change, container: &mut Map<String, Value>) -> anyhow::Result<()> {
    let list = container.entry("env").or_insert_with(|| json!([]));
    let Value::Array(list) = list else { bail!("its env is no list") };
    let known = list.iter().position(|entry| objects::text(entry, "/name") == change.name);
    let Some(entry) = &change.entry else {
        list.retain(|entry| objects::text(entry, "/name") != change.name);
        return Ok(());
    };
    let mut entry = entry.clone();
    entry["name"] = change.name.as_str().into();
    match known {
        Some(_) if !overwrite => bail!("\"{}\" already has a value, and --overwrite is false", change.name),
        Some(at) => list[at] = entry,
        None => list.push(entry),
    }
    Ok(())
}

/// A variable for each key of a ConfigMap or Secret.
async fn imported(session: &Session, args: &Args, from: &str) -> anyhow::Result<Vec<Change>> {
    let (kind, name) = from.split_once('/').with_context(|| format!("--from={from}: configmap/NAME or secret/NAME is wanted"))?;
    let (kind, namespace, client) = (kinds::find(kind)?, session.namespace()?, session.client()?);
    let reading = format!("reading {from}");
    let (keys, reference): (Vec<String>, _) = match &*kind.kind {
        "ConfigMap" => {
            let api = client.namespaced::<ConfigMap>(&namespace);
            (session.shown(&reading, api.get(name)).await?.data.into_keys().collect(), "configMapKeyRef")
        }
        "Secret" => {
            let api = client.namespaced::<Secret>(&namespace);
            (session.shown(&reading, api.get(name)).await?.data.into_keys().collect(), "secretKeyRef")
        }
        _ => bail!("unsupported resource specified in --from: {from}; configmap/NAME or secret/NAME is wanted"),
    };
    if let Some(missing) = args.keys.iter().find(|key| !keys.contains(key)) {
        bail!("{from} has no key \"{missing}\"; it has: {}", keys.join(", "));
    }
    let wanted = keys.into_iter().filter(|key| args.keys.is_empty() || args.keys.contains(key));
    Ok(wanted
        .map(|key| {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            let variable = format!("{}{}", args.prefix, key.chars().map(plain).collect::<String>());
            Change { name: variable, entry: Some(json!({"valueFrom": {reference: {"name": name, "key": key}}})) }
        })
        .collect())
}

async fn list(session: &Session, args: &Args, changes: &[Change]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    if args.objects.named.files.is_empty() || !args.objects.local {
        for object in args.objects.named.resolve(session).await? {
            let stored = objects::get(session, object.kind, &object.namespace, &object.name).await?;
            found.push((object.kind, objects::to_value(&stored)?));
        }
    } else {
        let manifests = args.objects.named.files.objects(session, crate::manifest::Validation::Strict)?;
        found.extend(manifests.into_iter().map(|manifest| (manifest.kind, manifest.value)));
    }
    for (kind, mut object) in found {
        let (name, namespace) =
            (objects::text(&object, "/metadata/name").to_owned(), objects::text(&object, "/metadata/namespace").to_owned());
        if !changes.is_empty() {
            set(args, changes, kind, &mut object).with_context(|| kinds::display(kind, &name))?;
        }
        let spec = pod_spec(kind, &mut object).with_context(|| kinds::display(kind, &name))?;
        for (container, fields) in containers(spec, &args.containers) {
            session.console.line(format!("# {} {name}, container {container}", kind.plural))?;
            for entry in fields.get("env").and_then(Value::as_array).into_iter().flatten() {
                session.console.line(shown(session, args.resolve, &namespace, entry).await?)?;
            }
        }
    }
    Ok(())
}

/// A variable as a line.
async fn shown(session: &Session, resolve: bool, namespace: &str, entry: &Value) -> anyhow::Result<String> {
    let name = objects::text(entry, "/name");
    let Some(source) = entry.get("valueFrom").and_then(Value::as_object) else {
        return Ok(format!("{name}={}", objects::text(entry, "/value")));
    };
    let Some((what, reference)) = source.iter().next() else { return Ok(format!("# {name} from an unknown source")) };
    let (object, key) = (objects::text(reference, "/name"), objects::text(reference, "/key"));
    let place = match what.as_str() {
        "configMapKeyRef" => format!("configmap {object}, key {key}"),
        "secretKeyRef" => format!("secret {object}, key {key}"),
        "fieldRef" => format!("field path {}", objects::text(reference, "/fieldPath")),
        "resourceFieldRef" => format!("resource field {}", objects::text(reference, "/resource")),
        other => other.to_owned(),
    };
    if resolve {
        let client = session.client()?;
        let value = match what.as_str() {
            "configMapKeyRef" => client.namespaced::<ConfigMap>(namespace).get(object).await?.data.remove(key),
            "secretKeyRef" => {
                let secret = client.namespaced::<Secret>(namespace).get(object).await?;
                secret.data.get(key).map(|value| String::from_utf8_lossy(value).into_owned())
            }
            _ => None,
        };
        if let Some(value) = value {
            return Ok(format!("{name}={value}"));
        }
    }
    Ok(format!("# {name} from {place}"))
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Container, Pod, PodSpec};

    use super::*;
    use crate::testing::{Bench, named};

    fn bench() -> Bench {
        let bench = Bench::new();
        let mut pod: Pod = named("p");
        pod.spec = Some(PodSpec {
            containers: vec![
                Container { name: "app".into(), ..Container::default() },
                Container { name: "helper".into(), ..Container::default() },
            ],
            ..PodSpec::default()
        });
        bench.server.put(pod);
        let mut map: ConfigMap = named("settings");
        map.data.insert("log.level".into(), "info".into());
        map.data.insert("other".into(), "x".into());
        bench.server.put(map);
        bench
    }

    #[tokio::test]
    async fn variables_are_set_listed_and_taken_away() {
        let bench = bench();
        assert_eq!(bench.ok("set env pod/p A=1 B=x=y").await, "pod/p env updated\n");
        assert_eq!(bench.ok("set env pod p -c app A=2").await, "pod/p env updated\n");
        let listed = "# pods p, container app\nA=2\nB=x=y\n# pods p, container helper\nA=1\nB=x=y\n";
        assert_eq!(bench.ok("set env pod/p --list").await, listed);
        assert!(bench.fails("set env pod/p A=3 --overwrite=false").await.contains("--overwrite is false"));
        bench.ok("set env pod/p A- B-").await;
        assert_eq!(bench.ok("set env pod/p --list -c app").await, "# pods p, container app\n");
        assert!(bench.fails("set env pod/p").await.contains("at least one environment variable"));
        assert!(bench.fails("set env pod/p -c none A=1").await.contains("no containers matching"));
    }

    #[tokio::test]
    async fn variables_come_from_the_keys_of_an_object() {
        let bench = bench();
        bench.ok("set env pod/p -c app --from=configmap/settings --prefix=X_ --keys=log.level").await;
        assert_eq!(
            bench.ok("set env pod/p -c app --list").await,
            "# pods p, container app\n# X_LOG_LEVEL from configmap settings, key log.level\n"
        );
        assert_eq!(bench.ok("set env pod/p -c app --list --resolve").await, "# pods p, container app\nX_LOG_LEVEL=info\n");
        assert!(bench.fails("set env pod/p --from=configmap/settings --keys=nope").await.contains("no key \"nope\""));
        assert!(bench.fails("set env pod/p --from=pod/p").await.contains("unsupported resource"));
    }
}
