//! The revision a consistent read must see, fetched once for all reads that ask at about the same time.
//!
//! *Invariant:* the answer comes from a request sent to etcd after the read asked; a request under way is never joined, because it
//! may have been answered before a write that the read must see.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::etcd::{Etcd, EtcdError};
use crate::metrics::Counters;

/// Reads that may wait for a revision at the same time before further ones queue for a place.
const QUEUE: usize = 4_096;

type Answer = oneshot::Sender<Result<i64, Arc<EtcdError>>>;

/// Asks for the current revision. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    questions: mpsc::Sender<Answer>,
    counters: Arc<Counters>,
}

/// Answers the questions of a [`ReadIndex`].
pub(crate) struct ReadIndexer {
    questions: mpsc::Receiver<Answer>,
    etcd: Etcd,
    counters: Arc<Counters>,
}

impl ReadIndex {
    pub(crate) fn new(etcd: Etcd, counters: Arc<Counters>) -> (Self, ReadIndexer) {
        let (sender, questions) = mpsc::channel(QUEUE);
        (Self { questions: sender, counters: counters.clone() }, ReadIndexer { questions, etcd, counters })
    }

    /// A revision at least that of every write acknowledged before the call.
    ///
    /// # Errors
    /// etcd does not answer, or nobody runs the [`ReadIndexer`] any more.
    pub(crate) async fn get(&self) -> Result<i64, EtcdError> {
        self.counters.consistent_reads.add(1);
        let (sender, answer) = oneshot::channel();
        let stopped = || EtcdError::Stopped;
        self.questions.send(sender).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?.map_err(EtcdError::Shared)
    }
}

impl ReadIndexer {
    /// Answers until nobody can ask any more.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.questions.recv_many(&mut waiting, QUEUE).await > 0 {
            self.counters.revision_fetches.add(1);
            let revision = self.etcd.revision().await.map_err(Arc::new);
            for answer in waiting.drain(..) {
                // Whoever has given up waiting needs no answer.
                answer.send(revision.clone()).ok();
            }
        }
    }
}
