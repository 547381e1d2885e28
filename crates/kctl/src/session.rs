//! One run of kctl: flags that every command has, the connection, the namespace, the console.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::Kind;
use client::{
    Api, Client, Config, Impersonation, Item, List, ListParams, Readable,
    config::Token,
    kubeconfig::{Kubeconfig, NamedCluster, NamedUser, Selection},
};

use crate::{console::Console, error, progress, trace};

/// Name of the cluster and user that flags make up.
const FROM_FLAGS: &str = "(command line)";
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Flags that every command has.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global flags")]
pub struct GlobalArgs {
    /// Namespace to work in instead of the context's
    #[arg(short = 'n', long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Configuration file instead of those in $KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the configuration to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Cluster of the configuration to use
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// User of the configuration to be
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Address of the API server, https://host:port; several with commas between them
    #[arg(short = 's', long, global = true, value_name = "URL", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Bearer token to show to the API server
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File with the certificate of the CA that signed the API server's
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// File with a client certificate
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// File with the client certificate's key
    #[arg(long, global = true, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
    /// Name to expect in the API server's certificate
    #[arg(long, global = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// User to act as, such as ann or system:serviceaccount:shop:builder
    #[arg(long = "as", id = "as", global = true, value_name = "USER")]
    pub act_as: Option<String>,
    /// Group of the user to act as; can be given several times
    #[arg(long, global = true, value_name = "GROUP")]
    pub as_group: Vec<String>,
    /// UID of the user to act as
    #[arg(long, global = true, value_name = "UID")]
    pub as_uid: Option<String>,
    /// What else is known of the user to act as, KEY=VALUE; can be given several times
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub as_user_extra: Vec<String>,
    /// How long one request to the server may take, such as 5s or 1m; 0 for as long as it takes
    #[arg(long, global = true, value_name = "TIME", default_value = "0", hide_default_value = true,
        value_parser = crate::commands::duration)]
    pub request_timeout: Duration,
    /// How much to say about what is done, from 0 to 10: from 6 each call, from 8 what it says
    #[arg(short = 'v', long = "v", global = true, value_name = "LEVEL", default_value_t = 0, hide_default_value = true)]
    pub verbosity: u8,
}

/// One run.
pub struct Session {
    /// Where to print to and read from.
    pub console: Console,
    /// The flags that every command has.
    pub flags: GlobalArgs,
    pub(crate) client: OnceLock<Client>,
    printed: AtomicBool,
    passed_over: AtomicBool,
}

// === impl GlobalArgs ===

impl GlobalArgs {
    /// Whom to act as: what flags say beats the configuration, part by part.
    fn impersonate(&self, other: &mut Impersonation) -> anyhow::Result<()> {
        if let Some(user) = &self.act_as {
            other.user.clone_from(user);
        }
        if let Some(uid) = &self.as_uid {
            other.uid.clone_from(uid);
        }
        if !self.as_group.is_empty() {
            other.groups.clone_from(&self.as_group);
        }
        if !self.as_user_extra.is_empty() {
            other.extra.clear();
        }
        for pair in &self.as_user_extra {
            let Some((key, value)) = pair.split_once('=') else { anyhow::bail!("--as-user-extra={pair}: KEY=VALUE is wanted") };
            other.extra.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Ok(())
    }
}

// === impl Session ===

impl Session {
    /// A session that connects when a command first needs the server.
    pub fn new(flags: GlobalArgs, console: Console) -> Self {
        Self { console, flags, client: OnceLock::new(), printed: AtomicBool::new(false), passed_over: AtomicBool::new(false) }
    }

    /// A session over a client.
    #[cfg(test)]
    pub fn over(client: Client, flags: GlobalArgs, console: Console) -> Self {
        Self { client: OnceLock::from(client), ..Self::new(flags, console) }
    }

    /// The client.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn client(&self) -> anyhow::Result<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let console = self.console.clone();
        let (config, level) = (self.config()?, self.flags.verbosity);
        let client = if level >= trace::CALLS {
            Client::observed(config, trace::Trace::new(self.console.clone(), level))?
        } else {
            Client::new(config)?
        };
        let client = client.on_warning(move |warning| console.note(format!("Warning: {warning}")));
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Where the server is and who we are.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn config(&self) -> anyhow::Result<Config> {
        let flags = &self.flags;
        let mut kubeconfig = self.kubeconfig()?;
        let in_pod = PathBuf::from(SERVICE_ACCOUNT_TOKEN).exists();
        let from_flags = !flags.server.is_empty() && flags.certificate_authority.is_some();
        let mut config = if kubeconfig.is_empty() && flags.kubeconfig.is_none() && !from_flags && in_pod {
            Config::in_cluster()?
        } else {
            let selection = self.selection(&mut kubeconfig);
            kubeconfig.select(&selection)?
        };
        if let Some(token) = &flags.token {
            config.token = Some(Token::Inline(token.clone()));
            config.identity = None;
        }
        if let Some(name) = &flags.tls_server_name {
            config.server_name = Some(name.clone());
        }
        flags.impersonate(&mut config.impersonate)?;
        config.request_timeout = Some(flags.request_timeout).filter(|bound| !bound.is_zero());
        Ok(config.named("kctl"))
    }

    /// What the flags select; what they say beyond names goes into a cluster and a user of their own.
    fn selection(&self, kubeconfig: &mut Kubeconfig) -> Selection {
        let flags = &self.flags;
        let mut selection = Selection {
            context: flags.context.clone(),
            cluster: flags.cluster.clone(),
            user: flags.user.clone(),
            namespace: flags.namespace.clone(),
            server: flags.server.clone(),
        };
        let context_name = flags.context.as_ref().unwrap_or(&kubeconfig.current_context);
        let context = kubeconfig.contexts.iter().find(|context| context.name == *context_name).map(|found| found.context.clone());
        let context = context.unwrap_or_default();
        if let Some(ca) = &flags.certificate_authority {
            let name = flags.cluster.clone().unwrap_or(context.cluster);
            let known = kubeconfig.clusters.iter().find(|cluster| cluster.name == name);
            let mut cluster = known.map(|known| known.cluster.clone()).unwrap_or_default();
            cluster.certificate_authority = Some(ca.clone());
            cluster.certificate_authority_data = None;
            kubeconfig.clusters.push(NamedCluster { name: FROM_FLAGS.to_owned(), cluster });
            selection.cluster = Some(FROM_FLAGS.to_owned());
        }
        if let (Some(certificate), Some(key)) = (&flags.client_certificate, &flags.client_key) {
            let mut user = NamedUser { name: FROM_FLAGS.to_owned(), ..NamedUser::default() };
            user.user.client_certificate = Some(certificate.clone());
            user.user.client_key = Some(key.clone());
            kubeconfig.users.push(user);
            selection.user = Some(FROM_FLAGS.to_owned());
        }
        selection
    }

    /// The configuration files that apply, merged.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        Ok(Kubeconfig::load(self.flags.kubeconfig.as_deref())?)
    }

    /// The namespace that was asked for by flag.
    pub fn explicit_namespace(&self) -> Option<&str> {
        self.flags.namespace.as_deref().filter(|namespace| !namespace.is_empty())
    }

    /// The namespace to work in: the flag's, the context's, or `default`.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn namespace(&self) -> anyhow::Result<String> {
        if let Some(namespace) = self.explicit_namespace() {
            return Ok(namespace.to_owned());
        }
        if let Some(client) = self.client.get() {
            return Ok(client.default_namespace().to_owned());
        }
        let kubeconfig = self.kubeconfig()?;
        if kubeconfig.is_empty()
            && let Ok(config) = Config::in_cluster()
        {
            return Ok(config.namespace);
        }
        let name = self.flags.context.as_ref().unwrap_or(&kubeconfig.current_context);
        let context = kubeconfig.contexts.iter().find(|context| context.name == *name);
        let namespace = context.and_then(|context| context.context.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Ok(namespace.unwrap_or_else(|| "default".to_owned()))
    }

    /// The namespace for requests about a kind; empty for cluster-scoped kinds and for all namespaces.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn scope(&self, kind: &Kind, all_namespaces: bool) -> anyhow::Result<String> {
        if kind.namespaced && !all_namespaces { self.namespace() } else { Ok(String::new()) }
    }

    /// True from the second call on: whether a document separator is due.
    pub fn printed_before(&self) -> bool {
        self.printed.swap(true, Ordering::Relaxed)
    }

    /// Reads the objects that match. One that cannot be read is named on standard error and passed over; the run ends with exit code 1 then.
    /// Who decides on what is missing asks [`Api::list`] instead.
    ///
    /// # Errors
    /// Whatever the server says.
    pub async fn list<T: Item>(&self, api: &Api<T>, params: &ListParams) -> client::Result<List<T>> {
        let what = format!("reading {}", api.kind().plural);
        let Readable { items, unreadable, metadata } = self.shown(&what, api.list_readable(params)).await?;
        for error in unreadable {
            self.console.note(error::describe(&error.into()));
            self.passed_over.store(true, Ordering::Relaxed);
        }
        Ok(List { items, metadata })
    }

    /// True if an object that exists could not be read.
    pub fn passed_over(&self) -> bool {
        self.passed_over.load(Ordering::Relaxed)
    }

    /// Waits for work, and says what for if it takes long.
    pub async fn shown<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        progress::shown(&self.console, what, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(words: &[&str]) -> Session {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: GlobalArgs,
        }
        use clap::Parser as _;
        let line = Line::parse_from([&["kctl"], words].concat());
        Session::new(line.flags, Console::process())
    }

    #[test]
    fn whom_to_act_as_comes_from_the_file_and_flags_beat_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(
            &path,
            "current-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n\
             clusters: [{name: c, cluster: {server: 'https://a:1', certificate-authority: ca.crt}}]\n\
             users: [{name: u, user: {token: t, as: ann, as-uid: '7', as-groups: [g], as-user-extra: {k: [v, w]}}}]\n",
        )
        .unwrap();
        let file = path.display().to_string();
        let given = |words: &[&str]| session(&[&["--kubeconfig", file.as_str()], words].concat()).config();
        let config = given(&[]).unwrap();
        assert_eq!((config.impersonate.user.as_str(), config.impersonate.uid.as_str()), ("ann", "7"));
        assert_eq!((config.impersonate.groups.as_slice(), config.impersonate.extra["k"].len()), (["g".to_owned()].as_slice(), 2));
        assert_eq!(config.request_timeout, None);
        let config =
            given(&["--as=bob", "--as-group=x", "--as-group=y", "--as-user-extra=a=b", "--request-timeout=1m30s"]).unwrap();
        assert_eq!((config.impersonate.user.as_str(), config.impersonate.groups.len()), ("bob", 2));
        assert_eq!(config.impersonate.extra.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(config.request_timeout, Some(Duration::from_secs(90)));
        assert!(given(&["--as-user-extra=a"]).is_err());
    }
}
