//! The etcd members: how they start, how they are, and how one is lost and comes back.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::{
    command::output_of,
    daemons, process,
    topology::{Cluster, Daemon, Host},
    wait,
};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// What one member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number in the etcd cluster.
    pub member: u64,
    /// The number of the leader it follows; 0 for none.
    pub leader: u64,
    /// The revision it has applied.
    pub revision: i64,
    /// The size of its database, bytes.
    pub size: i64,
}

/// A URL for each member.
pub fn client_urls(cluster: &Cluster) -> Vec<String> {
    cluster.hosts_of(Daemon::Etcd).iter().map(client_url).collect()
}

fn client_url(host: &Host) -> String {
    format!("https://{}:{CLIENT_PORT}", host.address)
}

fn peer_url(host: &Host) -> String {
    format!("https://{}:{PEER_PORT}", host.address)
}

/// Present while a member joins a cluster that is there already.
fn joining(cluster: &Cluster, host: &Host) -> PathBuf {
    cluster.data(Daemon::Etcd, host).join("joining")
}

/// The command line of a member.
///
/// # Errors
/// When its data directory cannot be prepared.
pub(crate) fn command(cluster: &Cluster, host: &Host) -> anyhow::Result<Command> {
    let data = cluster.data(Daemon::Etcd, host).join("member-data");
    fs::create_dir_all(&data)?;
    // etcd warns of anything wider.
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let state = if joining(cluster, host).exists() { "existing" } else { "new" };
    let members: Vec<_> = cluster.hosts_of(Daemon::Etcd).iter().map(|host| format!("{}={}", host.name, peer_url(host))).collect();
    let (cert, key) = (cluster.pki(&format!("etcd-{}.crt", host.name)), cluster.pki(&format!("etcd-{}.key", host.name)));
    let mut command = Command::new("etcd");
    command.args(["--name", &host.name, "--initial-cluster-state", state, "--initial-cluster-token", &cluster.prefix]);
    command.arg("--data-dir").arg(data);
    command.args(["--initial-cluster", &members.join(",")]);
    command.args(["--listen-client-urls", &client_url(host), "--advertise-client-urls", &client_url(host)]);
    command.args(["--listen-peer-urls", &peer_url(host), "--initial-advertise-peer-urls", &peer_url(host)]);
    for prefix in ["", "peer-"] {
        command.arg(format!("--{prefix}cert-file={}", cert.display()));
        command.arg(format!("--{prefix}key-file={}", key.display()));
        command.arg(format!("--{prefix}trusted-ca-file={}", cluster.pki("etcd-ca.crt").display()));
        command.arg(format!("--{prefix}client-cert-auth"));
    }
    command.args(["--quota-backend-bytes=4294967296", "--logger=zap", "--log-level=warn"]);
    Ok(command)
}

/// `etcdctl` as the API server's user, towards the given members.
///
/// # Errors
/// When it fails; it does so after five seconds at the latest.
pub fn etcdctl(cluster: &Cluster, endpoints: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--command-timeout=5s", "--dial-timeout=2s"]);
    command.arg("--cacert").arg(cluster.pki("etcd-ca.crt"));
    command.arg("--cert").arg(cluster.pki("etcd-client.crt"));
    command.arg("--key").arg(cluster.pki("etcd-client.key"));
    output_of(command.args(args))
}

/// Whether the member takes writes, that is, has a quorum behind it.
///
/// # Errors
/// Why not.
pub fn healthy(cluster: &Cluster, host: &Host) -> anyhow::Result<()> {
    etcdctl(cluster, &client_url(host), &["endpoint", "health"]).map(drop)
}

/// What a member says of itself.
///
/// # Errors
/// When it does not answer.
pub fn status(cluster: &Cluster, host: &Host) -> anyhow::Result<Status> {
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Status")]
        status: Answer,
    }
    #[derive(Deserialize)]
    struct Answer {
        header: Header,
        #[serde(default)]
        leader: u64,
        #[serde(default, rename = "dbSize")]
        size: i64,
    }
    #[derive(Deserialize)]
    struct Header {
        member_id: u64,
        #[serde(default)]
        revision: i64,
    }
    let text = etcdctl(cluster, &client_url(host), &["endpoint", "status", "-w", "json"])?;
    let endpoints: Vec<Endpoint> = serde_json::from_str(&text).context("etcdctl endpoint status")?;
    let Endpoint { status } = endpoints.into_iter().next().context("etcdctl told of no member")?;
    Ok(Status { member: status.header.member_id, leader: status.leader, revision: status.header.revision, size: status.size })
}

/// The host of the leader.
///
/// # Errors
/// When no member knows of one.
pub fn leader(cluster: &Cluster) -> anyhow::Result<Host> {
    let known: Vec<_> =
        cluster.hosts_of(Daemon::Etcd).into_iter().filter_map(|host| Some((status(cluster, &host).ok()?, host))).collect();
    let leader = known.iter().find(|(status, _)| status.member == status.leader);
    leader.map(|(_, host)| host.clone()).context("no etcd member says it is the leader")
}

/// Ends the member on `host`, if it runs, removes it from the etcd cluster and deletes all it had stored.
///
/// # Errors
/// When the others do not agree.
pub fn wipe(cluster: &Cluster, host: &Host) -> anyhow::Result<()> {
    if let Some(process) = process::running(cluster, host, Daemon::Etcd) {
        process.signal(nix::sys::signal::Signal::SIGKILL)?;
        process.wait_end(Duration::from_secs(5))?;
    }
    let others = others(cluster, host)?;
    let member = member_id(cluster, &others, host)?;
    wait::until("the other members to let one go", Duration::from_secs(20), || {
        etcdctl(cluster, &others, &["member", "remove", &member])
    })?;
    fs::remove_dir_all(cluster.data(Daemon::Etcd, host))?;
    Ok(())
}

/// Lets a member that was wiped join again, and waits until it takes part.
///
/// # Errors
/// When it does not within half a minute.
pub fn rejoin(cluster: &Cluster, host: &Host) -> anyhow::Result<()> {
    let others = others(cluster, host)?;
    let peer = format!("--peer-urls={}", peer_url(host));
    wait::until("the other members to take one in", Duration::from_secs(20), || {
        etcdctl(cluster, &others, &["member", "add", &host.name, &peer])
    })?;
    fs::create_dir_all(cluster.data(Daemon::Etcd, host))?;
    fs::write(joining(cluster, host), "")?;
    daemons::start(cluster, host, Daemon::Etcd)?;
    wait::until("the member to take part", Duration::from_secs(30), || healthy(cluster, host))?;
    fs::remove_file(joining(cluster, host))?;
    Ok(())
}

fn others(cluster: &Cluster, host: &Host) -> anyhow::Result<String> {
    let others: Vec<_> = cluster.hosts_of(Daemon::Etcd).iter().filter(|other| other.name != host.name).map(client_url).collect();
    ensure!(!others.is_empty(), "an etcd of one member cannot lose it");
    Ok(others.join(","))
}

fn member_id(cluster: &Cluster, endpoints: &str, host: &Host) -> anyhow::Result<String> {
    let list =
        wait::until("etcd's list of members", Duration::from_secs(20), || etcdctl(cluster, endpoints, &["member", "list"]))?;
    let line = list.lines().find(|line| line.split(", ").nth(2) == Some(host.name.as_str()) || line.contains(&peer_url(host)));
    let id = line.and_then(|line| line.split(',').next()).with_context(|| format!("etcd knows no member {}", host.name))?;
    Ok(id.to_owned())
}
