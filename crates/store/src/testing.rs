//! etcd clusters for tests: real members on loopback with TLS, that can be killed, stopped, wiped and joined again.
//!
//! Only with the feature `testing`. Everything a cluster makes lies in one temporary directory; dropping it ends the members and removes
//! the directory.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Config, TlsFiles};
use crate::etcd::{Etcd, EtcdError};

/// Why a test cluster cannot be had.
#[derive(Debug, Error)]
pub enum TestingError {
    /// A file, port or process.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: String,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A certificate.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The members do not answer; the end of a member's log.
    #[error("etcd does not become ready: {0}")]
    NotReady(String),
    /// A request to the members.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A request to the members about the members.
    #[error(transparent)]
    Client(#[from] etcd_client::Error),
}

/// How long a cluster may take to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// A running etcd cluster.
pub struct EtcdCluster {
    directory: TempDir,
    authority: Authority,
    members: Vec<TestMember>,
    arguments: Vec<String>,
}

/// Who issues the cluster's certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct TestMember {
    client_port: u16,
    peer_port: u16,
    /// Counts how often the member was wiped; each time it gets a new directory and name.
    generation: u32,
    process: Option<Child>,
}

// === impl EtcdCluster ===

impl EtcdCluster {
    /// Starts a cluster of `size` members and waits until it answers. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// There is no `etcd` to run, or it does not answer within 30 s.
    pub async fn start(size: usize) -> Result<Self, TestingError> {
        Self::start_with(size, &[]).await
    }

    /// As [`EtcdCluster::start`], with further arguments for every member.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub async fn start_with(size: usize, arguments: &[&str]) -> Result<Self, TestingError> {
        let directory = tempfile::Builder::new().prefix("fk-store-").tempdir().map_err(io_error("make a directory"))?;
        let authority = Authority::new(directory.path())?;
        // Members are each other's clients.
        authority.issue(directory.path(), "member", vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        authority.issue(directory.path(), "client", vec![])?;
        let ports = free_ports(2 * size)?;
        let member = |pair: &[u16]| TestMember { client_port: pair[0], peer_port: pair[1], generation: 0, process: None };
        let members = ports.chunks_exact(2).map(member).collect();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut cluster = Self { directory, authority, members, arguments };
        let everyone = cluster.initial_cluster(size);
        for index in 0..size {
            cluster.spawn(index, &everyone, "new")?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The configuration of a store that uses this cluster.
    pub fn config(&self) -> Config {
        let file = |name: &str| self.directory.path().join(name);
        let tls = TlsFiles { ca: file("ca.crt"), cert: file("client.crt"), key: file("client.key") };
        Config::new((0..self.members.len()).map(|index| self.endpoint(index)).collect(), Some(tls))
    }

    /// The address of a member.
    pub fn endpoint(&self, index: usize) -> String {
        format!("https://127.0.0.1:{}", self.members[index].client_port)
    }

    /// The process of a member, while it runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.members[index].process.as_ref().map(Child::id)
    }

    /// Which member leads.
    ///
    /// # Errors
    /// No member knows within 30 s.
    pub async fn leader(&self) -> Result<usize, TestingError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let etcd = self.etcd()?;
        while Instant::now() < deadline {
            for (index, member) in etcd.members().iter().enumerate() {
                let mut client = member.client.maintenance_client();
                if let Ok(Ok(status)) = timeout(Duration::from_secs(1), client.status()).await
                    && status.header().is_some_and(|header| header.member_id() == status.leader())
                {
                    return Ok(index);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(TestingError::NotReady("there is no leader".into()))
    }

    /// Ends a member with SIGKILL.
    ///
    /// # Errors
    /// It cannot be ended.
    pub fn kill(&mut self, index: usize) -> Result<(), TestingError> {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().map_err(io_error("kill etcd"))?;
            process.wait().map_err(io_error("wait for etcd"))?;
        }
        Ok(())
    }

    /// Starts a member again that was killed, with its data.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self, index: usize) -> Result<(), TestingError> {
        let everyone = self.initial_cluster(self.members.len());
        self.spawn(index, &everyone, "existing")
    }

    /// Stops a member as it stands (SIGSTOP): it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// It cannot be stopped.
    pub fn pause(&self, index: usize) -> Result<(), TestingError> {
        self.signal(index, "-STOP")
    }

    /// Lets a member go on that was stopped.
    ///
    /// # Errors
    /// It cannot be continued.
    pub fn resume(&self, index: usize) -> Result<(), TestingError> {
        self.signal(index, "-CONT")
    }

    /// Replaces a member, that must have been killed, by an empty one at the same addresses.
    ///
    /// # Errors
    /// The cluster does not take it.
    pub async fn wipe_and_rejoin(&mut self, index: usize) -> Result<(), TestingError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        // etcd changes its membership only once it has seen for a while that the others are well.
        loop {
            // A member that has just lost its leader may keep such a request for good.
            let why = match timeout(Duration::from_secs(5), self.replace(index)).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => TestingError::NotReady("the membership is not changed in time".into()),
            };
            if Instant::now() > deadline {
                return Err(why);
            }
            sleep(Duration::from_millis(200)).await;
        }
        let old = self.directory.path().join(self.name(index));
        fs::remove_dir_all(old).map_err(io_error("wipe a member"))?;
        self.members[index].generation += 1;
        self.restart(index)
    }

    /// Removes a member from the cluster and adds a new one, that nobody knows yet, at the same address.
    async fn replace(&self, index: usize) -> Result<(), TestingError> {
        let peer = format!("https://127.0.0.1:{}", self.members[index].peer_port);
        let other = (index + 1) % self.members.len();
        let mut members = self.etcd()?.members()[other].client.cluster_client();
        let known = members.member_list().await?;
        let at_address = known.members().iter().find(|member| member.peer_urls().contains(&peer));
        match at_address {
            // One without a name has been added by an attempt before.
            Some(member) if member.name().is_empty() => return Ok(()),
            Some(member) => drop(members.member_remove(member.id()).await?),
            None => {}
        }
        members.member_add([peer], None).await?;
        Ok(())
    }

    /// Ends every member, throws their data away and starts them as a new cluster: what a restored backup looks like.
    ///
    /// # Errors
    /// The new cluster does not answer.
    pub async fn start_over(&mut self) -> Result<(), TestingError> {
        let size = self.members.len();
        for index in 0..size {
            self.kill(index)?;
            fs::remove_dir_all(self.directory.path().join(self.name(index))).map_err(io_error("wipe a member"))?;
            self.members[index].generation += 1;
        }
        let everyone = self.initial_cluster(size);
        for index in 0..size {
            self.spawn(index, &everyone, "new")?;
        }
        self.ready().await
    }

    /// Replaces the store's certificate by a new one of the same CA.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn renew_client_certificate(&self) -> Result<(), TestingError> {
        self.authority.issue(self.directory.path(), "client", vec![])
    }

    /// Waits until every running member answers a linearizable read.
    ///
    /// # Errors
    /// That takes more than 30 s.
    pub async fn ready(&self) -> Result<(), TestingError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for (index, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some()) {
            let mut config = self.config();
            config.endpoints = vec![self.endpoint(index)];
            config.request_timeout = Duration::from_secs(2);
            let etcd = Etcd::new(&config, std::sync::Arc::default())?;
            while let Err(error) = etcd.revision().await {
                if Instant::now() > deadline {
                    let log = fs::read_to_string(self.log(index)).unwrap_or_default();
                    let end: Vec<_> = log.lines().rev().take(5).collect();
                    return Err(TestingError::NotReady(format!("{}: {error}: {}", member.client_port, end.join("\n"))));
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    fn etcd(&self) -> Result<Etcd, EtcdError> {
        Etcd::new(&self.config(), std::sync::Arc::default())
    }

    fn name(&self, index: usize) -> String {
        format!("member-{index}-{}", self.members[index].generation)
    }

    fn log(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("member-{index}.log"))
    }

    fn initial_cluster(&self, size: usize) -> String {
        let peer = |i: usize| format!("{}=https://127.0.0.1:{}", self.name(i), self.members[i].peer_port);
        (0..size).map(peer).collect::<Vec<_>>().join(",")
    }

    fn spawn(&mut self, index: usize, initial_cluster: &str, state: &str) -> Result<(), TestingError> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let log = File::options().create(true).append(true).open(self.log(index)).map_err(io_error("open a log"))?;
        let client = self.endpoint(index);
        let peer = format!("https://127.0.0.1:{}", self.members[index].peer_port);
        let mut command = Command::new("etcd");
        command.args(["--name", &self.name(index), "--data-dir", &file(&self.name(index))]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", initial_cluster, "--initial-cluster-state", state]);
        command.args(["--client-cert-auth", "--trusted-ca-file", &file("ca.crt")]);
        command.args(["--cert-file", &file("member.crt"), "--key-file", &file("member.key")]);
        command.args(["--peer-client-cert-auth", "--peer-trusted-ca-file", &file("ca.crt")]);
        command.args(["--peer-cert-file", &file("member.crt"), "--peer-key-file", &file("member.key")]);
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--logger", "zap"]);
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(io_error("open a log"))?).stderr(log);
        self.members[index].process = Some(command.spawn().map_err(io_error("run etcd"))?);
        Ok(())
    }

    fn signal(&self, index: usize, signal: &str) -> Result<(), TestingError> {
        let Some(pid) = self.pid(index) else {
            return Ok(());
        };
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
        sent.map(drop).map_err(io_error("signal etcd"))
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for process in self.members.iter_mut().filter_map(|member| member.process.as_mut()) {
            // Either it has ended already or SIGKILL reaches it; there is nobody left to tell.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

fn io_error(what: &str) -> impl Fn(io::Error) -> TestingError + '_ {
    move |source| TestingError::Io { what: what.to_owned(), source }
}

/// Ports nobody listens on at present. All are held until the last one is found, so that no two are the same.
fn free_ports(count: usize) -> Result<Vec<u16>, TestingError> {
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(io_error("find a port"))?;
    held.iter().map(|listener| Ok(listener.local_addr().map_err(io_error("find a port"))?.port())).collect()
}

// === impl Authority ===

impl Authority {
    fn new(directory: &Path) -> Result<Self, TestingError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test-etcd-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.join("ca.crt"), ca.pem()).map_err(io_error("write a certificate"))?;
        Ok(Self(ca))
    }

    /// Writes a certificate, good for servers and clients, and its key.
    fn issue(&self, directory: &Path, name: &str, hosts: Vec<String>) -> Result<(), TestingError> {
        let write = |extension: &str, text: String| {
            let path = directory.join(format!("{name}.{extension}"));
            fs::write(path, text).map_err(io_error("write a certificate"))
        };
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write("crt", params.signed_by(&key, &self.0)?.pem())?;
        write("key", key.serialize_pem())
    }
}
