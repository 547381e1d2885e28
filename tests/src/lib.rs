//! What the end-to-end suites and the benchmarks share, over the [`cluster`] on this machine: namespaces and pods of their own, load, hosts with a
//! systemd each.

pub mod bench;
pub mod hosts;
pub mod kube;
pub mod load;
#[cfg(test)]
mod tidy;

pub use cluster::{
    Cluster, Daemon, Host, Role, Size, UpOptions, access, cgroup, command, daemons, etcd, fault, http, images, net, pki, process,
    progress, topology, wait,
};
