//! The cluster on one machine: hosts, daemons, faults. Used by the program `cluster` (`scripts/up`, `scripts/down`) and the end-to-end suites.
//!
//! Each host is a network namespace on one bridge, with its own address, and on a node its own Docker Engine, kubelet and kube-proxy.
//! The machine's own namespace stands outside the cluster's nodes: there `kctl` runs, and from there node ports are reached.
//!
//! Everything that is made here can be found again without memory of having made it: processes by their cgroup, links and
//! namespaces by their names, mounts and files by their directory. *Invariant:* [`Cluster::down`] needs none of the state that
//! [`Cluster::up`] keeps, so it works after any crash.

pub mod access;
pub mod cgroup;
pub mod command;
pub mod daemons;
mod down;
pub mod etcd;
pub mod fault;
pub mod http;
pub mod images;
pub mod net;
pub mod pki;
pub mod process;
pub mod progress;
pub mod topology;
mod up;
pub mod wait;

pub use self::{
    topology::{Cluster, Daemon, Host, Role, Size},
    up::UpOptions,
};
