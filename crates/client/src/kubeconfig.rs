//! kubectl's configuration file.
//!
//! Several API servers of one cluster stand either in `server`, separated by commas, or, where stock kubectl reads the file too, in an
//! extension of the cluster that kubectl ignores:
//!
//! ```yaml
//! clusters:
//! - name: ferrokube
//!   cluster:
//!     server: https://172.30.0.2:6443
//!     certificate-authority: ca.crt
//!     extensions:
//!     - name: ferrokube/servers
//!       extension: [https://172.30.0.3:6443]
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use daemon::tls::Pem;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::config::{Config, ConfigError, Impersonation, Token, servers};

/// Name of the extension that lists further servers of a cluster.
const SERVERS_EXTENSION: &str = "ferrokube/servers";

/// The merged contents of one or more files. Fields that are not known are kept, so that the file can be written back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubeconfig {
    /// Always `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Always `Config`.
    pub kind: String,
    /// Name of the context that is used if no other is asked for.
    #[serde(rename = "current-context", deserialize_with = "or_default")]
    pub current_context: String,
    /// The clusters.
    #[serde(deserialize_with = "or_default")]
    pub clusters: Vec<NamedCluster>,
    /// Who the person may be.
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<NamedUser>,
    /// Pairs of cluster and user.
    #[serde(deserialize_with = "or_default")]
    pub contexts: Vec<NamedContext>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A cluster with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedCluster {
    /// The name.
    pub name: String,
    /// The cluster.
    #[serde(default, deserialize_with = "or_default")]
    pub cluster: Cluster,
}

/// A user with their name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedUser {
    /// The name.
    pub name: String,
    /// The user.
    #[serde(default, deserialize_with = "or_default")]
    pub user: User,
}

/// A context with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedContext {
    /// The name.
    pub name: String,
    /// The context.
    #[serde(default, deserialize_with = "or_default")]
    pub context: Context,
}

/// How to reach a cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Cluster {
    /// URL of the API server, or several with commas between them.
    pub server: String,
    /// File with the CA's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<PathBuf>,
    /// The CA's certificate, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Name to expect in the server's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Not supported: every link is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How a person or daemon shows who it is.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct User {
    /// File with the client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// The client certificate, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// File with the client certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// The client certificate's key, PEM in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File with the bearer token; beats `token`.
    #[serde(skip_serializing_if = "Option::is_none", rename = "tokenFile")]
    pub token_file: Option<PathBuf>,
    /// Another user to act as.
    #[serde(skip_serializing_if = "Option::is_none", rename = "as")]
    pub act_as: Option<String>,
    /// That user's UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_uid: Option<String>,
    /// That user's groups.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub as_groups: Vec<String>,
    /// What else is known of that user.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub as_user_extra: BTreeMap<String, Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A pair of cluster and user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the user.
    pub user: String,
    /// Namespace to use when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What to take from a configuration; what is unset follows from the current context.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Context instead of the current one.
    pub context: Option<String>,
    /// Cluster instead of the context's.
    pub cluster: Option<String>,
    /// User instead of the context's.
    pub user: Option<String>,
    /// Namespace instead of the context's.
    pub namespace: Option<String>,
    /// Servers instead of the cluster's.
    pub server: Vec<String>,
}

// === impl Kubeconfig ===

impl Kubeconfig {
    /// The files that apply: `explicit` alone, else those in `KUBECONFIG`, else `~/.kube/config`.
    pub fn paths(explicit: Option<&Path>) -> Vec<PathBuf> {
        if let Some(path) = explicit {
            return vec![path.to_owned()];
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            return std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        }
        std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect()
    }

    /// Reads and merges the files that apply; the first to set a name wins. Only an `explicit` file must exist.
    ///
    /// # Errors
    /// When a file cannot be read or is no kubeconfig.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let mut merged = Self::default();
        for path in Self::paths(explicit) {
            match Self::read(&path) {
                Ok(config) => merged.merge(config),
                Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && explicit.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(merged)
    }

    /// Reads one file. Relative paths in it are taken from its directory.
    ///
    /// # Errors
    /// When the file cannot be read or is no kubeconfig.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::read_as_written(path)?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let absolute = |path: &mut Option<PathBuf>| {
            if let Some(path) = path.as_mut().filter(|path| path.is_relative() && !path.as_os_str().is_empty()) {
                *path = directory.join(&*path);
            }
        };
        for cluster in &mut config.clusters {
            absolute(&mut cluster.cluster.certificate_authority);
        }
        for user in &mut config.users {
            absolute(&mut user.user.client_certificate);
            absolute(&mut user.user.client_key);
            absolute(&mut user.user.token_file);
        }
        Ok(config)
    }

    /// Reads one file without touching the paths in it: for changing the file.
    ///
    /// # Errors
    /// When the file cannot be read or is no kubeconfig.
    pub fn read_as_written(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml::from_str(&text).map_err(|source| match serde_yaml::from_str::<serde_yaml::Value>(&text) {
            Ok(value) if !value.is_mapping() => ConfigError::Form(path.into()),
            _ => ConfigError::Parse { path: path.into(), source },
        })
    }

    /// Writes the file in one step, readable by its owner only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let text = serde_yaml::to_string(self).map_err(|source| ConfigError::Parse { path: path.into(), source })?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let write = || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|source| ConfigError::Write { path: path.into(), source })
    }

    /// True if nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.contexts.is_empty()
    }

    /// Adds what `other` has and this one has not.
    pub fn merge(&mut self, other: Self) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        if self.api_version.is_empty() {
            (self.api_version, self.kind) = (other.api_version, other.kind);
        }
        let known: Vec<_> = self.clusters.iter().map(|c| c.name.clone()).collect();
        self.clusters.extend(other.clusters.into_iter().filter(|c| !known.contains(&c.name)));
        let known: Vec<_> = self.users.iter().map(|u| u.name.clone()).collect();
        self.users.extend(other.users.into_iter().filter(|u| !known.contains(&u.name)));
        let known: Vec<_> = self.contexts.iter().map(|c| c.name.clone()).collect();
        self.contexts.extend(other.contexts.into_iter().filter(|c| !known.contains(&c.name)));
        for (key, value) in other.other {
            self.other.entry(key).or_insert(value);
        }
    }

    /// What the selected context says.
    ///
    /// # Errors
    /// When a name leads nowhere or a field cannot be used.
    pub fn select(&self, selection: &Selection) -> Result<Config, ConfigError> {
        let name = selection.context.as_ref().unwrap_or(&self.current_context);
        let context = match self.contexts.iter().find(|context| context.name == *name) {
            Some(context) => context.context.clone(),
            None if selection.context.is_some() || !name.is_empty() => {
                return Err(ConfigError::Missing { what: "context", name: name.clone() });
            }
            None => Context::default(),
        };
        let cluster_name = selection.cluster.as_ref().unwrap_or(&context.cluster);
        let cluster = match self.clusters.iter().find(|cluster| cluster.name == *cluster_name) {
            Some(cluster) => &cluster.cluster,
            None if cluster_name.is_empty() && selection.server.is_empty() => return Err(ConfigError::NoServer),
            None if cluster_name.is_empty() => return Err(ConfigError::NoTrust),
            None => return Err(ConfigError::Missing { what: "cluster", name: cluster_name.clone() }),
        };
        let servers = if selection.server.is_empty() { cluster.servers()? } else { servers(&selection.server)? };
        let mut config = Config { servers, ..Config::new(cluster.ca(cluster_name)?) };
        config.server_name.clone_from(&cluster.tls_server_name);
        let user_name = selection.user.as_ref().unwrap_or(&context.user);
        if !user_name.is_empty() {
            let user = self.users.iter().find(|user| user.name == *user_name);
            let user = user.ok_or_else(|| ConfigError::Missing { what: "user", name: user_name.clone() })?;
            config.identity = user.user.identity(user_name)?;
            config.token = user.user.token(user_name)?;
            config.impersonate = user.user.impersonation();
        }
        let namespace = selection.namespace.clone().or(context.namespace);
        config.namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned());
        Ok(config)
    }
}

// === impl Cluster ===

impl Cluster {
    fn servers(&self) -> Result<Vec<http::Uri>, ConfigError> {
        let mut urls = vec![self.server.clone()];
        let extensions = self.other.get("extensions").and_then(Value::as_sequence);
        for extension in extensions.into_iter().flatten() {
            if extension.get("name").and_then(Value::as_str) == Some(SERVERS_EXTENSION) {
                let listed = extension.get("extension").and_then(Value::as_sequence).into_iter().flatten();
                urls.extend(listed.filter_map(Value::as_str).map(str::to_owned));
            }
        }
        servers(urls)
    }

    fn ca(&self, name: &str) -> Result<Pem, ConfigError> {
        if self.insecure_skip_tls_verify == Some(true) {
            let remedy = "give the cluster's certificate-authority";
            return Err(ConfigError::Unsupported { field: "insecure-skip-tls-verify", name: name.to_owned(), remedy });
        }
        let data = ("certificate-authority-data", self.certificate_authority_data.as_deref());
        pem(name, data, self.certificate_authority.as_deref())?.ok_or_else(|| ConfigError::NoCa { name: name.to_owned() })
    }
}

// === impl User ===

impl std::fmt::Debug for User {
    /// Never shows keys or tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

impl User {
    fn identity(&self, name: &str) -> Result<Option<(Pem, Pem)>, ConfigError> {
        let data = ("client-certificate-data", self.client_certificate_data.as_deref());
        let certificate = pem(name, data, self.client_certificate.as_deref())?;
        let key = pem(name, ("client-key-data", self.client_key_data.as_deref()), self.client_key.as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            _ => Err(ConfigError::HalfIdentity { name: name.to_owned() }),
        }
    }

    fn impersonation(&self) -> Impersonation {
        Impersonation {
            user: self.act_as.clone().unwrap_or_default(),
            uid: self.as_uid.clone().unwrap_or_default(),
            groups: self.as_groups.clone(),
            extra: self.as_user_extra.clone(),
        }
    }

    fn token(&self, name: &str) -> Result<Option<Token>, ConfigError> {
        for field in ["exec", "auth-provider", "username", "password"] {
            if self.other.contains_key(field) {
                let remedy = "use a client certificate or a token";
                return Err(ConfigError::Unsupported { field, name: name.to_owned(), remedy });
            }
        }
        let file = self.token_file.clone().filter(|path| !path.as_os_str().is_empty()).map(Token::File);
        Ok(file.or_else(|| self.token.clone().filter(|token| !token.is_empty()).map(Token::Inline)))
    }
}

/// Inline data beats a file, as in kubectl.
fn pem(name: &str, data: (&'static str, Option<&str>), file: Option<&Path>) -> Result<Option<Pem>, ConfigError> {
    if let Some(text) = data.1.filter(|text| !text.is_empty()) {
        let text: String = text.split_whitespace().collect();
        let decoded =
            STANDARD.decode(text).map_err(|source| ConfigError::Base64 { field: data.0, name: name.to_owned(), source })?;
        return Ok(Some(Pem::Inline(decoded)));
    }
    Ok(file.filter(|path| !path.as_os_str().is_empty()).map(|path| Pem::File(path.to_owned())))
}

/// Reads `null` as absent: kubectl writes empty lists that way.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
apiVersion: v1
kind: Config
current-context: a
preferences: {}
clusters:
- name: c
  cluster:
    server: https://a:6443,https://b:6443
    certificate-authority-data: aGk=
    extensions:
    - {name: ferrokube/servers, extension: ["https://d:6443"]}
users:
- name: u
  user: {client-certificate: u.crt, client-key: /k/u.key}
- name: t
  user: {token: x, tokenFile: tok}
- name: e
  user: {exec: {command: x}}
contexts:
- name: a
  context: {cluster: c, user: u, namespace: n}
- name: lost
  context: {cluster: nowhere, user: u}
"#;

    fn kubeconfig() -> Kubeconfig {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, FILE).unwrap();
        let mut config = Kubeconfig::read(&path).unwrap();
        let root = directory.path().to_owned();
        for user in &mut config.users {
            for path in [&mut user.user.client_certificate, &mut user.user.token_file].into_iter().flatten() {
                *path = Path::new("/base").join(path.strip_prefix(&root).unwrap());
            }
        }
        config
    }

    #[test]
    fn the_current_context_decides() {
        let config = kubeconfig().select(&Selection::default()).unwrap();
        assert_eq!(config.servers.iter().map(|s| s.host().unwrap()).collect::<Vec<_>>(), ["a", "b", "d"]);
        assert!(config.ca == Pem::Inline(b"hi".to_vec()));
        assert!(config.identity.unwrap() == (Pem::File("/base/u.crt".into()), Pem::File("/k/u.key".into())));
        assert_eq!(config.namespace, "n");
    }

    #[test]
    fn a_selection_overrides_the_context() {
        let selection = Selection {
            user: Some("t".into()),
            server: vec!["https://z:1".into()],
            namespace: Some("m".into()),
            ..Selection::default()
        };
        let config = kubeconfig().select(&selection).unwrap();
        assert_eq!((config.servers.len(), config.servers[0].host(), config.namespace.as_str()), (1, Some("z"), "m"));
        assert!(matches!(config.token, Some(Token::File(path)) if path == Path::new("/base/tok")));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let error = |selection| kubeconfig().select(&selection).unwrap_err().to_string();
        assert!(error(Selection { context: Some("x".into()), ..Selection::default() }).contains("no context \"x\""));
        assert!(error(Selection { context: Some("lost".into()), ..Selection::default() }).contains("no cluster \"nowhere\""));
        assert!(error(Selection { user: Some("e".into()), ..Selection::default() }).contains("uses exec"));
        assert!(matches!(Kubeconfig::default().select(&Selection::default()), Err(ConfigError::NoServer)));
        let server = Selection { server: vec!["https://z:1".into()], ..Selection::default() };
        assert!(matches!(Kubeconfig::default().select(&server), Err(ConfigError::NoTrust)));
    }

    #[test]
    fn a_file_of_another_form_is_refused_without_showing_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        std::fs::write(&path, "root:x:0:0:a secret\n").unwrap();
        let error = Kubeconfig::read_as_written(&path).unwrap_err();
        assert!(matches!(error, ConfigError::Form(_)), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("secret"));
    }

    #[test]
    fn the_first_file_wins_and_unknown_fields_survive_writing() {
        let mut first: Kubeconfig =
            serde_yaml::from_str("contexts:\n- name: a\n  context: {cluster: mine}\nusers: null\n").unwrap();
        first.merge(kubeconfig());
        assert_eq!(first.contexts[0].context.cluster, "mine");
        assert_eq!((first.contexts.len(), first.users.len(), first.current_context.as_str()), (2, 3, "a"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config");
        first.write(&path).unwrap();
        let again = Kubeconfig::read_as_written(&path).unwrap();
        assert!(again.other.contains_key("preferences") && again.clusters[0].cluster.other.contains_key("extensions"));
    }
}
