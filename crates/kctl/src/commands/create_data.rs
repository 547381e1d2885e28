//! `kctl create configmap`, `secret`, `quota` and `service`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use api::{
    Bytes,
    core::v1::{ConfigMap, ResourceQuota, Secret, Service},
    json,
    names::{Format, check},
    quantity::Quantity,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde_json::json as value;

use super::create::{create, named};
use crate::{Session, write::WriteArgs};

/// Examples of all kinds of Secret.
pub const SECRET_EXAMPLES: &str = "Examples:
  kctl create secret generic keys --from-file=id=./key --from-literal=user=ann
  kctl create secret tls web --cert=web.crt --key=web.key
  kctl create secret docker-registry pull --docker-server=registry.example --docker-username=ann --docker-password=secret";
/// Examples of all kinds of Service.
pub const SERVICE_EXAMPLES: &str = "Examples:
  kctl create service clusterip web --tcp=80:8080
  kctl create service clusterip db --clusterip=None           no address, only the pods'
  kctl create service nodeport web --tcp=80:http --node-port=30080
  kctl create service loadbalancer web --tcp=80:8080
  kctl create service externalname search --external-name=search.example";
/// Key under which a Secret has what Docker keeps in ~/.docker/config.json.
const DOCKER_CONFIG: &str = ".dockerconfigjson";
/// Largest file that is taken into an object, bytes: more than any object may hold.
const MAX_FILE: u64 = 4 << 20;

/// A ConfigMap
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create configmap settings --from-literal=colour=blue
  kctl create configmap settings --from-file=app.conf --from-file=rules=./rules.txt
  kctl create configmap settings --from-env-file=settings.env
  kctl create configmap settings --from-file=conf.d/ --dry-run=client -o yaml | kctl apply -f -")]
pub struct ConfigMapArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    data: DataArgs,
    /// Its data never changes
    #[arg(long)]
    immutable: bool,
    #[command(flatten)]
    write: WriteArgs,
}

/// Where data comes from.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// A key and its value; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file under its own name or another key, or all files of a folder
    #[arg(long, value_name = "[KEY=]PATH")]
    from_file: Vec<String>,
    /// A file of lines KEY=VALUE
    #[arg(long, value_name = "PATH")]
    from_env_file: Vec<PathBuf>,
}

/// The kinds of Secret.
#[derive(Debug, Subcommand)]
pub enum SecretKind {
    /// A Secret of any data
    Generic(GenericArgs),
    /// A certificate and its key
    Tls(TlsArgs),
    /// A user's name and password for an image registry
    DockerRegistry(RegistryArgs),
}

/// A Secret of any data
#[derive(Debug, clap::Args)]
#[command(after_help = SECRET_EXAMPLES)]
pub struct GenericArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    data: DataArgs,
    /// Its type
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    secret_type: String,
    #[command(flatten)]
    write: WriteArgs,
}

/// A certificate and its key
#[derive(Debug, clap::Args)]
#[command(after_help = SECRET_EXAMPLES)]
pub struct TlsArgs {
    /// Its name
    name: String,
    /// File with the certificate, PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// File with the key, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    write: WriteArgs,
}

/// A user's name and password for an image registry
#[derive(Debug, clap::Args)]
#[command(after_help = SECRET_EXAMPLES)]
pub struct RegistryArgs {
    /// Its name
    name: String,
    /// The registry
    #[arg(long, value_name = "HOST", default_value = "https://index.docker.io/v1/")]
    docker_server: String,
    /// The user's name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    docker_username: String,
    /// The password
    #[arg(long, value_name = "PASSWORD", default_value = "", hide_default_value = true)]
    docker_password: String,
    /// The user's address
    #[arg(long, value_name = "MAIL", default_value = "", hide_default_value = true)]
    docker_email: String,
    /// A file as `docker login` writes it, ~/.docker/config.json, instead of name and password
    #[arg(long, value_name = "[KEY=]PATH")]
    from_file: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// A resource quota
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kctl create quota small --hard=pods=10,requests.cpu=2,limits.memory=4Gi
  kctl create quota spare --hard=pods=5 --scopes=BestEffort")]
pub struct QuotaArgs {
    /// Its name
    name: String,
    /// What there may be at most, such as cpu=1,memory=1Gi,pods=2
    #[arg(long, value_name = "RESOURCE=AMOUNT", value_delimiter = ',')]
    hard: Vec<String>,
    /// Which objects count
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// The kinds of Service.
#[derive(Debug, Subcommand)]
pub enum ServiceKind {
    /// Reached inside the cluster
    Clusterip(ServiceArgs),
    /// Reached on a port of every node too
    Nodeport(ServiceArgs),
    /// Reached through a load balancer of the world outside too
    Loadbalancer(ServiceArgs),
    /// Another name for a host outside
    Externalname(ExternalNameArgs),
}

/// A Service that selects pods with the label app=NAME
#[derive(Debug, clap::Args)]
#[command(after_help = SERVICE_EXAMPLES)]
pub struct ServiceArgs {
    /// Its name
    name: String,
    /// Its ports
    #[arg(long, value_name = "PORT[:TARGET]", value_delimiter = ',')]
    tcp: Vec<String>,
    /// Port on the nodes
    #[arg(long, value_name = "PORT")]
    node_port: Option<u16>,
    /// Address, or None for no address
    #[arg(long = "clusterip", value_name = "ADDRESS")]
    cluster_ip: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// A Service that stands for a host outside
#[derive(Debug, clap::Args)]
#[command(after_help = SERVICE_EXAMPLES)]
pub struct ExternalNameArgs {
    /// Name of the host outside
    #[arg(long, value_name = "HOST")]
    external_name: String,
    #[command(flatten)]
    service: ServiceArgs,
}

/// Creates a ConfigMap.
///
/// # Errors
/// What went wrong, for the user.
pub async fn config_map(session: &Session, args: ConfigMapArgs) -> anyhow::Result<()> {
    let mut map = named::<ConfigMap>(&args.name);
    for (key, bytes) in args.data.read()? {
        match String::from_utf8(bytes) {
            Ok(text) => drop(map.data.insert(key, text)),
            Err(error) => drop(map.binary_data.insert(key, Bytes::from(error.into_bytes()))),
        }
    }
    map.immutable = args.immutable.then_some(true);
    create(session, &args.write, map).await
}

/// Creates a Secret.
///
/// # Errors
/// What went wrong, for the user.
pub async fn secret(session: &Session, kind: SecretKind) -> anyhow::Result<()> {
    match kind {
        SecretKind::Generic(args) => {
            let mut secret = named::<Secret>(&args.name);
            secret.data = args.data.read()?.into_iter().map(|(key, bytes)| (key, Bytes::from(bytes))).collect();
            secret.r#type = args.secret_type;
            create(session, &args.write, secret).await
        }
        SecretKind::Tls(args) => {
            let mut secret = named::<Secret>(&args.name);
            let (certificate, key) = (read_file(&args.cert)?, read_file(&args.key)?);
            check_pair(&args, &certificate, &key)?;
            secret.data.insert("tls.crt".to_owned(), certificate.into());
            secret.data.insert("tls.key".to_owned(), key.into());
            secret.r#type = "kubernetes.io/tls".to_owned();
            create(session, &args.write, secret).await
        }
        SecretKind::DockerRegistry(args) => {
            let mut secret = named::<Secret>(&args.name);
            secret.data.insert(DOCKER_CONFIG.to_owned(), args.config()?.into());
            secret.r#type = "kubernetes.io/dockerconfigjson".to_owned();
            create(session, &args.write, secret).await
        }
    }
}

/// Refuses a certificate and a key that are none, or not of each other.
fn check_pair(args: &TlsArgs, certificate: &[u8], key: &[u8]) -> anyhow::Result<()> {
    let (certificate_file, key_file) = (args.cert.display(), args.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{certificate_file} is no certificate in PEM"))?;
    if chain.is_empty() {
        bail!("failed to find any PEM data in certificate input: {certificate_file} has no certificate in PEM");
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| {
        anyhow::anyhow!("failed to find any PEM data in key input: {key_file} has no private key in PEM ({why})")
    })?;
    let pair = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
    match pair {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            bail!("private key does not match public key: {key_file} is not the key of the certificate in {certificate_file}")
        }
        Err(error) => Err(error).with_context(|| format!("{certificate_file} and {key_file} cannot be used")),
    }
}

/// Creates a resource quota.
///
/// # Errors
/// What went wrong, for the user.
pub async fn quota(session: &Session, args: QuotaArgs) -> anyhow::Result<()> {
    let mut quota = named::<ResourceQuota>(&args.name);
    for (name, amount) in pairs(&args.hard, "--hard")? {
        let parsed = Quantity::parse(&amount).with_context(|| format!("--hard {name}={amount}"))?;
        quota.spec_mut().hard.insert(name, api::resource::Quantity { string: parsed.to_string() });
    }
    quota.spec_mut().scopes = args.scopes;
    create(session, &args.write, quota).await
}

/// Creates a Service.
///
/// # Errors
/// What went wrong, for the user.
pub async fn service(session: &Session, kind: ServiceKind) -> anyhow::Result<()> {
    let (service_type, args, host) = match kind {
        ServiceKind::Clusterip(args) => ("ClusterIP", args, None),
        ServiceKind::Nodeport(args) => ("NodePort", args, None),
        ServiceKind::Loadbalancer(args) => ("LoadBalancer", args, None),
        ServiceKind::Externalname(args) => ("ExternalName", args.service, Some(args.external_name)),
    };
    if args.tcp.is_empty() && args.cluster_ip.as_deref() != Some("None") && host.is_none() {
        bail!("at least one port is needed: --tcp=PORT[:TARGET]");
    }
    let mut ports = Vec::new();
    for text in &args.tcp {
        let (port, target) = text.split_once(':').unwrap_or((text, text));
        let number: u16 =
            port.parse().ok().filter(|port| *port > 0).with_context(|| format!("--tcp={text}: {port} is no port"))?;
        let target = target.parse::<u16>().map_or_else(|_| value!(target), |target| value!(target));
        let mut entry = value!({"name": text.replace(':', "-"), "protocol": "TCP", "port": number, "targetPort": target});
        if let Some(node_port) = args.node_port {
            entry["nodePort"] = node_port.into();
        }
        ports.push(entry);
    }
    let mut object = value!({
        "metadata": {"name": args.name, "labels": {"app": args.name}},
        "spec": {"type": service_type, "selector": {"app": args.name}, "ports": ports},
    });
    if let Some(address) = args.cluster_ip {
        object["spec"]["clusterIP"] = address.into();
    }
    if let Some(host) = host {
        object["spec"]["externalName"] = host.into();
    }
    create(session, &args.write, json::from_value::<Service>(object)?).await
}

// === impl RegistryArgs ===

impl RegistryArgs {
    /// What Docker keeps in ~/.docker/config.json.
    fn config(&self) -> anyhow::Result<Vec<u8>> {
        if let Some(source) = &self.from_file {
            let path = source.split_once('=').map_or(source.as_str(), |(_, path)| path);
            let bytes = read_file(Path::new(path))?;
            let parsed: serde_json::Value = serde_json::from_slice(&bytes).with_context(|| format!("{path} is no JSON"))?;
            if !parsed.get("auths").is_some_and(serde_json::Value::is_object) {
                bail!("{path} has no \"auths\", so it is no configuration of Docker");
            }
            return Ok(bytes);
        }
        if self.docker_username.is_empty() || self.docker_password.is_empty() {
            bail!(
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
            );
        }
        let auth = STANDARD.encode(format!("{}:{}", self.docker_username, self.docker_password));
        let mut entry = value!({"username": self.docker_username, "password": self.docker_password, "auth": auth});
        if !self.docker_email.is_empty() {
            entry["email"] = self.docker_email.as_str().into();
        }
        let mut auths = serde_json::Map::new();
        auths.insert(self.docker_server.clone(), entry);
        Ok(value!({ "auths": auths }).to_string().into_bytes())
    }
}

// === impl DataArgs ===

impl DataArgs {
    fn read(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut data = BTreeMap::new();
        for (key, text) in pairs(&self.from_literal, "--from-literal")? {
            add(&mut data, key, text.into_bytes())?;
        }
        for source in &self.from_file {
            let (key, path) = match source.split_once('=') {
                Some((key, path)) => (Some(key.to_owned()), Path::new(path)),
                None => (None, Path::new(source)),
            };
            if path.is_dir() {
                if key.is_some() {
                    bail!("--from-file={source}: a key can be given for a file, not for a folder");
                }
                for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
                    let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
                    if file.is_file() {
                        add(&mut data, file_name(&file)?, read_file(&file)?)?;
                    }
                }
            } else {
                add(&mut data, key.map_or_else(|| file_name(path), Ok)?, read_file(path)?)?;
            }
        }
        for path in &self.from_env_file {
            let text = String::from_utf8(read_file(path)?).with_context(|| format!("{} is no text", path.display()))?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim_start();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                let added = match check(Format::EnvName, key) {
                    Ok(()) => add(&mut data, key.to_owned(), value.as_bytes().to_vec()),
                    Err(why) => Err(anyhow::anyhow!("{why}")),
                };
                added.with_context(|| format!("{}: line {}", path.display(), number + 1))?;
            }
        }
        Ok(data)
    }
}

fn add(data: &mut BTreeMap<String, Vec<u8>>, key: String, bytes: Vec<u8>) -> anyhow::Result<()> {
    check(Format::ConfigKey, &key).map_err(|why| anyhow::anyhow!("\"{key}\" is not a valid key name: {why}"))?;
    if data.contains_key(&key) {
        bail!("cannot add key \"{key}\", another key by that name already exists");
    }
    data.insert(key, bytes);
    Ok(())
}

fn pairs(words: &[String], flag: &str) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => bail!("invalid {flag} {word}, expected key=value"),
    };
    words.iter().map(pair).collect()
}

fn file_name(path: &Path) -> anyhow::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{}: give a key, as KEY=PATH", path.display()))?.to_owned())
}

/// Reads a file that is to become part of an object.
///
/// # Errors
/// When it cannot be read or is larger than any object may be.
fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} is larger than {MAX_FILE} bytes, more than an object may hold", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, ResourceQuota, Secret, Service};

    use crate::testing::Bench;

    #[tokio::test]
    async fn services_of_every_type_come_from_flags() {
        let bench = Bench::new();
        let find = |name: &str| bench.server.find::<Service>("default", name).unwrap();
        bench.ok("create service clusterip a --tcp=80:http").await;
        let service = find("a");
        let port = &service.spec().ports[0];
        assert_eq!((port.name.as_str(), port.port, port.target_port().str_val.as_str()), ("80-http", 80, "http"));
        assert_eq!(service.spec().selector["app"], "a");
        bench.ok("create svc nodeport b --tcp=80:8080 --node-port=30001").await;
        assert_eq!((find("b").spec().r#type.as_str(), find("b").spec().ports[0].node_port), ("NodePort", 30001));
        bench.ok("create svc loadbalancer c --tcp=80").await;
        assert_eq!(find("c").spec().r#type, "LoadBalancer");
        bench.ok("create svc externalname d --external-name=x.example").await;
        assert_eq!((find("d").spec().r#type.as_str(), find("d").spec().external_name.as_str()), ("ExternalName", "x.example"));
        assert!(bench.fails("create svc clusterip e").await.contains("at least one port is needed"));
        assert!(bench.fails("create svc clusterip e --tcp=70000").await.contains("70000 is no port"));
    }

    #[tokio::test]
    async fn data_comes_from_files_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("text", b"hello");
        write("binary", &[0xff, 0]);
        let (bench, path) = (Bench::new(), folder.path().display().to_string());
        bench.ok(&format!("create cm m --from-file={path} --from-file=again={path}/text")).await;
        let map = bench.server.find::<ConfigMap>("default", "m").unwrap();
        assert_eq!((map.data["text"].as_str(), map.data["again"].as_str()), ("hello", "hello"));
        assert_eq!(&map.binary_data["binary"][..], [0xff, 0]);
        write("env", b"# comment\nA=1\n\nB=x=y\n");
        bench.ok(&format!("create secret generic s --from-env-file={path}/env")).await;
        let secret = bench.server.find::<Secret>("default", "s").unwrap();
        assert_eq!((&secret.data["A"][..], &secret.data["B"][..]), (&b"1"[..], &b"x=y"[..]));
        write("env", b"ok=1\nnot ok=2\n");
        assert!(bench.fails(&format!("create cm n --from-env-file={path}/env")).await.contains("line 2"));
        assert!(bench.fails(&format!("create cm n --from-file={path}/nope")).await.contains("cannot read"));
        assert!(
            bench.fails(&format!("create cm n --from-file=text={path}/text --from-literal=text=x")).await.contains("already")
        );
    }

    #[tokio::test]
    async fn a_certificate_needs_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let pair = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(path(&format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        };
        pair("a");
        pair("b");
        let bench = Bench::new();
        let line =
            |certificate: &str, key: &str| format!("create secret tls web --cert={} --key={}", path(certificate), path(key));
        assert_eq!(bench.ok(&line("a.crt", "a.key")).await, "secret/web created\n");
        assert!(bench.fails(&line("a.crt", "b.key")).await.contains("private key does not match public key"));
        assert!(bench.fails(&line("a.key", "a.key")).await.contains("failed to find any PEM data in certificate input"));
        assert!(bench.fails(&line("a.crt", "a.crt")).await.contains("failed to find any PEM data in key input"));
    }

    #[tokio::test]
    async fn a_registry_needs_a_user_or_what_docker_has_written() {
        let bench = Bench::new();
        assert!(bench.fails("create secret docker-registry r").await.contains("either --from-file or the combination"));
        bench.ok("create secret docker-registry r --docker-username=u --docker-password=p").await;
        let secret = bench.server.find::<Secret>("default", "r").unwrap();
        let config: serde_json::Value = serde_json::from_slice(&secret.data[".dockerconfigjson"]).unwrap();
        let entry = serde_json::json!({"username": "u", "password": "p", "auth": "dTpw"});
        assert_eq!(config["auths"]["https://index.docker.io/v1/"], entry);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{\"auths\":{}}").unwrap();
        bench.ok(&format!("create secret docker-registry s --from-file=.dockerconfigjson={}", path.display())).await;
        std::fs::write(&path, "{}").unwrap();
        let errors = bench.fails(&format!("create secret docker-registry t --from-file={}", path.display())).await;
        assert!(errors.contains("has no \"auths\""), "{errors}");
    }

    #[tokio::test]
    async fn a_quota_takes_quantities_only() {
        let bench = Bench::new();
        bench.ok("create quota q --hard=pods=2,memory=1Gi").await;
        assert_eq!(bench.server.find::<ResourceQuota>("default", "q").unwrap().spec().hard["memory"].string, "1Gi");
        assert!(bench.fails("create quota r --hard=memory=1.5Gb").await.contains("--hard memory=1.5Gb"));
    }
}
