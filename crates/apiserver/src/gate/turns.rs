//! Turns: how many requests are handled at once, and of whom. A turn is for work only; nobody has one while a body arrives or an answer
//! is read.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use api::StatusError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{caller::Caller, limits::Class};

/// How long a request waits for its turn when too many are handled already.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of a server.
///
/// People and workloads together have half of them, nodes a third, one user or pod a sixth, all pods of one service account a third: a
/// sixth is always left for the scheduler, the controller manager and `system:masters`, and who waits for a turn waits in the queue of
/// its own user first.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    others: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    each: usize,
    /// Of all pods of a service account.
    account: usize,
    users: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// A request's turn, over when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: Vec<OwnedSemaphorePermit>,
    _users: Vec<Arc<Semaphore>>,
}

/// Where a request waits for its turn: the turns of its server, and whom it counts for.
#[derive(Debug)]
pub(crate) struct Queue {
    turns: Arc<Turns>,
    caller: Caller,
}

// === impl Queue ===

impl Queue {
    /// The queue of a caller.
    pub(super) fn new(turns: &Arc<Turns>, caller: &Caller) -> Self {
        Self { turns: turns.clone(), caller: caller.clone() }
    }

    /// Waits for a turn, but not for long. Cancel safe.
    ///
    /// # Errors
    /// `TooManyRequests` when it takes too long.
    pub(crate) async fn turn(&self) -> Result<Turn, StatusError> {
        self.turns.take(&self.caller).await.ok_or_else(|| {
            StatusError::too_many_requests("the server has too many requests to handle; please try again later", 1)
        })
    }
}

// === impl Turns ===

impl Turns {
    /// `turns` altogether.
    pub(super) fn new(turns: usize) -> Self {
        let share = |part: usize| Arc::new(Semaphore::new((turns / part).max(1)));
        Self {
            all: share(1),
            others: share(2),
            nodes: share(3),
            each: (turns / 6).max(1),
            account: (turns / 3).max(1),
            users: Mutex::default(),
        }
    }

    /// Waits for a turn, but not for long. Cancel safe.
    pub(super) async fn take(&self, caller: &Caller) -> Option<Turn> {
        let mut own = Vec::new();
        if caller.class != Class::Leader {
            own.push(self.of(&caller.user, self.each));
            let account = caller.service_account.as_ref().filter(|account| **account != caller.user);
            own.extend(account.map(|account| self.of(account, self.account)));
        }
        let of_class = match caller.class {
            Class::Anonymous | Class::Other => Some(&self.others),
            Class::Node => Some(&self.nodes),
            Class::Leader => None,
        };
        let queues = own.iter().chain(of_class).chain([&self.all]);
        let taken = async {
            let mut permits = Vec::with_capacity(4);
            for queue in queues {
                permits.push(queue.clone().acquire_owned().await.ok()?);
            }
            Some(permits)
        };
        let permits = tokio::time::timeout(PATIENCE, taken).await.ok()??;
        Some(Turn { _permits: permits, _users: own })
    }

    fn of(&self, user: &Arc<str>, turns: usize) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        if let Some(own) = users.get(user).and_then(Weak::upgrade) {
            return own;
        }
        if users.len() == users.capacity() {
            users.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(turns));
        users.insert(user.clone(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::User;

    fn caller(name: &str, group: &str, pod: Option<&str>) -> Caller {
        let extra = pod.map(|uid| (crate::auth::POD_UID.to_owned(), vec![uid.to_owned()])).into_iter().collect();
        let user = User { name: name.to_owned(), groups: vec![group.to_owned()], extra, ..User::default() };
        Caller::new(&user, std::net::Ipv4Addr::LOCALHOST.into())
    }

    /// Turns without end for a user, until there are no more.
    async fn fill(turns: &Turns, caller: Caller) -> Vec<Turn> {
        let mut taken = Vec::new();
        while let Some(turn) = turns.take(&caller).await {
            taken.push(turn);
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_floods_a_sixth_is_left_for_the_leaders() {
        let turns = Turns::new(60);
        let mut taken = Vec::new();
        for (user, most) in [("a", 10), ("b", 10), ("c", 10), ("d", 0)] {
            let of_user = fill(&turns, caller(user, "", None)).await;
            assert_eq!(of_user.len(), most, "{user}");
            taken.push(of_user);
        }
        for (node, most) in [("n1", 10), ("n2", 10), ("n3", 0)] {
            let of_node = fill(&turns, caller(&format!("system:node:{node}"), "system:nodes", None)).await;
            assert_eq!(of_node.len(), most, "{node}");
            taken.push(of_node);
        }
        assert_eq!(fill(&turns, caller("system:kube-scheduler", "", None)).await.len(), 10);
        drop(taken);
        assert_eq!(fill(&turns, caller("d", "", None)).await.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_one_account_have_a_third_together() {
        let turns = Turns::new(60);
        let mut taken = Vec::new();
        for (pod, most) in [("1", 10), ("2", 10), ("3", 0)] {
            let of_pod = fill(&turns, caller("system:serviceaccount:a:b", "", Some(pod))).await;
            assert_eq!(of_pod.len(), most, "{pod}");
            taken.push(of_pod);
        }
        assert_eq!(fill(&turns, caller("ann", "", None)).await.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn users_that_are_gone_take_no_memory() {
        let turns = Turns::new(60);
        for i in 0..10_000 {
            turns.take(&caller(&format!("user-{i}"), "", None)).await.unwrap();
        }
        assert!(turns.users.lock().capacity() < 100);
    }
}
