//! The hosts' network: one bridge, and a namespace with a link to it for each host.

use std::{fs::File, net::Ipv4Addr, path::PathBuf, thread};

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::{
    command::{sh, succeeds},
    progress::Progress,
    topology::{Cluster, Host},
};

/// The file that stands for a namespace.
pub fn netns_path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Runs `work` on a thread inside the host's network namespace.
///
/// # Errors
/// When the namespace cannot be entered, or those of `work`.
pub fn within<T: Send + 'static>(host: &Host, work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    let path = netns_path(&host.netns);
    let namespace = File::open(&path).with_context(|| path.display().to_string())?;
    thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))?;
        work()
    })
    .join()
    .map_err(|_| anyhow!("a thread inside a host panicked"))?
}

/// Makes what is missing of the bridge and the hosts' links.
///
/// # Errors
/// When `ip` fails.
pub fn up(cluster: &Cluster, progress: &Progress) -> anyhow::Result<()> {
    let bridge = cluster.bridge();
    if !succeeds(&format!("ip link show dev {bridge}")) {
        sh(&format!("ip link add {bridge} type bridge"))?;
        progress.did(format!("network: bridge {bridge} with address {}", cluster.gateway()));
    }
    sh(&format!("ip addr replace {}/24 dev {bridge}", cluster.gateway()))?;
    sh(&format!("ip link set {bridge} up"))?;
    accept_bridged(&bridge)?;
    for host in cluster.hosts() {
        if let Some(change) = host_up(&bridge, cluster.gateway(), &host)? {
            progress.did(format!("network: host {} ({}) {change}", host.name, host.address));
        }
    }
    Ok(())
}

fn host_up(bridge: &str, gateway: Ipv4Addr, host: &Host) -> anyhow::Result<Option<&'static str>> {
    let Host { netns, address, .. } = host;
    let mut change = None;
    if !netns_path(netns).exists() {
        sh(&format!("ip netns add {netns}"))?;
        change = Some("made");
    }
    if !succeeds(&format!("ip -n {netns} link show dev eth0")) {
        // A leftover end of a pair whose other end has gone with its namespace.
        if succeeds(&format!("ip link show dev {netns}")) {
            sh(&format!("ip link del {netns}"))?;
        }
        sh(&format!("ip link add {netns} type veth peer name eth0 netns {netns}"))?;
        change = Some("made");
    }
    if !is_connected(host)? {
        sh(&format!("ip link set {netns} master {bridge} up"))?;
        change = change.or(Some("connected again"));
    }
    sh(&format!("ip -n {netns} link set lo up"))?;
    sh(&format!("ip -n {netns} addr replace {address}/24 dev eth0"))?;
    sh(&format!("ip -n {netns} link set eth0 up"))?;
    sh(&format!("ip -n {netns} route replace default via {gateway}"))?;
    Ok(change)
}

/// Whether the bridge's end of the host's link is up.
///
/// # Errors
/// When there is no such link.
pub fn is_connected(host: &Host) -> anyhow::Result<bool> {
    let shown = sh(&format!("ip -o link show dev {}", host.netns))?;
    let flags = shown.split(['<', '>']).nth(1).unwrap_or_default();
    Ok(flags.split(',').any(|flag| flag == "UP") && shown.contains(" master "))
}

/// Takes the host's cable out.
///
/// # Errors
/// When `ip` fails.
pub fn disconnect(host: &Host) -> anyhow::Result<()> {
    sh(&format!("ip link set {} down", host.netns)).map(drop)
}

/// Puts the host's cable in.
///
/// # Errors
/// When `ip` fails.
pub fn connect(host: &Host) -> anyhow::Result<()> {
    sh(&format!("ip link set {} up", host.netns)).map(drop)
}

/// Another Docker on the machine drops what is forwarded; where bridged frames pass through those rules, ours must be let through.
fn accept_bridged(bridge: &str) -> anyhow::Result<()> {
    let filtered = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|on| on.trim() == "1");
    let rule = forward_rule(bridge);
    if filtered && succeeds("iptables -S FORWARD") && !succeeds(&format!("iptables -C {rule}")) {
        sh(&format!("iptables -I {rule}"))?;
    }
    Ok(())
}

fn forward_rule(bridge: &str) -> String {
    format!("FORWARD -i {bridge} -o {bridge} -j ACCEPT")
}

/// Removes every namespace, link and rule of the cluster. Returns what it could not remove.
pub fn down(cluster: &Cluster, progress: &Progress) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let mut attempt = |words: String| match sh(&words) {
        Ok(_) => 1,
        Err(error) => {
            errors.push(error);
            0
        }
    };
    let mut removed = 0;
    for name in namespaces(cluster) {
        removed += attempt(format!("ip netns del {name}"));
    }
    for name in links(cluster) {
        // A pair's end goes with its namespace, sometime soon.
        if succeeds(&format!("ip link show dev {name}")) && !succeeds(&format!("ip link del {name}")) {
            attempt(format!("ip link show dev {name}"));
        }
        removed += 1;
    }
    let rule = forward_rule(&cluster.bridge());
    if succeeds(&format!("iptables -C {rule}")) {
        removed += attempt(format!("iptables -D {rule}"));
    }
    if removed > 0 {
        progress.did(format!("removed {removed} network namespaces, links and rules"));
    }
    // What is gone is not in the way, whatever deleting it said.
    if namespaces(cluster).is_empty() && links(cluster).is_empty() {
        errors.clear();
    }
    errors
}

/// Names of the network namespaces of the cluster that exist.
pub fn namespaces(cluster: &Cluster) -> Vec<String> {
    owned_entries(cluster, "/run/netns")
}

/// Names of the machine's links of the cluster that exist.
pub fn links(cluster: &Cluster) -> Vec<String> {
    owned_entries(cluster, "/sys/class/net")
}

fn owned_entries(cluster: &Cluster, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| cluster.owns_name(name)).collect();
    names.sort();
    names
}
