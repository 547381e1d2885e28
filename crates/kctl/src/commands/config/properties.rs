//! `kctl config set` and `unset`: single properties, by their path in the file.

use anyhow::{Context as _, bail};
use client::kubeconfig::Kubeconfig;
use serde_json::{Map, Value, json};

use super::change;
use crate::Session;

/// Set a property of the configuration file
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config set current-context home
  kctl config set contexts.home.namespace shop
  kctl config set clusters.home.server https://10.0.0.2:6443")]
pub struct SetArgs {
    /// Where it stands: current-context, or clusters, contexts or users, a name and a field, with dots between them
    #[arg(value_name = "PROPERTY")]
    path: String,
    /// What to set it to
    value: String,
}

/// Remove a property of the configuration file
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config unset current-context
  kctl config unset contexts.home.namespace
  kctl config unset users.ann")]
pub struct UnsetArgs {
    /// Where it stands: as for `set`, or a whole cluster, context or user
    #[arg(value_name = "PROPERTY")]
    path: String,
}

/// A place in the file.
enum Place<'a> {
    /// A field of the file itself.
    Top(&'a str),
    /// A cluster, context or user, or a field of it.
    Entry { list: &'a str, inner: &'static str, name: &'a str, field: Option<&'a str> },
}

/// Runs `set`.
///
/// # Errors
/// When there is no such property.
pub fn set(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    edit(session, |file| {
        match place(file, &args.path)? {
            Place::Top(field) => file[field] = args.value.as_str().into(),
            Place::Entry { field: None, .. } => {
                bail!("{}: the field to set is missing, such as .server or .namespace", args.path)
            }
            Place::Entry { list, inner, name, field: Some(field) } => {
                let (list, name, field) = (list.to_owned(), name.to_owned(), field.to_owned());
                let entries = file.as_object_mut().and_then(|file| file.entry(list).or_insert_with(|| json!([])).as_array_mut());
                let entries = entries.context("the configuration file has no list there")?;
                let at = entries.iter().position(|entry| entry["name"] == *name).unwrap_or_else(|| {
                    entries.push(json!({"name": name, inner: {}}));
                    entries.len() - 1
                });
                let value = match args.value.as_str() {
                    "true" => true.into(),
                    "false" => false.into(),
                    text => Value::from(text),
                };
                entries[at][inner][field] = value;
            }
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("Property \"{}\" set.", args.path))?)
}

/// Runs `unset`.
///
/// # Errors
/// When there is no such property.
pub fn unset(session: &Session, args: &UnsetArgs) -> anyhow::Result<()> {
    edit(session, |file| {
        let removed = match place(file, &args.path)? {
            Place::Top(field) => {
                let field = field.to_owned();
                file.as_object_mut().and_then(|file| file.remove(&field)).is_some_and(|old| old != "")
            }
            Place::Entry { list, inner, name, field } => {
                let (list, name, field) = (list.to_owned(), name.to_owned(), field.map(str::to_owned));
                let entries =
                    file.get_mut(&list).and_then(Value::as_array_mut).context("the configuration file has no list there")?;
                let is = |entry: &Value| entry["name"] == *name;
                match field {
                    None => {
                        let before = entries.len();
                        entries.retain(|entry| !is(entry));
                        entries.len() < before
                    }
                    Some(field) => {
                        let fields = entries.iter_mut().find(|entry| is(entry)).and_then(|entry| entry[inner].as_object_mut());
                        fields.and_then(|fields: &mut Map<String, Value>| fields.remove(&field)).is_some()
                    }
                }
            }
        };
        if !removed {
            bail!("{} is not set; `kctl config view` shows what is", args.path);
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("Property \"{}\" unset.", args.path))?)
}

/// Changes the file as JSON; what does not fit a configuration afterwards is an error, and the file stays as it is.
fn edit(session: &Session, with: impl FnOnce(&mut Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
    change(session, |config| {
        let mut file = serde_json::to_value(&*config)?;
        with(&mut file)?;
        *config = serde_json::from_value::<Kubeconfig>(file).context("that value does not fit there")?;
        Ok(())
    })
}

/// What a path means. Names may hold dots: what is behind the last one is a field, unless all of it is a name.
fn place<'a>(file: &Value, path: &'a str) -> anyhow::Result<Place<'a>> {
    let Some((list, rest)) = path.split_once('.') else {
        if path == "current-context" {
            return Ok(Place::Top(path));
        }
        bail!("{path}: known are current-context, clusters.NAME.FIELD, contexts.NAME.FIELD and users.NAME.FIELD");
    };
    let inner = match list {
        "clusters" => "cluster",
        "contexts" => "context",
        "users" => "user",
        _ => bail!("{path}: known are current-context, clusters.NAME.FIELD, contexts.NAME.FIELD and users.NAME.FIELD"),
    };
    let known = |name: &str| file[list].as_array().is_some_and(|entries| entries.iter().any(|entry| entry["name"] == *name));
    Ok(match rest.rsplit_once('.') {
        Some((name, field)) if !known(rest) => Place::Entry { list, inner, name, field: Some(field) },
        _ => Place::Entry { list, inner, name: rest, field: None },
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[tokio::test]
    async fn properties_are_set_and_unset_by_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config").display().to_string();
        std::fs::write(&path, "apiVersion: v1\nkind: Config\nusers:\n- name: ann.example\n  user: {token: t}\n").unwrap();
        let bench = Bench::new();
        let words = |line: &str| -> Vec<String> {
            ["--kubeconfig", &path, "config"].into_iter().chain(line.split(' ')).map(str::to_owned).collect()
        };
        let ok = async |line: &str| bench.ok_words(&words(line).iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(ok("set contexts.a.b.namespace shop").await, "Property \"contexts.a.b.namespace\" set.\n");
        ok("set contexts.a.b.user ann.example").await;
        ok("set clusters.c.server https://a:6443").await;
        ok("set current-context a.b").await;
        assert_eq!(
            ok("get-contexts --no-headers").await.split_whitespace().collect::<Vec<_>>(),
            ["*", "a.b", "ann.example", "shop"]
        );
        assert_eq!(ok("unset contexts.a.b.namespace").await, "Property \"contexts.a.b.namespace\" unset.\n");
        ok("unset users.ann.example").await;
        ok("unset current-context").await;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("shop") && !text.contains("token") && text.contains("https://a:6443"), "{text}");
        for (line, why) in [
            ("unset users.ann", "is not set"),
            ("set clusters.c x", "the field to set is missing"),
            ("set colour blue", "known are current-context"),
            ("set servers.x.y z", "known are current-context"),
        ] {
            assert!(bench.fails(&words(line).join(" ")).await.contains(why), "{line}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
