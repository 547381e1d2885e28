//! Leader election: of several processes, the one that holds a `coordination/v1` Lease works.
//!
//! A candidate takes the lease when nobody holds it, or when it has not seen it renewed for the lease's duration by its own clock; clocks of
//! other machines are never compared. What keeps a leader that lost the lease from writing is the [`crate::fence`].

use std::{sync::Arc, time::Duration};

use api::{
    coordination::v1::{Lease, LeaseSpec},
    meta::v1::MicroTime,
    names::SYSTEM_NAMESPACE,
};
use daemon::{Kit, Shutdown, TaskFailure, Tasks};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::{
    Client,
    error::Error,
    fence::{Fence, Guard},
    metrics,
};

/// How one process takes part in an election.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; no two processes, nor two lives of one, have the same.
    pub identity: String,
    /// How long a lease lasts that nobody renews: the longest time without a leader after one died.
    pub lease_duration: Duration,
    /// How long a leader goes on trying to renew before it stops; shorter than the lease lasts.
    pub renew_deadline: Duration,
    /// Time between attempts.
    pub retry_period: Duration,
    /// Reports 1 while we lead, else 0; see [`Self::reported`].
    pub leads: Gauge,
}

/// The lease is ours, until [`Leadership::lead`] says otherwise.
#[derive(Debug)]
pub struct Leadership {
    election: LeaderElection,
    client: Client,
    fence: Arc<Fence>,
    lease: Mutex<Lease>,
    /// When the last request that took or renewed the lease was sent.
    renewed: Instant,
}

/// Why there is no leadership.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The identity has characters that no header can carry.
    #[error("identity \"{identity}\" has characters other than printable ASCII")]
    Identity {
        /// The identity.
        identity: String,
    },
    /// Somebody else has taken the lease, or it could not be renewed in time.
    #[error("lost the lease {lease}")]
    Lost {
        /// The lease, as `namespace/name`.
        lease: String,
        /// The last attempt's error; nothing if somebody else holds the lease.
        #[source]
        source: Option<Error>,
    },
    /// The shutdown began first.
    #[error("shut down before the lease was acquired")]
    Shutdown,
    /// A task of the leader ended before it should.
    #[error(transparent)]
    Task(TaskFailure),
}

/// What was seen of the lease, and when by our clock.
struct Observed {
    spec: LeaseSpec,
    at: Instant,
}

// === impl LeaderElection ===

impl LeaderElection {
    /// With upstream's times, in `kube-system`, as `<host name>_<random>`.
    pub fn new(name: &str) -> Self {
        // From the kernel: a service manager may hide the files that say it too.
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            name: name.to_owned(),
            identity: format!("{}_{}", host.to_string_lossy(), uuid::Uuid::new_v4()),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            leads: Gauge::default(),
        }
    }

    /// Reports who leads, under upstream's name `leader_election_master_status`; once a process.
    #[must_use]
    pub fn reported(mut self, metrics: &daemon::Metrics) -> Self {
        self.leads = metrics::leadership(metrics, &self.name);
        self
    }

    /// Waits until the lease is ours.
    ///
    /// # Errors
    /// When the shutdown begins first, or the identity cannot be used.
    pub async fn acquire(self, client: &Client, shutdown: &Shutdown) -> Result<Leadership, LeaderError> {
        let mut observed: Option<Observed> = None;
        tracing::info!(lease = self.lease(), identity = self.identity, "waiting for the lease");
        loop {
            let begun = Instant::now();
            match self.attempt(client, &mut observed).await {
                Ok(Some(lease)) => return self.lead(client, lease, begun),
                Ok(None) => {}
                Err(error) if error.is_conflict() || error.is_already_exists() => {
                    tracing::debug!(%error, "another candidate was faster");
                }
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot reach the lease"),
            }
            // Not later than it may run out.
            let pause = self.retry_period.mul_f64(rand::random_range(1.0..1.2));
            let runs_out = observed.as_ref().map(Observed::runs_out).filter(|at| *at > Instant::now());
            let pause = runs_out.map_or(pause, |at| pause.min(at - Instant::now()));
            tokio::select! {
                () = shutdown.started() => return Err(LeaderError::Shutdown),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn lead(self, client: &Client, lease: Lease, begun: Instant) -> Result<Leadership, LeaderError> {
        let guard = Guard {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            holder: self.identity.clone(),
            transitions: lease.spec().lease_transitions.unwrap_or_default(),
        };
        let fence = Fence::new(&guard, begun + self.renew_deadline);
        let fence = Arc::new(fence.ok_or_else(|| LeaderError::Identity { identity: self.identity.clone() })?);
        tracing::info!(lease = self.lease(), identity = self.identity, "leading");
        Ok(Leadership { election: self, client: client.clone(), fence, lease: Mutex::new(lease), renewed: begun })
    }

    /// Takes the lease if it is free.
    async fn attempt(&self, client: &Client, observed: &mut Option<Observed>) -> Result<Option<Lease>, Error> {
        let leases = client.namespaced::<Lease>(&self.namespace);
        let Some(mut lease) = leases.get_opt(&self.name).await? else {
            let mut lease = Lease::default();
            lease.metadata_mut().name.clone_from(&self.name);
            lease.metadata_mut().namespace.clone_from(&self.namespace);
            let now = MicroTime::now();
            lease.spec = Some(LeaseSpec { acquire_time: Some(now), lease_transitions: Some(0), ..self.renewal(now) });
            return leases.create(&lease).await.map(Some);
        };
        let spec = lease.spec();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if observed.as_ref().is_none_or(|observed| observed.spec != *spec) {
            *observed = Some(Observed { spec: spec.clone(), at: Instant::now() });
        }
        let lasts = observed.as_ref().is_some_and(|observed| observed.runs_out() > Instant::now());
        if !holder.is_empty() && holder != self.identity && lasts {
            return Ok(None);
        }
        if !holder.is_empty() {
            tracing::warn!(lease = self.lease(), holder, "the leader has not renewed its lease: taking it over");
        }
        let (now, transitions) = (MicroTime::now(), spec.lease_transitions.unwrap_or_default());
        // Every change of holder counts, also back to the same one, so that writes of an earlier term never pass.
        lease.spec = Some(LeaseSpec { acquire_time: Some(now), lease_transitions: Some(transitions + 1), ..self.renewal(now) });
        leases.update(&lease).await.map(Some)
    }

    fn renewal(&self, now: MicroTime) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX)),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

// === impl Observed ===

impl Observed {
    /// When the lease is free unless it is renewed.
    fn runs_out(&self) -> Instant {
        let seconds = u64::try_from(self.spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        self.at + Duration::from_secs(seconds)
    }
}

// === impl Leadership ===

impl Leadership {
    /// A client whose writes succeed only while the lease is ours. Everything a leader does goes through it.
    fn client(&self) -> Client {
        self.client.fenced(self.fence.clone())
    }

    /// Leads: `start` spawns what a leader does as critical tasks of the kit it is given, with a client whose writes succeed only while
    /// the lease is ours. When the shutdown begins, the lease is kept until they have ended, so that what is under way is finished; then
    /// it is given up. Run this as a critical task, so that losing the lease ends the process.
    ///
    /// # Errors
    /// When the lease is lost, or one of the tasks ends before the shutdown.
    pub async fn lead(self, kit: &Kit, start: impl FnOnce(Client, Kit)) -> Result<(), LeaderError> {
        let work = Kit { tasks: Tasks::new(kit.shutdown.clone()), ..kit.clone() };
        self.election.leads.set(1);
        start(self.client(), work.clone());
        let (done, leads) = (Shutdown::new(), self.election.leads.clone());
        let drain = async {
            kit.shutdown.started().await;
            work.tasks.all_ended().await;
            done.start();
            std::future::pending().await
        };
        let outcome = tokio::select! {
            failure = work.tasks.failure() => Err(LeaderError::Task(failure)),
            outcome = self.keep(done.clone()) => outcome,
            never = drain => never,
        };
        leads.set(0);
        outcome
    }

    /// Renews the lease until the shutdown begins, then gives it up. Fails when the lease is lost; by then the leader's client refuses to
    /// write.
    async fn keep(self, shutdown: Shutdown) -> Result<(), LeaderError> {
        let mut renewed = self.renewed;
        let mut last_error = None;
        loop {
            let pause = if last_error.is_some() { self.election.retry_period / 4 } else { self.election.retry_period };
            tokio::select! {
                () = shutdown.started() => {
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(pause) => {}
            }
            let deadline = renewed + self.election.renew_deadline;
            let begun = Instant::now();
            match tokio::time::timeout_at(deadline, self.renew()).await {
                Ok(Ok(true)) => {
                    renewed = begun;
                    self.fence.extend(begun + self.election.renew_deadline);
                    last_error = None;
                }
                Ok(Ok(false)) => {
                    self.fence.end();
                    tracing::error!(
                        lease = self.election.lease(),
                        "another process has taken the lease: nothing more is written"
                    );
                    return Err(LeaderError::Lost { lease: self.election.lease(), source: None });
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the lease");
                    last_error = Some(error);
                }
                Err(_) => {}
            }
            if Instant::now() >= renewed + self.election.renew_deadline {
                self.fence.end();
                let (lease, deadline) = (self.election.lease(), self.election.renew_deadline.as_secs());
                tracing::error!(lease, deadline, "the lease could not be renewed in time: nothing more is written");
                return Err(LeaderError::Lost { lease, source: last_error });
            }
        }
    }

    /// Says whether the lease is still ours.
    async fn renew(&self) -> Result<bool, Error> {
        let leases = self.client.namespaced::<Lease>(&self.election.namespace);
        let mut lease = self.lease.lock().clone();
        lease.spec_mut().renew_time = Some(MicroTime::now());
        let outcome = match leases.update(&lease).await {
            Err(error) if error.is_conflict() => {
                // Somebody touched it; that alone does not end our term.
                let mut stored = leases.get(&self.election.name).await?;
                if !self.is_ours(&stored) {
                    return Ok(false);
                }
                stored.spec_mut().renew_time = Some(MicroTime::now());
                leases.update(&stored).await
            }
            Err(error) if error.is_not_found() => return Ok(false),
            outcome => outcome,
        };
        *self.lease.lock() = outcome?;
        Ok(true)
    }

    fn is_ours(&self, stored: &Lease) -> bool {
        let held = self.lease.lock();
        (&stored.spec().holder_identity, stored.spec().lease_transitions)
            == (&Some(self.election.identity.clone()), held.spec().lease_transitions)
    }

    /// Lets a successor begin at once.
    async fn release(&self) {
        self.fence.end();
        let mut lease = self.lease.lock().clone();
        let spec = lease.spec_mut();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime::now());
        let leases = self.client.namespaced::<Lease>(&self.election.namespace);
        match tokio::time::timeout(Duration::from_secs(2), leases.update(&lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.election.lease(), "released"),
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "the lease was not released"),
            Err(_) => tracing::debug!("the lease was not released in time"),
        }
    }
}

#[cfg(test)]
mod tests;
