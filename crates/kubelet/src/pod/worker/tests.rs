use api::core::v1::{
    ConfigMapKeySelector, Container as Spec, EnvVar, LocalObjectReference, Node, Probe, ServiceAccountTokenProjection,
    VolumeProjection,
};
use api::{meta::v1::Time, quantity::Quantity};

use super::*;
use crate::{
    cgroups::Cgroups,
    cluster::fake::FakeCluster,
    images::Images,
    metrics::KubeletMetrics,
    network::fake::FakeNetwork,
    pod::admission::refusal,
    pod::fields::NodeFacts,
    pod::files::Dns,
    running::Running,
    runtime::fake::{Exec, FakeRuntime},
    volumes::Volumes,
};

/// A pod's task over fakes. Restarting it is what a restart of the kubelet is.
struct Harness {
    ctx: Arc<Context>,
    runtime: FakeRuntime,
    network: FakeNetwork,
    cluster: FakeCluster,
    mailbox: Mailbox,
    rejection: Option<Rejection>,
    task: Option<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Harness {
    fn new(pod: Pod) -> Self {
        Self::on(FakeNetwork::default(), pod)
    }

    fn on(network: FakeNetwork, pod: Pod) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, cluster) = (FakeRuntime::new(&["app:1", "pause"]), FakeCluster::default());
        let metrics = KubeletMetrics::new(&daemon::Metrics::new());
        let node = Arc::new(NodeFacts { name: "n1".into(), address: "192.0.2.1".into(), ..NodeFacts::default() });
        let ctx = Arc::new(Context {
            runtime: Arc::new(runtime.clone()),
            network: Arc::new(network.clone()),
            cluster: Arc::new(cluster.clone()),
            volumes: Volumes::new(dir.path(), Arc::new(cluster.clone()), node.clone()),
            images: Images::new(Arc::new(runtime.clone()), Arc::default()),
            cgroups: Cgroups::at(&dir.path().join("cgroup"), false),
            running: Running::new(metrics.clone()),
            metrics,
            node,
            dns: Dns::default(),
            pause_image: "pause".into(),
        });
        let rejection = refusal(&roomy_node(), [], &pod);
        let mailbox = Mailbox::new(Desired { pod: Arc::new(pod), gone: false });
        let mut harness = Self { ctx, runtime, network, cluster, mailbox, rejection, task: None, _dir: dir };
        harness.launch();
        harness
    }

    fn launch(&mut self) {
        let (mailbox, runtime) = (self.mailbox.clone(), self.runtime.clone());
        let feeder = tokio::spawn(async move {
            use futures::StreamExt as _;
            let mut events = crate::runtime::Runtime::events(&runtime);
            while let Some(Ok(event)) = events.next().await {
                mailbox.container_changed(event.id);
            }
        });
        let work = run(self.ctx.clone(), self.mailbox.clone(), self.rejection.clone());
        self.task = Some(tokio::spawn(async move {
            work.await;
            feeder.abort();
        }));
    }

    /// Ends the task and starts a new one that knows only what is outside.
    async fn restart_kubelet(&mut self, mut pod: Pod) {
        if let Some(task) = self.task.take() {
            task.abort();
            drop(task.await);
        }
        pod.status = Some(self.cluster.status());
        self.rejection = None;
        self.mailbox = Mailbox::new(Desired { pod: Arc::new(pod), gone: false });
        self.launch();
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no {what}; status {:#?}\nevents {:#?}", self.cluster.status(), self.cluster.events());
    }

    fn ready(&self) -> bool {
        api::pod::is_ready(&Pod { status: Some(self.cluster.status()), ..Pod::default() })
    }

    fn waiting(&self) -> String {
        self.cluster.status().container_statuses.first().map(|status| status.state().waiting().reason.clone()).unwrap_or_default()
    }
}

fn roomy_node() -> Node {
    let mut node = Node::default();
    node.status_mut().allocatable.insert("pods".into(), Quantity::from_value(10).into());
    node
}

fn pod(containers: &[&str], policy: &str) -> Pod {
    let mut pod = Pod::default();
    let metadata = pod.metadata_mut();
    (metadata.name, metadata.namespace) = ("web".into(), "default".into());
    metadata.uid = uuid::Uuid::new_v4().to_string();
    pod.spec_mut().restart_policy = policy.into();
    pod.spec_mut().containers =
        containers.iter().map(|name| Spec { name: (*name).into(), image: "app:1".into(), ..Spec::default() }).collect();
    pod
}

fn deleted(mut pod: Pod, grace: i64) -> Desired {
    pod.metadata_mut().deletion_timestamp = Some(Time::now());
    pod.metadata_mut().deletion_grace_period_seconds = Some(grace);
    Desired { pod: Arc::new(pod), gone: false }
}

#[tokio::test]
async fn a_pod_starts_restarts_its_containers_and_ends_cleanly() {
    let pod = pod(&["a", "b"], "Always");
    let harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    let status = harness.cluster.status();
    assert_eq!((status.phase.as_str(), status.pod_ip.as_str(), status.host_ip.as_str()), ("Running", "10.0.0.1", "192.0.2.1"));
    let calls = harness.runtime.take_calls();
    assert_eq!(calls[..2], ["create POD_0", "start POD_0"], "{calls:?}");
    assert_eq!(harness.runtime.spec(&harness.runtime.newest("a").unwrap().id).unwrap().network_mode, "container:id0001");

    let first = harness.runtime.newest("a").unwrap();
    harness.runtime.exit(&first.id, 1);
    harness.until("a restart", |h| h.cluster.status().container_statuses[0].restart_count == 1 && h.ready()).await;
    let status = &harness.cluster.status().container_statuses[0];
    assert_eq!((status.last_state().terminated().exit_code, status.last_state().terminated().reason.as_str()), (1, "Error"));
    assert_eq!(harness.cluster.status().container_statuses[1].restart_count, 0, "the other container is left alone");
    assert!(!harness.cluster.events().iter().any(|event| event.starts_with("BackOff")), "the first restart is not held back");

    let second = harness.runtime.newest("a").unwrap();
    harness.runtime.exit(&second.id, 1);
    harness.until("a back-off", |h| h.waiting() == "CrashLoopBackOff").await;
    assert!(
        harness.cluster.status().container_statuses[0]
            .state()
            .waiting()
            .message
            .starts_with("back-off 10s restarting failed container=a pod=web_default(")
    );

    harness.mailbox.set_desired(deleted(pod.clone(), 30));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
    assert!(harness.runtime.containers().is_empty() && harness.network.attached() == 0);
    harness.mailbox.set_desired(Desired { gone: true, ..deleted(pod, 30) });
    tokio::time::timeout(Duration::from_secs(5), harness.task.unwrap()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stubborn_container_is_killed_after_its_grace() {
    let pod = pod(&["a"], "Always");
    let harness = Harness::new(pod.clone());
    harness.runtime.make_stubborn("a");
    harness.until("readiness", Harness::ready).await;
    harness.runtime.take_calls();
    harness.mailbox.set_desired(deleted(pod, 1));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
    assert_eq!(harness.runtime.take_calls(), ["SIGTERM a_0", "SIGKILL a_0", "remove a_0", "remove POD_0"]);
    assert!(harness.cluster.events().contains(&"Killing: Stopping container a".to_owned()));
    let last = harness.cluster.status();
    assert_eq!(last.container_statuses[0].state().terminated().exit_code, 137, "the last status tells how it ended");
    assert_eq!(last.phase, "Failed");
}

#[tokio::test]
async fn a_container_that_cannot_be_killed_now_is_killed_later() {
    let pod = pod(&["a"], "Always");
    let harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    harness.runtime.take_calls();
    harness.runtime.fail_signals(1);
    harness.mailbox.set_desired(deleted(pod, 0));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
    assert_eq!(harness.runtime.take_calls(), ["SIGKILL a_0", "SIGKILL a_0", "remove a_0", "remove POD_0"]);
}

#[tokio::test]
async fn a_grace_that_is_shortened_while_it_runs_is_the_shorter_one() {
    let pod = pod(&["a"], "Always");
    let harness = Harness::new(pod.clone());
    harness.runtime.make_stubborn("a");
    harness.until("readiness", Harness::ready).await;
    harness.runtime.take_calls();
    harness.mailbox.set_desired(deleted(pod.clone(), 60));
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.mailbox.set_desired(deleted(pod, 1));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
    assert_eq!(harness.runtime.take_calls(), ["SIGTERM a_0", "SIGKILL a_0", "remove a_0", "remove POD_0"]);
}

#[tokio::test]
async fn a_pod_that_asks_for_what_is_not_there_is_refused_with_the_field() {
    let mut pod = pod(&["a"], "Always");
    pod.spec_mut().init_containers.push(Spec { name: "first".into(), ..Spec::default() });
    let harness = Harness::new(pod.clone());
    harness.until("refusal", |h| h.cluster.status().phase == "Failed").await;
    let status = harness.cluster.status();
    let said = "Pod was rejected: spec.initContainers: init containers are not supported by this kubelet yet";
    assert_eq!((status.reason.as_str(), status.message.as_str()), ("FieldNotSupported", said));
    assert!(status.container_statuses.is_empty(), "no container is being created");
    assert_eq!(harness.cluster.events(), [format!("FieldNotSupported: {said}")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(harness.cluster.statuses().len(), 1, "told once");
    assert!(harness.runtime.containers().is_empty(), "nothing half done");
    harness.mailbox.set_desired(deleted(pod, 30));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
    assert!(harness.cluster.status().container_statuses.is_empty());
}

#[tokio::test]
async fn a_container_that_is_held_back_stays_so_when_the_kubelet_restarts() {
    let pod = pod(&["a"], "Always");
    let mut harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    harness.runtime.exit(&harness.runtime.newest("a").unwrap().id, 1);
    harness.until("a restart", |h| h.cluster.status().container_statuses[0].restart_count == 1 && h.ready()).await;
    harness.runtime.exit(&harness.runtime.newest("a").unwrap().id, 1);
    harness.until("a back-off", |h| h.waiting() == "CrashLoopBackOff").await;
    let (before, events) = (harness.cluster.statuses().len(), harness.cluster.events().len());
    harness.restart_kubelet(pod).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (harness.cluster.statuses().len(), harness.cluster.events().len()),
        (before, events),
        "{:#?}",
        harness.cluster.events()
    );
    assert_eq!(harness.waiting(), "CrashLoopBackOff");
}

#[tokio::test]
async fn a_restarted_kubelet_touches_nothing_and_flips_nothing() {
    let mut pod = pod(&["a"], "Always");
    pod.spec_mut().containers[0].readiness_probe = Some(exec_probe());
    let mut harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    harness.runtime.take_calls();
    let before = harness.cluster.statuses().len();
    harness.restart_kubelet(pod).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(harness.cluster.statuses().len(), before, "nothing to report");
    assert!(harness.runtime.take_calls().iter().all(|call| call.starts_with("exec")), "nothing but probes");
}

#[tokio::test]
async fn after_the_engine_or_the_host_went_down_pods_come_back_with_their_counts() {
    let pod = pod(&["a"], "Always");
    let mut harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    let first_ip = harness.cluster.status().pod_ip;
    for container in harness.runtime.containers() {
        harness.runtime.exit(&container.id, 137);
    }
    harness.until("a new sandbox", |h| h.ready() && h.cluster.status().pod_ip != first_ip).await;
    assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 1);
    // Now even the containers are gone.
    for container in harness.runtime.containers() {
        crate::runtime::Runtime::remove(&harness.runtime, &container.id).await.unwrap();
    }
    harness.restart_kubelet(pod).await;
    harness.until("a start", |h| h.ready() && h.cluster.status().container_statuses[0].restart_count == 2).await;
}

#[tokio::test]
async fn a_sandbox_that_fails_ends_no_container() {
    for policy in ["Always", "Never"] {
        let pod = pod(&["a"], policy);
        let mut harness = Harness::new(pod.clone());
        harness.network.set_broken(true);
        let failures =
            |h: &Harness| h.cluster.events().iter().filter(|event| event.starts_with("FailedCreatePodSandBox")).count();
        harness.until("a failure", |h| failures(h) >= 1).await;
        // A kubelet that starts now knows what was reported, and nothing else.
        harness.restart_kubelet(pod).await;
        harness.until("another failure", |h| failures(h) >= 2).await;
        for status in harness.cluster.statuses() {
            assert_eq!(status.phase, "Pending", "{policy}");
            let container = &status.container_statuses[0];
            assert_eq!((container.restart_count, container.container_id.as_str()), (0, ""));
            assert_eq!((container.state().waiting().reason.as_str(), &container.last_state), ("ContainerCreating", &None));
        }
        harness.network.set_broken(false);
        harness.until("readiness", Harness::ready).await;
        assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 0);
    }
}

#[tokio::test]
async fn policies_decide_how_a_pod_completes() {
    for (policy, code, phase) in [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")] {
        let harness = Harness::new(pod(&["a"], policy));
        harness.until("readiness", Harness::ready).await;
        harness.runtime.exit(&harness.runtime.newest("a").unwrap().id, code);
        harness.until(phase, |h| h.cluster.status().phase == phase && h.runtime.newest("POD").is_none()).await;
        let status = harness.cluster.status();
        assert_eq!(status.container_statuses[0].state().terminated().exit_code, code);
        assert!(harness.runtime.newest("a").is_some(), "its log can still be read");
        assert_eq!(status.pod_ip, "10.0.0.1", "the address stays in the status");
    }
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let mut missing_image = pod(&["a"], "Always");
    missing_image.spec_mut().containers[0].image = "gone:1".into();
    let harness = Harness::new(missing_image);
    harness.until("back-off", |h| h.waiting() == "ImagePullBackOff").await;
    assert!(harness.cluster.statuses().iter().any(|s| s.container_statuses[0].state().waiting().reason == "ErrImagePull"));
    assert!(
        harness
            .cluster
            .events()
            .iter()
            .any(|event| event.starts_with("Failed: Failed to pull image \"gone:1\": pull access denied"))
    );

    let mut never = pod(&["a"], "Always");
    never.spec_mut().containers[0].image = "gone:1".into();
    never.spec_mut().containers[0].image_pull_policy = "Never".into();
    Harness::new(never).until("refusal", |h| h.waiting() == "ErrImageNeverPull").await;

    let broken = pod(&["a"], "Always");
    let harness = Harness::new(broken);
    harness.runtime.fail_start("a", "exec: \"nope\": not found");
    harness.until("run error", |h| h.cluster.events().iter().any(|event| event.starts_with("Failed: Error: exec:"))).await;
    harness.until("back-off", |h| h.waiting() == "CrashLoopBackOff").await;
    assert!(harness.cluster.statuses().iter().any(|s| s.container_statuses[0].state().waiting().reason == "RunContainerError"));
    let last = harness.cluster.status().container_statuses[0].last_state().terminated().clone();
    assert_eq!((last.exit_code, last.reason.as_str()), (127, "ContainerCannotRun"));
}

#[tokio::test]
async fn a_config_map_that_appears_lets_the_pod_start() {
    let mut pod = pod(&["a"], "Always");
    let selector = ConfigMapKeySelector {
        local_object_reference: Some(LocalObjectReference { name: "settings".into() }),
        key: "k".into(),
        ..ConfigMapKeySelector::default()
    };
    let mut variable = EnvVar { name: "K".into(), ..EnvVar::default() };
    variable.value_from_mut().config_map_key_ref = Some(selector);
    pod.spec_mut().containers[0].env.push(variable);
    let harness = Harness::new(pod);
    harness.until("config error", |h| h.waiting() == "CreateContainerConfigError").await;
    assert_eq!(harness.cluster.status().container_statuses[0].state().waiting().message, "configmap \"settings\" not found");
    harness.cluster.add_config_map("settings", "k", "v");
    harness.mailbox.sources_changed();
    harness.until("readiness", Harness::ready).await;
    let id = harness.runtime.newest("a").unwrap().id;
    assert_eq!(harness.runtime.spec(&id).unwrap().env, ["K=v"]);
    assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 0);
}

#[tokio::test]
async fn a_container_that_is_corrected_is_tried_at_once() {
    let mut pod = pod(&["a"], "Always");
    pod.spec_mut().containers[0].image = "gone:1".into();
    let harness = Harness::new(pod.clone());
    harness.until("back-off", |h| h.waiting() == "ImagePullBackOff").await;
    pod.spec_mut().containers[0].image = "app:1".into();
    // The back-off would last longer than is waited here.
    harness.mailbox.set_desired(Desired { pod: Arc::new(pod), gone: false });
    harness.until("readiness", Harness::ready).await;
}

#[tokio::test]
async fn a_change_that_comes_while_volumes_are_made_is_not_lost() {
    let mut pod = pod(&["a"], "Always");
    let mut volume = api::core::v1::Volume { name: "v".into(), ..Default::default() };
    volume.volume_source_mut().config_map_mut().local_object_reference_mut().name = "settings".into();
    pod.spec_mut().volumes.push(volume);
    let harness = Harness::new(pod.clone());
    harness.cluster.add_config_map("settings", "k", "old");
    harness.cluster.set_latency(Duration::from_millis(100));
    harness.mailbox.sources_changed();
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.cluster.add_config_map("settings", "k", "new");
    harness.mailbox.sources_changed();
    let file = harness.ctx.volumes.pod_dir(&pod.metadata().uid).join("volumes/kubernetes.io~configmap/v/k");
    harness.until("the change", |_| std::fs::read_to_string(&file).is_ok_and(|text| text == "new")).await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let mut pod = pod(&["a"], "Always");
    let mut volume = api::core::v1::Volume { name: "access".into(), ..Default::default() };
    let token = ServiceAccountTokenProjection { path: "token".into(), expiration_seconds: Some(1), ..Default::default() };
    let source = VolumeProjection { service_account_token: Some(token), ..Default::default() };
    volume.volume_source_mut().projected_mut().sources.push(source);
    pod.spec_mut().volumes.push(volume);
    let harness = Harness::new(pod.clone());
    let file = harness.ctx.volumes.pod_dir(&pod.metadata().uid).join("volumes/kubernetes.io~projected/access/token");
    let holds = |text: &str| std::fs::read_to_string(&file).is_ok_and(|found| found == text);
    harness.until("the first token", |_| holds("token 1")).await;
    harness.until("the next token", |_| holds("token 2")).await;
    harness.mailbox.set_desired(deleted(pod, 0));
    harness.until("deletion", |h| h.cluster.is_deleted()).await;
}

fn exec_probe() -> Probe {
    let mut probe = Probe { period_seconds: 1, failure_threshold: 1, ..Probe::default() };
    probe.handler_mut().exec_mut().command = vec!["check".into()];
    probe
}

#[tokio::test]
async fn readiness_and_liveness_probes_have_their_effects() {
    let mut both = pod(&["a"], "Always");
    both.spec_mut().containers[0].readiness_probe = Some(exec_probe());
    let harness = Harness::new(both);
    harness.runtime.set_exec_exit_code(1);
    harness.until("unready", |h| h.cluster.status().phase == "Running" && !h.ready()).await;
    harness.runtime.set_exec_exit_code(0);
    harness.until("readiness", Harness::ready).await;
    harness.runtime.set_exec_exit_code(1);
    harness.until("unready", |h| !h.ready()).await;
    assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 0);

    let mut live = pod(&["a"], "Always");
    live.spec_mut().containers[0].liveness_probe = Some(exec_probe());
    let harness = Harness::new(live);
    harness.until("readiness", Harness::ready).await;
    harness.runtime.set_exec_exit_code(1);
    harness.until("a restart", |h| h.cluster.status().container_statuses[0].restart_count == 1).await;
    let events = harness.cluster.events();
    assert!(events.contains(&"Unhealthy: Liveness probe failed: done".to_owned()), "{events:?}");
    assert!(events.contains(&"Killing: Container a failed liveness probe, will be restarted".to_owned()));
}

#[tokio::test]
async fn a_probe_that_hangs_has_failed_and_is_killed_and_one_that_cannot_be_made_says_nothing() {
    let mut live = pod(&["a"], "Always");
    live.spec_mut().containers[0].liveness_probe = Some(exec_probe());
    let harness = Harness::new(live);
    harness.until("readiness", Harness::ready).await;
    harness.runtime.set_exec(Exec::Fails);
    let told = "Unhealthy: Liveness probe errored and resulted in unknown state: the Docker Engine's answer lacks an answer";
    harness.until("the event", |h| h.cluster.events().iter().any(|event| event == told)).await;
    assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 0, "not the container's fault");
    harness.runtime.take_calls();
    harness.runtime.set_exec(Exec::Hangs);
    harness.until("a restart", |h| h.cluster.status().container_statuses[0].restart_count == 1).await;
    harness.until("its end", |h| h.runtime.take_calls().contains(&"kill exec".to_owned())).await;
    let told = "Unhealthy: Liveness probe failed: command \"check\" timed out";
    assert!(harness.cluster.events().iter().any(|event| event == told), "{:?}", harness.cluster.events());
}

#[tokio::test]
async fn an_api_server_that_is_away_stops_no_container_and_hears_it_later() {
    let harness = Harness::new(pod(&["a"], "Always"));
    harness.until("readiness", Harness::ready).await;
    harness.cluster.set_down(true);
    harness.runtime.exit(&harness.runtime.newest("a").unwrap().id, 1);
    harness.until("a restart", |h| h.runtime.newest("a").is_some_and(|c| c.labels.attempt == 1 && c.is_running())).await;
    harness.cluster.set_down(false);
    harness.until("the report", |h| h.cluster.status().container_statuses[0].restart_count == 1 && h.ready()).await;
}

#[tokio::test]
async fn a_network_that_fails_is_tried_again() {
    let harness = Harness::new(pod(&["a"], "Always"));
    harness.network.set_broken(true);
    harness.until("the event", |h| h.cluster.events().iter().any(|event| event.starts_with("FailedCreatePodSandBox"))).await;
    harness.network.set_broken(false);
    harness.until("readiness", Harness::ready).await;
    assert_eq!(harness.cluster.status().container_statuses[0].restart_count, 0);
}

#[tokio::test]
async fn orphans_of_a_pod_that_is_gone_are_removed_without_a_word() {
    let pod = pod(&["a"], "Always");
    let mut harness = Harness::new(pod.clone());
    harness.until("readiness", Harness::ready).await;
    if let Some(task) = harness.task.take() {
        task.abort();
        drop(task.await);
    }
    let (statuses, events) = (harness.cluster.statuses().len(), harness.cluster.events().len());
    harness.mailbox = Mailbox::new(Desired { pod: Arc::new(pod), gone: true });
    harness.launch();
    tokio::time::timeout(Duration::from_secs(5), harness.task.take().unwrap()).await.unwrap().unwrap();
    assert!(harness.runtime.containers().is_empty() && harness.network.attached() == 0);
    assert_eq!((harness.cluster.statuses().len(), harness.cluster.events().len()), (statuses, events));
}

#[tokio::test]
async fn a_network_of_both_families_is_told_to_everyone() {
    let network = FakeNetwork::default();
    network.set_dual();
    let mut told = pod(&["a"], "Always");
    let mut variable = EnvVar { name: "IPS".into(), ..EnvVar::default() };
    variable.value_from_mut().field_ref_mut().field_path = "status.podIPs".into();
    told.spec_mut().containers[0].env.push(variable);
    let uid = told.metadata().uid.clone();
    let harness = Harness::on(network, told);
    harness.until("readiness", Harness::ready).await;
    let shown: Vec<String> = harness.cluster.status().pod_ips.into_iter().map(|ip| ip.ip).collect();
    assert_eq!((shown[0].starts_with("10."), shown[1].starts_with("fd00::")), (true, true));
    let spec = harness.runtime.spec(&harness.runtime.newest("a").unwrap().id).unwrap();
    assert!(spec.env.contains(&format!("IPS={}", shown.join(","))), "{:?}", spec.env);
    let hosts = std::fs::read_to_string(harness.ctx.volumes.pod_dir(&uid).join("etc-hosts")).unwrap();
    assert!(shown.iter().all(|address| hosts.contains(&format!("{address}\tweb"))), "{hosts}");
}
