//! etcd's upkeep: compaction of history, defragmentation, the alarm for lack of space.
//!
//! Compaction follows upstream's scheme, so that API servers of both kinds may run beside each other: whoever first notes the current
//! revision under `compact_rev_key` compacts up to the revision noted a round earlier. What stops a member for a while is done by
//! one process at a time, one member after another, and only while all others are well, unless etcd is full: that cannot wait for a member
//! that may never come back.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Compare, CompareOp, StatusResponse, TxnOp, TxnOpResponse};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Etcd, EtcdError, Guard, Member, Outcome, Repeat, Txn, revision_of};
use crate::config::Config;
use crate::metrics::Counters;

/// Where upstream's API servers note the revision of a compaction round.
pub(crate) const COMPACT_REV_KEY: &str = "compact_rev_key";
/// Who holds this key may stop members.
const LOCK_KEY: &str = "/ferrokube/etcd-maintenance";
/// When the lock of a process that has died is free again. A round is done long before.
const LOCK_TTL: Duration = Duration::from_secs(600);
const DEFRAGMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a defragmented member may take to be well again before the next one's turn.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Looks after the members this often even where others compact.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// Writes failing for lack of space call for help at most this often.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(20);
const NO_SPACE_JITTER: Duration = Duration::from_secs(3);

/// The upkeep of an etcd cluster.
pub(crate) struct Maintenance {
    etcd: Etcd,
    compaction_interval: Duration,
    defragment_from: u64,
    counters: Arc<Counters>,
}

/// One process's place in the compaction scheme.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Version of the key when this process saw it last.
    version: i64,
    /// The revision to compact up to, if it is this process's turn next.
    revision: i64,
}

// === impl Maintenance ===

impl Maintenance {
    pub(crate) fn new(etcd: Etcd, config: &Config, counters: Arc<Counters>) -> Self {
        let (compaction_interval, defragment_from) = (config.compaction_interval, config.defragment_from);
        Self { etcd, compaction_interval, defragment_from, counters }
    }

    /// Runs until cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.forever()).await;
    }

    async fn forever(self) {
        let compacts = !self.compaction_interval.is_zero();
        let interval = if compacts { self.compaction_interval } else { DEFAULT_INTERVAL };
        let (mut round, mut next) = (Round::default(), Instant::now() + interval);
        loop {
            let full = tokio::select! {
                () = tokio::time::sleep_until(next) => false,
                () = self.etcd.0.no_space.notified() => true,
            };
            if full {
                // Not all API servers at once: the lock cannot be written to a full etcd.
                sleep(rand::random_range(Duration::ZERO..NO_SPACE_JITTER)).await;
            } else {
                next = Instant::now() + interval;
                if compacts {
                    match self.compact(round).await {
                        Ok(done) => round = done,
                        Err(error) => tracing::warn!(%error, "etcd's history cannot be compacted"),
                    }
                }
            }
            if let Err(error) = self.care().await {
                tracing::warn!(%error, "etcd's members cannot be looked after");
            }
            if full {
                sleep(NO_SPACE_PAUSE).await;
            }
        }
    }

    /// One round of compaction; answers what this process knows for the next.
    async fn compact(&self, round: Round) -> Result<Round, EtcdError> {
        let compare = Compare::version(COMPACT_REV_KEY, CompareOp::Equal, round.version);
        let note = TxnOp::put(COMPACT_REV_KEY, round.revision.to_string(), None);
        let txn = etcd_client::Txn::new().when([compare]).and_then([note]).or_else([TxnOp::get(COMPACT_REV_KEY, None)]);
        let request = |m: Arc<Member>| {
            let txn = txn.clone();
            async move { m.kv().txn(txn).await }
        };
        let answer = self.etcd.call(Repeat::Never, request).await?.value;
        let now = revision_of(answer.header())?;
        if !answer.succeeded() {
            let version = match answer.op_responses().first() {
                Some(TxnOpResponse::Get(get)) => get.kvs().first().map_or(0, etcd_client::KeyValue::version),
                _ => 0,
            };
            return Ok(Round { version, revision: now });
        }
        if round.revision > 0 {
            self.compact_to(round.revision).await?;
        }
        Ok(Round { version: round.version + 1, revision: now })
    }

    async fn compact_to(&self, revision: i64) -> Result<(), EtcdError> {
        let request = |m: Arc<Member>| async move { m.kv().compact(revision, None).await };
        match self.etcd.call(Repeat::Idempotent, request).await {
            Ok(_) => self.counters.compactions.add(1),
            Err(EtcdError::Compacted) => {}
            Err(error) => return Err(error),
        }
        tracing::info!(revision, "compacted etcd's history");
        Ok(())
    }

    /// Looks after every member's database, if no other process is doing so. A full etcd is helped with what members there are; what can
    /// wait does so until all of them are well.
    async fn care(&self) -> Result<(), EtcdError> {
        let statuses = self.etcd.statuses().await;
        let alarmed = |what: &str| statuses.iter().flatten().any(|s| s.errors().iter().any(|e| e.contains(what)));
        if alarmed("CORRUPT") {
            tracing::error!("etcd's members hold different data: remove the one that is wrong and join it again, empty");
        }
        let full = alarmed("NOSPACE");
        let worth = |s: &StatusResponse| full || self.is_worth_it(s);
        if !statuses.iter().flatten().any(worth) {
            return Ok(());
        }
        let members = self.etcd.members().iter().zip(&statuses).filter(|(_, status)| status.is_none());
        let silent: Vec<_> = members.map(|(member, _)| member.endpoint.as_str()).collect();
        if !silent.is_empty() {
            let silent_members = silent.join(", ");
            if !full {
                tracing::info!(silent_members, "defragmenting etcd's members waits until all of them answer");
                return Ok(());
            }
            if silent.len() * 2 >= statuses.len() {
                tracing::error!(silent_members, "etcd's database is full, and nothing can be done until most members answer");
                return Ok(());
            }
            tracing::warn!(silent_members, "etcd's database is full: making room on the members that answer");
        }
        let lock = Txn::new().guard(LOCK_KEY, Guard::Absent).put(LOCK_KEY, lock_value(), Some(LOCK_TTL));
        let held = match self.etcd.commit(&lock).await {
            Ok(Outcome::Committed(revision)) => Some(revision),
            Err(EtcdError::NoSpace(_)) => None,
            Ok(Outcome::Refused(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let done = self.care_alone(&statuses, full).await;
        if let Some(revision) = held {
            self.etcd.commit(&Txn::new().guard(LOCK_KEY, Guard::At(revision)).delete(LOCK_KEY)).await?;
        }
        done
    }

    async fn care_alone(&self, statuses: &[Option<StatusResponse>], full: bool) -> Result<(), EtcdError> {
        if full {
            tracing::warn!("etcd's database is full: compacting all history");
            self.compact_to(self.etcd.revision().await?).await?;
        }
        // The leader last: its pause costs an election.
        let leads = |s: &StatusResponse| s.header().is_some_and(|h| h.member_id() == s.leader());
        let mut order: Vec<_> = statuses.iter().enumerate().filter_map(|(i, s)| Some((leads(s.as_ref()?), i))).collect();
        order.sort_unstable();
        for (_, index) in order {
            let member = &self.etcd.members()[index];
            let Some(status) = member.status().await else {
                tracing::warn!(member = %member.endpoint, "an etcd member does not answer any more: the others wait");
                break;
            };
            if full || self.is_worth_it(&status) {
                self.etcd.avoid(index);
                if !self.defragment(member).await || !self.recovered(statuses).await {
                    break;
                }
            }
        }
        if full { self.disarm(statuses).await } else { Ok(()) }
    }

    fn is_worth_it(&self, status: &StatusResponse) -> bool {
        let size = status.db_size();
        let free = size - status.raft_used_db_size();
        // Members before 3.4 do not tell what they use.
        status.raft_used_db_size() > 0 && free >= size / 2 && u64::try_from(free).is_ok_and(|f| f >= self.defragment_from)
    }

    async fn defragment(&self, member: &Member) -> bool {
        tracing::info!(member = %member.endpoint, "defragmenting an etcd member");
        match timeout(DEFRAGMENT_TIMEOUT, member.client.maintenance_client().defragment()).await {
            Ok(Ok(_)) => {
                self.counters.defragmentations.add(1);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(member = %member.endpoint, %error, "the member cannot be defragmented");
                false
            }
            Err(_) => {
                let patience = DEFRAGMENT_TIMEOUT.as_secs();
                tracing::warn!(member = %member.endpoint, patience, "defragmenting the member takes too long: the others wait");
                false
            }
        }
    }

    /// Waits until every member answers that did before, and none of them is far behind.
    async fn recovered(&self, before: &[Option<StatusResponse>]) -> bool {
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        while Instant::now() < deadline {
            let statuses = self.etcd.statuses().await;
            let applied = |s: &StatusResponse| s.raft_applied_index();
            let newest = statuses.iter().flatten().map(applied).max().unwrap_or(0);
            let well = |s: &StatusResponse| s.leader() != 0 && applied(s) + 1_000 >= newest;
            if before.iter().zip(&statuses).all(|(before, now)| before.is_none() || now.as_ref().is_some_and(well)) {
                return true;
            }
            sleep(Duration::from_millis(200)).await;
        }
        tracing::warn!("an etcd member is not well again after it was defragmented: the others wait");
        false
    }

    /// Lets etcd take writes again if room was made.
    async fn disarm(&self, before: &[Option<StatusResponse>]) -> Result<(), EtcdError> {
        let after = self.etcd.statuses().await;
        let both = before.iter().zip(&after).filter_map(|(was, is)| Some((was.as_ref()?.db_size(), is.as_ref()?.db_size())));
        let (was, is) = both.fold((0, 0), |(all_was, all_is), (was, is)| (all_was + was, all_is + is));
        if is > was - was / 10 {
            tracing::error!(bytes = is, "etcd's database stays full: raise its quota or delete objects");
            return Ok(());
        }
        let list =
            |m: Arc<Member>| async move { m.client.maintenance_client().alarm(AlarmAction::Get, AlarmType::None, None).await };
        let alarms = self.etcd.call(Repeat::Idempotent, list).await?.value;
        for alarm in alarms.alarms().iter().filter(|alarm| alarm.alarm() == AlarmType::Nospace) {
            let mut options = AlarmOptions::new();
            options.with_member(alarm.member_id());
            let disarm = |m: Arc<Member>| {
                let options = Some(options.clone());
                async move { m.client.maintenance_client().alarm(AlarmAction::Deactivate, AlarmType::Nospace, options).await }
            };
            self.etcd.call(Repeat::Idempotent, disarm).await?;
        }
        tracing::info!(was, is, "etcd takes writes again");
        Ok(())
    }
}

/// Tells this process's lock from any other's.
fn lock_value() -> String {
    format!("{:016x}", rand::random::<u64>())
}
