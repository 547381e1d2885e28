//! How each daemon is started: its configuration file and its command line.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::{
    etcd, http,
    pki::{kubeconfig_of, write_if_changed},
    process::{self, Process},
    topology::{API_PORT, Cluster, Daemon, Host, NODE_PORTS, POD_CIDR, SERVICE_CIDR},
    wait::{self, Hopeless},
};

/// How long the containerd of an engine that was killed may take to end.
const CONTAINERD_END: Duration = Duration::from_secs(5);

/// Starts `daemon` on `host` unless it runs. Says whether it was started.
///
/// # Errors
/// When its files cannot be written or it cannot be started. That it stays up is for [`ready`] to say.
pub fn ensure_running(cluster: &Cluster, host: &Host, daemon: Daemon) -> anyhow::Result<bool> {
    if process::running(cluster, host, daemon).is_some() {
        return Ok(false);
    }
    start(cluster, host, daemon)?;
    Ok(true)
}

/// Starts `daemon` on `host`.
///
/// # Errors
/// As [`ensure_running`].
pub fn start(cluster: &Cluster, host: &Host, daemon: Daemon) -> anyhow::Result<Process> {
    for directory in [cluster.data(daemon, host), cluster.run_root().join(&host.name), cluster.dir.join("conf")] {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let command = match daemon {
        Daemon::Etcd => etcd::command(cluster, host)?,
        Daemon::Dockerd => dockerd(cluster, host)?,
        ours => {
            let file = cluster.conf(&format!("{daemon}-{}.yaml", host.name));
            write_if_changed(&file, &serde_yaml::to_string(&config(cluster, host, ours))?)?;
            let mut command = Command::new(cluster.bin(daemon.name()));
            command.arg("--config").arg(file);
            command
        }
    };
    process::spawn(cluster, host, daemon, command)
}

/// The configuration of one of our own daemons.
fn config(cluster: &Cluster, host: &Host, daemon: Daemon) -> Value {
    let kubeconfig = kubeconfig_of(cluster, daemon, host);
    match daemon {
        Daemon::Apiserver => json!({
            "etcdServers": etcd::client_urls(cluster),
            "etcdCafile": cluster.pki("etcd-ca.crt"),
            "etcdCertfile": cluster.pki("etcd-client.crt"),
            "etcdKeyfile": cluster.pki("etcd-client.key"),
            "bindAddress": host.address,
            "securePort": API_PORT,
            "tlsCertFile": cluster.pki(&format!("apiserver-{}.crt", host.name)),
            "tlsPrivateKeyFile": cluster.pki(&format!("apiserver-{}.key", host.name)),
            "clientCaFile": cluster.pki("ca.crt"),
            "serviceAccountSigningKeyFile": cluster.pki("sa.key"),
            "serviceAccountKeyFile": [cluster.pki("sa.pub")],
            "serviceAccountIssuer": "https://kubernetes.default.svc.cluster.local",
            "serviceClusterIpRange": SERVICE_CIDR,
            "clusterCidr": POD_CIDR,
            "serviceNodePortRange": NODE_PORTS,
            "kubeletCertificateAuthority": cluster.pki("ca.crt"),
            "kubeletClientCertificate": cluster.pki("apiserver-kubelet-client.crt"),
            "kubeletClientKey": cluster.pki("apiserver-kubelet-client.key"),
        }),
        Daemon::ControllerManager => json!({
            "kubeconfig": kubeconfig,
            "clusterCidr": POD_CIDR,
            "rootCaFile": cluster.pki("ca.crt"),
        }),
        Daemon::Kubelet => json!({
            "kubeconfig": kubeconfig,
            "nodeIp": host.address,
            "hostnameOverride": host.name,
            "dockerSocket": cluster.docker_socket(host),
            "rootDir": cluster.data(Daemon::Kubelet, host),
            "pauseBinary": cluster.bin("pause"),
            "clusterCidr": POD_CIDR,
            "tlsCertFile": cluster.pki(&format!("kubelet-server-{}.crt", host.name)),
            "tlsPrivateKeyFile": cluster.pki(&format!("kubelet-server-{}.key", host.name)),
            "clientCaFile": cluster.pki("ca.crt"),
            "cgroupRoot": format!("/{}", host.netns),
        }),
        Daemon::KubeProxy => json!({
            "kubeconfig": kubeconfig,
            "hostnameOverride": host.name,
            "clusterCidr": POD_CIDR,
        }),
        _ => json!({ "kubeconfig": kubeconfig }),
    }
}

/// A node's own engine, with nothing of Docker's network: the kubelet and kube-proxy make that.
fn dockerd(cluster: &Cluster, host: &Host) -> anyhow::Result<Command> {
    let run = cluster.run_root().join(&host.name);
    let data = cluster.data(Daemon::Dockerd, host);
    let config = cluster.conf(&format!("dockerd-{}.json", host.name));
    // Without a file of its own it would read the machine's /etc/docker/daemon.json.
    let key = json!({ "deprecated-key-path": data.join("key.json") });
    write_if_changed(&config, &format!("{key}\n"))?;
    // An engine that was killed takes its containerd with it a moment later; the next one would rely on it until then, and fail. One that
    // lives on all the same is taken over.
    let containerd = run.join("docker/containerd/containerd.pid");
    wait::until("the former containerd to end", CONTAINERD_END, || {
        ensure!(process::program_of(&containerd).is_none_or(|program| program != "containerd"));
        Ok(())
    })
    .ok();
    // Pid files of engines that were killed: to dockerd a zombie, or a stranger that got the number, is itself still running.
    for stale in [run.join("docker.pid"), containerd] {
        if process::program_of(&stale).is_none_or(|program| program != "containerd") && stale.exists() {
            fs::remove_file(&stale)?;
        }
    }
    let mut command = Command::new("dockerd");
    command.arg("--config-file").arg(config);
    command.arg("--data-root").arg(data.join("root"));
    command.arg("--exec-root").arg(run.join("docker"));
    command.arg("--pidfile").arg(run.join("docker.pid"));
    command.arg("--host").arg(format!("unix://{}", cluster.docker_socket(host).display()));
    command.arg(format!("--cgroup-parent=/{}", host.netns));
    command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]);
    // A machine with systemd would have it make the groups, and it refuses ours.
    command.arg("--exec-opt=native.cgroupdriver=cgroupfs");
    command.args(["--userland-proxy=false", "--live-restore", "--shutdown-timeout=5", "--log-level=warn"]);
    command.args(["--log-opt=max-size=10m", "--log-opt=max-file=2"]);
    Ok(command)
}

/// Whether `daemon` on `host` does its work.
///
/// # Errors
/// Why it does not yet, or that it has ended.
pub fn ready(cluster: &Cluster, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
    if process::running(cluster, host, daemon).is_none() {
        bail!(Hopeless(format!("{daemon} on {} has ended", host.name)));
    }
    match (daemon, daemon.admin_port()) {
        (Daemon::Etcd, _) => etcd::healthy(cluster, host),
        (Daemon::Dockerd, _) => crate::images::ping(cluster, host),
        (_, Some(port)) => {
            let answer = http::get_within(host, format!("127.0.0.1:{port}"), "/readyz", Duration::from_secs(2))?;
            ensure!(answer.status == 200, "{daemon} on {}: {}", host.name, answer.body.trim().replace('\n', ", "));
            Ok(())
        }
        (_, None) => Ok(()),
    }
}

/// The last lines of a daemon's log.
pub fn log_tail(cluster: &Cluster, host: &Host, daemon: Daemon, lines: usize) -> String {
    let text = fs::read(cluster.log(daemon, host)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::topology::Size;

    #[test]
    fn the_last_lines_of_a_log_are_its_tail() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(dir.path(), "fk", [172, 30, 0], Size::default()).unwrap();
        let host = cluster.host_named("cp-1").unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::write(cluster.log(Daemon::Etcd, &host), "a\nb\nc\n").unwrap();
        assert_eq!(log_tail(&cluster, &host, Daemon::Etcd, 2), "b\nc");
        assert_eq!(log_tail(&cluster, &host, Daemon::Kubelet, 2), "");
    }

    #[test]
    fn a_config_file_names_absolute_paths_only() {
        let cluster = Cluster::new(Path::new("/x"), "fk", [172, 30, 0], Size::default()).unwrap();
        for daemon in [Daemon::Apiserver, Daemon::ControllerManager, Daemon::Kubelet, Daemon::KubeProxy] {
            let host = cluster.hosts_of(daemon).remove(0);
            let config = config(&cluster, &host, daemon);
            for (key, value) in config.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("File")) {
                let value = value.get(0).unwrap_or(value);
                assert!(value.as_str().unwrap().starts_with("/x/"), "{daemon}: {key}");
            }
        }
    }
}
