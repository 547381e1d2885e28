//! `up`: from whatever is there to a running cluster, each step changing only what is missing.

use std::{
    fs,
    fs::File,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::{
    command::{output_of, succeeds},
    daemons, http, images, net, pki,
    progress::Progress,
    topology::{Cluster, Daemon, Host, SHARED_DIRECTORIES, Size, repository},
    wait,
};

/// Our own programs, as cargo names them.
const PROGRAMS: [&str; 7] = ["apiserver", "scheduler", "controller-manager", "kubelet", "kube-proxy", "kctl", "cluster"];
/// Those that run in containers that hold nothing else, so they are built without shared libraries.
const STATIC_PROGRAMS: [&str; 2] = ["pause", "guestbook"];
/// What comes from Debian.
const TOOLS: [&str; 5] = ["etcd", "etcdctl", "dockerd", "docker", "ip"];

/// What `up` is asked for.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// How many of each; `None` keeps what is there, or takes the default.
    pub nodes: Option<u8>,
    /// As `nodes`.
    pub etcd: Option<u8>,
    /// As `nodes`.
    pub apiservers: Option<u8>,
    /// Whether to leave out the example application.
    pub bare: bool,
    /// Where the built programs are; the static ones are in `../x86_64-unknown-linux-gnu/release` from there.
    pub programs: PathBuf,
}

impl Cluster {
    /// Starts whatever of the cluster in `dir` is not running, and waits until all of it works.
    ///
    /// # Errors
    /// When something does not work in time; the error holds the end of the log that matters.
    pub fn up(dir: &Path, prefix: &str, subnet: [u8; 3], options: &UpOptions, progress: &Progress) -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "must run as root: it makes network namespaces, mounts and cgroups");
        for tool in TOOLS {
            ensure!(succeeds(&format!("which {tool}")), "{tool} is missing; scripts/up installs it");
        }
        let _lock = lock(dir)?;
        let cluster = Self::settle(dir, prefix, subnet, options)?;
        make_directories(&cluster)?;
        install_programs(&cluster, &options.programs, progress)?;
        cluster.up_base(progress)?;
        cluster.start_all(&[Daemon::Apiserver], progress)?;
        cluster.wait_all(&[Daemon::Dockerd], Duration::from_secs(60), progress)?;
        images::up(&cluster, progress)?;
        cluster.wait_all(&[Daemon::Apiserver], Duration::from_secs(60), progress)?;
        let rest = [Daemon::ControllerManager, Daemon::Scheduler, Daemon::Kubelet, Daemon::KubeProxy];
        cluster.start_all(&rest, progress)?;
        cluster.wait_all(&rest, Duration::from_secs(60), progress)?;
        cluster.wait_nodes(progress)?;
        if !options.bare {
            example(&cluster, progress)?;
        }
        match progress.changes() {
            0 => progress.note("everything was running; nothing was changed"),
            _ => progress.note(format!("the cluster runs: {} nodes Ready", cluster.size.nodes)),
        }
        Ok(cluster)
    }

    /// All that is not our own programs: certificates, hosts, etcd and, started but perhaps not yet ready, the Docker Engines.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub fn up_base(&self, progress: &Progress) -> anyhow::Result<()> {
        make_directories(self)?;
        self.save()?;
        pki::up(self, progress)?;
        net::up(self, progress)?;
        write_hosts(self)?;
        self.start_all(&[Daemon::Etcd, Daemon::Dockerd], progress)?;
        self.wait_all(&[Daemon::Etcd], Duration::from_secs(60), progress)
    }

    /// The cluster that is there, if it is the one asked for, or a new one.
    fn settle(dir: &Path, prefix: &str, subnet: [u8; 3], options: &UpOptions) -> anyhow::Result<Self> {
        let there = Self::open(dir)?;
        let base = there.as_ref().map_or_else(Size::default, |cluster| cluster.size);
        let size = Size {
            nodes: options.nodes.unwrap_or(base.nodes),
            etcd: options.etcd.unwrap_or(base.etcd),
            apiservers: options.apiservers.unwrap_or(base.apiservers),
        };
        let wanted = Self::new(dir, prefix, subnet, size)?;
        match there {
            Some(there) if (&there.prefix, there.subnet, there.size) != (&wanted.prefix, wanted.subnet, wanted.size) => {
                let [a, b, c] = there.subnet;
                bail!(
                    "{} holds a cluster made with {}, --prefix {} and --subnet {a}.{b}.{c}; run scripts/down before changing that",
                    dir.display(),
                    there.size,
                    there.prefix
                )
            }
            Some(there) => Ok(there),
            None => {
                let leftovers = net::namespaces(&wanted);
                ensure!(
                    leftovers.is_empty(),
                    "network namespaces {leftovers:?} are left from another cluster; run scripts/down first"
                );
                let absent = SHARED_DIRECTORIES.iter().map(PathBuf::from).filter(|path| !path.exists());
                Ok(Self { made: absent.collect(), ..wanted })
            }
        }
    }

    fn start_all(&self, daemons: &[Daemon], progress: &Progress) -> anyhow::Result<()> {
        for daemon in daemons {
            let mut started = Vec::new();
            for host in self.hosts_of(*daemon) {
                if daemons::ensure_running(self, &host, *daemon)? {
                    started.push(host.name);
                }
            }
            if !started.is_empty() {
                progress.did(format!("{daemon}: started on {}", started.join(", ")));
            }
        }
        Ok(())
    }

    fn wait_all(&self, daemons: &[Daemon], limit: Duration, progress: &Progress) -> anyhow::Result<()> {
        for daemon in daemons {
            for host in self.hosts_of(*daemon) {
                let what = format!("{daemon} on {}", host.name);
                wait::until_telling(progress, &what, limit, || daemons::ready(self, &host, *daemon))
                    .map_err(|error| self.with_log(error, *daemon, &host))?;
            }
        }
        Ok(())
    }

    /// The error with the end of a daemon's log.
    pub(crate) fn with_log(&self, error: anyhow::Error, daemon: Daemon, host: &Host) -> anyhow::Error {
        let path = self.log(daemon, host);
        let tail = daemons::log_tail(self, host, daemon, 25);
        anyhow!("{error:#}\nthe end of {}:\n{tail}", path.display())
    }

    fn wait_nodes(&self, progress: &Progress) -> anyhow::Result<()> {
        let ready = || {
            let nodes = self.kctl_json(&["get", "nodes"])?;
            let waiting: Vec<_> = self.nodes().filter(|host| !is_ready(&nodes, &host.name)).map(|host| host.name).collect();
            ensure!(waiting.is_empty(), "not Ready: {}", waiting.join(", "));
            Ok(())
        };
        let outcome = wait::until_telling(progress, "nodes to be Ready", Duration::from_secs(60), ready);
        outcome.map_err(|error| match self.nodes().next() {
            Some(host) => self.with_log(error, Daemon::Kubelet, &host),
            None => error,
        })
    }

    /// `kctl` as the administrator.
    pub fn kctl_command(&self) -> Command {
        let mut command = Command::new(self.bin("kctl"));
        command.env("KUBECONFIG", self.conf(pki::ADMIN));
        command
    }

    /// Runs `kctl` as the administrator and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds what it wrote to stderr.
    pub fn kctl(&self, args: &[&str]) -> anyhow::Result<String> {
        output_of(self.kctl_command().args(args))
    }

    /// As [`Cluster::kctl`], with `-o json`.
    ///
    /// # Errors
    /// As [`Cluster::kctl`], or when it printed something else.
    pub fn kctl_json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = output_of(self.kctl_command().args(args).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("kctl {} -o json printed no JSON", args.join(" ")))
    }
}

/// Two of `up` and `down` never work on one directory at once.
pub(crate) fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = File::open(parent).with_context(|| parent.display().to_string())?;
    Flock::lock(parent, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow::Error::new(error).context("another up or down is at work here"))
}

fn make_directories(cluster: &Cluster) -> anyhow::Result<()> {
    for name in ["bin", "log", "run", "pki", "conf", "data"] {
        let path = cluster.dir.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    fs::set_permissions(cluster.dir.join("pki"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// Copies what was built. A running program keeps its old file until it is started again.
fn install_programs(cluster: &Cluster, from: &Path, progress: &Progress) -> anyhow::Result<()> {
    let mut installed = Vec::new();
    let from_static = from.join("../x86_64-unknown-linux-gnu/release");
    let programs = PROGRAMS.map(|name| (name, from)).into_iter().chain(STATIC_PROGRAMS.map(|name| (name, from_static.as_path())));
    for (name, from) in programs {
        let (source, target) = (from.join(name), cluster.bin(name));
        let built = fs::metadata(&source).with_context(|| format!("{} is missing; scripts/up builds it", source.display()))?;
        let same =
            fs::metadata(&target).is_ok_and(|there| there.len() == built.len() && there.modified().ok() >= built.modified().ok());
        if same {
            continue;
        }
        let temporary = cluster.bin(&format!(".{name}"));
        fs::copy(&source, &temporary).with_context(|| source.display().to_string())?;
        fs::rename(&temporary, &target)?;
        installed.push(name);
    }
    if !installed.is_empty() {
        progress.did(format!("programs: {} installed in {}", installed.join(", "), cluster.bin("").display()));
    }
    Ok(())
}

/// `hosts`: a line a node. `control-plane`: a line for each of the other hosts, in the same form without a socket.
fn write_hosts(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster
        .nodes()
        .map(|host| format!("{} {} {} unix://{}\n", host.name, host.address, host.netns, cluster.docker_socket(&host).display()));
    pki::write_if_changed(&cluster.dir.join("hosts"), &nodes.collect::<String>())?;
    let others = cluster.hosts_of(Daemon::Etcd).into_iter().chain(cluster.hosts_of(Daemon::Apiserver));
    let mut others: Vec<_> = others.map(|host| format!("{} {} {}\n", host.name, host.address, host.netns)).collect();
    others.sort();
    others.dedup();
    pki::write_if_changed(&cluster.dir.join("control-plane"), &others.concat())?;
    Ok(())
}

fn is_ready(nodes: &Value, name: &str) -> bool {
    let node = nodes["items"].as_array().into_iter().flatten().find(|node| node["metadata"]["name"] == name);
    let conditions = node.and_then(|node| node["status"]["conditions"].as_array());
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Applies the example, waits for it, and fetches it in the two ways that people will.
fn example(cluster: &Cluster, progress: &Progress) -> anyhow::Result<()> {
    let manifest = repository().join("deploy/examples/guestbook.yaml");
    let exists = cluster.kctl_json(&["get", "rc", "guestbook"]).is_ok();
    if !exists {
        cluster.kctl(&["apply", "-f", &manifest.display().to_string()])?;
        progress.did("example: guestbook applied");
    }
    wait::until_telling(progress, "the guestbook's pods", Duration::from_secs(60), || {
        let controller = cluster.kctl_json(&["get", "rc", "guestbook"])?;
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let (ready, wanted) = (count(&controller["status"]["readyReplicas"]), count(&controller["spec"]["replicas"]));
        ensure!(ready == wanted && wanted > 0, "{ready} of {wanted} Ready");
        Ok(())
    })?;
    let service = cluster.kctl_json(&["get", "service", "guestbook"])?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("the guestbook's Service has no address");
    let cluster_ip = format!("{}:{}", text(&service["spec"]["clusterIP"])?, service["spec"]["ports"][0]["port"]);
    let hosts: Vec<_> = cluster.nodes().collect();
    let (Some(first), Some(last)) = (hosts.first(), hosts.last()) else { bail!("the cluster has no nodes") };
    let node_port = format!("{}:{}", last.address, service["spec"]["ports"][0]["nodePort"]);
    let limit = Duration::from_secs(20);
    let through = wait::until("the ClusterIP to answer", limit, || {
        http::get_within(first, cluster_ip.clone(), "/", Duration::from_secs(2))
    })?;
    progress.note(format!("example: http://{cluster_ip}/ (ClusterIP) from {}: {}", first.name, first_line(&through.body)));
    let outside = wait::until("the node port to answer", limit, || http::get(&node_port, "/", Duration::from_secs(2)))?;
    progress.note(format!("example: http://{node_port}/ (NodePort) from outside the nodes: {}", first_line(&outside.body)));
    next_steps(cluster, &node_port, last);
    Ok(())
}

fn first_line(body: &str) -> &str {
    body.lines().next().unwrap_or_default()
}

/// Paths are absolute: `up` may have been called from anywhere.
fn next_steps(cluster: &Cluster, node_port: &str, host: &Host) {
    let dir = cluster.dir.display();
    let which = if cluster.dir == repository().join(".cluster") { String::new() } else { format!("FERROKUBE_DIR={dir} ") };
    println!(
        "
Try next:
  export KUBECONFIG={dir}/kubeconfig PATH={dir}/bin:$PATH
  kctl get nodes -o wide
  kctl get pods -A -o wide
  curl http://{node_port}/
  kctl scale rc guestbook --replicas=6
  docker -H unix://{} ps
  ip link set {} down      # cut a host off; `up` again plugs it in
  {which}{}",
        cluster.docker_socket(host).display(),
        host.netns,
        repository().join("scripts/down").display()
    );
}
