//! What a cluster consists of, and what everything in it is called. Pure: nothing here touches the machine but [`Cluster::open`] and
//! [`Cluster::save`], which keep the size in `cluster.json`.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// Cluster-wide address plan.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The API's own Service, the first address of [`SERVICE_CIDR`].
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Ports that Services open on every node.
pub const NODE_PORTS: &str = "30000-32767";
/// Where the API server listens on its host.
pub const API_PORT: u16 = 6443;

/// How many of each a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Nodes, 1 to 200.
    pub nodes: u8,
    /// etcd members, 1 to 7.
    pub etcd: u8,
    /// API servers, each with a scheduler and a controller manager beside it, 1 to 8.
    pub apiservers: u8,
}

/// A cluster on this machine, running or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Where its files are; absolute.
    #[serde(skip)]
    pub dir: PathBuf,
    /// What the names of its namespaces, links and cgroups begin with; `fk` unless told otherwise, at most five letters and digits.
    pub prefix: String,
    /// First three bytes of its /24 of host addresses; the machine itself has `.1`.
    pub subnet: [u8; 3],
    /// How many of each it has.
    pub size: Size,
    /// Which of the [`SHARED_DIRECTORIES`] were not there before it.
    #[serde(default)]
    pub made: Vec<PathBuf>,
}

/// Directories with fixed names that `ip netns` and Docker make for everybody on the machine.
pub const SHARED_DIRECTORIES: [&str; 5] = ["/run/netns", "/run/containerd", "/run/docker", "/opt/containerd", "/etc/docker"];

/// What a host is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// etcd, API server and what goes with it.
    ControlPlane,
    /// Docker, kubelet and kube-proxy.
    Node,
}

/// A network namespace with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `cp-1` or `node-1`.
    pub name: String,
    /// On the hosts' bridge.
    pub address: Ipv4Addr,
    /// Name of its network namespace, of the bridge's end of its link, and of its cgroups: `fk-node-1`.
    pub netns: String,
    /// What it is there for.
    pub role: Role,
    /// From 1, among the hosts of its role.
    pub number: u8,
}

/// The programs that make up a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Daemon {
    /// One etcd member.
    Etcd,
    /// The API server.
    Apiserver,
    /// The scheduler.
    Scheduler,
    /// The controller manager.
    ControllerManager,
    /// A node's Docker Engine.
    Dockerd,
    /// A node's kubelet.
    Kubelet,
    /// A node's kube-proxy.
    KubeProxy,
}

// === impl Size ===

impl Default for Size {
    fn default() -> Self {
        Self { nodes: 3, etcd: 3, apiservers: 1 }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--nodes {} --etcd {} --apiservers {}", self.nodes, self.etcd, self.apiservers)
    }
}

impl Size {
    /// Says which number is out of range.
    ///
    /// # Errors
    /// When one is.
    pub fn check(self) -> anyhow::Result<()> {
        ensure!((1..=200).contains(&self.nodes), "--nodes {}: from 1 to 200", self.nodes);
        ensure!((1..=7).contains(&self.etcd), "--etcd {}: from 1 to 7, odd numbers make sense", self.etcd);
        ensure!((1..=8).contains(&self.apiservers), "--apiservers {}: from 1 to 8", self.apiservers);
        Ok(())
    }
}

// === impl Cluster ===

impl Cluster {
    /// A cluster that may not exist yet.
    ///
    /// # Errors
    /// When the directory has no absolute path or a name would be too long for a link.
    pub fn new(dir: &Path, prefix: &str, subnet: [u8; 3], size: Size) -> anyhow::Result<Self> {
        let dir = absolute(dir)?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=5).contains(&prefix.len()) && prefix.bytes().all(allowed);
        ensure!(fits, "prefix `{prefix}`: one to five lower-case letters and digits, because link names end at 15");
        size.check()?;
        Ok(Self { dir, prefix: prefix.to_owned(), subnet, size, made: Vec::new() })
    }

    /// The cluster that `up` made in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// When its `cluster.json` cannot be read.
    pub fn open(dir: &Path) -> anyhow::Result<Option<Self>> {
        let dir = absolute(dir)?;
        let path = dir.join("cluster.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut cluster: Self = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        cluster.dir = dir;
        Ok(Some(cluster))
    }

    /// The cluster the end-to-end suites run against: the one in `FERROKUBE_DIR`, else in the repository's `.cluster`.
    ///
    /// # Errors
    /// When there is none.
    pub fn for_tests() -> anyhow::Result<Self> {
        let dir = default_dir();
        match Self::open(&dir)? {
            Some(cluster) => Ok(cluster),
            None => bail!("no cluster in {}: run scripts/up first, or scripts/test, which does", dir.display()),
        }
    }

    /// Keeps the size and names for the next call of [`Cluster::open`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        daemon::pki::write_atomic(&self.dir.join("cluster.json"), &text, 0o644)?;
        Ok(())
    }

    /// All hosts, control plane first.
    pub fn hosts(&self) -> Vec<Host> {
        let control_plane = (1..=self.size.etcd.max(self.size.apiservers)).map(|number| self.host(Role::ControlPlane, number));
        control_plane.chain(self.nodes()).collect()
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Host> + '_ {
        (1..=self.size.nodes).map(|number| self.host(Role::Node, number))
    }

    /// The host of that name.
    ///
    /// # Errors
    /// When the cluster has no such host.
    pub fn host_named(&self, name: &str) -> anyhow::Result<Host> {
        self.hosts().into_iter().find(|host| host.name == name).with_context(|| format!("the cluster has no host {name}"))
    }

    /// The hosts that run `daemon`.
    pub fn hosts_of(&self, daemon: Daemon) -> Vec<Host> {
        self.hosts().into_iter().filter(|host| self.runs(host, daemon)).collect()
    }

    /// Whether `host` runs `daemon`.
    pub fn runs(&self, host: &Host, daemon: Daemon) -> bool {
        match daemon {
            Daemon::Etcd => host.role == Role::ControlPlane && host.number <= self.size.etcd,
            Daemon::Apiserver | Daemon::Scheduler | Daemon::ControllerManager => {
                host.role == Role::ControlPlane && host.number <= self.size.apiservers
            }
            Daemon::Dockerd | Daemon::Kubelet | Daemon::KubeProxy => host.role == Role::Node,
        }
    }

    fn host(&self, role: Role, number: u8) -> Host {
        let (name, last) = match role {
            Role::ControlPlane => (format!("cp-{number}"), 1 + number),
            Role::Node => (format!("node-{number}"), 10 + number),
        };
        let [a, b, c] = self.subnet;
        Host { netns: format!("{}-{name}", self.prefix), name, address: Ipv4Addr::new(a, b, c, last), role, number }
    }

    /// The machine's address on the hosts' bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// The hosts' bridge.
    pub fn bridge(&self) -> String {
        format!("{}-br0", self.prefix)
    }

    /// Whether `name` is that of a namespace, link or cgroup of a cluster with this prefix, of whatever size.
    pub fn owns_name(&self, name: &str) -> bool {
        let Some(host) = name.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('-')) else {
            return false;
        };
        let number = host.strip_prefix("node-").or_else(|| host.strip_prefix("cp-"));
        host == "br0" || number.is_some_and(|number| number.parse::<u8>().is_ok())
    }

    /// A URL for each API server, first host first.
    pub fn api_urls(&self) -> Vec<String> {
        self.hosts_of(Daemon::Apiserver).iter().map(|host| format!("https://{}:{API_PORT}", host.address)).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// One of the programs in `bin/`.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// A daemon's log.
    pub fn log(&self, daemon: Daemon, host: &Host) -> PathBuf {
        self.dir.join("log").join(format!("{daemon}-{}.log", host.name))
    }

    /// A daemon's pid file: one number, nothing else.
    pub fn pid_file(&self, daemon: Daemon, host: &Host) -> PathBuf {
        self.dir.join("run").join(format!("{daemon}-{}.pid", host.name))
    }

    /// A file of the cluster's certificates and keys.
    pub fn pki(&self, name: &str) -> PathBuf {
        self.dir.join("pki").join(name)
    }

    /// A generated configuration file.
    pub fn conf(&self, name: &str) -> PathBuf {
        self.dir.join("conf").join(name)
    }

    /// What a daemon keeps on disk.
    pub fn data(&self, daemon: Daemon, host: &Host) -> PathBuf {
        self.dir.join("data").join(&host.name).join(daemon.name())
    }

    /// Sockets and run-time state, outside `dir` because the paths of sockets may have 107 bytes at most. No other program's, whatever the
    /// prefix.
    pub fn run_root(&self) -> PathBuf {
        Path::new("/run").join(format!("ferrokube-{}", self.prefix))
    }

    /// A node's Docker socket.
    pub fn docker_socket(&self, host: &Host) -> PathBuf {
        self.run_root().join(&host.name).join("docker.sock")
    }
}

/// An absolute path without symbolic links before its last part, as the kernel's table of mounts shows it. The last part may be missing.
fn absolute(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = std::path::absolute(dir).with_context(|| dir.display().to_string())?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { bail!("{} cannot hold a cluster", dir.display()) };
    Ok(parent.canonicalize().with_context(|| parent.display().to_string())?.join(name))
}

/// `FERROKUBE_DIR`, else `.cluster` in the repository.
pub fn default_dir() -> PathBuf {
    match std::env::var_os("FERROKUBE_DIR") {
        Some(dir) => dir.into(),
        None => repository().join(".cluster"),
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

// === impl Daemon ===

impl Daemon {
    /// In the order in which they are started.
    pub const ALL: [Self; 7] =
        [Self::Etcd, Self::Dockerd, Self::Apiserver, Self::Scheduler, Self::ControllerManager, Self::Kubelet, Self::KubeProxy];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "apiserver",
            Self::Scheduler => "scheduler",
            Self::ControllerManager => "controller-manager",
            Self::Dockerd => "dockerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// The port of `/readyz` on its host's loopback; none for what is not ours.
    pub fn admin_port(self) -> Option<u16> {
        match self {
            Self::Etcd | Self::Dockerd => None,
            Self::Apiserver => Some(10255),
            Self::Scheduler => Some(10259),
            Self::ControllerManager => Some(10257),
            Self::Kubelet => Some(10248),
            Self::KubeProxy => Some(10256),
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster::new(Path::new("/.cluster"), "fk", [172, 30, 0], Size { nodes: 2, etcd: 3, apiservers: 2 }).unwrap()
    }

    #[test]
    fn every_host_has_its_own_name_and_address() {
        let hosts = cluster().hosts();
        let all: Vec<_> = hosts.iter().map(|host| format!("{} {}", host.netns, host.address)).collect();
        assert_eq!(
            all,
            ["fk-cp-1 172.30.0.2", "fk-cp-2 172.30.0.3", "fk-cp-3 172.30.0.4", "fk-node-1 172.30.0.11", "fk-node-2 172.30.0.12"]
        );
    }

    #[test]
    fn daemons_run_where_they_belong() {
        let cluster = cluster();
        let names = |daemon| cluster.hosts_of(daemon).into_iter().map(|host| host.name).collect::<Vec<_>>();
        assert_eq!(names(Daemon::Etcd), ["cp-1", "cp-2", "cp-3"]);
        assert_eq!(names(Daemon::Apiserver), ["cp-1", "cp-2"]);
        assert_eq!(names(Daemon::Kubelet), ["node-1", "node-2"]);
    }

    #[test]
    fn only_names_of_the_same_prefix_and_shape_are_owned() {
        let cluster = cluster();
        for name in ["fk-br0", "fk-node-3", "fk-cp-1"] {
            assert!(cluster.owns_name(name), "{name}");
        }
        for name in ["fk", "fk-node-", "fkt-node-1", "fk-node-x", "fk-other", "docker0", "fk1-node-1"] {
            assert!(!cluster.owns_name(name), "{name}");
        }
    }

    #[test]
    fn a_prefix_may_hold_digits_and_nothing_that_is_not_a_name() {
        let size = Size::default();
        let cluster = Cluster::new(Path::new("/.cluster"), "h8", [172, 30, 0], size).unwrap();
        for host in cluster.hosts() {
            assert!(cluster.owns_name(&host.netns), "{}", host.netns);
        }
        assert!(!cluster.owns_name("h-node-1") && !cluster.owns_name("h81-node-1"));
        for prefix in ["", "toolong", "a-b", "A", "../x", "ä"] {
            assert!(Cluster::new(Path::new("/.cluster"), prefix, [172, 30, 0], size).is_err(), "{prefix}");
        }
    }
}
