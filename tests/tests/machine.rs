//! The harness itself, on real namespaces, etcd and Docker: what it makes works, breaks as told, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeSet, fs, time::Duration};

use tests::{Cluster, Daemon, Size, command, etcd, http, images, net, progress::Progress, wait};

/// A cluster without our own daemons, removed again whatever happens.
struct Base {
    cluster: Cluster,
    _dir: tempfile::TempDir,
}

impl Base {
    fn up(prefix: &str, third: u8, size: Size) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(&dir.path().join("cluster"), prefix, [172, 30, third], size).unwrap();
        let base = Self { cluster, _dir: dir };
        base.cluster.up_base(&Progress::default()).unwrap();
        base
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.down(&Progress::default()) {
            eprintln!("down: {error:#}");
        }
    }
}

fn put(cluster: &Cluster, key: &str) -> anyhow::Result<()> {
    etcd::etcdctl(cluster, &etcd::client_urls(cluster).join(","), &["put", key, "x"]).map(drop)
}

#[test]
fn etcd_survives_the_loss_of_its_leader_and_of_a_members_disk() {
    let base = Base::up("fkme", 201, Size { nodes: 1, etcd: 3, apiservers: 1 });
    let cluster = &base.cluster;
    put(cluster, "before").unwrap();

    let leader = etcd::leader(cluster).unwrap();
    cluster.kill(&leader, Daemon::Etcd).unwrap();
    let next = wait::until("another leader", Duration::from_secs(20), || {
        let next = etcd::leader(cluster)?;
        anyhow::ensure!(next != leader);
        Ok(next)
    });
    wait::until("a write without the old leader", Duration::from_secs(20), || put(cluster, "during")).unwrap();

    let wiped = next.unwrap();
    cluster.start(&leader, Daemon::Etcd).unwrap();
    etcd::wipe(cluster, &wiped).unwrap();
    etcd::rejoin(cluster, &wiped).unwrap();
    put(cluster, "after").unwrap();
    let revisions: BTreeSet<_> =
        cluster.hosts_of(Daemon::Etcd).iter().map(|host| etcd::status(cluster, host).unwrap().revision).collect();
    assert_eq!(revisions.len(), 1, "{revisions:?}");
}

#[test]
fn a_host_is_cut_off_loses_power_and_comes_back() {
    let base = Base::up("fkmh", 202, Size { nodes: 2, etcd: 1, apiservers: 1 });
    let cluster = &base.cluster;
    let (first, second) = (cluster.host_named("node-1").unwrap(), cluster.host_named("node-2").unwrap());
    for host in [&first, &second] {
        cluster.start(host, Daemon::Dockerd).unwrap();
        images::load_busybox(cluster, host).unwrap();
    }
    let serve = ["run", "-d", "--net=host", images::BUSYBOX, "httpd", "-f", "-p", "8080", "-h", "/etc"];
    command::output_of(images::docker(cluster, &first).args(serve)).unwrap();
    let address = format!("{}:8080", first.address);
    let limit = Duration::from_secs(1);
    let fetch = || http::get_within(&second, address.clone(), "/passwd", limit).map(|answer| assert_eq!(answer.status, 200));
    wait::until("the neighbour's answer", Duration::from_secs(10), fetch).unwrap();

    cluster.cut_off(&first).unwrap();
    assert!(http::get_within(&second, address.clone(), "/passwd", limit).is_err());
    cluster.reconnect(&first).unwrap();
    wait::until("the neighbour's answer after a cut", Duration::from_secs(10), fetch).unwrap();

    // An engine that is killed leaves its containers alone.
    cluster.kill(&first, Daemon::Dockerd).unwrap();
    fetch().unwrap();
    cluster.start(&first, Daemon::Dockerd).unwrap();
    fetch().unwrap();

    assert!(cluster.power_off(&first).unwrap() > 2);
    assert!(fetch().is_err());
    cluster.start(&first, Daemon::Dockerd).unwrap();
    let all = command::output_of(images::docker(cluster, &first).args(["ps", "-aq"])).unwrap();
    assert_eq!(all.lines().count(), 1);
}

#[test]
fn nothing_is_left_after_down_even_if_what_was_written_down_is_lost() {
    let base = Base::up("fkml", 203, Size { nodes: 1, etcd: 1, apiservers: 1 });
    let cluster = &base.cluster;
    let node = cluster.host_named("node-1").unwrap();
    cluster.start(&node, Daemon::Dockerd).unwrap();
    images::load_busybox(cluster, &node).unwrap();
    let sleep = ["run", "-d", "--net=none", images::BUSYBOX, "sleep", "1000"];
    command::output_of(images::docker(cluster, &node).args(sleep)).unwrap();
    cluster.kill(&node, Daemon::Dockerd).unwrap();
    fs::remove_dir_all(cluster.dir.join("run")).unwrap();
    fs::remove_file(cluster.dir.join("cluster.json")).unwrap();

    cluster.down(&Progress::default()).unwrap();
    assert_eq!(cluster.leftovers(), Vec::<String>::new());
    assert!(net::namespaces(cluster).is_empty());
    // A second time there is nothing to do, and that is no error.
    cluster.down(&Progress::default()).unwrap();
}
