//! Containers that mean no good, seen through the whole cluster: what they write, what they leave running, what they cost their kubelet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::ensure;
use tests::{
    Cluster, Daemon,
    kube::{Namespace, busybox},
    wait,
};

/// What a kubelet may take, in KiB, whatever its containers do.
const KUBELET: u64 = 64 << 10;
/// Bytes that the flood writes to its terminal.
const FLOOD: usize = 300_000_000;
/// Lines of some 35 MB in the engine's files, which are rotated at 10.
const LINES: usize = 400_000;

/// A pod that does this, with a terminal or without.
fn pod(name: &str, script: &str, tty: bool) -> String {
    let yaml = busybox(name, &format!("tty: {tty}"));
    yaml.replace("trap exit TERM; while :; do sleep 1; done", &format!("{script}; trap exit TERM; while :; do sleep 1; done"))
}

/// A `kctl` that runs until it is dropped.
struct Kctl(Child);

impl Kctl {
    fn spawn(namespace: &Namespace<'_>, cluster: &Cluster, args: &[&str], output: Stdio) -> Self {
        let mut command = cluster.kctl_command();
        Self(command.args(["-n", &namespace.name]).args(args).stdin(Stdio::null()).stdout(output).spawn().unwrap())
    }
}

impl Drop for Kctl {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_log_that_is_followed_has_each_line_once() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "follow").unwrap();
    let script = format!("while ! test -e /go; do sleep 0.1; done; seq 1 {LINES}; echo END");
    namespace.apply(&pod("fast", &script, false)).unwrap();
    namespace.wait_pod("fast").unwrap();
    let mut follower = Kctl::spawn(&namespace, &cluster, &["logs", "-f", "fast"], Stdio::piped());
    namespace.exec("fast", "main", &["touch", "/go"]).unwrap();
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    for number in 1..=LINES {
        assert_eq!(lines.next().unwrap(), number.to_string());
    }
    assert_eq!(lines.next().unwrap(), "END");
}

#[test]
fn a_command_ends_with_its_kctl() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "left").unwrap();
    namespace.apply(&busybox("left", "")).unwrap();
    namespace.wait_pod("left").unwrap();
    let running = || namespace.exec("left", "main", &["ps"]).map(|table| table.matches("sleep 4711").count());
    let clients: Vec<Kctl> =
        (0..10).map(|_| Kctl::spawn(&namespace, &cluster, &["exec", "left", "--", "sleep", "4711"], Stdio::null())).collect();
    let counted = |wanted: usize| {
        move |count: usize| {
            ensure!(count == wanted, "{count} commands run");
            Ok(())
        }
    };
    wait::until("ten commands", Duration::from_secs(30), || running().and_then(counted(10))).unwrap();
    drop(clients);
    wait::until("none", Duration::from_secs(30), || running().and_then(counted(0))).unwrap();
}

#[test]
fn a_terminal_cannot_fill_its_kubelets_memory() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "flood").unwrap();
    // What a decoder of frames would take for one of 4 GiB, and then one line.
    let header = r"\001\000\000\000\377\377\377\377";
    let flood = format!("head -c {FLOOD} /dev/zero | tr \"\\000\" x; echo; echo END");
    let script = format!("while ! test -e /go; do sleep 0.1; done; printf \"{header}\"; {flood}");
    namespace.apply(&pod("flood", &script, true)).unwrap();
    let host = namespace.wait_pod("flood").unwrap().host(&cluster).unwrap();
    let kubelet = cluster.process(&host, Daemon::Kubelet).unwrap();
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Without the program's own file, which the kernel can drop.
                let status = std::fs::read_to_string(format!("/proc/{}/status", kubelet.pid)).unwrap();
                let taken = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
                most.fetch_max(taken.trim().trim_end_matches(" kB").parse().unwrap(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // One reads nothing of what it asked for, one takes all.
        let _stalled = Kctl::spawn(&namespace, &cluster, &["logs", "-f", "flood"], Stdio::piped());
        let _attached = Kctl::spawn(&namespace, &cluster, &["attach", "flood"], Stdio::null());
        let _reader = Kctl::spawn(&namespace, &cluster, &["logs", "-f", "flood"], Stdio::null());
        namespace.exec("flood", "main", &["touch", "/go"]).unwrap();
        let ended = wait::until("the end of the flood", Duration::from_secs(120), || {
            let last = namespace.kctl(&["logs", "--tail=1", "flood"])?;
            ensure!(last.trim() == "END", "not yet");
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
    let most = most.into_inner();
    assert!(most <= KUBELET, "{most} KiB");
}
