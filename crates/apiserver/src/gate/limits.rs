//! How much of what each may hold: calls, streams and bytes of bodies, by kind of caller, user and address. Pure but for the lock.
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
    /// One user; the kind is that of its first call.
    User(Arc<str>, Class),
    /// All people and workloads at one address.
    Address(IpAddr),
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
    /// The accounts that a caller's calls are charged to.
    pub(super) fn of(class: Class, user: &Arc<str>, address: IpAddr) -> Vec<Self> {
        match class {
            Class::Anonymous => vec![Self::Class(class), Self::AnonymousAddress(address)],
            Class::Other => vec![Self::Class(class), Self::User(user.clone(), class), Self::Address(address)],
            // A node's address is that of all its pods that come from the host's network.
            Class::Node | Class::Leader => vec![Self::Class(class), Self::User(user.clone(), class)],
        }
    }

    /// The most that an account may hold.
    fn most(&self, streams_per_user: usize) -> Amount {
        let (calls, streams, mib) = match self {
            Self::Class(Class::Anonymous) => (256, 256, 4),
            Self::AnonymousAddress(_) => (32, 16, 1),
            Self::Class(Class::Other) => (2_048, 20 * streams_per_user, 96),
            Self::Class(Class::Node) => (2_048, 100 * streams_per_user, 48),
            Self::Class(Class::Leader) => (4_096, 20 * streams_per_user, 96),
            Self::Address(_) => (512, 2 * streams_per_user, 48),
            Self::User(_, Class::Leader) => (2_048, 2 * streams_per_user, 64),
            // A kubelet opens a watch for each ConfigMap and Secret that its pods name.
            Self::User(_, Class::Node) => (1_024, 2 * streams_per_user, 24),
            Self::User(..) => (256, streams_per_user, 24),
        };
        Amount { calls, streams, bytes: mib * MIB }
    }
}

// === impl Ledger ===

impl Ledger {
    fn new(streams_per_user: usize) -> Self {
        Self { held: HashMap::new(), streams_per_user }
    }

    /// Charges all accounts, or none: then answers the first that has no room.
    fn charge(&mut self, accounts: &[Account], more: Amount) -> Result<(), Account> {
        let full = accounts.iter().find(|account| {
            let after = self.held.get(account).copied().unwrap_or_default() + more;
            !after.fits(account.most(self.streams_per_user))
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
            Self::Address(address) | Self::AnonymousAddress(address) => write!(f, "the clients at {address} together"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const CALL: Amount = Amount { calls: 1, streams: 0, bytes: 0 };

    fn of(class: Class, user: &str) -> Vec<Account> {
        Account::of(class, &user.into(), ADDRESS)
    }

    fn fill(ledgers: &Ledgers, class: Class, user: &str, amount: Amount) -> (Vec<Charge>, Account) {
        let mut charges = Vec::new();
        loop {
            match ledgers.charge(of(class, user), amount) {
                Ok(charge) => charges.push(charge),
                Err(full) => return (charges, full),
            }
        }
    }

    #[test]
    fn a_user_that_has_taken_all_it_may_leaves_the_others_theirs() {
        let ledgers = Ledgers::new(10);
        let (ann, full) = fill(&ledgers, Class::Other, "ann", CALL);
        assert_eq!((ann.len(), full.to_string().as_str()), (256, "user \"ann\""));
        let (bob, full) = fill(&ledgers, Class::Other, "bob", CALL);
        assert_eq!((bob.len(), full.to_string().as_str()), (256, "user \"bob\""));
        let (carl, full) = fill(&ledgers, Class::Other, "carl", CALL);
        assert_eq!((carl.len(), full.to_string().as_str()), (0, "the clients at 127.0.0.1 together"));
        let (anonymous, _) = fill(&ledgers, Class::Anonymous, "", CALL);
        assert_eq!(anonymous.len(), 32);
        for (class, user) in [(Class::Node, "system:node:a"), (Class::Leader, "system:kube-scheduler")] {
            assert!(ledgers.charge(of(class, user), CALL).is_ok(), "{class:?}");
        }
    }

    #[test]
    fn what_was_held_is_given_back() {
        let ledgers = Ledgers::new(10);
        let (charges, _) = fill(&ledgers, Class::Other, "ann", CALL);
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
        let (streams, full) = fill(&ledgers, Class::Other, "ann", Amount { streams: 1, ..Amount::default() });
        assert_eq!((streams.len(), full.to_string().as_str()), (10, "user \"ann\""));
        assert!(ledgers.charge(of(Class::Other, "ann"), CALL).is_ok());
    }
}
