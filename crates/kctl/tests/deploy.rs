//! What `deploy/` ships does what its README says. Needs openssl, as `make-hosts` does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in helpers too"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const HOSTS: &str = "\
# name address roles
cp-1    10.0.0.2   etcd control
cp-2    10.0.0.3   etcd control
cp-3    10.0.0.4   etcd
node-1  10.0.0.11  node
";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

/// Runs `make-hosts` in a folder; returns where its output is.
fn make_hosts(folder: &Path) -> PathBuf {
    let (hosts, out) = (folder.join("hosts"), folder.join("out"));
    fs::write(&hosts, HOSTS).unwrap();
    run(Command::new(deploy().join("make-hosts")).arg(&hosts).arg(&out));
    out
}

/// Every file below a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, path)| (format!("{name}/{below}"), path)));
        } else {
            found.insert(name, path);
        }
    }
    found
}

#[test]
fn every_certificate_is_good_for_what_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let out = make_hosts(folder.path());
    for (file, ca, purpose, subject, also) in [
        ("cp-1/pki/etcd", "etcd-ca", "sslserver", "CN=etcd", "-verify_ip 10.0.0.2"),
        ("cp-3/pki/etcd", "etcd-ca", "sslclient", "CN=etcd", "-verify_hostname cp-3"),
        ("cp-2/pki/etcd-client", "etcd-ca", "sslclient", "CN=kube-apiserver-etcd-client", ""),
        ("cp-1/pki/apiserver", "ca", "sslserver", "CN=kube-apiserver", "-verify_ip 10.96.0.1"),
        ("cp-2/pki/apiserver", "ca", "sslserver", "CN=kube-apiserver", "-verify_hostname kubernetes.default.svc"),
        ("cp-2/pki/apiserver-kubelet-client", "ca", "sslclient", "CN=kube-apiserver-kubelet-client,O=system:masters", ""),
        ("cp-1/pki/scheduler", "ca", "sslclient", "CN=system:kube-scheduler", ""),
        ("cp-1/pki/controller-manager", "ca", "sslclient", "CN=system:kube-controller-manager", ""),
        ("node-1/pki/kubelet", "ca", "sslclient", "CN=system:node:node-1,O=system:nodes", ""),
        ("node-1/pki/kubelet-server", "ca", "sslserver", "CN=system:node:node-1,O=system:nodes", "-verify_ip 10.0.0.11"),
        ("node-1/pki/kube-proxy", "ca", "sslclient", "CN=system:kube-proxy", ""),
        ("ca/admin", "ca", "sslclient", "CN=kubernetes-admin,O=system:masters", ""),
    ] {
        let certificate = out.join(format!("{file}.crt"));
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-purpose", purpose, "-CAfile"]).arg(out.join(format!("ca/{ca}.crt")));
        run(verify.args(also.split_whitespace()).arg(&certificate));
        let shown = |what: &[&str], path: &Path| run(Command::new("openssl").args(what).arg("-in").arg(path));
        assert_eq!(
            shown(&["x509", "-noout", "-subject", "-nameopt", "RFC2253"], &certificate).trim(),
            format!("subject={subject}"),
            "{file}"
        );
        let key = shown(&["pkey", "-pubout"], &out.join(format!("{file}.key")));
        assert_eq!(shown(&["x509", "-noout", "-pubkey"], &certificate), key, "{file}");
    }
}

#[test]
fn hosts_get_their_own_files_and_no_key_of_a_ca() {
    let folder = tempfile::tempdir().unwrap();
    let out = make_hosts(folder.path());
    let before = files(&out);
    for (name, path) in &before {
        let secret = name.ends_with(".key") || name == "admin.kubeconfig";
        let others = fs::metadata(path).unwrap().permissions().mode() & 0o077;
        assert!(!secret || others == 0, "{name} can be read by others");
        assert!(name.starts_with("ca/") || !name.ends_with("ca.key"), "{name} leaves the hands of the administrator");
    }
    let read = |name: &str| fs::read_to_string(&before[name]).unwrap();
    let apiserver = read("cp-2/apiserver.yaml");
    assert!(apiserver.contains("\nbindAddress: 10.0.0.3\n"), "{apiserver}");
    assert!(
        apiserver
            .contains("etcdServers:\n- https://10.0.0.2:2379\n- https://10.0.0.3:2379\n- https://10.0.0.4:2379\netcdCafile:"),
        "{apiserver}"
    );
    assert!(read("node-1/kubelet.yaml").contains("\nhostnameOverride: node-1\nnodeIp: 10.0.0.11\n"));
    assert!(!read("cp-3/etcd.env").contains("=@") && read("cp-3/etcd.env").contains("ETCD_NAME=cp-3\n"));
    assert_eq!(read("cp-1/pki/sa.key"), read("cp-2/pki/sa.key"));

    let contents = || files(&out).into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect::<Vec<_>>();
    let first = contents();
    make_hosts(folder.path());
    assert!(first == contents(), "a second run changes what needs no change");
}

#[test]
fn the_administrators_configuration_names_every_api_server() {
    let folder = tempfile::tempdir().unwrap();
    let out = make_hosts(folder.path());
    let kctl =
        |args: &[&str]| run(Command::new(env!("CARGO_BIN_EXE_kctl")).env("KUBECONFIG", out.join("admin.kubeconfig")).args(args));
    assert_eq!(kctl(&["config", "current-context"]), "ferrokube\n");
    // The first in the place that stock tools read, the others beside it.
    assert_eq!(kctl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]), "https://10.0.0.2:6443");
    let others = kctl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.extensions[0].extension}"]);
    assert!(others.contains("https://10.0.0.3:6443"), "{others}");
}

#[test]
fn only_kubelet_and_kube_proxy_run_as_root() {
    let mut roots = Vec::new();
    for (name, path) in files(&deploy().join("systemd")) {
        let unit = fs::read_to_string(path).unwrap();
        if !unit.lines().any(|line| line.starts_with("User=ferrokube-")) {
            roots.push(name);
        }
        assert!(unit.contains("\nNoNewPrivileges=yes\n"));
    }
    assert_eq!(roots, ["ferrokube-kube-proxy.service", "ferrokube-kubelet.service"]);
}

#[test]
fn the_examples_fit_the_schema() {
    let mut kctl = Command::new(env!("CARGO_BIN_EXE_kctl"));
    kctl.env("KUBECONFIG", "/nonexistent")
        .args(["create", "--dry-run=client", "-f"])
        .arg(deploy().join("examples/guestbook.yaml"));
    assert_eq!(run(&mut kctl), "replicationcontroller/guestbook created (dry run)\nservice/guestbook created (dry run)\n");
}
