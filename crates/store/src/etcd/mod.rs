//! etcd: connections with failover, transactions, leases, upkeep.
//!
//! Requests go to one preferred member. An attempt that fails, or has no answer within a second, moves the preference on and
//! is repeated with the next member as far as repeating is harmless. Once every member has had its turn attempts may take longer, so
//! that a slow cluster is not mistaken for a dead member again and again.

mod error;
mod lease;
pub(crate) mod maintenance;
pub(crate) mod quorum;
mod tls;
mod txn;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, GetOptions, KeyValue, KvClient, StatusResponse, WatchClient, WatchOptions, WatchStream,
};
use futures::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;

use self::error::{Failure, classify, is_no_space};
use self::lease::Leases;
use crate::config::Config;
use crate::metrics::Counters;

pub use self::error::EtcdError;
pub use self::quorum::Quorum;
pub use self::txn::{Guard, KeyState, Outcome, Txn, Value};

/// Answers may hold thousands of objects; etcd itself bounds what one revision holds.
const MAX_ANSWER: usize = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an attempt waits for an answer; twice as long after each turn of all members.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
/// etcd ends connections that ping more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(6);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may take while it is known that there is no quorum.
const LOST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a member may take to say how it is.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after all members failed in a row.
const ALL_FAILED_PAUSE: Duration = Duration::from_millis(100);

/// The etcd cluster. Cheap to clone.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    members: Vec<Arc<Member>>,
    preferred: AtomicUsize,
    request_timeout: Duration,
    leases: Leases,
    /// Told when a write fails for lack of space.
    no_space: Notify,
    /// Told when the preference moves on.
    moved: Notify,
    quorum: watch::Sender<Quorum>,
    counters: Arc<Counters>,
}

/// The way to one member.
pub(crate) struct Member {
    /// Its address, as configured.
    pub(crate) endpoint: String,
    /// Everything but keys and watches.
    pub(crate) client: Client,
    kv: KvClient,
    /// Watches, which the member ends when it loses the leader.
    watch: WatchClient,
}

/// One page of a range.
#[derive(Debug)]
pub(crate) struct Page {
    /// The keys and values, in key order.
    pub(crate) items: Vec<KeyValue>,
    /// The cluster's revision when the range was read.
    pub(crate) revision: i64,
    /// Whether keys are left.
    pub(crate) more: bool,
}

/// Whether an attempt with an unknown outcome may be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// As often as need be: the last answer is the one that counts.
    Idempotent,
    /// As often as need be, because it can happen only once. A refusal says nothing of an attempt before it that was not answered.
    Once,
    Never,
}

/// An answer, and whether an attempt before it may have been carried out as well.
struct Answer<T> {
    value: T,
    ambiguous: bool,
}

// === impl Etcd ===

impl Etcd {
    /// Clients for all members. Nothing is contacted yet. To be called inside a Tokio runtime.
    pub(crate) fn new(config: &Config, counters: Arc<Counters>) -> Result<Self, EtcdError> {
        let connector = tls::Connector::new(config.tls.as_ref())?;
        let members: Vec<_> = config
            .endpoints
            .iter()
            .map(|e| Member::new(e, config.tls.is_some(), &connector).map(Arc::new))
            .collect::<Result<_, _>>()?;
        if members.is_empty() {
            return Err(EtcdError::Config { what: "endpoints".into(), source: "there must be at least one".into() });
        }
        let preferred = AtomicUsize::new(rand::random_range(0..members.len()));
        let (request_timeout, leases) = (config.request_timeout, Leases::default());
        Ok(Self(Arc::new(Inner {
            members,
            preferred,
            request_timeout,
            leases,
            no_space: Notify::new(),
            moved: Notify::new(),
            quorum: watch::Sender::default(),
            counters,
        })))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// No member answers.
    pub async fn get(&self, key: &str) -> Result<Option<Value>, EtcdError> {
        Ok(self.get_at(key, 0).await?.0.map(Value::from))
    }

    /// Reads a key as of a revision (0: now), and the cluster's revision.
    pub(crate) async fn get_at(&self, key: &str, revision: i64) -> Result<(Option<KeyValue>, i64), EtcdError> {
        let options = &GetOptions::new().with_revision(revision);
        let mut answer = self.read(|m| async move { m.kv().get(key, Some(options.clone())).await }).await?;
        Ok((answer.take_kvs().pop(), revision_of(answer.header())?))
    }

    /// Reads the keys that begin with `prefix`, in order, all of them as of one revision.
    ///
    /// # Errors
    /// No member answers, or the revision is compacted while pages are read.
    pub async fn get_prefix(&self, prefix: &str) -> Result<(Vec<KeyState>, i64), EtcdError> {
        let (mut states, mut revision, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let page = self.page(prefix, after.as_deref(), 1_000, revision).await?;
            if revision == 0 {
                revision = page.revision;
            }
            for kv in page.items {
                let key = String::from_utf8_lossy(kv.key()).into_owned();
                states.push(KeyState { key, value: Some(Value::from(kv)) });
            }
            match states.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok((states, revision)),
            }
        }
    }

    /// One page of the keys that begin with `prefix` and come after `after`, as of a revision (0: now).
    pub(crate) async fn page(&self, prefix: &str, after: Option<&str>, limit: i64, revision: i64) -> Result<Page, EtcdError> {
        // The smallest key greater than `after` is `after` with a zero byte.
        let start = &after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
        let options = &GetOptions::new().with_range(prefix_end(prefix)).with_limit(limit).with_revision(revision);
        let mut answer = self.read(|m| async move { m.kv().get(start.as_str(), Some(options.clone())).await }).await?;
        Ok(Page { revision: revision_of(answer.header())?, more: answer.more(), items: answer.take_kvs() })
    }

    /// The cluster's current revision: at least that of every write acknowledged before the call.
    pub(crate) async fn revision(&self) -> Result<i64, EtcdError> {
        Ok(self.revision_and_cluster().await?.0)
    }

    /// The current revision, and which cluster it is that says so: a restored one has another number.
    pub(crate) async fn revision_and_cluster(&self) -> Result<(i64, u64), EtcdError> {
        let options = &GetOptions::new().with_count_only();
        let answer = self.read(|m| async move { m.kv().get("/", Some(options.clone())).await }).await?;
        let header = answer.header();
        Ok((revision_of(header)?, header.map_or(0, etcd_client::ResponseHeader::cluster_id)))
    }

    /// Watches every key from a revision on, at the preferred member. Answers which one that is.
    pub(crate) async fn watch_all(&self, start: i64) -> Result<(WatchStream, usize), EtcdError> {
        let options = WatchOptions::new().with_all_keys().with_start_revision(start);
        let index = self.0.preferred.load(Ordering::Relaxed);
        let mut watch = self.0.members[index].watch.clone();
        match timeout(FIRST_ATTEMPT + CONNECT_TIMEOUT, watch.watch("", Some(options))).await {
            Ok(Ok(stream)) => Ok((stream, index)),
            Ok(Err(error)) => {
                self.avoid(index);
                Err(EtcdError::from_last(error, false))
            }
            Err(_) => {
                self.avoid(index);
                Err(EtcdError::TimedOut(FIRST_ATTEMPT + CONNECT_TIMEOUT))
            }
        }
    }

    /// Moves the preference on if it is still with this member.
    pub(crate) fn avoid(&self, index: usize) {
        let next = (index + 1) % self.0.members.len();
        if self.0.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != index {
            self.0.moved.notify_one();
            let (from, to) = (&self.0.members[index].endpoint, &self.0.members[next].endpoint);
            if self.is_lost() {
                tracing::debug!(from, to, "changing the etcd member");
            } else {
                tracing::warn!(from, to, "changing the etcd member");
            }
        }
    }

    /// The address of the member that requests go to at present.
    pub fn preferred_endpoint(&self) -> &str {
        &self.0.members[self.0.preferred.load(Ordering::Relaxed)].endpoint
    }

    /// Waits until requests go to another member than before.
    pub(crate) async fn moved(&self) {
        self.0.moved.notified().await;
    }

    /// Every member's status; nothing for one that does not answer.
    pub(crate) async fn statuses(&self) -> Vec<Option<StatusResponse>> {
        futures::future::join_all(self.members().iter().map(|member| member.status())).await
    }

    /// The ways to all members.
    pub(crate) fn members(&self) -> &[Arc<Member>] {
        &self.0.members
    }

    /// Sends a read to one member after another until one answers.
    async fn read<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        F: Fn(Arc<Member>) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        Ok(self.call(Repeat::Idempotent, request).await.map_err(|error| error.of_read())?.value)
    }

    async fn call<T, F, Fut>(&self, repeat: Repeat, request: F) -> Result<Answer<T>, EtcdError>
    where
        F: Fn(Arc<Member>) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        // Without a quorum nobody need wait long to be told so.
        let most = if self.is_lost() { LOST_TIMEOUT } else { Duration::MAX };
        let deadline = Instant::now() + self.0.request_timeout.min(most);
        let (mut patience, mut ambiguous, mut attempts) = (FIRST_ATTEMPT, false, 0);
        loop {
            let index = self.0.preferred.load(Ordering::Relaxed);
            let left = deadline.saturating_duration_since(Instant::now());
            self.0.counters.etcd_requests.add(1);
            attempts += 1;
            let error = match timeout(patience.min(left), request(self.0.members[index].clone())).await {
                Ok(Ok(value)) => return Ok(Answer { value, ambiguous }),
                Ok(Err(error)) => error,
                Err(_) => etcd_client::Error::GRpcStatus(tonic::Status::deadline_exceeded("no answer in time")),
            };
            let failure = classify(&error);
            if failure == Failure::Final {
                if is_no_space(&error) {
                    self.0.no_space.notify_one();
                }
                let hidden = ambiguous && repeat == Repeat::Once;
                return Err(if hidden { EtcdError::Undetermined(error) } else { EtcdError::from_last(error, ambiguous) });
            }
            ambiguous |= failure == Failure::Unknown;
            self.avoid(index);
            if (ambiguous && repeat == Repeat::Never) || Instant::now() + ALL_FAILED_PAUSE >= deadline {
                return Err(EtcdError::from_last(error, ambiguous));
            }
            tracing::debug!(%error, member = %self.0.members[index].endpoint, "etcd attempt failed");
            self.0.counters.etcd_failovers.add(1);
            if attempts % self.0.members.len() == 0 {
                patience = (patience * 2).min(self.0.request_timeout);
                sleep(ALL_FAILED_PAUSE).await;
            }
        }
    }
}

// === impl Member ===

impl Member {
    fn new(endpoint: &str, tls: bool, connector: &tls::Connector) -> Result<Self, EtcdError> {
        let invalid = |source: Box<dyn std::error::Error + Send + Sync>| EtcdError::Config { what: endpoint.into(), source };
        let address = match (endpoint.split_once("://"), tls) {
            (Some(("https", address)), true) | (Some(("http", address)), false) => address,
            _ => {
                return Err(invalid("https:// with, http:// without certificates".into()));
            }
        };
        // The connector speaks TLS itself, which tonic must not know of.
        let channel = Endpoint::try_from(format!("http://{address}"))
            .map_err(|e| invalid(e.into()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_with_connector_lazy(connector.clone());
        let client = |options| {
            Client::from_channel(etcd_client::Channel::Tonic(channel.clone()), Some(options))
                .now_or_never()
                .ok_or_else(|| invalid("the client needs a login".into()))?
                .map_err(|e| invalid(e.into()))
        };
        let plain = client(ConnectOptions::new())?;
        Ok(Self {
            endpoint: endpoint.into(),
            watch: client(ConnectOptions::new().with_require_leader(true))?.watch_client().max_decoding_message_size(MAX_ANSWER),
            kv: plain.kv_client().max_decoding_message_size(MAX_ANSWER),
            client: plain,
        })
    }

    fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    /// The member's status; nothing if it does not answer.
    pub(crate) async fn status(&self) -> Option<StatusResponse> {
        timeout(STATUS_TIMEOUT, self.client.maintenance_client().status()).await.ok()?.ok()
    }
}

// === impl EtcdError ===

impl EtcdError {
    /// A read that failed has certainly written nothing.
    fn of_read(self) -> Self {
        match self {
            Self::Undetermined(error) => Self::Unavailable(error),
            other => other,
        }
    }
}

/// The end of the range of keys that begin with `prefix`; `prefix` is ASCII by convention.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> Result<i64, EtcdError> {
    Ok(header.ok_or(EtcdError::Protocol("no header"))?.revision())
}
