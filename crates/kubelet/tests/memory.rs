//! What containers can make the kubelet hold in memory, on a real Docker Engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{
    core::v1::{EnvVar, ExecAction, Pod, Probe},
    ferrokube::v1::{ExecRequest, ExecStart, LogsRequest, PodRef, exec_request},
};
use support::{
    host::{Host, IDLE, pod},
    in_new_netns,
};

/// What the kubelet may take, in KiB; here with the API server in memory and the test beside it.
const BOUND: u64 = 64 << 10;
/// Bytes that each of two containers writes to its terminal.
const FLOOD: usize = 150_000_000;

#[test]
fn hostile_containers_do_not_fill_the_kubelets_memory() {
    in_new_netns(|| async {
        let mut host = Host::new().await;
        let meter = Meter::start();
        host.server.put(bomb());
        host.server.put(vandal());
        host.server.put(chatterbox());
        let mut clients = Vec::new();
        for name in ["read", "stalled"] {
            host.server.put(flood(name));
            host.until("readiness", |host| host.is_ready(name)).await;
            clients.push(tokio::spawn(follow(&host, name)));
            clients.push(tokio::spawn(attach(&host, name)));
        }
        let waiting = |host: &Host| host.pod("bomb").status().container_statuses.first().map(|c| c.state().waiting().clone());
        host.until("the bomb to be refused", |host| waiting(host).is_some_and(|w| w.reason == "CreateContainerConfigError"))
            .await;
        assert!(waiting(&host).unwrap().message.contains("come to more than 2097152 bytes"), "{:?}", waiting(&host));
        host.until("the vandal's second run", |host| host.restarts("vandal") >= 1).await;
        let told = host.pod("vandal").status().container_statuses[0].last_state().terminated().message.clone();
        assert!(told.len() <= 4096, "{}", told.len());
        let last_words = |host: &Host| {
            let statuses = host.pod("chatterbox").status().container_statuses.clone();
            statuses.first().map(|status| status.last_state().terminated().message.clone()).unwrap_or_default()
        };
        host.until("the chatterbox' last words", |host| !last_words(host).is_empty()).await;
        assert!(last_words(&host).len() <= 4096 && last_words(&host).ends_with('x'));
        host.exec_in("read", "touch /go");
        host.exec_in("stalled", "touch /go");
        let read = tokio::time::timeout(Duration::from_secs(120), &mut clients[0]).await.expect("the whole flood").unwrap();
        assert!(read > FLOOD / 2, "{read} bytes of it were seen");
        let most = meter.most();
        println!("at most {} KiB", most);
        assert!(most <= BOUND, "{most} KiB");
        for client in clients {
            client.abort();
        }
        host.stop_kubelet().await;
    });
}

/// Looks at this process' memory all the while.
struct Meter {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Meter {
    fn start() -> Self {
        let meter = Self { most: Arc::default(), stop: Arc::default() };
        let (most, stop) = (meter.most.clone(), meter.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // Without what the program's file takes, which the kernel can drop.
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
                most.fetch_max(line.trim().trim_end_matches(" kB").parse().unwrap(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        meter
    }

    fn most(&self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.most.load(Ordering::Relaxed)
    }
}

/// A few kilobytes that ask for 10 to the power of 60 bytes.
fn bomb() -> Pod {
    let mut bomb = pod("bomb", &[IDLE]);
    let mut value = "x".repeat(1000);
    for n in 0..60 {
        bomb.spec_mut().containers[0].env.push(EnvVar { name: format!("V{n}"), value, ..EnvVar::default() });
        value = format!("$(V{n})").repeat(10);
    }
    bomb.spec_mut().containers[0].args = vec![value];
    bomb
}

/// Makes everything large that it may write, and ends.
fn vandal() -> Pod {
    let script =
        "for f in /etc/hosts /etc/resolv.conf /etc/hostname /dev/termination-log; do busybox truncate -s 1000G $f; done; exit 1";
    pod("vandal", &[script])
}

/// Has a probe that never stops talking, and ends with one line of 100 MB for its last words.
fn chatterbox() -> Pod {
    let mut pod = pod("chatterbox", &["busybox head -c 100000000 /dev/zero | busybox tr '\\0' x; exit 1", IDLE]);
    pod.spec_mut().containers[0].termination_message_policy = "FallbackToLogsOnError".into();
    let command = vec!["busybox".into(), "yes".into()];
    let exec = Some(ExecAction { command });
    let mut probe = Probe { period_seconds: 1, timeout_seconds: 1, ..Probe::default() };
    probe.handler_mut().exec = exec;
    pod.spec_mut().containers[1].readiness_probe = Some(probe);
    pod
}

/// Writes to its terminal what a decoder of frames would take for one of 4 GiB.
fn flood(name: &str) -> Pod {
    let script = format!(
        r"while test ! -e /go; do sleep 0.1; done; busybox printf '\001\000\000\000\377\377\377\377'; busybox head -c {FLOOD} /dev/zero | busybox tr '\0' x; echo; {IDLE}"
    );
    let mut flood = pod(name, &[&script]);
    flood.spec_mut().containers[0].tty = true;
    flood
}

fn reference(host: &Host, name: &str) -> Option<PodRef> {
    Some(PodRef { namespace: "default".into(), name: name.into(), uid: host.pod(name).metadata().uid.clone() })
}

/// Follows a log to the end of the flood, or takes nothing of it; says how much that was.
fn follow(host: &Host, name: &'static str) -> impl Future<Output = usize> + use<> {
    let mut client = host.client_as(kubelet::server::API_SERVER);
    let request = LogsRequest { pod: reference(host, name), follow: true, ..LogsRequest::default() };
    async move {
        let mut chunks = client.logs(request).await.unwrap().into_inner();
        if name == "stalled" {
            std::future::pending::<()>().await;
        }
        let mut read = 0;
        while let Some(chunk) = chunks.message().await.unwrap() {
            read += chunk.data.len();
            if chunk.data.ends_with(b"\n") {
                break;
            }
        }
        read
    }
}

/// Takes what the container writes, or nothing.
fn attach(host: &Host, name: &'static str) -> impl Future<Output = usize> + use<> {
    let mut client = host.client_as(kubelet::server::API_SERVER);
    let start = ExecStart { pod: reference(host, name), tty: true, ..ExecStart::default() };
    async move {
        let requests = tokio_stream::iter([ExecRequest { message: Some(exec_request::Message::Start(start)) }]);
        let mut answers = client.attach(requests).await.unwrap().into_inner();
        if name == "stalled" {
            std::future::pending::<()>().await;
        }
        while answers.message().await.unwrap().is_some() {}
        0
    }
}
