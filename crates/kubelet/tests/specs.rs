//! What a pod's spec asks for, and what its containers find, on a real Docker Engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use api::{
    core::v1::{
        Capabilities, ConfigMap, EnvFromSource, EnvVar, Event, HostAlias, KeyToPath, Pod, Secret, Service, ServicePort, Volume,
        VolumeMount,
    },
    ferrokube::v1::{ExecRequest, ExecStart, LogsRequest, PodRef, exec_request, exec_response},
    quantity::Quantity,
};
use support::{
    host::{Host, IDLE, pod},
    in_new_netns, sh,
};

#[test]
fn a_pod_finds_what_its_spec_says() {
    in_new_netns(|| async {
        let mut host = Host::new().await;
        environment_and_volumes_hold_what_they_refer_to(&host).await;
        users_limits_and_privileges_reach_the_kernel(&host).await;
        namespaces_are_shared_as_asked(&host).await;
        logs_are_read_as_asked(&host).await;
        a_container_can_be_attached_to(&host).await;
        what_is_not_there_yet_is_refused(&host).await;
        host.stop_kubelet().await;
    });
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: value.into(), ..EnvVar::default() }
}

fn volume(name: &str) -> Volume {
    Volume { name: name.into(), ..Volume::default() }
}

fn mount(name: &str, path: &str, sub_path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), sub_path: sub_path.into(), ..VolumeMount::default() }
}

async fn environment_and_volumes_hold_what_they_refer_to(host: &Host) {
    let mut map = ConfigMap::default();
    (map.metadata_mut().name, map.metadata_mut().namespace) = ("settings".into(), "default".into());
    map.data = [("colour", "green"), ("size", "big")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    host.server.put(map);
    let mut secret = Secret::default();
    (secret.metadata_mut().name, secret.metadata_mut().namespace) = ("keys".into(), "default".into());
    secret.data.insert("password".into(), b"hunter2".as_slice().into());
    host.server.put(secret);
    let mut service = Service::default();
    (service.metadata_mut().name, service.metadata_mut().namespace) = ("my-db".into(), "default".into());
    service.spec_mut().cluster_ip = "10.96.0.44".into();
    service.spec_mut().ports.push(ServicePort { port: 5432, protocol: "TCP".into(), ..ServicePort::default() });
    host.server.put(service);

    let mut full = pod("full", &[IDLE]);
    let on_host = host.engine.path().join("on-host");
    let spec = full.spec_mut();
    let (mut memory, mut path, mut keys, mut one, mut plain) =
        (volume("memory"), volume("path"), volume("keys"), volume("one"), volume("plain"));
    let in_memory = memory.volume_source_mut().empty_dir_mut();
    in_memory.medium = "Memory".into();
    in_memory.size_limit = Some(Quantity::from_bytes(1 << 20).into());
    path.volume_source_mut().host_path_mut().path = on_host.display().to_string();
    path.volume_source_mut().host_path_mut().r#type = Some("DirectoryOrCreate".into());
    keys.volume_source_mut().secret_mut().secret_name = "keys".into();
    keys.volume_source_mut().secret_mut().default_mode = Some(0o400);
    let chosen = one.volume_source_mut().config_map_mut();
    chosen.local_object_reference_mut().name = "settings".into();
    chosen.items = vec![KeyToPath { key: "size".into(), path: "deep/size".into(), mode: Some(0o600) }];
    plain.volume_source_mut().empty_dir_mut();
    spec.volumes = vec![memory, path, keys, one, plain];
    spec.security_context_mut().run_as_user = Some(1000);
    spec.security_context_mut().fs_group = Some(2000);
    let container = &mut spec.containers[0];
    container.volume_mounts = vec![
        mount("memory", "/memory", ""),
        mount("path", "/path", ""),
        mount("keys", "/keys", ""),
        mount("one", "/one", ""),
        mount("plain", "/sub", "a/$(WHO)"),
    ];
    let sub = &mut container.volume_mounts[4];
    sub.sub_path_expr = std::mem::take(&mut sub.sub_path);
    let (mut from_map, mut from_secret, mut cpu) =
        (EnvFromSource { prefix: "C_".into(), ..EnvFromSource::default() }, variable("PW", ""), variable("CPU", ""));
    from_map.config_map_ref_mut().local_object_reference_mut().name = "settings".into();
    let reference = from_secret.value_from_mut().secret_key_ref_mut();
    (reference.local_object_reference_mut().name, reference.key) = ("keys".into(), "password".into());
    let amount = cpu.value_from_mut().resource_field_ref_mut();
    (amount.resource, amount.divisor) = ("limits.cpu".into(), Some(Quantity::from_milli(1).into()));
    container.env_from = vec![from_map];
    container.env = vec![variable("WHO", "me"), from_secret, variable("ALL", "$(C_colour) $(PW) $$(PW) $(NONE)"), cpu];
    container.resources_mut().limits.insert("cpu".into(), Quantity::from_milli(300).into());
    host.server.put(full);
    host.until("readiness", |host| host.is_ready("full")).await;
    assert_eq!(host.exec("c0", "echo $ALL"), "green hunter2 $(PW) $(NONE)");
    assert_eq!(host.exec("c0", "echo $CPU $MY_DB_SERVICE_HOST:$MY_DB_SERVICE_PORT"), "300 10.96.0.44:5432");
    assert_eq!(host.exec("c0", "cat /keys/password /one/deep/size; echo; ls /one"), "hunter2big\ndeep");
    assert!(!host.exec("c0", "dd if=/dev/zero of=/memory/x bs=1024 count=2000 2>&1").is_empty());
    let size: u64 = host.exec("c0", "wc -c </memory/x").parse().unwrap();
    assert!(size <= 1 << 20, "a volume in memory has its limit: {size}");
    assert_eq!(host.exec("c0", "echo mine > /sub/file && cat /sub/file"), "mine", "any user can write below an emptyDir");
    std::fs::write(on_host.join("shared"), "from the host").unwrap();
    assert_eq!(host.exec("c0", "cat /path/shared"), "from the host");
    let mode = |name: &str| {
        let uid = host.pod("full").metadata().uid.clone();
        let path = host.engine.path().join("kubelet/pods").join(uid).join("volumes").join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("kubernetes.io~secret/keys/password"), 0o440, "the pod's group may read");
    host.delete("full", 0).await;
}

async fn users_limits_and_privileges_reach_the_kernel(host: &Host) {
    let mut strict = pod("strict", &[IDLE]);
    let container = &mut strict.spec_mut().containers[0];
    for (name, amount) in [("cpu", Quantity::from_milli(250)), ("memory", Quantity::from_bytes(64 << 20))] {
        container.resources_mut().limits.insert(name.into(), amount.into());
    }
    // As the API server defaults them.
    container.resources_mut().requests = container.resources().limits.clone();
    let security = container.security_context_mut();
    (security.run_as_user, security.run_as_group, security.run_as_non_root) = (Some(1234), Some(5678), Some(true));
    security.read_only_root_filesystem = Some(true);
    security.allow_privilege_escalation = Some(false);
    security.capabilities = Some(Capabilities { drop: vec!["ALL".into()], add: vec!["NET_BIND_SERVICE".into()] });
    host.server.put(strict);
    host.until("readiness", |host| host.is_ready("strict")).await;
    assert_eq!(host.exec("c0", "id -u; id -g"), "1234\n5678");
    assert_eq!(host.exec("c0", "touch /x 2>&1; true"), "touch: /x: Read-only file system");
    assert!(host.exec("c0", "cat /proc/1/status").contains("NoNewPrivs:\t1"));
    let id = host.engine.docker_output("ps -q --filter label=io.kubernetes.container.name=c0");
    let told = host.engine.docker_output(&format!(
        "inspect -f '{{{{.HostConfig.CpuShares}}}} {{{{.HostConfig.CpuQuota}}}} {{{{.HostConfig.Memory}}}} {{{{.HostConfig.CapDrop}}}} {{{{.HostConfig.CapAdd}}}}' {id}"
    ));
    assert_eq!(told, format!("256 25000 {} [ALL] [NET_BIND_SERVICE]", 64 << 20));
    assert_eq!(host.pod("strict").status().qos_class, "Guaranteed");
    host.delete("strict", 0).await;

    let mut root = pod("root", &[IDLE]);
    root.spec_mut().containers[0].security_context_mut().run_as_non_root = Some(true);
    host.server.put(root);
    let waiting = |host: &Host| host.pod("root").status().container_statuses.first().map(|c| c.state().waiting().clone());
    let refused = |host: &Host| waiting(host).is_some_and(|waiting| waiting.reason == "CreateContainerConfigError");
    host.until("the refusal", refused).await;
    assert_eq!(waiting(host).unwrap().message, "container has runAsNonRoot and image will run as root");
    host.delete("root", 0).await;
}

async fn namespaces_are_shared_as_asked(host: &Host) {
    let mut shared = pod("shared", &[IDLE, IDLE]);
    let spec = shared.spec_mut();
    spec.share_process_namespace = Some(true);
    spec.hostname = "somebody".into();
    spec.host_aliases.push(HostAlias { ip: "192.0.2.77".into(), hostnames: vec!["far.example".into()] });
    spec.dns_policy = "None".into();
    spec.dns_config_mut().nameservers.push("192.0.2.53".into());
    spec.dns_config_mut().searches.push("corp.example".into());
    host.server.put(shared);
    host.until("readiness", |host| host.is_ready("shared")).await;
    assert!(host.exec("c1", "cat /proc/1/cmdline").contains("pause"), "the sandbox is everybody's first process");
    assert_eq!(host.exec("c0", "hostname; cat /etc/resolv.conf"), "somebody\nnameserver 192.0.2.53\nsearch corp.example");
    assert!(host.exec("c1", "cat /etc/hosts").contains("192.0.2.77\tfar.example"));
    host.delete("shared", 0).await;

    let mut on_host = pod("on-host", &[IDLE]);
    (on_host.spec_mut().host_network, on_host.spec_mut().host_pid, on_host.spec_mut().host_ipc) = (true, true, true);
    host.server.put(on_host);
    host.until("readiness", |host| host.is_ready("on-host")).await;
    assert_eq!(host.pod("on-host").status().pod_ip, host.pod("on-host").status().host_ip);
    let id = host.engine.docker_output("ps -q --filter label=io.kubernetes.container.name=c0");
    let pid = host.engine.docker_output(&format!("inspect -f '{{{{.State.Pid}}}}' {id}"));
    let same =
        |kind: &str, other: &str| sh(&format!("test $(readlink /proc/{pid}/ns/{kind}) = $(readlink /proc/{other}/ns/{kind})"));
    assert!(same("net", &host.engine.pid().to_string()) && same("pid", "self") && same("ipc", "self"));
    host.delete("on-host", 0).await;
}

async fn logs_are_read_as_asked(host: &Host) {
    // The first run ends, the second stays.
    let script = format!("if test -e /state/ran; then echo second; {IDLE}; fi; touch /state/ran; echo first; sleep 0.3; exit 1");
    let mut twice = pod("twice", &[&script]);
    let mut state = volume("state");
    state.volume_source_mut().empty_dir_mut();
    twice.spec_mut().volumes.push(state);
    twice.spec_mut().containers[0].volume_mounts.push(mount("state", "/state", ""));
    host.server.put(twice);
    host.until("the second run", |host| host.restarts("twice") == 1 && host.is_ready("twice")).await;
    let mut kubelet = host.client_as(kubelet::server::API_SERVER);
    let uid = host.pod("twice").metadata().uid.clone();
    let pod = Some(PodRef { namespace: "default".into(), name: "twice".into(), uid });
    let request = |previous, follow, timestamps, limit_bytes| LogsRequest {
        pod: pod.clone(),
        previous,
        follow,
        timestamps,
        limit_bytes,
        ..LogsRequest::default()
    };
    // A log that is followed ends when its limit is reached, though the container is silent and lives on.
    for (request, wanted) in [
        (request(false, false, false, 0), "second\n"),
        (request(true, false, false, 0), "first\n"),
        (request(false, true, false, 4), "seco"),
    ] {
        let mut chunks = kubelet.logs(request).await.unwrap().into_inner();
        let reading = async {
            let mut text = String::new();
            while let Some(chunk) = chunks.message().await.unwrap() {
                text.push_str(&String::from_utf8_lossy(&chunk.data));
            }
            text
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), reading).await.expect("an end"), wanted);
    }
    let mut chunks = kubelet.logs(request(false, false, true, 0)).await.unwrap().into_inner();
    let line = chunks.message().await.unwrap().unwrap().data;
    let (time, text) = std::str::from_utf8(&line).unwrap().split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && text == "second\n", "{line:?}");
    let later = api::google::protobuf::Timestamp { seconds: jiff::Timestamp::now().as_second() + 60, nanos: 0 };
    let mut chunks =
        kubelet.logs(LogsRequest { since: Some(later), ..request(false, false, false, 0) }).await.unwrap().into_inner();
    assert!(chunks.message().await.unwrap().is_none(), "nothing was written since");
    host.delete("twice", 0).await;

    // Of one that is held back the newest run is both the last and the previous one.
    let script = "read n </state/n; n=$((n + 1)); echo $n >/state/n; echo run $n; exit 1";
    let mut crash = support::host::pod("crash", &[script]);
    let mut state = volume("state");
    state.volume_source_mut().empty_dir_mut();
    crash.spec_mut().volumes.push(state);
    crash.spec_mut().containers[0].volume_mounts.push(mount("state", "/state", ""));
    host.server.put(crash);
    let waiting = |host: &Host| host.pod("crash").status().container_statuses[0].state().waiting().reason.clone();
    host.until("the back-off", |host| host.restarts("crash") == 1 && waiting(host) == "CrashLoopBackOff").await;
    let uid = host.pod("crash").metadata().uid.clone();
    for previous in [false, true] {
        let pod = Some(PodRef { namespace: "default".into(), name: "crash".into(), uid: uid.clone() });
        let mut chunks = kubelet.logs(LogsRequest { pod, previous, ..LogsRequest::default() }).await.unwrap().into_inner();
        assert_eq!(&chunks.message().await.unwrap().unwrap().data[..], b"run 2\n");
    }
    host.delete("crash", 0).await;
}

async fn a_container_can_be_attached_to(host: &Host) {
    let mut echo = pod("echo", &["while read line; do echo got $line; done; exit 5"]);
    echo.spec_mut().restart_policy = "Never".into();
    (echo.spec_mut().containers[0].stdin, echo.spec_mut().containers[0].stdin_once) = (true, true);
    host.server.put(echo);
    host.until("readiness", |host| host.is_ready("echo")).await;
    let uid = host.pod("echo").metadata().uid.clone();
    let pod = Some(PodRef { namespace: "default".into(), name: "echo".into(), uid });
    let mut kubelet = host.client_as(kubelet::server::API_SERVER);
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let message = |message| ExecRequest { message: Some(message) };
    let start = ExecStart { pod, stdin: true, ..ExecStart::default() };
    sender.send(message(exec_request::Message::Start(start))).await.unwrap();
    sender.send(message(exec_request::Message::Stdin(b"one\n".as_slice().into()))).await.unwrap();
    let mut answers = kubelet.attach(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(Duration::from_secs(5), answers.message()).await.expect("an answer").unwrap();
    let first = next().await.unwrap().message;
    assert!(matches!(&first, Some(exec_response::Message::Stdout(bytes)) if &bytes[..] == b"got one\n"), "{first:?}");
    sender.send(message(exec_request::Message::StdinClosed(true))).await.unwrap();
    assert_eq!(next().await.unwrap().message, Some(exec_response::Message::ExitCode(5)), "the end of its input is its end");
    host.delete("echo", 0).await;
}

async fn what_is_not_there_yet_is_refused(host: &Host) {
    host.until("an empty engine", |host| host.engine.docker_output("ps -aq").is_empty()).await;
    let mut first: Pod = pod("first", &[IDLE]);
    let container = first.spec().containers[0].clone();
    first.spec_mut().init_containers.push(container);
    host.server.put(first);
    host.until("the refusal", |host| host.pod("first").status().phase == "Failed").await;
    assert_eq!(host.pod("first").status().reason, "FieldNotSupported");
    let told = "Pod was rejected: spec.initContainers: init containers are not supported by this kubelet yet";
    host.until("the event", |host| host.server.all::<Event>().iter().any(|event| event.message == told)).await;
    assert_eq!(host.engine.docker_output("ps -aq"), "", "nothing half done");
    host.delete("first", 0).await;
}
