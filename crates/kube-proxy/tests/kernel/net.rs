//! A node with pods and a client outside, each a network namespace, and servers in them.
//!
//! Pods hold their address as a /32 behind the node's bridge, with hairpin mode on: what the kubelet sets up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube_proxy::model::{Backend, Endpoint, Family, Node, Port, Protocol, Service, ServiceKey};
use kube_proxy::nft::Netlink;
use kube_proxy::sync::{Changes, Syncer};

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const PORT: u16 = 80;
pub const NODE_PORT: u16 = 30_080;
const TIMEOUT: Duration = Duration::from_secs(2);

/// The namespaces of one test; they go when it is dropped, also by a panic.
pub struct World {
    prefix: String,
    pods: u8,
}

impl World {
    pub fn new(pods: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("fkproxy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let world = Self { prefix, pods };
        let (node, client) = (world.name("node"), world.name("client"));
        for name in [&node, &client] {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        ip(&["-n", &node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &client]);
        for (name, address, gateway) in [(&node, NODE, CLIENT), (&client, CLIENT, NODE)] {
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
            ip(&["-n", name, "link", "set", "eth0", "up"]);
            ip(&["-n", name, "route", "add", "default", "via", &gateway.to_string()]);
        }
        ip(&["-n", &node, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &node, "addr", "add", "10.244.1.1/24", "dev", "br0"]);
        ip(&["-n", &node, "link", "set", "br0", "up"]);
        world.run("node", || {
            for name in ["ip_forward", "conf/all/send_redirects", "conf/br0/send_redirects", "conf/eth0/send_redirects"] {
                let value = if name == "ip_forward" { "1" } else { "0" };
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
            }
        });
        for pod in 1..=pods {
            world.add_pod(&node, pod);
        }
        world
    }

    fn add_pod(&self, node: &str, pod: u8) {
        let name = self.name(&pod.to_string());
        let port = format!("pod{pod}");
        ip(&["netns", "add", &name]);
        ip(&["-n", node, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        ip(&["-n", node, "link", "set", &port, "master", "br0", "up"]);
        ip(&["-n", node, "link", "set", &port, "type", "bridge_slave", "hairpin", "on"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        ip(&["-n", &name, "addr", "add", &format!("{}/32", address(pod)), "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        ip(&["-n", &name, "route", "add", "10.244.1.1", "dev", "eth0", "scope", "link"]);
        ip(&["-n", &name, "route", "add", "default", "via", "10.244.1.1"]);
    }

    pub fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// Runs a function in the namespace of `node`, `client` or a pod's number.
    pub fn run<T: Send>(&self, part: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(part))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A syncer for the node's table.
    pub fn proxy(&self) -> Syncer<Netlink> {
        let node = Node {
            family: Family::V4,
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            zone: None,
            api_servers: BTreeSet::new(),
        };
        Syncer::new(node, self.run("node", || Netlink::open(Family::V4).unwrap()))
    }

    /// Every pod answers on TCP and UDP 8080 with its number and the address it sees; TCP then echoes lines.
    pub fn serve(&self) {
        for pod in 1..=self.pods {
            let at = SocketAddr::from((address(pod), 8080));
            let listener = self.run(&pod.to_string(), || TcpListener::bind(at).unwrap());
            let socket = self.run(&pod.to_string(), || UdpSocket::bind(at).unwrap());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    std::thread::spawn(move || answer(pod, stream));
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let reply = format!("{pod} {}", peer.ip());
                    if socket.send_to(reply.as_bytes(), peer).is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Connects and returns the answering pod and the address it saw, or the error.
    pub fn ask(&self, from: &str, to: Ipv4Addr, port: u16) -> Result<(u8, IpAddr), std::io::ErrorKind> {
        self.run(from, || Session::open(to, port).map(|session| (session.pod, session.seen)))
    }

    /// The pods that answer `count` connections, in order.
    pub fn pods(&self, from: &str, to: Ipv4Addr, port: u16, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.ask(from, to, port).unwrap().0).collect()
    }

    /// A connection that stays open.
    pub fn open(&self, from: &str, to: Ipv4Addr, port: u16) -> Session {
        self.run(from, || Session::open(to, port).unwrap())
    }

    /// What `nft` shows of the table.
    pub fn listing(&self) -> String {
        self.nft("list table ip ferrokube")
    }

    /// Runs `nft` on the node: tests look at the table, and damage it, with somebody else's tool.
    pub fn nft(&self, command: &str) -> String {
        let name = self.name("node");
        let out = Command::new("ip").args(["netns", "exec", &name, "nft", command]).output().unwrap();
        assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pods = (1..=self.pods).map(|pod| pod.to_string());
        for part in ["node".to_owned(), "client".to_owned()].into_iter().chain(pods) {
            // What is gone already need not go again.
            let removed = Command::new("ip").args(["netns", "del", &self.name(&part)]).output();
            if let Err(error) = removed {
                eprintln!("remove {}: {error}", self.name(&part));
            }
        }
    }
}

/// An open connection to a pod.
pub struct Session {
    pub pod: u8,
    pub seen: IpAddr,
    stream: BufReader<TcpStream>,
}

impl Session {
    fn open(to: Ipv4Addr, port: u16) -> Result<Self, std::io::ErrorKind> {
        let stream = TcpStream::connect_timeout(&(to, port).into(), TIMEOUT).map_err(|e| e.kind())?;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).map_err(|e| e.kind())?;
        let (pod, seen) = line.trim().split_once(' ').unwrap();
        Ok(Self { pod: pod.parse().unwrap(), seen: seen.parse().unwrap(), stream })
    }

    /// Whether the other end still echoes.
    pub fn is_alive(&mut self) -> bool {
        let mut back = [0; 5];
        self.stream.get_mut().write_all(b"ping\n").is_ok() && self.stream.read_exact(&mut back).is_ok() && back == *b"ping\n"
    }
}

fn answer(pod: u8, stream: TcpStream) {
    let peer = stream.peer_addr().unwrap().ip();
    let mut writer = stream.try_clone().unwrap();
    if writeln!(writer, "{pod} {peer}").is_err() {
        return;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        if writeln!(writer, "{line}").is_err() {
            return;
        }
    }
}

pub fn address(pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 10 + pod)
}

pub fn endpoint(pod: u8) -> Endpoint {
    let backend = Backend { address: address(pod).into(), port: 8080 };
    Endpoint { backend, ready: true, serving: true, terminating: false, local: true, zones: vec![] }
}

/// A Service on [`SERVICE`] and [`NODE_PORT`] over these pods, on TCP and UDP.
pub fn web(pods: &[u8]) -> Service {
    let port = |protocol| Port {
        protocol,
        port: PORT,
        node_port: Some(NODE_PORT),
        endpoints: pods.iter().map(|pod| endpoint(*pod)).collect(),
    };
    Service { cluster_ips: vec![SERVICE.into()], ports: vec![port(Protocol::Tcp), port(Protocol::Udp)], ..Service::default() }
}

pub fn change(service: Option<Service>) -> Changes {
    Changes::from([(ServiceKey::new("default", "web"), service)])
}

/// How often each pod is in the list.
pub fn counts(pods: &[u8]) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        *counts.entry(*pod).or_default() += 1;
    }
    counts
}

fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}
