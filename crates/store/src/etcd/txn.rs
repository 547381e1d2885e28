//! Transactions: guards over keys, and the writes that happen together if all guards hold.
//!
//! An attempt without an answer may have been carried out, or may still be. If the transaction invalidates one of its own guards by
//! what it writes, repeating it is harmless, and what is then found under the key tells whether the first attempt did it. What cannot be
//! told apart: a new key that was written, not acknowledged, and deleted by somebody else before the repetition a second later, which
//! then writes it again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, TxnOp, TxnOpResponse};

use super::{Etcd, EtcdError, Member, Repeat, revision_of};
use crate::layout::{Encoding, KindLayout};

/// What must hold of a key for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no such key.
    Absent,
    /// The key exists.
    Exists,
    /// The key was last written at this revision.
    At(i64),
}

/// A key and the value found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The key.
    pub key: String,
    /// Its value and the revision it was written at; nothing if there is no such key.
    pub value: Option<Value>,
}

/// A value as etcd holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes, with the envelope if it is an object.
    pub bytes: Bytes,
    /// The revision it was written at.
    pub revision: i64,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, at this revision.
    Committed(i64),
    /// A guard did not hold; nothing was written. These are the guarded keys, in the order of the guards.
    Refused(Vec<KeyState>),
}

/// A transaction: writes that happen together, if all guards hold, or not at all. etcd takes at most 128 writes.
///
/// For an unanswered transaction to be resolved by reading back, every put that matters should carry a guard on its
/// key and a value nobody else would write (objects do: they hold a UID).
#[derive(Clone, Debug, Default)]
pub struct Txn {
    guards: Vec<(String, Guard)>,
    ops: Vec<Op>,
}

/// One write of a transaction.
#[derive(Clone, Debug)]
enum Op {
    Put { key: String, value: Bytes, ttl: Option<Duration> },
    Delete { key: String },
}

/// How many versions of a key are looked through for the outcome of a transaction.
const MAX_STEPS_BACK: usize = 16;

// === impl Txn ===

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands something of a key.
    pub fn guard(mut self, key: impl Into<String>, guard: Guard) -> Self {
        self.guards.push((key.into(), guard));
        self
    }

    /// Writes plain bytes. With a `ttl` (whole seconds, up to a minute late) the key vanishes by itself.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>, ttl: Option<Duration>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), ttl });
        self
    }

    /// Writes an encoded object in its envelope, without its resource version, for as long as its kind says.
    ///
    /// # Errors
    /// The object is no protobuf message, or not the one of a kind that is stored as JSON.
    pub fn put_object(
        self,
        layout: &KindLayout,
        namespace: &str,
        name: &str,
        object: &[u8],
    ) -> Result<Self, crate::entry::EntryError> {
        let object = crate::wire::normalized(object)?;
        let value = match layout.encoding {
            Encoding::Protobuf => crate::envelope::encode(&layout.api_version, &layout.kind, &object),
            Encoding::Json => api::unstructured::to_stored(&layout.api_version, &layout.kind, &object)
                .map_err(|_| crate::entry::EntryError::NoJson)?,
        };
        Ok(self.put(layout.key(namespace, name), value, layout.ttl))
    }

    /// Deletes a key, if it exists.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// The first key it writes, and what upstream calls such a write.
    pub(crate) fn purpose(&self) -> Option<(&str, &'static str)> {
        let op = self.ops.first()?;
        let is_new = || self.guards.iter().any(|(key, guard)| key == op.key() && *guard == Guard::Absent);
        let operation = match op {
            Op::Put { .. } if is_new() => "create",
            Op::Put { .. } => "update",
            Op::Delete { .. } => "delete",
        };
        Some((op.key(), operation))
    }

    /// Whether carrying it out makes one of its own guards fail, so that it can happen only once.
    fn happens_once(&self) -> bool {
        self.guards.iter().any(|(key, guard)| match guard {
            Guard::At(_) => self.ops.iter().any(|op| op.key() == key),
            Guard::Absent => self.ops.iter().any(|op| op.key() == key && matches!(op, Op::Put { .. })),
            Guard::Exists => self.ops.iter().any(|op| op.key() == key && matches!(op, Op::Delete { .. })),
        })
    }

    fn request(&self, lease: impl Fn(&Duration) -> i64) -> etcd_client::Txn {
        let compares: Vec<_> = self.guards.iter().map(|(key, guard)| guard.compare(key)).collect();
        let ops: Vec<_> = self.ops.iter().map(|op| op.request(&lease)).collect();
        let reads: Vec<_> = self.guards.iter().map(|(key, _)| TxnOp::get(key.as_str(), None)).collect();
        etcd_client::Txn::new().when(compares).and_then(ops).or_else(reads)
    }

    /// The revision at which this transaction was carried out, if what is now found says that it was.
    fn found_in(&self, states: &[KeyState], now: i64) -> Option<i64> {
        let mut revision = None;
        for (KeyState { key, value: found }, (_, guard)) in states.iter().zip(&self.guards) {
            match (self.ops.iter().find(|op| op.key() == key), found, guard) {
                (Some(Op::Put { value, .. }), Some(found), _) if found.bytes == *value => {
                    let newer = !matches!(guard, Guard::At(at) if *at >= found.revision);
                    if !newer || revision.is_some_and(|r| r != found.revision) {
                        return None;
                    }
                    revision = Some(found.revision);
                }
                (Some(Op::Put { .. }), _, _) => return None,
                (Some(Op::Delete { .. }), Some(_), _) => return None,
                (Some(Op::Delete { .. }), None, _) | (None, ..) => {}
            }
        }
        // Deletions alone leave no trace of their revision.
        Some(revision.unwrap_or(now))
    }
}

impl Op {
    fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }

    fn request(&self, lease: impl Fn(&Duration) -> i64) -> TxnOp {
        match self {
            Op::Put { key, value, ttl } => {
                let options = ttl.as_ref().map(|ttl| PutOptions::new().with_lease(lease(ttl)));
                TxnOp::put(key.as_str(), value.as_ref(), options)
            }
            Op::Delete { key } => TxnOp::delete(key.as_str(), None),
        }
    }
}

impl Guard {
    fn compare(self, key: &str) -> Compare {
        match self {
            Guard::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
            Guard::Exists => Compare::create_revision(key, CompareOp::NotEqual, 0),
            Guard::At(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
        }
    }
}

impl From<KeyValue> for Value {
    fn from(kv: KeyValue) -> Self {
        let revision = kv.mod_revision();
        Self { bytes: kv.into_key_value().1.into(), revision }
    }
}

// === impl Etcd ===

impl Etcd {
    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`EtcdError::Undetermined`] if it may or may not have happened, even after reading back; otherwise nothing was written.
    pub async fn commit(&self, txn: &Txn) -> Result<Outcome, EtcdError> {
        match self.try_commit(txn).await {
            // The lease ran out between being given and being used; nothing was written.
            Err(EtcdError::NoLease) => self.try_commit(txn).await,
            other => other,
        }
    }

    async fn try_commit(&self, txn: &Txn) -> Result<Outcome, EtcdError> {
        let mut leases = Vec::new();
        for op in &txn.ops {
            if let Op::Put { ttl: Some(ttl), .. } = op
                && !leases.iter().any(|(known, _)| known == ttl)
            {
                leases.push((*ttl, self.lease(*ttl).await?));
            }
        }
        let lease = |ttl: &Duration| leases.iter().find(|(known, _)| known == ttl).map_or(0, |(_, id)| *id);
        let repeat = if txn.happens_once() { Repeat::Once } else { Repeat::Never };
        let send = |m: Arc<Member>| async move { m.kv().txn(txn.request(lease)).await };
        let answer = match self.call(repeat, send).await {
            Ok(answer) => answer,
            Err(EtcdError::NoLease) => {
                for (_, id) in &leases {
                    self.forget_lease(*id).await;
                }
                return Err(EtcdError::NoLease);
            }
            Err(error) => return Err(error),
        };
        let revision = revision_of(answer.value.header())?;
        if answer.value.succeeded() {
            return Ok(Outcome::Committed(revision));
        }
        let states = guarded(txn, answer.value.op_responses())?;
        if !answer.ambiguous {
            return Ok(Outcome::Refused(states));
        }
        self.0.counters.etcd_read_backs.add(1);
        match txn.found_in(&states, revision) {
            Some(revision) => Ok(Outcome::Committed(revision)),
            None => self.settle(txn, states).await,
        }
    }

    /// Decides whether an earlier attempt was carried out although others have written since: looks at the version of a
    /// guarded key that directly followed the guarded one.
    async fn settle(&self, txn: &Txn, states: Vec<KeyState>) -> Result<Outcome, EtcdError> {
        let unknown = || {
            let status = tonic::Status::aborted("the keys have been written again since");
            EtcdError::Undetermined(etcd_client::Error::GRpcStatus(status))
        };
        let guarded_put = txn.guards.iter().zip(&states).find_map(|((key, guard), state)| {
            let value = txn.ops.iter().find_map(|op| match op {
                Op::Put { key: k, value, .. } if k == key => Some(value),
                _ => None,
            })?;
            Some((key, *guard, value, state.value.as_ref()?.revision))
        });
        let Some((key, guard, ours, mut revision)) = guarded_put else {
            return Err(unknown());
        };
        for _ in 0..MAX_STEPS_BACK {
            let Ok((Some(version), _)) = self.get_at(key, revision).await else {
                return Err(unknown());
            };
            let Ok((before, _)) = self.get_at(key, version.mod_revision() - 1).await else {
                return Err(unknown());
            };
            let follows = match (guard, &before) {
                (Guard::At(at), Some(before)) => before.mod_revision() == at,
                (Guard::Absent, None) => true,
                _ => false,
            };
            match before {
                _ if follows && version.value() == ours => {
                    // Others may have written the same there, such as the figures of a quota: all of the transaction must be.
                    let committed = version.mod_revision();
                    return match self.is_whole(txn, committed).await {
                        Ok(true) => Ok(Outcome::Committed(committed)),
                        Ok(false) => Ok(Outcome::Refused(states)),
                        Err(_) => Err(unknown()),
                    };
                }
                _ if follows => return Ok(Outcome::Refused(states)),
                Some(before) => revision = before.mod_revision(),
                None => return Err(unknown()),
            }
        }
        Err(unknown())
    }

    /// Whether everything that a transaction writes was written at this revision.
    async fn is_whole(&self, txn: &Txn, revision: i64) -> Result<bool, EtcdError> {
        for op in &txn.ops {
            let Op::Put { key, value, .. } = op else { continue };
            let (found, _) = self.get_at(key, revision).await?;
            if !found.is_some_and(|found| found.mod_revision() == revision && found.value() == value) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What was found under the guarded keys.
fn guarded(txn: &Txn, answers: Vec<TxnOpResponse>) -> Result<Vec<KeyState>, EtcdError> {
    let states: Vec<_> = txn
        .guards
        .iter()
        .zip(answers)
        .filter_map(|((key, _), answer)| match answer {
            TxnOpResponse::Get(mut get) => Some(KeyState { key: key.clone(), value: get.take_kvs().pop().map(Value::from) }),
            _ => None,
        })
        .collect();
    if states.len() == txn.guards.len() { Ok(states) } else { Err(EtcdError::Protocol("a guarded key is missing")) }
}
