//! Logs, exec and attach as a client of the kubelet sees them, on a real Docker Engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use std::time::{Duration, Instant};

use api::ferrokube::v1::{ExecRequest, ExecResponse, ExecStart, LogsRequest, LogsResponse, PodRef, exec_request, exec_response};
use support::{
    host::{Host, IDLE, pod},
    in_new_netns,
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

#[test]
fn clients_see_what_processes_write() {
    in_new_netns(|| async {
        let mut host = Host::new().await;
        a_followed_log_has_each_line_once(&host).await;
        a_long_line_is_one_line(&host).await;
        each_piece_of_a_log_says_its_stream(&host).await;
        a_terminal_shows_every_byte_at_once(&host).await;
        a_command_ends_with_its_client(&host).await;
        a_container_that_has_ended_cannot_be_attached_to(&host).await;
        host.stop_kubelet().await;
    });
}

fn reference(host: &Host, name: &str) -> Option<PodRef> {
    Some(PodRef { namespace: "default".into(), name: name.into(), uid: host.pod(name).metadata().uid.clone() })
}

async fn logs(host: &Host, name: &str, request: LogsRequest) -> Streaming<LogsResponse> {
    let request = LogsRequest { pod: reference(host, name), ..request };
    host.client_as(kubelet::server::API_SERVER).logs(request).await.unwrap().into_inner()
}

/// Reads until the text ends so, or the stream has ended.
async fn read_until(chunks: &mut Streaming<LogsResponse>, end: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end)
            && let Some(chunk) = chunks.message().await.unwrap()
        {
            text.extend_from_slice(&chunk.data);
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), reading).await.is_ok();
    assert!(
        in_time,
        "no {:?} in time: {:?}",
        String::from_utf8_lossy(end),
        String::from_utf8_lossy(&text[text.len().saturating_sub(200)..])
    );
    text
}

async fn a_followed_log_has_each_line_once(host: &Host) {
    const LINES: usize = 400_000;
    // Some 35 MB in the engine's files, so it rotates three times, as fast as the engine takes it.
    let script = format!("while test ! -e /go; do sleep 0.1; done; busybox seq 1 {LINES}; echo END; {IDLE}");
    host.server.put(pod("fast", &[&script]));
    host.until("readiness", |host| host.is_ready("fast")).await;
    let mut chunks = logs(host, "fast", LogsRequest { follow: true, ..LogsRequest::default() }).await;
    host.exec("c0", "touch /go");
    let text = String::from_utf8(read_until(&mut chunks, b"END\n").await).unwrap();
    let wrong = text.lines().zip(1..).find(|(line, number)| *line != number.to_string() && *number <= LINES);
    assert!(wrong.is_none() && text.lines().count() == LINES + 1, "{wrong:?} of {} lines", text.lines().count());
    // Again, from the files that rotation has left.
    let mut chunks = logs(host, "fast", LogsRequest { tail_lines: Some(150_000), ..LogsRequest::default() }).await;
    let text = String::from_utf8(read_until(&mut chunks, b"END\n").await).unwrap();
    assert_eq!((text.lines().count(), text.lines().next().unwrap()), (150_000, (LINES + 2 - 150_000).to_string().as_str()));
    host.delete("fast", 0).await;
}

async fn a_long_line_is_one_line(host: &Host) {
    let script = format!("echo first; busybox head -c 40000 /dev/zero | busybox tr '\\0' x; echo; echo last; {IDLE}");
    host.server.put(pod("long", &[&script]));
    host.until("readiness", |host| host.is_ready("long")).await;
    let whole =
        read_until(&mut logs(host, "long", LogsRequest { follow: true, ..LogsRequest::default() }).await, b"last\n").await;
    assert_eq!(whole.len(), "first\n".len() + 40_001 + "last\n".len());
    let request = LogsRequest { tail_lines: Some(2), timestamps: true, ..LogsRequest::default() };
    let text = String::from_utf8(read_until(&mut logs(host, "long", request).await, b"last\n").await).unwrap();
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert!(matches!(&lines[..], [(_, long), (_, "last")] if long.len() == 40_000 && !long.contains('Z')), "stamped once");
    let request = LogsRequest { pod: reference(host, "long"), tail_lines: Some(-1), ..LogsRequest::default() };
    let refused = host.client_as(kubelet::server::API_SERVER).logs(request).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("tailLines"), "{refused:?}");
    host.delete("long", 0).await;
}

async fn each_piece_of_a_log_says_its_stream(host: &Host) {
    host.server.put(pod("both", &[&format!("echo out; echo err >&2; {IDLE}")]));
    host.until("readiness", |host| host.is_ready("both")).await;
    let mut chunks = logs(host, "both", LogsRequest { follow: true, limit_bytes: 8, ..LogsRequest::default() }).await;
    let mut of = [String::new(), String::new()];
    while let Some(chunk) = chunks.message().await.unwrap() {
        of[usize::from(chunk.stderr)] += std::str::from_utf8(&chunk.data).unwrap();
    }
    assert_eq!(of, ["out\n", "err\n"]);
    host.delete("both", 0).await;
}

/// A session with a process; what is sent through it.
struct Talk {
    sender: mpsc::Sender<ExecRequest>,
    answers: Streaming<ExecResponse>,
}

impl Talk {
    async fn exec(host: &Host, name: &str, command: &str, stdin: bool, tty: bool) -> Self {
        let command = ["sh", "-c", command].map(String::from).into();
        let start = ExecStart { pod: reference(host, name), command, stdin, tty, ..ExecStart::default() };
        let (sender, receiver) = mpsc::channel(8);
        sender.send(ExecRequest { message: Some(exec_request::Message::Start(start)) }).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = host.client_as(kubelet::server::API_SERVER).exec(requests).await.unwrap().into_inner();
        Self { sender, answers }
    }

    async fn send(&self, bytes: &'static [u8]) {
        self.sender.send(ExecRequest { message: Some(exec_request::Message::Stdin(bytes.into())) }).await.unwrap();
    }

    /// What it writes next, until it ends so.
    async fn hear(&mut self, end: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let hearing = async {
            while !text.ends_with(end) {
                match self.answers.message().await.unwrap().and_then(|answer| answer.message) {
                    Some(exec_response::Message::Stdout(bytes) | exec_response::Message::Stderr(bytes)) => {
                        text.extend_from_slice(&bytes)
                    }
                    other => panic!("{other:?} after {text:?}"),
                }
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(5), hearing).await.is_ok();
        assert!(in_time, "no {end:?} in time: {text:?}");
        text
    }
}

async fn a_terminal_shows_every_byte_at_once(host: &Host) {
    // What a decoder of frames would take for the header of one of 4 GiB; then a bar that ends no line, of more than the engine holds back.
    let script = format!(
        r"busybox printf '\001\000\000\000\177\177\177\177hello\r\n'; for i in $(busybox seq 1 3000); do busybox printf '\r%08d%%' $i; done; {IDLE}"
    );
    let mut bar = pod("bar", &[&script]);
    bar.spec_mut().containers[0].tty = true;
    host.server.put(bar);
    host.until("readiness", |host| host.is_ready("bar")).await;
    let mut chunks = logs(host, "bar", LogsRequest { follow: true, ..LogsRequest::default() }).await;
    let shown = Instant::now();
    let mut text = Vec::new();
    while text.len() < 16_000
        && let Some(chunk) = tokio::time::timeout(Duration::from_secs(10), chunks.message()).await.expect("output").unwrap()
    {
        text.extend_from_slice(&chunk.data);
    }
    assert!(
        text.starts_with(b"\x01\0\0\0\x7f\x7f\x7f\x7fhello\r\r\n\r00000001%\r00000002%"),
        "{:?}",
        String::from_utf8_lossy(&text[..60])
    );
    println!("a bar that ends no line was shown after {:?}", shown.elapsed());
    host.delete("bar", 0).await;
}

async fn a_command_ends_with_its_client(host: &Host) {
    host.server.put(pod("left", &[IDLE]));
    host.until("readiness", |host| host.is_ready("left")).await;
    // Every byte of a terminal comes through, each as it is typed: Ctrl-P, too.
    let mut raw = Talk::exec(host, "left", r"stty raw -echo; busybox printf '\001\002\000ready'; cat", true, true).await;
    assert_eq!(raw.hear(b"ready").await, b"\x01\x02\0ready");
    for key in [&b"\x10"[..], b"\x11", b"\x1e"] {
        raw.send(key).await;
        assert_eq!(raw.hear(key).await, key);
    }
    // Some that read nothing and write nothing, and what they have begun.
    let silent = Talk::exec(host, "left", "sleep 3001 & sleep 3002", false, false).await;
    let terminal = Talk::exec(host, "left", "sleep 3003", true, true).await;
    let kept = Talk::exec(host, "left", "busybox setsid sleep 3004 >/dev/null 2>&1 </dev/null & sleep 3005", false, false).await;
    let running = |host: &Host| {
        ["3001", "3002", "3003", "3004", "3005"].map(|time| host.exec("c0", "ps").contains(&format!("sleep {time}")))
    };
    host.until("the commands to run", |host| running(host) == [true; 5]).await;
    assert!(host.exec("c0", "ps").contains(" cat"));
    drop((raw, silent, terminal, kept));
    host.until("the commands to end", |host| running(host) == [false, false, false, true, false]).await;
    assert!(!host.exec("c0", "ps").contains(" cat"));
    host.delete("left", 0).await;
}

async fn a_container_that_has_ended_cannot_be_attached_to(host: &Host) {
    let mut short = pod("short", &["echo done; exit 3"]);
    short.spec_mut().restart_policy = "Never".into();
    host.server.put(short);
    host.until("its end", |host| host.pod("short").status().phase == "Failed").await;
    let start = ExecStart { pod: reference(host, "short"), ..ExecStart::default() };
    let requests = tokio_stream::iter([ExecRequest { message: Some(exec_request::Message::Start(start)) }]);
    let refused = host.client_as(kubelet::server::API_SERVER).attach(requests).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "container \"c0\" of pod \"short\" has ended with exit code 3; what it wrote is in its log");
    host.delete("short", 0).await;
}
