//! The cluster's certificates and kubeconfigs, under `pki/` and `conf/`. What is there and has time left is kept.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use daemon::pki::{self, Ca, Pair, Request, Usage};
use serde_json::{Value, json};

use crate::{
    progress::Progress,
    topology::{API_SERVICE, Cluster, Daemon, Host},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
/// The harness's own kubeconfig of an administrator, in `conf/`.
pub const ADMIN: &str = "admin.kubeconfig";
const LIFETIME: Duration = DAY.saturating_mul(30);

/// Names under which pods and people reach the API server.
const API_NAMES: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// Makes what is missing or due for renewal. Running daemons load renewed files by themselves.
///
/// # Errors
/// When a file cannot be read or written.
pub fn up(cluster: &Cluster, progress: &Progress) -> anyhow::Result<()> {
    let mut issued = 0;
    let ca = authority(cluster, "ca", "ferrokube-ca", &mut issued)?;
    let etcd_ca = authority(cluster, "etcd-ca", "ferrokube-etcd-ca", &mut issued)?;
    if !cluster.pki("sa.key").exists() {
        pki::signing_key()?.write(&cluster.pki("sa.pub"), &cluster.pki("sa.key"))?;
        issued += 1;
    }
    for host in cluster.hosts_of(Daemon::Etcd) {
        let request = server(&host, "etcd", &["localhost"], &[Ipv4Addr::LOCALHOST], Usage::Both);
        issued += ensure(cluster, &etcd_ca, &format!("etcd-{}", host.name), &request)?;
    }
    issued += ensure(cluster, &etcd_ca, "etcd-client", &client("kube-apiserver-etcd-client", None))?;
    for host in cluster.hosts_of(Daemon::Apiserver) {
        let request = server(&host, "kube-apiserver", &API_NAMES, &[Ipv4Addr::LOCALHOST, API_SERVICE], Usage::Server);
        issued += ensure(cluster, &ca, &format!("apiserver-{}", host.name), &request)?;
    }
    let people = [
        ("admin", "kubernetes-admin", Some("system:masters")),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
        ("scheduler", "system:kube-scheduler", None),
        ("controller-manager", "system:kube-controller-manager", None),
        ("kube-proxy", "system:kube-proxy", None),
    ];
    for (file, name, group) in people {
        issued += ensure(cluster, &ca, file, &client(name, group))?;
    }
    for host in cluster.nodes() {
        let name = format!("system:node:{}", host.name);
        issued += ensure(cluster, &ca, &format!("kubelet-{}", host.name), &client(&name, Some("system:nodes")))?;
        let request = Request { organization: Some("system:nodes".into()), ..server(&host, &name, &[], &[], Usage::Server) };
        issued += ensure(cluster, &ca, &format!("kubelet-server-{}", host.name), &request)?;
    }
    if issued > 0 {
        progress.did(format!("identity: {issued} certificates and keys issued"));
    }
    kubeconfigs(cluster)
}

fn authority(cluster: &Cluster, file: &str, name: &str, issued: &mut usize) -> anyhow::Result<Ca> {
    let (cert, key) = files(cluster, file);
    if cert.exists() && key.exists() {
        return Ok(Ca::load(&cert, &key)?);
    }
    let (ca, pair) = Ca::create(name, CA_LIFETIME)?;
    pair.write(&cert, &key)?;
    *issued += 1;
    Ok(ca)
}

fn ensure(cluster: &Cluster, ca: &Ca, file: &str, request: &Request) -> anyhow::Result<usize> {
    let (cert, key) = files(cluster, file);
    let current = fs::read(&cert).ok().filter(|_| key.exists());
    if current.is_some_and(|pem| pki::renew_at(&pem).is_ok_and(|due| due > SystemTime::now())) {
        return Ok(0);
    }
    ca.issue(request)?.write(&cert, &key)?;
    Ok(1)
}

fn files(cluster: &Cluster, file: &str) -> (PathBuf, PathBuf) {
    (cluster.pki(&format!("{file}.crt")), cluster.pki(&format!("{file}.key")))
}

fn client(common_name: &str, organization: Option<&str>) -> Request {
    Request {
        common_name: common_name.into(),
        organization: organization.map(Into::into),
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        lifetime: LIFETIME,
    }
}

fn server(host: &Host, common_name: &str, names: &[&str], addresses: &[Ipv4Addr], usage: Usage) -> Request {
    Request {
        common_name: common_name.into(),
        organization: None,
        dns_names: std::iter::once(host.name.as_str()).chain(names.iter().copied()).map(Into::into).collect(),
        addresses: std::iter::once(host.address).chain(addresses.iter().copied()).map(IpAddr::from).collect(),
        usage,
        lifetime: LIFETIME,
    }
}

fn kubeconfigs(cluster: &Cluster) -> anyhow::Result<()> {
    // The administrator's holds everything, so that it can be copied elsewhere; stock tools want exactly one server.
    let read = |name: &str| fs::read(cluster.pki(name)).with_context(|| cluster.pki(name).display().to_string());
    let mut urls = cluster.api_urls();
    let others = urls.split_off(1);
    let mut connection = json!({ "server": urls.concat(), "certificate-authority-data": base64(&read("ca.crt")?) });
    if !others.is_empty() {
        connection["extensions"] = json!([{ "name": "ferrokube/servers", "extension": others }]);
    }
    let admin = kubeconfig(
        connection,
        "kubernetes-admin",
        json!({ "client-certificate-data": base64(&read("admin.crt")?), "client-key-data": base64(&read("admin.key")?) }),
    );
    write_if_changed(&cluster.conf(ADMIN), &admin)?;
    // The people's copy is theirs to change.
    let path = cluster.kubeconfig();
    let there = path.exists().then(|| fs::read_to_string(&path)).transpose().with_context(|| path.display().to_string())?;
    let admin = match &there {
        Some(there) => brought_up_to_date(there, &admin)
            .with_context(|| format!("{} is no kubeconfig; mend or delete it, and run up again", path.display()))?,
        None => admin,
    };
    write_if_changed(&path, &admin)?;
    for daemon in [Daemon::Scheduler, Daemon::ControllerManager, Daemon::Kubelet, Daemon::KubeProxy] {
        for host in cluster.hosts_of(daemon) {
            let identity = if daemon == Daemon::Kubelet { format!("kubelet-{}", host.name) } else { daemon.name().to_owned() };
            let (cert, key) = files(cluster, &identity);
            let text = kubeconfig(
                json!({ "server": servers_for(cluster, &host).join(","), "certificate-authority": cluster.pki("ca.crt") }),
                &identity,
                json!({ "client-certificate": cert, "client-key": key }),
            );
            write_if_changed(&kubeconfig_of(cluster, daemon, &host), &text)?;
        }
    }
    Ok(())
}

/// A daemon's kubeconfig. Its `server` lists every API server, separated by commas.
pub fn kubeconfig_of(cluster: &Cluster, daemon: Daemon, host: &Host) -> PathBuf {
    cluster.conf(&format!("{daemon}-{}.kubeconfig", host.name))
}

/// API servers in the order in which `host` should try them: its own first if it has one, else spread over the hosts.
fn servers_for(cluster: &Cluster, host: &Host) -> Vec<String> {
    let mut urls = cluster.api_urls();
    let first = usize::from(host.number - 1) % urls.len().max(1);
    urls.rotate_left(first);
    urls
}

/// A person's kubeconfig with our cluster and user as they are now. All else is theirs: context, namespace, other clusters. One that holds what
/// it should comes back as it is, to the letter.
fn brought_up_to_date(theirs: &str, ours: &str) -> anyhow::Result<String> {
    let ours: Value = serde_yaml::from_str(ours)?;
    let before: Value = serde_yaml::from_str(theirs)?;
    anyhow::ensure!(before["kind"] == "Config", "its kind is {}", before["kind"]);
    let mut after = before.clone();
    for (list, replace) in [("clusters", true), ("users", true), ("contexts", false)] {
        let there = match &mut after[list] {
            Value::Array(there) => there,
            empty @ Value::Null => {
                *empty = json!([]);
                empty.as_array_mut().context("an array")?
            }
            other => bail!("its {list} are {other}"),
        };
        for entry in ours[list].as_array().into_iter().flatten() {
            match there.iter_mut().find(|one| one["name"] == entry["name"]) {
                Some(one) if replace => *one = entry.clone(),
                Some(_) => {}
                None => there.push(entry.clone()),
            }
        }
    }
    if after["current-context"].as_str().is_none_or(str::is_empty) {
        after["current-context"] = ours["current-context"].clone();
    }
    Ok(if after == before { theirs.to_owned() } else { serde_yaml::to_string(&after)? })
}

fn kubeconfig(cluster: serde_json::Value, user: &str, credentials: serde_json::Value) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "ferrokube", "cluster": cluster }],
        "users": [{ "name": user, "user": credentials }],
        "contexts": [{ "name": "ferrokube", "context": { "cluster": "ferrokube", "user": user } }],
        "current-context": "ferrokube",
    });
    // A value made of literals can always be written.
    serde_yaml::to_string(&config).unwrap_or_default()
}

/// A user's kubeconfig with the given certificate pair inside: for tests that act as somebody else.
///
/// # Errors
/// When the CA's certificate cannot be read.
pub fn kubeconfig_for(cluster: &Cluster, user: &str, pair: &Pair) -> anyhow::Result<String> {
    let server = cluster.api_urls().into_iter().next().unwrap_or_default();
    Ok(kubeconfig(
        json!({ "server": server, "certificate-authority-data": base64(&fs::read(cluster.pki("ca.crt"))?) }),
        user,
        json!({
            "client-certificate-data": base64(pair.public_pem.as_bytes()),
            "client-key-data": base64(pair.private_pem.as_bytes()),
        }),
    ))
}

/// Issues a client certificate of the cluster's CA.
///
/// # Errors
/// When the CA cannot be read.
pub fn issue_client(cluster: &Cluster, user: &str, group: Option<&str>) -> anyhow::Result<Pair> {
    let (cert, key) = files(cluster, "ca");
    Ok(Ca::load(&cert, &key)?.issue(&client(user, group))?)
}

/// Writes a file that holds something else or is missing. Says whether it did.
///
/// # Errors
/// When it cannot be written.
pub fn write_if_changed(path: &Path, text: &str) -> anyhow::Result<bool> {
    if fs::read(path).is_ok_and(|current| current == text.as_bytes()) {
        return Ok(false);
    }
    pki::write_atomic(path, text.as_bytes(), 0o600)?;
    Ok(true)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(key: &str) -> String {
        kubeconfig(json!({ "server": "https://10.0.0.2:6443" }), "kubernetes-admin", json!({ "client-key-data": key }))
    }

    #[test]
    fn what_a_person_changed_in_a_kubeconfig_stays() {
        let changed = admin("a")
            .replace("current-context: ferrokube", "current-context: work # mine")
            .replace("cluster: ferrokube\n    user", "cluster: ferrokube\n    namespace: mine\n    user");
        assert!(changed.contains("work # mine") && changed.contains("namespace: mine"), "{changed}");
        assert_eq!(brought_up_to_date(&changed, &admin("a")).unwrap(), changed);

        let renewed: Value = serde_yaml::from_str(&brought_up_to_date(&changed, &admin("b")).unwrap()).unwrap();
        assert_eq!(renewed["users"][0]["user"]["client-key-data"], "b");
        assert_eq!(renewed["contexts"][0]["context"]["namespace"], "mine");
        assert_eq!(renewed["current-context"], "work");
    }

    #[test]
    fn a_kubeconfig_that_lacks_this_cluster_gets_it() {
        let other = "kind: Config\nclusters:\n- name: other\n  cluster: {server: x}\nusers: null\n";
        let both: Value = serde_yaml::from_str(&brought_up_to_date(other, &admin("a")).unwrap()).unwrap();
        assert_eq!(both["clusters"][0]["name"], "other");
        assert_eq!(both["clusters"][1]["name"], "ferrokube");
        assert_eq!(both["current-context"], "ferrokube");
        assert!(brought_up_to_date("- 1", &admin("a")).is_err() && brought_up_to_date("{", &admin("a")).is_err());
    }
}
