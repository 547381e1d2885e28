//! etcd: connections with failover, transactions, leases, upkeep.

mod error;
mod txn;

use std::path::PathBuf;

pub use self::error::EtcdError;
pub use self::txn::{Guard, KeyState, Outcome, Txn, Value};

/// Where etcd is and how the store uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// The client's certificate and the CA of the members'. Without it only `http://` endpoints can be used.
    pub tls: Option<TlsFiles>,
}

/// PEM files, read again when they change.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificates of the CAs that may have issued the members' certificates.
    pub ca: PathBuf,
    /// Our certificate, with its chain.
    pub cert: PathBuf,
    /// Our private key.
    pub key: PathBuf,
}

/// The etcd cluster.
#[derive(Clone)]
pub struct Etcd;
