//! Containers that attack the host through what the kubelet makes for them, on a real Docker Engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::core::v1::{ConfigMap, Volume, VolumeMount};
use support::{
    host::{Host, IDLE, pod},
    in_new_netns,
};

#[test]
fn a_container_gains_nothing_by_its_volumes() {
    in_new_netns(|| async {
        let mut host = Host::new().await;
        what_the_kubelet_fills_is_read_only(&host).await;
        a_volume_under_attack_is_written_in_and_nothing_else(&host).await;
        a_sub_path_leads_nowhere_else(&host).await;
        host.stop_kubelet().await;
    });
}

fn volume(name: &str) -> Volume {
    Volume { name: name.into(), ..Volume::default() }
}

fn mount(name: &str, path: &str, sub_path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), sub_path: sub_path.into(), ..VolumeMount::default() }
}

fn settings(value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    (map.metadata_mut().name, map.metadata_mut().namespace) = ("settings".into(), "default".into());
    map.data = ["colour", "size"].map(|key| (key.to_owned(), value.to_owned())).into();
    map
}

/// A directory of the host that an attacker would like to write in.
fn victim(host: &Host, name: &str) -> PathBuf {
    let dir = host.engine.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("colour"), "the host's").unwrap();
    dir
}

fn assert_unharmed(victim: &Path) {
    assert_eq!(fs::read_dir(victim).unwrap().count(), 1, "nothing was added");
    assert_eq!(fs::read_to_string(victim.join("colour")).unwrap(), "the host's");
}

async fn what_the_kubelet_fills_is_read_only(host: &Host) {
    host.server.put(settings("v1"));
    let mut pod = pod("filled", &[IDLE]);
    let (mut map, mut downward) = (volume("map"), volume("downward"));
    map.volume_source_mut().config_map_mut().local_object_reference_mut().name = "settings".into();
    downward.volume_source_mut().downward_api_mut();
    pod.spec_mut().volumes = vec![map, downward];
    pod.spec_mut().containers[0].volume_mounts =
        vec![mount("map", "/map", ""), mount("downward", "/downward", ""), mount("map", "/one", "colour")];
    host.server.put(pod);
    host.until("readiness", |host| host.is_ready("filled")).await;
    for write in ["touch /map/new", "busybox rm /map/..data", "touch /downward/new", "echo x >/one"] {
        let told = host.exec("c0", &format!("({write}) 2>&1; true"));
        assert!(told.contains("Read-only file system"), "{write}: {told}");
    }
    assert_eq!(host.exec("c0", "cat /one"), "v1");
}

/// The volume of the pod before, given to a container that may write in it, as kubelets before this one gave it.
async fn a_volume_under_attack_is_written_in_and_nothing_else(host: &Host) {
    let victim = victim(host, "victim");
    let uid = host.pod("filled").metadata().uid.clone();
    let dir = host.engine.path().join("kubelet/pods").join(uid).join("volumes/kubernetes.io~configmap/map");
    // Whatever directory comes or is there becomes a link to the host's, and so do the links that lead to it.
    let attack = "while true; do for d in /v/..20* /v/..data /v/..data_tmp /v/colour; do busybox rm -rf $d; busybox ln -s /victim $d; done; done";
    let attack = attack.replace("/victim", &victim.display().to_string());
    let attacker = host.engine.docker_output(&format!(
        "run -d --network none -v {}:/v {} sh -c '{attack}'",
        dir.display(),
        support::host::IMAGE
    ));
    assert_eq!(attacker.len(), 64, "{attacker}");
    for round in 0..40 {
        host.server.put(settings(&format!("attacked {round}")));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_unharmed(&victim);
    host.engine.docker(&format!("rm -f {attacker}"));
    host.server.put(settings("mended"));
    host.until("the volume to be mended", |host| host.exec("c0", "cat /map/colour") == "mended").await;
    assert_unharmed(&victim);
    host.delete("filled", 0).await;
    assert_unharmed(&victim);
}

async fn a_sub_path_leads_nowhere_else(host: &Host) {
    let victim = victim(host, "other-victim");
    // One that is a link already.
    let planted = host.engine.path().join("planted");
    fs::create_dir(&planted).unwrap();
    std::os::unix::fs::symlink(&victim, planted.join("x")).unwrap();
    let mut refused = pod("refused", &[IDLE]);
    let mut shared = volume("shared");
    shared.volume_source_mut().host_path_mut().path = planted.display().to_string();
    refused.spec_mut().volumes = vec![shared];
    refused.spec_mut().containers[0].volume_mounts = vec![mount("shared", "/mnt", "x/new")];
    host.server.put(refused);
    let waiting = |host: &Host| host.pod("refused").status().container_statuses.first().map(|c| c.state().waiting().clone());
    let told = |host: &Host| waiting(host).is_some_and(|waiting| waiting.reason == "CreateContainerConfigError");
    host.until("the refusal", told).await;
    assert!(waiting(host).unwrap().message.contains("must not lead out of its volume"), "{:?}", waiting(host));
    host.delete("refused", 0).await;

    // One that becomes a link and a directory in turn, while containers start.
    let swap = format!(
        "while true; do busybox rm -rf /v/x; busybox ln -s {} /v/x; busybox rm /v/x; busybox mkdir /v/x; done",
        victim.display()
    );
    let look = "test -e /mnt/colour && echo owned >/mnt/owned; exit 1";
    let mut race = pod("race", &[&swap, look, look, look, look, look]);
    let mut own = volume("own");
    own.volume_source_mut().empty_dir_mut();
    race.spec_mut().volumes = vec![own];
    race.spec_mut().containers[0].volume_mounts = vec![mount("own", "/v", "")];
    for container in &mut race.spec_mut().containers[1..] {
        container.volume_mounts = vec![mount("own", "/mnt", "x")];
    }
    host.server.put(race);
    let ended = |host: &Host| {
        let pod = host.pod("race");
        let looked =
            |status: &&api::core::v1::ContainerStatus| status.restart_count > 0 || status.last_state().terminated.is_some();
        pod.status().container_statuses.iter().filter(looked).count() >= 3
    };
    host.until("some containers to have looked", ended).await;
    assert_unharmed(&victim);
    host.delete("race", 0).await;
    assert_unharmed(&victim);
}
