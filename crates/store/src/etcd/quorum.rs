//! Whether etcd's members agree: asked of them again and again, so that it is known before anybody needs it.
//!
//! A member answers a linearized read only if most members agree with it. Other requests may fail for other reasons, so they do not decide;
//! while there is no quorum their failures are expected and are not worth a line in the log each.

use std::time::Duration;

use etcd_client::GetOptions;
use futures::future::select_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Etcd;

/// Pause between questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a refusal.
const AGAIN: Duration = Duration::from_millis(200);
/// How long an answer may take: longer than the election of another leader does, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether etcd can be read and written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// Nobody has answered yet, and not for long.
    #[default]
    Unknown,
    /// Most members agree.
    Held,
    /// Too few members answer, or none: for people, which.
    Lost(String),
}

/// Asks the members.
pub(crate) struct Watchman(pub(crate) Etcd);

// === impl Watchman ===

impl Watchman {
    /// Runs until cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.forever()).await;
    }

    async fn forever(self) {
        let mut lost = None;
        loop {
            let held = self.is_held().await;
            match (held, lost) {
                (true, None) => self.say(Quorum::Held),
                (true, Some(since)) => {
                    tracing::info!(seconds = Instant::now().duration_since(since).as_secs(), "etcd has a quorum again");
                    self.say(Quorum::Held);
                    lost = None;
                }
                (false, None) => {
                    let why = self.why().await;
                    tracing::error!(why, "etcd has no quorum: nothing can be written, nor read anew");
                    self.say(Quorum::Lost(why));
                    lost = Some(Instant::now());
                }
                (false, Some(_)) => self.say(Quorum::Lost(self.why().await)),
            }
            sleep(INTERVAL).await;
        }
    }

    fn say(&self, quorum: Quorum) {
        self.0.0.quorum.send_if_modified(|known| {
            let news = *known != quorum;
            *known = quorum;
            news
        });
    }

    /// Whether any member answers a linearized read in time.
    async fn is_held(&self) -> bool {
        let answers = self.0.members().iter().map(|member| {
            let mut kv = member.kv();
            Box::pin(async move {
                // Members refuse reads while the leader changes.
                while kv.get("/", Some(GetOptions::new().with_count_only())).await.is_err() {
                    sleep(AGAIN).await;
                }
            })
        });
        timeout(PATIENCE, select_all(answers)).await.is_ok()
    }

    async fn why(&self) -> String {
        let statuses = self.0.statuses().await;
        let silent = self.0.members().iter().zip(&statuses).filter(|(_, status)| status.is_none());
        let silent: Vec<_> = silent.map(|(member, _)| member.endpoint.as_str()).collect();
        match silent.as_slice() {
            [] => "all members answer, but do not agree on a leader".to_owned(),
            silent => format!("{} of {} members do not answer: {}", silent.len(), statuses.len(), silent.join(", ")),
        }
    }
}

// === impl Etcd ===

impl Etcd {
    /// Follows whether etcd can be read and written. Known within ten seconds of the change while the store runs.
    pub fn quorum(&self) -> watch::Receiver<Quorum> {
        self.0.quorum.subscribe()
    }

    /// True if failures are expected, since there is no quorum.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(*self.0.quorum.borrow(), Quorum::Lost(_))
    }
}
