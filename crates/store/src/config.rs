//! What the store is told when it is made.

use std::path::PathBuf;
use std::time::Duration;

/// Where etcd is and how the store uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// The client's certificate and the CA of the members'. Without it only `http://` endpoints can be used.
    pub tls: Option<TlsFiles>,
    /// How long a request to etcd may take, attempts with all members together; 2 s at most while etcd is known to
    /// have no quorum. Default 10 s.
    pub request_timeout: Duration,
    /// How long a consistent read waits for the cache to catch up. Default 3 s.
    pub catch_up_timeout: Duration,
    /// At most this many recent events are kept for each kind. Default 16,384.
    pub ring_events: usize,
    /// At most about this many bytes of recent events are kept for each kind. Default 8 MiB.
    pub ring_bytes: usize,
    /// How many revisions before the current one the cache begins with, so that watches survive a restart of the
    /// API server. Default 2,000.
    pub replay: u32,
    /// Every this often the history older than this is compacted away. Default 5 min; zero leaves it to others.
    pub compaction_interval: Duration,
    /// A member's database is defragmented if at least this many of its bytes, and half of it, are free. Default 64 MiB.
    pub defragment_from: u64,
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

impl Config {
    /// The defaults, for these members.
    pub fn new(endpoints: Vec<String>, tls: Option<TlsFiles>) -> Self {
        Self {
            endpoints,
            tls,
            request_timeout: Duration::from_secs(10),
            catch_up_timeout: Duration::from_secs(3),
            ring_events: 16_384,
            ring_bytes: 8 << 20,
            replay: 2_000,
            compaction_interval: Duration::from_secs(300),
            defragment_from: 64 << 20,
        }
    }
}
