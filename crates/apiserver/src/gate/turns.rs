//! Turns: how many requests are handled at once, and of whom. A turn is for work only; nobody has one while a body arrives or an answer
//! is read.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Class;

/// How long a request waits for its turn when too many are handled already.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of a server.
///
/// People and workloads together have half of them, nodes a third, one user a sixth: a sixth is always left for the scheduler, the
/// controller manager and `system:masters`, and who waits for a turn waits in the queue of its own user first.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    others: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    each: usize,
    users: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// A request's turn, over when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permits: Vec<OwnedSemaphorePermit>,
    _user: Option<Arc<Semaphore>>,
}

// === impl Turns ===

impl Turns {
    /// `turns` altogether.
    pub(super) fn new(turns: usize) -> Self {
        let share = |part: usize| Arc::new(Semaphore::new((turns / part).max(1)));
        Self { all: share(1), others: share(2), nodes: share(3), each: (turns / 6).max(1), users: Mutex::default() }
    }

    /// Waits for a turn, but not for long. Cancel safe.
    pub(super) async fn take(&self, class: Class, user: &Arc<str>) -> Option<Turn> {
        let own = (class != Class::Leader).then(|| self.of_user(user));
        let of_class = match class {
            Class::Anonymous | Class::Other => Some(&self.others),
            Class::Node => Some(&self.nodes),
            Class::Leader => None,
        };
        let queues = own.iter().chain(of_class).chain([&self.all]);
        let taken = async {
            let mut permits = Vec::with_capacity(3);
            for queue in queues {
                permits.push(queue.clone().acquire_owned().await.ok()?);
            }
            Some(permits)
        };
        let permits = tokio::time::timeout(PATIENCE, taken).await.ok()??;
        Some(Turn { _permits: permits, _user: own })
    }

    fn of_user(&self, user: &Arc<str>) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        if let Some(own) = users.get(user).and_then(Weak::upgrade) {
            return own;
        }
        if users.len() == users.capacity() {
            users.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(self.each));
        users.insert(user.clone(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns without end for a user, until there are no more.
    async fn fill(turns: &Turns, class: Class, user: &str) -> Vec<Turn> {
        let (user, mut taken) = (Arc::from(user), Vec::new());
        while let Some(turn) = turns.take(class, &user).await {
            taken.push(turn);
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_floods_a_sixth_is_left_for_the_leaders() {
        let turns = Turns::new(60);
        let mut taken = Vec::new();
        for (user, most) in [("a", 10), ("b", 10), ("c", 10), ("d", 0)] {
            let of_user = fill(&turns, Class::Other, user).await;
            assert_eq!(of_user.len(), most, "{user}");
            taken.push(of_user);
        }
        for (node, most) in [("n1", 10), ("n2", 10), ("n3", 0)] {
            let of_node = fill(&turns, Class::Node, node).await;
            assert_eq!(of_node.len(), most, "{node}");
            taken.push(of_node);
        }
        assert_eq!(fill(&turns, Class::Leader, "system:kube-scheduler").await.len(), 10);
        drop(taken);
        assert_eq!(fill(&turns, Class::Other, "d").await.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn users_that_are_gone_take_no_memory() {
        let turns = Turns::new(60);
        for i in 0..10_000 {
            turns.take(Class::Other, &format!("user-{i}").into()).await.unwrap();
        }
        assert!(turns.users.lock().capacity() < 100);
    }
}
