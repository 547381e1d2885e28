//! `kctl config`

mod properties;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use api::yaml;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use client::kubeconfig::{Kubeconfig, NamedCluster, NamedContext, NamedUser};
use serde_json::Value;

use crate::{
    Session,
    output::{OutputArgs, Table},
};

/// Show and change the client configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config view
  kctl config get-contexts
  kctl config use-context home
  kctl config set-context --current --namespace=shop")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    View(ViewArgs),
    /// Print the name of the current context
    #[command(after_help = "Examples:
  kctl config current-context")]
    CurrentContext,
    GetContexts(GetContextsArgs),
    /// List the clusters
    #[command(after_help = "Examples:
  kctl config get-clusters")]
    GetClusters,
    /// List the users
    #[command(after_help = "Examples:
  kctl config get-users")]
    GetUsers,
    /// Make a context the current one
    #[command(
        visible_alias = "use",
        after_help = "Examples:
  kctl config use-context home"
    )]
    UseContext {
        /// Its name
        name: String,
    },
    SetContext(SetContextArgs),
    SetCluster(SetClusterArgs),
    SetCredentials(SetCredentialsArgs),
    Set(properties::SetArgs),
    Unset(properties::UnsetArgs),
    /// Give a context another name
    #[command(after_help = "Examples:
  kctl config rename-context kubernetes-admin@home home")]
    RenameContext {
        /// Its name
        old: String,
        /// The new one
        new: String,
    },
    /// Remove a context
    #[command(after_help = "Examples:
  kctl config delete-context home")]
    DeleteContext {
        /// Its name
        name: String,
    },
    /// Remove a cluster
    #[command(after_help = "Examples:
  kctl config delete-cluster home")]
    DeleteCluster {
        /// Its name
        name: String,
    },
    /// Remove a user
    #[command(after_help = "Examples:
  kctl config delete-user ann")]
    DeleteUser {
        /// Its name
        name: String,
    },
}

/// Show the configuration that is used
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config view
  kctl config view --minify --flatten > one-file.kubeconfig
  kctl config view -o jsonpath='{.users[*].name}'")]
pub struct ViewArgs {
    /// Only what the current context needs
    #[arg(long)]
    minify: bool,
    /// Show certificates, keys and tokens
    #[arg(long)]
    raw: bool,
    /// Take the contents of files into it
    #[arg(long)]
    flatten: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// List the contexts
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config get-contexts
  kctl config get-contexts -o name")]
pub struct GetContextsArgs {
    /// Only this one
    name: Option<String>,
    /// No heading
    #[arg(long)]
    no_headers: bool,
    /// `name` prints only names
    #[arg(short = 'o', long, value_name = "FORMAT", value_parser = ["name"])]
    output: Option<String>,
}

/// Add or change a context; cluster, user and namespace come from --cluster, --user and --namespace
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config set-context home --cluster=home --user=ann
  kctl config set-context --current --namespace=shop")]
pub struct SetContextArgs {
    /// Its name
    #[arg(required_unless_present = "current", conflicts_with = "current")]
    name: Option<String>,
    /// The current one
    #[arg(long)]
    current: bool,
}

/// Add or change a cluster; server and CA come from --server, --certificate-authority and --tls-server-name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config set-cluster home --server=https://10.0.0.2:6443,https://10.0.0.3:6443 --certificate-authority=ca.crt
  kctl config set-cluster home --certificate-authority=ca.crt --embed-certs")]
pub struct SetClusterArgs {
    /// Its name
    name: String,
    /// Take the contents of the file into the configuration
    #[arg(long)]
    embed_certs: bool,
}

/// Add or change a user; --token, --client-certificate and --client-key say how they show who they are
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl config set-credentials ann --client-certificate=ann.crt --client-key=ann.key --embed-certs
  kctl config set-credentials builder --token=$(kctl create token builder)")]
pub struct SetCredentialsArgs {
    /// Their name
    name: String,
    /// Take the contents of the files into the configuration
    #[arg(long)]
    embed_certs: bool,
}

/// Runs the command.
///
/// # Errors
/// What went wrong, for the user.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::View(args) => view(session, &args),
        What::CurrentContext => {
            let current = session.kubeconfig()?.current_context;
            if current.is_empty() {
                bail!("current-context is not set");
            }
            Ok(session.console.line(current)?)
        }
        What::GetContexts(args) => get_contexts(session, &args),
        What::GetClusters => names(session, session.kubeconfig()?.clusters.iter().map(|cluster| cluster.name.as_str())),
        What::GetUsers => names(session, session.kubeconfig()?.users.iter().map(|user| user.name.as_str())),
        What::UseContext { name } => {
            if !session.kubeconfig()?.contexts.iter().any(|context| context.name == name) {
                bail!("no context exists with the name: \"{name}\"; `kctl config get-contexts` lists them");
            }
            change(session, |config| {
                config.current_context.clone_from(&name);
                Ok(())
            })?;
            Ok(session.console.line(format!("Switched to context \"{name}\"."))?)
        }
        What::SetContext(args) => set_context(session, &args),
        What::SetCluster(args) => set_cluster(session, &args),
        What::SetCredentials(args) => set_credentials(session, &args),
        What::Set(args) => properties::set(session, &args),
        What::Unset(args) => properties::unset(session, &args),
        What::RenameContext { old, new } => rename(session, &old, &new),
        What::DeleteContext { name } => delete(session, "context", &name, |config| {
            let before = config.contexts.len();
            config.contexts.retain(|context| context.name != name);
            before - config.contexts.len()
        }),
        What::DeleteCluster { name } => delete(session, "cluster", &name, |config| {
            let before = config.clusters.len();
            config.clusters.retain(|cluster| cluster.name != name);
            before - config.clusters.len()
        }),
        What::DeleteUser { name } => delete(session, "user", &name, |config| {
            let before = config.users.len();
            config.users.retain(|user| user.name != name);
            before - config.users.len()
        }),
    }
}

/// The file that changes go to: the named one, or the first of those that apply.
fn file(session: &Session) -> anyhow::Result<PathBuf> {
    let paths = Kubeconfig::paths(session.flags.kubeconfig.as_deref());
    let existing = paths.iter().find(|path| path.exists()).or_else(|| paths.first()).cloned();
    existing.context("there is no place for a configuration file: name one with --kubeconfig")
}

/// Changes the file without touching what it says otherwise.
fn change(session: &Session, with: impl FnOnce(&mut Kubeconfig) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let path = file(session)?;
    let mut config = if path.exists() { Kubeconfig::read_as_written(&path)? } else { Kubeconfig::default() };
    if config.api_version.is_empty() {
        (config.api_version, config.kind) = ("v1".to_owned(), "Config".to_owned());
    }
    with(&mut config)?;
    Ok(config.write(&path)?)
}

fn view(session: &Session, args: &ViewArgs) -> anyhow::Result<()> {
    let mut config = session.kubeconfig()?;
    if config.api_version.is_empty() {
        (config.api_version, config.kind) = ("v1".to_owned(), "Config".to_owned());
    }
    if let Some(context) = &session.flags.context {
        config.current_context.clone_from(context);
    }
    if args.minify {
        let current = config.current_context.clone();
        config.contexts.retain(|context| context.name == current);
        let Some(context) = config.contexts.first().map(|context| context.context.clone()) else {
            bail!("cannot locate context \"{current}\"");
        };
        config.clusters.retain(|cluster| cluster.name == context.cluster);
        config.users.retain(|user| user.name == context.user);
    }
    if args.flatten {
        flatten(&mut config)?;
    }
    let mut value = serde_json::to_value(&config)?;
    if !args.raw && !args.flatten {
        redact(&mut value);
    }
    let text = match args.output.printer() {
        Some(printer) => printer.value(&value)?,
        None => yaml::to_yaml(&value),
    };
    Ok(session.console.print(text)?)
}

/// Hides what others must not see and what nobody reads.
fn redact(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &value) {
                    ("certificate-authority-data", Value::String(_)) => *value = "DATA+OMITTED".into(),
                    ("client-certificate-data" | "client-key-data", Value::String(_)) => *value = "DATA+OMITTED".into(),
                    ("token" | "password", Value::String(_)) => *value = "REDACTED".into(),
                    _ => redact(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn flatten(config: &mut Kubeconfig) -> anyhow::Result<()> {
    let take = |file: &mut Option<PathBuf>, data: &mut Option<String>| {
        if let Some(path) = file.take()
            && data.is_none()
        {
            *data = Some(embed(&path)?);
        }
        anyhow::Ok(())
    };
    for NamedCluster { cluster, .. } in &mut config.clusters {
        take(&mut cluster.certificate_authority, &mut cluster.certificate_authority_data)?;
    }
    for NamedUser { user, .. } in &mut config.users {
        take(&mut user.client_certificate, &mut user.client_certificate_data)?;
        take(&mut user.client_key, &mut user.client_key_data)?;
    }
    Ok(())
}

fn embed(path: &Path) -> anyhow::Result<String> {
    Ok(STANDARD.encode(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
}

fn get_contexts(session: &Session, args: &GetContextsArgs) -> anyhow::Result<()> {
    let config = session.kubeconfig()?;
    let mut shown: Vec<&NamedContext> =
        config.contexts.iter().filter(|context| args.name.as_ref().is_none_or(|name| *name == context.name)).collect();
    if let (Some(name), true) = (&args.name, shown.is_empty()) {
        bail!("context \"{name}\" not found; `kctl config get-contexts` lists them");
    }
    shown.sort_by_key(|context| &context.name);
    if args.output.is_some() {
        return names(session, shown.into_iter().map(|context| context.name.as_str()));
    }
    let heading = ["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"];
    let mut table = if args.no_headers { Table::default() } else { Table::new(heading) };
    for NamedContext { name, context } in shown {
        let current = if *name == config.current_context { "*" } else { "" };
        table.push([current, name, &context.cluster, &context.user, context.namespace.as_deref().unwrap_or_default()]);
    }
    Ok(session.console.print(table.take())?)
}

fn names<'a>(session: &Session, names: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    Ok(session.console.print(names.map(|name| format!("{name}\n")).collect::<String>())?)
}

fn set_context(session: &Session, args: &SetContextArgs) -> anyhow::Result<()> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => session.kubeconfig()?.current_context,
    };
    if name.is_empty() {
        bail!("no current context is set");
    }
    let flags = &session.flags;
    let mut what = "modified";
    change(session, |config| {
        let at = config.contexts.iter().position(|context| context.name == name).unwrap_or_else(|| {
            what = "created";
            config.contexts.push(NamedContext { name: name.clone(), ..NamedContext::default() });
            config.contexts.len() - 1
        });
        let context = &mut config.contexts[at].context;
        if let Some(cluster) = &flags.cluster {
            context.cluster.clone_from(cluster);
        }
        if let Some(user) = &flags.user {
            context.user.clone_from(user);
        }
        if let Some(namespace) = &flags.namespace {
            context.namespace = Some(namespace.clone()).filter(|namespace| !namespace.is_empty());
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("Context \"{name}\" {what}."))?)
}

fn set_cluster(session: &Session, args: &SetClusterArgs) -> anyhow::Result<()> {
    let flags = &session.flags;
    let data = match &flags.certificate_authority {
        Some(path) if args.embed_certs => Some(embed(path)?),
        _ => None,
    };
    change(session, |config| {
        let at = config.clusters.iter().position(|cluster| cluster.name == args.name).unwrap_or_else(|| {
            config.clusters.push(NamedCluster { name: args.name.clone(), ..NamedCluster::default() });
            config.clusters.len() - 1
        });
        let cluster = &mut config.clusters[at].cluster;
        if !flags.server.is_empty() {
            cluster.server = flags.server.join(",");
        }
        if let Some(path) = &flags.certificate_authority {
            cluster.certificate_authority = data.is_none().then(|| absolute(path));
            cluster.certificate_authority_data = data;
        }
        if let Some(name) = &flags.tls_server_name {
            cluster.tls_server_name = Some(name.clone());
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("Cluster \"{}\" set.", args.name))?)
}

fn set_credentials(session: &Session, args: &SetCredentialsArgs) -> anyhow::Result<()> {
    let flags = &session.flags;
    let data = match (&flags.client_certificate, &flags.client_key) {
        (Some(certificate), Some(key)) if args.embed_certs => Some((embed(certificate)?, embed(key)?)),
        _ => None,
    };
    change(session, |config| {
        let at = config.users.iter().position(|user| user.name == args.name).unwrap_or_else(|| {
            config.users.push(NamedUser { name: args.name.clone(), ..NamedUser::default() });
            config.users.len() - 1
        });
        let user = &mut config.users[at].user;
        if let Some(token) = &flags.token {
            user.token = Some(token.clone());
        }
        if let (Some(certificate), Some(key)) = (&flags.client_certificate, &flags.client_key) {
            let (files, data) = match data {
                Some((certificate, key)) => (None, (Some(certificate), Some(key))),
                None => (Some((absolute(certificate), absolute(key))), (None, None)),
            };
            (user.client_certificate, user.client_key) = files.map_or((None, None), |(c, k)| (Some(c), Some(k)));
            (user.client_certificate_data, user.client_key_data) = data;
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("User \"{}\" set.", args.name))?)
}

/// A path that means the same from wherever the file is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn rename(session: &Session, old: &str, new: &str) -> anyhow::Result<()> {
    let config = session.kubeconfig()?;
    let exists = |name: &str| config.contexts.iter().any(|context| context.name == name);
    if !exists(old) {
        bail!("cannot rename the context \"{old}\", it's not in the configuration");
    }
    if exists(new) {
        bail!("cannot rename the context \"{old}\", the context \"{new}\" already exists");
    }
    change(session, |config| {
        config.contexts.iter_mut().filter(|context| context.name == old).for_each(|context| context.name = new.to_owned());
        if config.current_context == old {
            config.current_context = new.to_owned();
        }
        Ok(())
    })?;
    Ok(session.console.line(format!("Context \"{old}\" renamed to \"{new}\"."))?)
}

fn delete(session: &Session, what: &str, name: &str, remove: impl Fn(&mut Kubeconfig) -> usize) -> anyhow::Result<()> {
    let path = file(session)?;
    if remove(&mut Kubeconfig::read_as_written(&path)?) == 0 {
        bail!("cannot delete {what} \"{name}\", not in {}", path.display());
    }
    change(session, |config| {
        remove(config);
        Ok(())
    })?;
    Ok(session.console.line(format!("deleted {what} {name} from {}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;

    #[tokio::test]
    async fn a_configuration_is_made_shown_and_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config").display().to_string();
        let bench = Bench::new();
        let config = async |line: &str| {
            let mut words = vec!["--kubeconfig", path.as_str(), "config"];
            words.extend(line.split(' '));
            std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
            bench.ok_words(&words).await
        };
        assert_eq!(config("set-cluster c --server=https://a:6443 --certificate-authority=/ca.crt").await, "Cluster \"c\" set.\n");
        assert_eq!(config("set-credentials u --token=secret").await, "User \"u\" set.\n");
        assert_eq!(config("set-context x --cluster=c --user=u -n shop").await, "Context \"x\" created.\n");
        assert_eq!(config("use-context x").await, "Switched to context \"x\".\n");
        assert_eq!(config("current-context").await, "x\n");
        assert_eq!(
            config("get-contexts").await,
            "CURRENT   NAME   CLUSTER   AUTHINFO   NAMESPACE\n*         x      c         u          shop\n"
        );
        let view = config("view").await;
        assert!(view.contains("token: REDACTED") && view.contains("server: https://a:6443"), "{view}");
        assert!(config("view --raw").await.contains("token: secret"));
        assert_eq!(config("rename-context x y").await, "Context \"x\" renamed to \"y\".\n");
        assert_eq!(config("current-context").await, "y\n");
        assert!(config("delete-context y").await.starts_with("deleted context y from "));
    }
}
