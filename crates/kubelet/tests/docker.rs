//! The Docker runtime against a real engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt as _;
use kubelet::runtime::{
    ContainerKind, ContainerSpec, Docker, ExecSpec, Labels, LogOptions, Output, Runtime, State, TerminalSize, ensure_pause_image,
    exec,
};
use support::{Engine, pause_binary};
use tokio::io::AsyncWriteExt as _;

fn sandbox_spec(image: &str, attempt: u32) -> ContainerSpec {
    ContainerSpec {
        labels: Labels::sandbox("default", "web", "uid-1", attempt),
        image: image.into(),
        network_mode: "none".into(),
        ipc_mode: "shareable".into(),
        hostname: "web".into(),
        ..ContainerSpec::default()
    }
}

fn app_spec(sandbox: &str, name: &str, command: &[&str]) -> ContainerSpec {
    let labels = Labels {
        kind: ContainerKind::Application,
        container: name.into(),
        sandbox: sandbox.into(),
        ..Labels::sandbox("default", "web", "uid-1", 0)
    };
    ContainerSpec {
        labels,
        image: "fkkubelet/busybox".into(),
        entrypoint: command.iter().map(|s| (*s).to_owned()).collect(),
        network_mode: format!("container:{sandbox}"),
        ipc_mode: format!("container:{sandbox}"),
        ..ContainerSpec::default()
    }
}

async fn collect(mut output: futures::stream::BoxStream<'static, kubelet::runtime::Result<Output>>) -> String {
    let mut text = Vec::new();
    while let Some(chunk) = output.next().await {
        text.extend_from_slice(&chunk.unwrap().into_bytes());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn containers_live_in_their_sandbox_and_can_be_watched_and_entered() {
    tokio::time::timeout(Duration::from_secs(60), run_through()).await.expect("in time");
}

async fn run_through() {
    let engine = Engine::start();
    engine.add_busybox("fkkubelet/busybox");
    let docker = Docker::connect(&engine.socket()).await.unwrap();
    let image = ensure_pause_image(&docker, &pause_binary()).await.unwrap();
    assert_eq!(ensure_pause_image(&docker, std::path::Path::new("/nowhere")).await.unwrap(), image, "made only once");
    let mut events = docker.events();

    let started = std::time::Instant::now();
    let sandbox = docker.create(sandbox_spec(&image, 0)).await.unwrap();
    println!("sandbox created {:?}", started.elapsed());
    // The application container is created while its sandbox starts.
    let script = "trap 'exit 7' TERM; hostname; sleep 0.1; echo oops >&2; while true; do sleep 0.1; done";
    let (begun, app) = tokio::join!(docker.start(&sandbox), docker.create(app_spec(&sandbox, "main", &["sh", "-c", script])));
    begun.unwrap();
    let app = app.unwrap();
    println!("sandbox started, app created {:?}", started.elapsed());
    docker.start(&app).await.unwrap();
    println!("app started {:?}", started.elapsed());
    let inspected = docker.inspect(&app).await.unwrap().unwrap();
    assert_eq!((inspected.state.clone(), inspected.labels.container.as_str()), (State::Running, "main"));
    assert!(inspected.pid > 0);
    assert_eq!(
        engine.docker_output("ps --format '{{.Names}}' | sort"),
        "k8s_POD_web_default_uid-1_0\nk8s_main_web_default_uid-1_0"
    );
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.id, event.pod_uid), (sandbox.clone(), "uid-1".to_owned()));
    assert!(matches!(docker.create(sandbox_spec(&image, 0)).await, Err(kubelet::runtime::Error::Conflict { .. })));

    tokio::time::sleep(Duration::from_millis(300)).await;
    // Exec: output, exit code, standard input, terminal.
    let session = docker
        .exec(&app, ExecSpec { command: ["sh", "-c", "echo out; exit 3"].map(String::from).into(), ..ExecSpec::default() })
        .await
        .unwrap();
    let id = session.id.clone();
    assert_eq!(collect(session.output).await, "out\n");
    assert_eq!(docker.exec_exit_code(&id).await.unwrap(), Some(3));
    let mut session = docker.exec(&app, ExecSpec { command: vec!["cat".into()], stdin: true, tty: false }).await.unwrap();
    session.input.write_all(b"through\n").await.unwrap();
    session.input.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), collect(session.output)).await.unwrap(), "through\n");
    let mut session = docker.exec(&app, ExecSpec { command: vec!["sh".into()], stdin: true, tty: true }).await.unwrap();
    docker.resize_exec(&session.id, TerminalSize { width: 91, height: 33 }).await.unwrap();
    session.input.write_all(b"stty size\nexit 4\n").await.unwrap();
    let id = session.id.clone();
    let text = tokio::time::timeout(Duration::from_secs(5), collect(session.output)).await.unwrap();
    assert!(text.contains("33 91"), "{text:?}");
    assert_eq!(docker.exec_exit_code(&id).await.unwrap(), Some(4));

    // What a kubelet that was killed has begun ends with the next one; what the next one or an administrator begins does not.
    let sleeping = |seconds: &str| ExecSpec { command: vec!["sleep".into(), seconds.into()], ..ExecSpec::default() };
    let earlier = docker.exec(&app, sleeping("3001")).await.unwrap();
    engine.docker(&format!("exec -d {app} sleep 3002"));
    let next = Docker::connect(&engine.socket()).await.unwrap();
    let own = next.exec(&app, sleeping("3003")).await.unwrap();
    let runs = |seconds: &str| engine.docker_output(&format!("exec {app} ps")).contains(&format!("sleep {seconds}"));
    support::wait_for("the commands", || runs("3001") && runs("3002") && runs("3003"));
    exec::end_leftovers(&next).await.unwrap();
    support::wait_for("the end of what was left", || !runs("3001"));
    assert!(runs("3002") && runs("3003"));
    drop((earlier, own));

    // Signals, exit, logs.
    docker.signal(&app, "SIGTERM").await.unwrap();
    while docker.inspect(&app).await.unwrap().unwrap().is_running() {
        events.next().await.unwrap().unwrap();
    }
    assert_eq!(docker.inspect(&app).await.unwrap().unwrap().exit().unwrap().code, 7);
    docker.signal(&app, "SIGKILL").await.unwrap();
    let log = collect(docker.logs(&app, LogOptions::default())).await;
    assert_eq!(log, "web\noops\n");
    assert_eq!(collect(docker.logs(&app, LogOptions { tail: Some(1), ..LogOptions::default() })).await, "oops\n");

    // What cannot be run says why.
    let broken = docker.create(app_spec(&sandbox, "broken", &["/no/such/program"])).await.unwrap();
    assert!(docker.start(&broken).await.unwrap_err().to_string().contains("/no/such/program"));
    assert!(docker.inspect(&broken).await.unwrap().unwrap().exit().unwrap().error.contains("/no/such/program"));
    assert!(docker.pull("localhost:1/none:v1", None).await.is_err());
    assert_eq!(docker.image("none:such").await.unwrap(), None);
    // The engine itself would take the beginning of an id for a name.
    let id = docker.image("fkkubelet/busybox").await.unwrap().unwrap().id;
    let hexadecimal = id.strip_prefix("sha256:").unwrap();
    for part in [&id, hexadecimal, &hexadecimal[..12], &hexadecimal[..2]] {
        assert_eq!(docker.image(part).await.unwrap(), None, "{part}");
    }

    let found: BTreeMap<_, _> =
        docker.list(Some("uid-1")).await.unwrap().into_iter().map(|c| (c.labels.container, c.running)).collect();
    assert_eq!(found, BTreeMap::from([("POD".into(), true), ("main".into(), false), ("broken".into(), false)]));
    assert!(docker.list(Some("uid-2")).await.unwrap().is_empty());
    for container in docker.list(None).await.unwrap() {
        docker.remove(&container.id).await.unwrap();
        docker.remove(&container.id).await.unwrap();
    }
    assert_eq!(docker.inspect(&app).await.unwrap(), None);
}
