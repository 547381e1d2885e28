//! The pod network against the real kernel, in network namespaces of its own.

mod support;

use std::{collections::BTreeSet, net::Ipv4Addr};

use kubelet::network::{self, Addresses, Bridge, Peer, PodNetwork};
use support::{Sandbox, in_new_netns, sh};

fn sandbox(pod_uid: &str, attempt: u32, pid: i32) -> network::Sandbox {
    network::Sandbox { pod_uid: pod_uid.to_owned(), attempt, pid, ..network::Sandbox::default() }
}

#[test]
fn pods_reach_each_other_their_host_and_the_world() {
    in_new_netns(|| async {
        let state = tempfile::tempdir().unwrap();
        let bridge = Bridge::open(state.path(), "10.244.0.0/16".parse().unwrap()).unwrap();
        bridge.configure("10.244.7.0/24".parse().unwrap()).await.unwrap();
        bridge.configure("10.244.7.0/24".parse().unwrap()).await.unwrap();

        let (a, b, world) = (Sandbox::new(), Sandbox::new(), Sandbox::new());
        let ip_a = bridge.attach(&sandbox("aaaaaaaa-0000-4000-8000-000000000001", 0, a.pid())).await.unwrap();
        let ip_b = bridge.attach(&sandbox("bbbbbbbb-0000-4000-8000-000000000002", 0, b.pid())).await.unwrap();
        assert_eq!(ip_a, Addresses::from_iter([Ipv4Addr::new(10, 244, 7, 2)]));
        assert_eq!(ip_b, Addresses::from_iter([Ipv4Addr::new(10, 244, 7, 3)]));
        assert!(a.run(&format!("busybox ping -c1 -w5 {ip_b}")), "pod to pod");
        assert!(a.run("busybox ping -c1 -w5 10.244.7.1"), "pod to gateway");
        assert!(a.run(&format!("busybox ping -c1 -w5 {ip_a}")), "pod to itself");
        assert!(a.run("busybox ping -c1 -w5 127.0.0.1"), "loopback is up");
        assert!(sh(&format!("busybox ping -c1 -w5 {ip_a}")), "host to pod");

        // The world knows no route to pods: it answers only because the pods' traffic is masqueraded.
        assert!(sh(&format!(
            "ip link add up0 type veth peer name eth0 netns {} && ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up",
            world.pid()
        )));
        assert!(world.run("ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up"));
        assert!(a.run("busybox ping -c1 -w5 192.0.2.2"), "pod to the world");
        // Another node's pods are in the cluster: not masqueraded, so without a route back there is no answer.
        assert!(world.run("ip addr add 10.244.9.9/24 dev eth0"));
        let (near, far) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(198, 51, 100, 2));
        let peers = [("10.244.9.0/24", near), ("10.244.10.0/24", far)]
            .map(|(pods, address)| Peer { pods: pods.parse().unwrap(), address });
        assert_eq!(bridge.set_peers(&peers).await.unwrap(), 1, "one shares no link with us");
        assert!(!a.run("busybox ping -c1 -w1 10.244.9.9"), "cluster traffic keeps its source");
        assert!(world.run("ip route add 10.244.7.0/24 via 192.0.2.1"));
        assert!(a.run("busybox ping -c1 -w5 10.244.9.9"), "pod to another node's pod");
        assert!(sh("ip addr add 198.51.100.1/24 dev up0"));
        assert_eq!(bridge.set_peers(&peers).await.unwrap(), 0, "now it does");
        assert!(sh("ip route | grep -q '10.244.10.0/24 via 198.51.100.2'"));
        bridge.set_peers(&[]).await.unwrap();
        assert!(sh("! ip route | grep -q -e 10.244.9 -e 10.244.10"), "the route goes with the node");

        assert!(world.run("ip route del 10.244.7.0/24") && sh("nft flush ruleset"));
        assert!(!a.run("busybox ping -c1 -w1 192.0.2.2"), "others can take the rules away");
        bridge.configure("10.244.7.0/24".parse().unwrap()).await.unwrap();
        assert!(a.run("busybox ping -c1 -w5 192.0.2.2"), "and we put them back");

        assert!(sh("bridge -d link show dev fkaaaaaaaa00004 | grep -q 'hairpin on'"));
        assert!(sh("ip link show dev fkaaaaaaaa00004 | grep -q 'alias pod/aaaaaaaa-0000-4000-8000-000000000001'"));
    });
}

#[test]
fn addresses_and_links_are_found_again_and_orphans_are_removed() {
    in_new_netns(|| async {
        let state = tempfile::tempdir().unwrap();
        let cluster = "10.244.0.0/16".parse().unwrap();
        let (a, again) = (Sandbox::new(), Sandbox::new());
        let first = Bridge::open(state.path(), cluster).unwrap();
        first.configure("10.244.7.0/24".parse().unwrap()).await.unwrap();
        let ip = first.attach(&sandbox("aaaa-1", 0, a.pid())).await.unwrap();
        first.attach(&sandbox("bbbb-2", 0, Sandbox::new().pid())).await.unwrap();
        drop(first);

        let second = Bridge::open(state.path(), cluster).unwrap();
        second.configure("10.244.7.0/24".parse().unwrap()).await.unwrap();
        assert_eq!(second.addresses("aaaa-1", 0), ip);
        assert_eq!(second.attach(&sandbox("aaaa-1", 0, a.pid())).await.unwrap(), ip, "half made set-ups are done again");
        second.sweep(&BTreeSet::from(["aaaa-1".to_owned()])).await.unwrap();
        assert!(second.addresses("bbbb-2", 0).is_empty());
        assert!(a.run("busybox ping -c1 -w5 10.244.7.1"));

        let fresh = second.attach(&sandbox("aaaa-1", 1, again.pid())).await.unwrap();
        assert_ne!(fresh, ip, "a new sandbox has a new address");
        assert!(again.run("busybox ping -c1 -w5 10.244.7.1"));
        second.detach("aaaa-1").await.unwrap();
        second.detach("aaaa-1").await.unwrap();
        assert!(second.addresses("aaaa-1", 1).is_empty());
        assert!(sh("! ip link | grep -q fkaaaa"), "nothing is left");

        second.configure("10.244.8.0/24".parse().unwrap()).await.unwrap();
        assert!(sh(
            "ip addr show dev ferrokube0 | grep -q 'inet 10.244.8.1/24' && ! ip addr show dev ferrokube0 | grep -q 10.244.7.1"
        ));
    });
}

#[test]
fn a_pod_that_reuses_an_address_answers_at_once() {
    in_new_netns(|| async {
        let state = tempfile::tempdir().unwrap();
        let bridge = Bridge::open(state.path(), "10.244.0.0/16".parse().unwrap()).unwrap();
        // Room for one pod.
        bridge.configure("10.244.7.0/30".parse().unwrap()).await.unwrap();
        let (first, second) = (Sandbox::new(), Sandbox::new());
        let ip = bridge.attach(&sandbox("aaaa-1", 0, first.pid())).await.unwrap();
        assert!(sh(&format!("busybox ping -c1 -W2 {ip}")) && sh(&format!("ip neigh show {ip} | grep -q lladdr")));
        bridge.detach("aaaa-1").await.unwrap();
        assert_eq!(bridge.attach(&sandbox("bbbb-2", 0, second.pid())).await.unwrap(), ip);
        assert!(sh(&format!("busybox ping -c1 -W1 {ip}")), "{ip} is still looked for where the first pod was");
    });
}
