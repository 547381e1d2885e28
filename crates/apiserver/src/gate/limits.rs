//! How much of what each may hold: calls, streams and bytes of bodies, by kind of caller and user. Pure but for the lock.
//!
//! Whoever has shown who it is counts as that, wherever it comes from: the pods of a node share its address. Only who has not is counted
//! by address. Pods that share a service account, as agents on every node do, each have what a user may have, and the account has more.
//! Where all of a kind together hold what they may, there is still room for those who hold next to nothing: many who flood together
//! keep out each other, not the rest.
//!
//! *Invariant:* what is charged is charged to every account of the caller at once or to none, and is given back when its [`Charge`] is
//! dropped. An account that holds nothing takes no memory.

use std::{collections::HashMap, net::IpAddr, ops, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What kind of caller it is; each has a share of its own, so that no kind can take another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Without credentials.
    Anonymous,
    /// People and workloads.
    Other,
    /// Kubelets and kube-proxies.
    Node,
    /// The scheduler, the controller manager and `system:masters`: what the cluster cannot go on without.
    Leader,
}

/// Amounts of what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// Calls whose answer has not ended, streams aside.
    pub(super) calls: usize,
    /// Watches, logs and the like that have not ended.
    pub(super) streams: usize,
    /// Bytes of bodies that are arriving or being handled.
    pub(super) bytes: usize,
}

/// Who counts as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// All callers of a kind.
    Class(Class),
    /// One user, or one pod of a service account; the kind is that of its first call.
    User(Arc<str>, Class),
    /// All pods of a service account, and who else has a token of it.
    Tokens(Arc<str>),
    /// All without credentials at one address.
    AnonymousAddress(IpAddr),
}

/// What is held, by account.
#[derive(Debug)]
pub(super) struct Ledger {
    held: HashMap<Account, Amount>,
    /// Most streams of one user.
    streams_per_user: usize,
}

/// The ledger of a server. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Ledgers {
    ledger: Arc<Mutex<Ledger>>,
    /// Told when a stream or a large body has ended.
    freed: Arc<Notify>,
}

/// What one call holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    ledgers: Ledgers,
    accounts: Vec<Account>,
    amount: Amount,
}

const MIB: usize = 1 << 20;
/// A body of so many bytes leaves memory behind that the allocator keeps.
const LARGE: usize = 64 << 10;

impl Account {
    /// The most that an account may hold.
    fn most(&self, streams_per_user: usize) -> Amount {
        let (calls, streams, mib) = match self {
            Self::Class(Class::Anonymous) => (256, 256, 4),
            Self::AnonymousAddress(_) => (32, 16, 1),
            Self::Class(Class::Other) => (2_048, 20 * streams_per_user, 96),
            Self::Class(Class::Node) => (2_048, 100 * streams_per_user, 48),
            Self::Class(Class::Leader) => (4_096, 20 * streams_per_user, 96),
            Self::Tokens(_) => (1_024, 10 * streams_per_user, 48),
            Self::User(_, Class::Leader) => (2_048, 2 * streams_per_user, 64),
            // A kubelet opens a watch for each ConfigMap and Secret that its pods name.
            Self::User(_, Class::Node) => (1_024, 2 * streams_per_user, 24),
            Self::User(..) => (256, streams_per_user, 24),
        };
        Amount { calls, streams, bytes: mib * MIB }
    }

    /// What an account holds may come to even where its kind has no room left, as long as the kind does not exceed its own by half.
    fn assured(&self) -> Amount {
        match self {
            Self::AnonymousAddress(_) => Amount { calls: 4, streams: 2, bytes: 64 << 10 },
            _ => Amount { calls: 8, streams: 16, bytes: MIB },
        }
    }
}

// === impl Ledger ===

impl Ledger {
    fn new(streams_per_user: usize) -> Self {
        Self { held: HashMap::new(), streams_per_user }
    }

    /// Charges all accounts, or none: then answers the last that has no room. The last of all is the caller's own.
    fn charge(&mut self, accounts: &[Account], more: Amount) -> Result<(), Account> {
        let after = |account: &Account| self.held.get(account).copied().unwrap_or_default() + more;
        let holds_little = accounts.last().is_some_and(|own| after(own).fits(own.assured()));
        let full = accounts.iter().rev().find(|account| {
            let most = account.most(self.streams_per_user);
            let is_kind = matches!(account, Account::Class(_));
            !after(account).fits(if is_kind && holds_little { most.and_half() } else { most })
        });
        if let Some(full) = full {
            return Err(full.clone());
        }
        for account in accounts {
            let held = self.held.entry(account.clone()).or_default();
            *held = *held + more;
        }
        Ok(())
    }

    fn give_back(&mut self, accounts: &[Account], amount: Amount) {
        for account in accounts {
            if let Some(held) = self.held.get_mut(account) {
                *held = *held - amount;
                if *held == Amount::default() {
                    self.held.remove(account);
                }
            }
        }
    }
}

// === impl Ledgers ===

impl Ledgers {
    pub(super) fn new(streams_per_user: usize) -> Self {
        Self { ledger: Arc::new(Mutex::new(Ledger::new(streams_per_user))), freed: Arc::default() }
    }

    /// Charges a call to its caller.
    ///
    /// # Errors
    /// The account that has no room for it.
    pub(super) fn charge(&self, accounts: Vec<Account>, amount: Amount) -> Result<Charge, Account> {
        self.ledger.lock().charge(&accounts, amount)?;
        Ok(Charge { ledgers: self.clone(), accounts, amount })
    }

    /// Waits until something has ended that took much memory; what ended since the last time counts. Cancel safe.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn give_back(&self, accounts: &[Account], amount: Amount) {
        self.ledger.lock().give_back(accounts, amount);
        if amount.streams > 0 || amount.bytes > LARGE {
            self.freed.notify_one();
        }
    }
}

// === impl Charge ===

impl Charge {
    /// Charges more bytes.
    ///
    /// # Errors
    /// The account that has no room for them.
    pub(super) fn add_bytes(&mut self, bytes: usize) -> Result<(), Account> {
        let more = Amount { bytes, ..Amount::default() };
        self.ledgers.ledger.lock().charge(&self.accounts, more)?;
        self.amount = self.amount + more;
        Ok(())
    }

    /// Gives back the bytes: the body is gone.
    pub(super) fn without_bytes(mut self) -> Self {
        let bytes = Amount { bytes: self.amount.bytes, ..Amount::default() };
        self.ledgers.give_back(&self.accounts, bytes);
        self.amount.bytes = 0;
        self
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledgers.give_back(&self.accounts, self.amount);
    }
}

// === impl Amount ===

impl Amount {
    fn fits(self, most: Self) -> bool {
        self.calls <= most.calls && self.streams <= most.streams && self.bytes <= most.bytes
    }

    fn and_half(self) -> Self {
        Self { calls: self.calls * 3 / 2, streams: self.streams * 3 / 2, bytes: self.bytes / 2 * 3 }
    }
}

impl ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            streams: self.streams + other.streams,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl ops::Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(other.calls),
            streams: self.streams.saturating_sub(other.streams),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl std::fmt::Display for Account {
    /// Whose the account is, as a refusal says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Class(Class::Anonymous) => f.write_str("all clients without credentials together"),
            Self::Class(Class::Other) => f.write_str("all users together"),
            Self::Class(Class::Node) => f.write_str("all nodes together"),
            Self::Class(Class::Leader) => f.write_str("all administrators and controllers together"),
            Self::User(name, _) => write!(f, "user {name:?}"),
            Self::Tokens(name) => write!(f, "all with a token of {name:?} together"),
            Self::AnonymousAddress(address) => write!(f, "the clients without credentials at {address} together"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Amount = Amount { calls: 1, streams: 0, bytes: 0 };

    fn of(class: Class, user: &str) -> Vec<Account> {
        let own = match class {
            Class::Anonymous => Account::AnonymousAddress(user.parse().unwrap()),
            _ => Account::User(user.into(), class),
        };
        vec![Account::Class(class), own]
    }

    fn fill(ledgers: &Ledgers, accounts: &[Account], amount: Amount) -> (Vec<Charge>, Account) {
        let mut charges = Vec::new();
        loop {
            match ledgers.charge(accounts.to_vec(), amount) {
                Ok(charge) => charges.push(charge),
                Err(full) => return (charges, full),
            }
        }
    }

    #[test]
    fn a_user_that_has_taken_all_it_may_leaves_the_others_theirs() {
        let ledgers = Ledgers::new(10);
        let mut held = Vec::new();
        for i in 0..8 {
            let user = format!("user-{i}");
            let (calls, full) = fill(&ledgers, &of(Class::Other, &user), CALL);
            assert_eq!((calls.len(), full.to_string()), (256, format!("user {user:?}")));
            held.push(calls);
        }
        // All that users may hold together is held; who holds next to nothing gets in.
        let (calls, full) = fill(&ledgers, &of(Class::Other, "ann"), CALL);
        assert_eq!((calls.len(), full.to_string().as_str()), (8, "all users together"));
        let (calls, _) = fill(&ledgers, &of(Class::Other, "bob"), CALL);
        assert_eq!(calls.len(), 8);
        for i in 0..8 {
            let (calls, _) = fill(&ledgers, &of(Class::Anonymous, &format!("10.0.0.{i}")), CALL);
            assert_eq!(calls.len(), 32);
            held.push(calls);
        }
        assert_eq!(fill(&ledgers, &of(Class::Anonymous, "10.0.1.1"), CALL).0.len(), 4);
        for (class, user) in [(Class::Node, "system:node:a"), (Class::Leader, "system:kube-scheduler")] {
            assert!(ledgers.charge(of(class, user), CALL).is_ok(), "{class:?}");
        }
    }

    #[test]
    fn pods_of_one_account_have_a_share_each_and_more_together() {
        let ledgers = Ledgers::new(10);
        let stream = Amount { streams: 1, ..Amount::default() };
        let account = Account::Tokens("agent".into());
        let pod = |i: usize| {
            vec![Account::Class(Class::Other), account.clone(), Account::User(format!("pod {i}").into(), Class::Other)]
        };
        let mut held = Vec::new();
        for i in 0..10 {
            let (streams, full) = fill(&ledgers, &pod(i), stream);
            assert_eq!((streams.len(), full), (10, pod(i)[2].clone()));
            held.push(streams);
        }
        let (streams, full) = fill(&ledgers, &pod(10), stream);
        assert_eq!((streams.len(), full.to_string().as_str()), (0, "all with a token of \"agent\" together"));
        assert!(ledgers.charge(of(Class::Other, "ann"), stream).is_ok());
    }

    #[test]
    fn what_was_held_is_given_back() {
        let ledgers = Ledgers::new(10);
        let (charges, _) = fill(&ledgers, &of(Class::Other, "ann"), CALL);
        drop(charges);
        let mut charge = ledgers.charge(of(Class::Other, "ann"), Amount { streams: 1, ..CALL }).unwrap();
        charge.add_bytes(24 << 20).unwrap();
        assert_eq!(charge.add_bytes(1).unwrap_err().to_string(), "user \"ann\"");
        let charge = charge.without_bytes();
        let held = |account: &Account| ledgers.ledger.lock().held.get(account).copied();
        assert_eq!(held(&Account::Class(Class::Other)), Some(Amount { streams: 1, ..CALL }));
        drop(charge);
        assert!(ledgers.ledger.lock().held.is_empty(), "{ledgers:?}");
    }

    #[test]
    fn streams_have_a_limit_of_their_own() {
        let ledgers = Ledgers::new(10);
        let (streams, full) = fill(&ledgers, &of(Class::Other, "ann"), Amount { streams: 1, ..Amount::default() });
        assert_eq!((streams.len(), full.to_string().as_str()), (10, "user \"ann\""));
        assert!(ledgers.charge(of(Class::Other, "ann"), CALL).is_ok());
    }
}
