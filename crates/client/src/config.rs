//! Where the API server is and who we are: kubectl's configuration file, or a pod's service account.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use daemon::tls::{Pem, TlsError};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::kubeconfig::{Kubeconfig, Selection};

/// Directory in which a pod finds its service account's token, CA and namespace.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a [`crate::Client`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API servers, `https://host:port`, equals: one that does not answer is passed over. At least one.
    pub servers: Vec<Uri>,
    /// Name to expect in the servers' certificates instead of the host in their URLs.
    pub server_name: Option<String>,
    /// CAs of the servers' certificates.
    pub ca: Pem,
    /// Our certificate and key.
    pub identity: Option<(Pem, Pem)>,
    /// Our bearer token.
    pub token: Option<Token>,
    /// Namespace to use when none is named.
    pub namespace: String,
    /// What the server's audit log calls us, `name/version`; its first part is also our field manager.
    pub user_agent: String,
    /// How long one attempt to connect may take, TLS included.
    pub connect_timeout: Duration,
    /// How long one request may take in all, streams included; `None` for no bound but that of requests that are no streams.
    pub request_timeout: Option<Duration>,
    /// Whom to act as, if not as ourselves.
    pub impersonate: Impersonation,
    /// How much the server may send before we take it.
    pub windows: Windows,
}

/// Another user to act as; the server allows it to those who have the verb `impersonate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// The user's name; empty to act as oneself.
    pub user: String,
    /// The user's UID; empty for none.
    pub uid: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// What else is known of the user.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// How many bytes a server may send before we take them: what streams that nobody reads can hold.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// On one stream.
    pub stream: u32,
    /// On all streams of a connection together. Where streams can be left unread, this must be more than all of those can hold: else
    /// they keep the others waiting.
    pub connection: u32,
}

/// A bearer token.
#[derive(Clone)]
pub enum Token {
    /// The token itself.
    Inline(String),
    /// A file that holds it, read again as it is renewed.
    File(PathBuf),
}

/// The flags of a process that talks to the API server.
#[derive(Clone, Debug, Default, clap::Args)]
// Several flag groups of one daemon have this name.
#[group(skip)]
#[command(next_help_heading = "API server")]
pub struct Args {
    /// Configuration of the API client in kubectl's format [default: $KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// API servers, overriding the file's
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub server: Vec<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no kubeconfig.
    #[error("{path} is not a client configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        #[source]
        source: serde_yaml::Error,
    },
    /// A file is not even of a kubeconfig's form. What it holds instead is not told: it may be anything.
    #[error("{0} is not a client configuration: a mapping with clusters, contexts and users is wanted")]
    Form(PathBuf),
    /// Nothing says where the API server is.
    #[error("no API server is configured: name a file with --kubeconfig or KUBECONFIG, or a server with --server")]
    NoServer,
    /// A server is named, but not whom to trust.
    #[error("no CA is known for the server: name a file with --kubeconfig or KUBECONFIG whose cluster has one")]
    NoTrust,
    /// A name leads nowhere.
    #[error("the client configuration has no {what} \"{name}\"")]
    Missing {
        /// `context`, `cluster` or `user`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A server's URL cannot be used.
    #[error("server \"{url}\": {reason}")]
    Server {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Base64 data does not decode.
    #[error("{field} of \"{name}\" is not base64")]
    Base64 {
        /// The field.
        field: &'static str,
        /// The cluster or user.
        name: String,
        /// What the decoder said.
        #[source]
        source: base64::DecodeError,
    },
    /// A field that is not, and will not be, supported.
    #[error("\"{name}\" uses {field}, which is not supported: {remedy}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// The cluster or user.
        name: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A certificate needs its key and the other way round.
    #[error("user \"{name}\" has a client certificate or a key, but not both")]
    HalfIdentity {
        /// The user.
        name: String,
    },
    /// Something of a user to act as is given, but not the user.
    #[error("requesting uid, groups or user-extra without impersonating a user: give the user's name too, with --as")]
    Impersonation,
    /// Something of a user to act as cannot be sent.
    #[error("\"{value}\" cannot be sent as {what} of a user to act as: it holds control characters")]
    ImpersonationValue {
        /// Which part of the user.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The cluster has no CA.
    #[error("cluster \"{name}\" has no certificate-authority or certificate-authority-data")]
    NoCa {
        /// The cluster.
        name: String,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

// === impl Config ===

impl Config {
    /// What the flags, the environment and the files say, in that order; else the service account of the pod we run in.
    ///
    /// # Errors
    /// When there is no configuration, or it cannot be used.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let kubeconfig = Kubeconfig::load(args.kubeconfig.as_deref())?;
        if kubeconfig.is_empty() && args.kubeconfig.is_none() && PathBuf::from(SERVICE_ACCOUNT).join("token").exists() {
            return Self::in_cluster();
        }
        kubeconfig.select(&Selection { server: args.server.clone(), ..Selection::default() })
    }

    /// The service account of the pod we run in.
    ///
    /// # Errors
    /// When the environment does not name the API server.
    pub fn in_cluster() -> Result<Self, ConfigError> {
        let directory = PathBuf::from(SERVICE_ACCOUNT);
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or(ConfigError::NoServer);
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let namespace = std::fs::read_to_string(directory.join("namespace")).unwrap_or_default();
        Ok(Self {
            servers: servers([format!("https://{host}:{port}")])?,
            token: Some(Token::File(directory.join("token"))),
            namespace: Some(namespace.trim()).filter(|n| !n.is_empty()).unwrap_or("default").to_owned(),
            ..Self::new(Pem::File(directory.join("ca.crt")))
        })
    }

    /// A configuration without servers or credentials.
    pub fn new(ca: Pem) -> Self {
        Self {
            servers: Vec::new(),
            server_name: None,
            ca,
            identity: None,
            token: None,
            namespace: "default".to_owned(),
            user_agent: format!("ferrokube/{}", daemon::VERSION),
            connect_timeout: Duration::from_secs(3),
            request_timeout: None,
            impersonate: Impersonation::default(),
            windows: Windows { stream: 8 << 20, connection: 16 << 20 },
        }
    }

    /// The same with `name/version` as user agent.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.user_agent = format!("{name}/{}", daemon::VERSION);
        self
    }
}

// === impl Impersonation ===

impl Impersonation {
    /// The metadata of each request, named as upstream's HTTP headers.
    ///
    /// # Errors
    /// When there is no user, or a value cannot be sent.
    pub(crate) fn headers(&self) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        if *self == Self::default() {
            return Ok(headers);
        }
        if self.user.is_empty() {
            return Err(ConfigError::Impersonation);
        }
        let mut add = |name: HeaderName, what, value: &str| {
            let unfit = |_| ConfigError::ImpersonationValue { what, value: value.to_owned() };
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).map_err(unfit)?);
            Ok::<_, ConfigError>(())
        };
        add(HeaderName::from_static("impersonate-user"), "name", &self.user)?;
        if !self.uid.is_empty() {
            add(HeaderName::from_static("impersonate-uid"), "UID", &self.uid)?;
        }
        for group in &self.groups {
            add(HeaderName::from_static("impersonate-group"), "group", group)?;
        }
        for (key, values) in &self.extra {
            let name = format!("impersonate-extra-{}", escaped(key));
            let unfit = |_| ConfigError::ImpersonationValue { what: "key", value: key.clone() };
            let name = HeaderName::try_from(name).map_err(unfit)?;
            for value in values {
                add(name.clone(), "extra value", value)?;
            }
        }
        Ok(headers)
    }
}

/// A key as the name of a header can hold it: what RFC 9110 allows no token to have is percent-encoded.
fn escaped(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl std::fmt::Debug for Token {
    /// Never shows the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Reads server URLs, each of which may be several with commas between them.
pub(crate) fn servers(urls: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<Uri>, ConfigError> {
    let mut servers = Vec::new();
    for urls in urls {
        for url in urls.as_ref().split(',').map(str::trim).filter(|url| !url.is_empty()) {
            servers.push(server(url)?);
        }
    }
    if servers.is_empty() { Err(ConfigError::NoServer) } else { Ok(servers) }
}

fn server(url: &str) -> Result<Uri, ConfigError> {
    let wrong = |reason: String| ConfigError::Server { url: url.to_owned(), reason };
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = full.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    match uri.scheme_str() {
        Some("https") => {}
        _ => return Err(wrong("every link is encrypted, so the URL begins with https://".to_owned())),
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("a path is not supported".to_owned()));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_servers_come_from_one_text() {
        let servers = servers(["https://a:6443, b:1"]).unwrap();
        assert_eq!(servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["https://a:6443/", "https://b:1/"]);
    }

    #[test]
    fn an_unencrypted_server_is_refused() {
        let error = servers(["http://a:8080"]).unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
        assert!(matches!(servers([""]), Err(ConfigError::NoServer)));
    }

    #[test]
    fn a_user_to_act_as_goes_into_headers() {
        let extra = BTreeMap::from([("example.org/Scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let groups = vec!["testers".to_owned(), "büro".to_owned()];
        let headers = Impersonation { user: "ann".into(), uid: "7".into(), groups, extra }.headers().unwrap();
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!((all("impersonate-user"), all("impersonate-uid")), (vec![b"ann".to_vec()], vec![b"7".to_vec()]));
        assert_eq!(all("impersonate-group"), [b"testers".to_vec(), "büro".as_bytes().to_vec()]);
        assert_eq!(all("impersonate-extra-example.org%2fscopes"), [b"a", b"b"]);
        assert!(Impersonation::default().headers().unwrap().is_empty());
    }

    #[test]
    fn groups_without_a_user_and_control_characters_are_refused() {
        let nobody = Impersonation { groups: vec!["a".into()], ..Impersonation::default() };
        assert!(matches!(nobody.headers(), Err(ConfigError::Impersonation)));
        let split = Impersonation { user: "a\r\nb: c".into(), ..Impersonation::default() };
        assert!(matches!(split.headers(), Err(ConfigError::ImpersonationValue { .. })));
    }

    #[test]
    fn a_token_is_never_shown() {
        assert!(!format!("{:?}", Token::Inline("secret".into())).contains("secret"));
    }
}
