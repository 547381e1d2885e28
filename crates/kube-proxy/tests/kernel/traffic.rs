//! What connections through a Service meet.

use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use crate::net::{CLIENT, NODE, NODE_PORT, PORT, SERVICE, World, address, change, counts, endpoint, web};

#[test]
fn twelve_requests_reach_six_pods_evenly_and_in_turn() {
    let world = World::new(7);
    world.serve();
    world.proxy().sync(change(Some(web(&[1, 2, 3, 4, 5, 6])))).unwrap();
    for from in ["7", "node", "client"] {
        let pods = world.pods(from, SERVICE, PORT, 12);
        assert!(counts(&pods).values().all(|count| *count == 2) && counts(&pods).len() == 6, "from {from}: {pods:?}");
        assert_eq!(pods[..6], pods[6..], "from {from}");
    }
}

#[test]
fn a_node_port_answers_clients_outside_pods_and_the_node_itself() {
    let world = World::new(3);
    world.serve();
    world.proxy().sync(change(Some(web(&[1, 2])))).unwrap();
    for from in ["client", "3", "node"] {
        assert_eq!(counts(&world.pods(from, NODE, NODE_PORT, 4)).len(), 2, "from {from}");
    }
    let (_, seen) = world.ask("client", NODE, NODE_PORT).unwrap();
    assert_ne!(seen, CLIENT, "masqueraded, so that the answer comes back through this node");
}

#[test]
fn the_local_policy_keeps_the_clients_address() {
    let world = World::new(2);
    world.serve();
    let mut service = web(&[1]);
    service.external_local = true;
    world.proxy().sync(change(Some(service))).unwrap();
    assert_eq!(world.ask("client", NODE, NODE_PORT).unwrap(), (1, CLIENT.into()));
    assert_eq!(world.ask("2", NODE, NODE_PORT).unwrap(), (1, address(2).into()));
    assert_eq!(world.ask("node", NODE, NODE_PORT).unwrap().0, 1);
}

#[test]
fn pods_keep_their_address_and_strangers_are_masqueraded() {
    let world = World::new(2);
    world.serve();
    world.proxy().sync(change(Some(web(&[1])))).unwrap();
    assert_eq!(world.ask("2", SERVICE, PORT).unwrap().1, address(2));
    assert_ne!(world.ask("client", SERVICE, PORT).unwrap().1, CLIENT);
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new(1);
    world.serve();
    world.proxy().sync(change(Some(web(&[1])))).unwrap();
    let (pod, seen) = world.ask("1", SERVICE, PORT).unwrap();
    assert_eq!(pod, 1);
    assert_ne!(seen, address(1), "a pod would not answer to an address that is its own");
}

#[test]
fn external_and_load_balancer_addresses_answer_within_their_source_ranges() {
    let world = World::new(1);
    world.serve();
    let (external, balancer) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let mut service = web(&[1]);
    service.external_ips = vec![external.into()];
    service.load_balancer_ips = vec![balancer.into()];
    let mut proxy = world.proxy();
    proxy.sync(change(Some(service.clone()))).unwrap();
    assert_eq!(world.ask("client", external, PORT).unwrap().0, 1);
    assert_eq!(world.ask("client", balancer, PORT).unwrap().0, 1);
    service.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    proxy.sync(change(Some(service.clone()))).unwrap();
    assert_eq!(world.ask("client", external, PORT).unwrap().0, 1);
    assert_eq!(world.ask("client", balancer, PORT).unwrap_err(), ErrorKind::TimedOut);
    service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    proxy.sync(change(Some(service))).unwrap();
    assert_eq!(world.ask("client", balancer, PORT).unwrap().0, 1);
}

#[test]
fn what_nothing_serves_is_refused_at_once() {
    let world = World::new(1);
    world.serve();
    let mut proxy = world.proxy();
    proxy.sync(change(Some(web(&[])))).unwrap();
    for from in ["1", "client", "node"] {
        for (to, port) in [(SERVICE, PORT), (NODE, NODE_PORT), (SERVICE, 81)] {
            let begun = Instant::now();
            assert_eq!(world.ask(from, to, port).unwrap_err(), ErrorKind::ConnectionRefused, "{from} to {to}:{port}");
            assert!(begun.elapsed() < Duration::from_millis(500), "{from} to {to}:{port}");
        }
        let refused = world.run(from, || {
            let socket = udp();
            socket.connect((SERVICE, PORT)).unwrap();
            socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8])).unwrap_err().kind()
        });
        // The host's own packet is refused before it is sent, which the kernel reports as such.
        let expected = if from == "node" { ErrorKind::PermissionDenied } else { ErrorKind::ConnectionRefused };
        assert_eq!(refused, expected, "{from}");
    }
    proxy.sync(change(Some(web(&[1])))).unwrap();
    assert_eq!(world.ask("client", SERVICE, PORT).unwrap().0, 1);
    assert_eq!(world.ask("client", SERVICE, 81).unwrap_err(), ErrorKind::ConnectionRefused, "still no such port");
}

#[test]
fn a_local_policy_without_local_endpoints_stays_silent() {
    let world = World::new(1);
    let mut service = web(&[1]);
    service.internal_local = true;
    for port in &mut service.ports {
        port.endpoints[0].local = false;
    }
    world.proxy().sync(change(Some(service))).unwrap();
    assert_eq!(world.ask("1", SERVICE, PORT).unwrap_err(), ErrorKind::TimedOut);
}

#[test]
fn a_client_keeps_its_pod_until_its_time_is_up() {
    let world = World::new(5);
    world.serve();
    let mut service = web(&[1, 2, 3]);
    service.affinity = Some(Duration::from_secs(2));
    world.proxy().sync(change(Some(service))).unwrap();
    let mine = world.pods("4", SERVICE, PORT, 6);
    assert_eq!(counts(&mine).len(), 1, "{mine:?}");
    assert_eq!(counts(&world.pods("5", SERVICE, PORT, 4)).len(), 1);
    // Every connection begins its time anew: three times most of it is more than all of it.
    for _ in 0..3 {
        let last = Instant::now();
        world.pods("4", SERVICE, PORT, 1);
        std::thread::sleep(Duration::from_millis(1_200));
        let pod = world.pods("4", SERVICE, PORT, 1)[0];
        // A machine too busy to connect in time proves nothing.
        assert!(pod == mine[0] || last.elapsed() > Duration::from_secs(2), "after {:?}", last.elapsed());
    }
    let mine = world.pods("4", SERVICE, PORT, 1);
    std::thread::sleep(Duration::from_millis(2_500));
    let next = world.pods("4", SERVICE, PORT, 1)[0];
    assert_ne!(next, mine[0], "forgotten, and the turn has moved on");
}

#[test]
fn a_client_whose_pod_is_gone_is_given_another_and_keeps_that() {
    let world = World::new(4);
    world.serve();
    let service = |pods: &[u8]| {
        let mut service = web(pods);
        service.affinity = Some(Duration::from_secs(10_800));
        change(Some(service))
    };
    let mut proxy = world.proxy();
    proxy.sync(service(&[1, 2, 3])).unwrap();
    let first = world.pods("4", SERVICE, PORT, 2)[0];
    let left: Vec<u8> = [1, 2, 3].into_iter().filter(|pod| *pod != first).collect();
    proxy.sync(service(&left)).unwrap();
    let then = world.pods("4", SERVICE, PORT, 5);
    assert!(counts(&then).len() == 1 && left.contains(&then[0]), "{first} then {then:?}");
    proxy.sync(service(&[1, 2, 3])).unwrap();
    assert_eq!(counts(&world.pods("4", SERVICE, PORT, 3)).into_keys().collect::<Vec<_>>(), [then[0]]);
}

#[test]
fn removing_an_endpoint_leaves_connections_to_the_others_alone() {
    let world = World::new(4);
    world.serve();
    let mut proxy = world.proxy();
    proxy.sync(change(Some(web(&[1, 2, 3])))).unwrap();
    let mut sessions: Vec<_> = (0..3).map(|_| world.open("4", SERVICE, PORT)).collect();
    proxy.sync(change(Some(web(&[1, 2])))).unwrap();
    assert!(sessions.iter_mut().all(|session| session.is_alive()), "even to the one that left: it is still there");
    assert!(!world.pods("4", SERVICE, PORT, 6).contains(&3));
    proxy.sync(change(None)).unwrap();
    assert!(sessions.iter_mut().all(|session| session.is_alive()));
}

#[test]
fn terminating_pods_serve_while_no_other_is_ready() {
    let world = World::new(2);
    world.serve();
    let mut proxy = world.proxy();
    let with = |ready: bool| {
        let mut service = web(&[]);
        let leaving = kube_proxy::model::Endpoint { ready: false, terminating: true, ..endpoint(1) };
        let coming = kube_proxy::model::Endpoint { ready, serving: ready, ..endpoint(2) };
        service.ports[0].endpoints = vec![leaving, coming];
        change(Some(service))
    };
    proxy.sync(with(false)).unwrap();
    assert_eq!(world.pods("client", SERVICE, PORT, 2), [1, 1]);
    proxy.sync(with(true)).unwrap();
    assert_eq!(world.pods("client", SERVICE, PORT, 2), [2, 2]);
}

#[test]
fn a_udp_flow_moves_on_when_its_pod_leaves() {
    let world = World::new(3);
    world.serve();
    let mut proxy = world.proxy();
    proxy.sync(change(Some(web(&[1, 2])))).unwrap();
    for (from, to, port) in [("3", SERVICE, PORT), ("client", NODE, NODE_PORT), ("node", SERVICE, PORT)] {
        let (first, next) = world.run(from, || {
            let socket = udp();
            socket.connect((to, port)).unwrap();
            let first = ask_udp(&socket);
            assert_eq!(ask_udp(&socket), first, "one flow, one pod");
            let left = if first == 1 { 2 } else { 1 };
            assert!(proxy.sync(change(Some(web(&[left])))).unwrap().flows_ended >= 1);
            (first, ask_udp(&socket))
        });
        assert_ne!(first, next, "from {from}");
        proxy.sync(change(Some(web(&[1, 2])))).unwrap();
    }
}

#[test]
fn a_udp_flow_that_began_before_its_service_finds_it() {
    let world = World::new(2);
    world.serve();
    let (external, balancer) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let mut service = web(&[1]);
    service.external_ips = vec![external.into()];
    service.load_balancer_ips = vec![balancer.into()];
    for from in ["2", "client", "node"] {
        for (to, port) in [(SERVICE, PORT), (external, PORT), (balancer, PORT), (NODE, NODE_PORT)] {
            let mut proxy = world.proxy();
            proxy.sync(change(None)).unwrap();
            world.run(from, || {
                // The socket is bound, so that all it sends is one flow.
                let socket = udp();
                for _ in 0..2 {
                    // Unreachable or silent: nobody answers.
                    drop(socket.send_to(b"x", (to, port)));
                    assert!(socket.recv(&mut [0; 8]).is_err(), "{from} to {to}:{port}");
                }
                proxy.sync(change(Some(service.clone()))).unwrap();
                socket.connect((to, port)).unwrap();
                assert_eq!(ask_udp(&socket), 1, "{from} to {to}:{port}");
            });
        }
    }
}

#[test]
fn traffic_spreads_over_all_pods_while_one_of_them_comes_and_goes() {
    let world = World::new(4);
    world.serve();
    let mut proxy = world.proxy();
    let mut pods = Vec::new();
    for round in 0..60 {
        let ready: &[u8] = if round % 2 == 0 { &[1, 2, 3] } else { &[1, 2] };
        proxy.sync(change(Some(web(ready)))).unwrap();
        pods.extend(world.pods("4", SERVICE, PORT, 1));
    }
    // 25, 25 and 10 are expected; the bounds are some five standard deviations away.
    let counts = counts(&pods);
    let count = |pod| counts.get(&pod).copied().unwrap_or_default();
    assert!(count(1) > 5 && count(2) > 5 && count(3) > 0 && count(1) < 45 && count(2) < 45, "{counts:?}");
}

#[test]
fn an_external_address_never_takes_what_is_this_hosts_own() {
    let world = World::new(1);
    world.serve();
    // Someone listens on the host itself.
    let own = world.run("node", || TcpListener::bind((NODE, PORT)).unwrap());
    std::thread::spawn(move || {
        for stream in own.incoming() {
            writeln!(stream.unwrap(), "0 {NODE}").unwrap();
        }
    });
    let mut proxy = world.proxy();
    for pods in [&[1][..], &[]] {
        let mut service = web(pods);
        service.external_ips = vec![NODE.into()];
        proxy.sync(change(Some(service))).unwrap();
        for from in ["client", "1", "node"] {
            assert_eq!(world.ask(from, NODE, PORT).unwrap().0, 0, "{from}");
        }
    }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn ask_udp(socket: &UdpSocket) -> u8 {
    let mut buffer = [0; 64];
    for _ in 0..4 {
        socket.send(b"x").unwrap();
        if let Ok(len) = socket.recv(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..len]).unwrap();
            return text.split(' ').next().unwrap().parse().unwrap();
        }
    }
    panic!("no answer over UDP")
}
