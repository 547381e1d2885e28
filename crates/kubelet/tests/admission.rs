//! Which pods the whole kubelet takes, against a real Docker Engine and the real kernel, with an API server in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

mod support;

use api::{
    core::v1::{Node, Pod, Taint},
    quantity::Quantity,
};
use support::{
    host::{Host, IDLE, pod},
    in_new_netns,
};

/// A pod that asks for so many thousandths of a core.
fn asking(name: &str, milli: i64) -> Pod {
    let mut pod = pod(name, &[IDLE]);
    pod.spec_mut().containers[0].resources_mut().requests.insert("cpu".into(), Quantity::from_milli(milli).into());
    pod
}

fn reason(host: &Host, name: &str) -> String {
    host.pod(name).status().reason.clone()
}

#[test]
fn a_node_takes_what_fits_and_keeps_what_it_has_taken() {
    in_new_netns(|| async {
        let mut host = Host::new().await;
        let cores = Quantity::parse(&host.server.find::<Node>("", "n1").unwrap().status().allocatable["cpu"].string).unwrap();
        let all = cores.milli_value();

        // Two that do not fit together come at once: one of them runs.
        host.server.put(asking("first", all));
        host.server.put(asking("second", all));
        let settled = |name: &'static str| move |host: &Host| host.is_ready(name) || host.pod(name).status().phase == "Failed";
        host.until("the first", settled("first")).await;
        host.until("the second", settled("second")).await;
        let (ran, refused) = if host.is_ready("first") { ("first", "second") } else { ("second", "first") };
        assert!(host.is_ready(ran) && !host.is_ready(refused));
        assert_eq!(reason(&host, refused), "OutOfcpu");
        let message = host.pod(refused).status().message.clone();
        let expected =
            format!("Pod was rejected: Node didn't have enough resource: cpu, requested: {all}, used: {all}, capacity: {all}");
        assert_eq!(message, expected);
        assert!(host.pod(refused).status().container_statuses.is_empty());

        // A node that would not take the pod now keeps it, over a restart of the kubelet too.
        host.stop_kubelet().await;
        let mut node = host.server.find::<Node>("", "n1").unwrap();
        node.spec_mut().taints.push(Taint { key: "closed".into(), effect: "NoExecute".into(), ..Taint::default() });
        host.server.put(node);
        let before = host.pod(ran).status().clone();
        host.start_kubelet().await;
        host.server.put(pod("late", &[IDLE]));
        host.until("the refusal", |host| reason(host, "late") == "TaintToleration").await;
        assert_eq!(*host.pod(ran).status(), before);

        // What has gone makes room.
        let mut node = host.server.find::<Node>("", "n1").unwrap();
        node.spec_mut().taints.clear();
        host.server.put(node);
        host.delete(ran, 0).await;
        host.server.put(asking("third", all));
        host.until("the third", |host| host.is_ready("third")).await;
        host.delete("third", 0).await;
        host.stop_kubelet().await;
    });
}
