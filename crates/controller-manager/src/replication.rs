//! Replication controllers: as many pods of a template as are asked for.
//!
//! Invariant: what this process created or deleted itself is known at once, not only when the watch brings it, so a local copy that lags never
//! makes it create or delete too many ([`OwnWrites`]). When the answer to a creation is lost, the server is asked what became of it before
//! anything else is created.
//!
//! A controller whose pods are refused tries again ever later, and at once when what refused them may let them in: a quota that has more
//! left, a limit range that changed, a service account that came. One whose pods fail as soon as they are made waits ever longer before it
//! makes another, see [`patience`].

mod patience;
mod plan;
mod refused;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Resource,
    core::v1::{LimitRange, Pod, ReplicationController, ReplicationControllerCondition, ResourceQuota, ServiceAccount},
    meta::v1::ObjectMeta,
    selector::Selector,
};
use client::{Api, Changed, Controller, Error, EventType, Informer, ListParams, ObjectKey, Reconcile, Requeue};
use futures::future::join_all;
use parking_lot::Mutex;
use workload::{Claims, OwnWrites, Owner, controller_of, in_growing_batches};

use self::{
    patience::Failing,
    plan::{Plan, plan},
    refused::{Refused, has_more_left},
};
use crate::{
    Context,
    context::{OWNER, by_owner},
    pods,
    reads::{ReadsPod, SeenPod},
};

/// Creates and deletes pods. Keys are replication controllers.
struct Replication {
    context: Context,
    controllers: Informer<ReplicationController>,
    pods: Informer<SeenPod>,
    own: OwnWrites<ObjectKey, SeenPod>,
    refused: Refused,
    history: Arc<Mutex<HashMap<ObjectKey, History>>>,
}

/// What is remembered of a controller whose pods may fail at once.
#[derive(Debug, Default)]
struct History {
    /// When its template changed last while we looked, in seconds since 1970.
    changed: i64,
    /// UID of the pod whose failure was told last.
    told: String,
}

/// Why a controller has not the pods it should have.
enum Trouble {
    None,
    /// It will soon be over, or is nobody's fault.
    Passing,
    /// People should know.
    Lasting(String),
}

/// Starts the controller.
pub fn start(context: &Context) {
    let informers = &context.informers;
    let (controllers, pods) = (informers.of::<ReplicationController>(), informers.trimmed::<ReadsPod>());
    pods.add_index(OWNER, by_owner);
    pods.index_labels();
    controllers.index_selectors(selector);
    let refused = Refused::default();
    let reconciler = Replication {
        context: context.recording_as("replication-controller"),
        controllers: controllers.clone(),
        pods: pods.clone(),
        own: OwnWrites::default(),
        refused: refused.clone(),
        history: Arc::default(),
    };
    let history = reconciler.history.clone();
    let owners = controllers.clone();
    let (by_quota, by_limits, by_account) = (refused.clone(), refused.clone(), refused);
    Controller::new("replication", reconciler, &context.metrics)
        .watches(&controllers, move |changed| {
            note_template(&history, changed);
            changed.newest().map(|rc| ObjectKey::of(rc.metadata()))
        })
        .watches(&pods, move |changed| concerned(&owners, changed))
        .watches(&informers.of::<ResourceQuota>(), move |changed| by_quota.when(has_more_left(changed), changed))
        .watches(&informers.metadata(LimitRange::KIND), move |changed| by_limits.when(true, changed))
        .watches(&informers.metadata(ServiceAccount::KIND), move |changed| by_account.when(changed.new.is_some(), changed))
        .spawn(&context.kit);
}

/// Pods made from another template say nothing of those to come.
fn note_template(history: &Mutex<HashMap<ObjectKey, History>>, changed: Changed<'_, ReplicationController>) {
    match (changed.old, changed.new) {
        (Some(old), Some(new)) if old.spec().template != new.spec().template => {
            let now = jiff::Timestamp::now().as_second();
            history.lock().entry(ObjectKey::of(new.metadata())).or_default().changed = now;
        }
        (Some(old), None) => drop(history.lock().remove(&ObjectKey::of(old.metadata()))),
        _ => {}
    }
}

/// The controllers that a change of a pod concerns: those that own or owned it, and those that may adopt it.
fn concerned(controllers: &Informer<ReplicationController>, changed: Changed<'_, SeenPod>) -> HashSet<ObjectKey> {
    let mut keys = HashSet::new();
    for pod in changed.both() {
        let meta = pod.metadata();
        match controller_of(meta) {
            Some(owner) if owner.kind == "ReplicationController" => {
                keys.insert(ObjectKey::new(&*meta.namespace, &*owner.name));
            }
            Some(_) => {}
            None => {
                let selecting = controllers.store().selecting(meta);
                keys.extend(selecting.iter().map(|rc| ObjectKey::of(rc.metadata())));
            }
        }
    }
    keys
}

/// What the controller selects; without a selector nothing.
fn selector(rc: &ReplicationController) -> Selector {
    let labels = &rc.spec().selector;
    if labels.is_empty() { Selector::nothing() } else { Selector::from_map(labels) }
}

impl Reconcile for Replication {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let Some(rc) = self.controllers.store().get(key) else {
            self.own.forget(key);
            self.refused.remove(key);
            return Ok(Requeue::Done);
        };
        let owner = Owner::of(&*rc);
        self.own.clear_doubt(key, || self.stored(key, &owner)).await?;
        let (mut failure, mut wait) = (None, None);
        let managed = self.claim(key, &rc, &owner).await?;
        let failing = self.failing(key, &rc, &managed);
        let mut active = active(managed);
        if rc.metadata().deletion_timestamp.is_none() {
            let plan = plan(&rc, &active, &self.neighbours(&rc));
            let trying = active.iter().any(|pod| self.own.is_unseen(key, &pod.metadata().uid));
            let (plan, left) = self.patient(key, &rc, plan, trying, failing.as_ref());
            wait = left;
            failure = self.act(key, &rc, &owner, plan).await.err();
            if failure.is_none() {
                self.refused.remove(key);
            }
            active = self::active(self.managed(key, &owner));
        }
        let trouble = match (&failure, failing) {
            (Some(error), _) if error.is_conflict() || error.is_unavailable() => Trouble::Passing,
            (Some(error), _) => Trouble::Lasting(error.to_string()),
            (None, Some(failing)) if ready(&active) < wanted(&rc) => Trouble::Lasting(failing.to_string()),
            (None, _) => Trouble::None,
        };
        let next = self.report(&rc, &active, trouble).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(next.into_iter().chain(wait).min().map_or(Requeue::Done, Requeue::After)),
        }
    }
}

/// How many pods are asked for.
fn wanted(rc: &ReplicationController) -> usize {
    usize::try_from(rc.spec().replicas.unwrap_or(1)).unwrap_or(0)
}

fn active(mut pods: Vec<Arc<SeenPod>>) -> Vec<Arc<SeenPod>> {
    pods.retain(|pod| pods::is_active(pod));
    pods
}

fn ready(pods: &[Arc<SeenPod>]) -> usize {
    pods.iter().filter(|pod| pods::is_ready(pod)).count()
}

impl Replication {
    fn failing(&self, key: &ObjectKey, rc: &ReplicationController, owned: &[Arc<SeenPod>]) -> Option<Failing> {
        let changed = self.history.lock().get(key).map_or(0, |history| history.changed);
        patience::failing(owned, wanted(rc), changed, jiff::Timestamp::now().as_second())
    }

    /// While its pods fail at once, a controller creates one at a time, and not before its time. `trying`: one that was created is not seen yet.
    /// Returns what is left of the plan, and how long to wait for the rest.
    fn patient(
        &self,
        key: &ObjectKey,
        rc: &ReplicationController,
        plan: Plan,
        trying: bool,
        failing: Option<&Failing>,
    ) -> (Plan, Option<Duration>) {
        let (Plan::Create(_), Some(failing)) = (&plan, failing) else { return (plan, None) };
        let wait = failing.wait(jiff::Timestamp::now().as_second());
        let mut history = self.history.lock();
        let told = &mut history.entry(key.clone()).or_default().told;
        if wait > 0 && !failing.trying && told != failing.last() {
            failing.last().clone_into(told);
            drop(history);
            let message = format!("Waiting {wait}s before creating another: {failing}");
            tracing::warn!(why = message, "pods fail as soon as they are made");
            self.context.recorder.event(rc, EventType::Warning, "FailedCreate", message);
        }
        if wait > 0 || trying { (Plan::Nothing, Some(Duration::from_secs(wait.max(1)))) } else { (Plan::Create(1), None) }
    }

    /// The pods that the controller manages, with this process's own writes reckoned in.
    fn managed(&self, key: &ObjectKey, owner: &Owner) -> Vec<Arc<SeenPod>> {
        // Read before the pods, so that it says no more than they do.
        let seen = self.pods.revision();
        let mut managed = self.pods.store().by_index(OWNER, &owner.meta.uid);
        managed.retain(|pod| owner.manages(pod.metadata()));
        self.own.reckon(key, managed, seen)
    }

    /// The pods that the controller manages, as the server has them.
    async fn stored(&self, key: &ObjectKey, owner: &Owner) -> Result<Vec<SeenPod>, Error> {
        let pods: Api<SeenPod> = self.context.client.api(Pod::KIND, &key.namespace);
        let mut pods = pods.list(&ListParams::default()).await?.items;
        pods.retain(|pod| owner.manages(pod.metadata()) && pods::is_active(pod));
        Ok(pods)
    }

    /// How many active pods of controllers with the same pods run on each node: crowded nodes give up pods first.
    fn neighbours(&self, rc: &ReplicationController) -> HashMap<String, usize> {
        let mut neighbours = HashMap::new();
        for pod in self.pods.store().selected(rc.namespace(), &selector(rc)) {
            if pods::is_active(&pod) && !pod.spec().node_name.is_empty() {
                *neighbours.entry(pod.spec().node_name.clone()).or_default() += 1;
            }
        }
        neighbours
    }

    /// Adopts pods that nobody manages and lets go of pods that no longer match. Returns the pods that are managed.
    async fn claim(&self, key: &ObjectKey, rc: &ReplicationController, owner: &Owner) -> Result<Vec<Arc<SeenPod>>, Error> {
        let selector = selector(rc);
        let claims = Claims { client: &self.context.client, owner, selector: &selector, kind: Pod::KIND.into() };
        let orphans = || self.pods.store().selected(&key.namespace, &selector);
        claims.claim(self.managed(key, owner), orphans, |pod| pods::is_active(pod)).await
    }

    async fn act(&self, key: &ObjectKey, rc: &ReplicationController, owner: &Owner, plan: Plan) -> Result<(), Error> {
        match plan {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create(key, rc, owner, count).await,
            Plan::Delete(surplus) => self.delete(key, rc, &surplus).await,
        }
    }

    async fn create(&self, key: &ObjectKey, rc: &ReplicationController, owner: &Owner, count: usize) -> Result<(), Error> {
        let (pod, recorder) = (from_template(rc, owner), &self.context.recorder);
        let pods = self.context.client.namespaced::<Pod>(&key.namespace);
        // From before the first attempt, so that nothing is missed that happens during the last.
        self.refused.insert(key);
        let created = |outcome: Result<Pod, &Error>| match outcome {
            Ok(created) => {
                let message = format!("Created pod: {}", created.name());
                recorder.event(rc, EventType::Normal, "SuccessfulCreate", message);
                match SeenPod::of(&created) {
                    Ok(created) => self.own.stored(key, created),
                    Err(_) => self.own.doubt(key),
                }
            }
            Err(error) if error.is_unavailable() => self.own.doubt(key),
            Err(_) => {}
        };
        let outcome = in_growing_batches(count, |_| pods.create(&pod), created).await;
        if let Err(error) = &outcome {
            recorder.event(rc, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
        }
        outcome
    }

    async fn delete(&self, key: &ObjectKey, rc: &ReplicationController, surplus: &[Arc<SeenPod>]) -> Result<(), Error> {
        let outcomes = join_all(surplus.iter().map(|pod| pods::delete(&self.context.client, pod, false))).await;
        let mut failure = None;
        for (pod, outcome) in surplus.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    self.own.deleted(key, &pod.metadata().uid);
                    let message = format!("Deleted pod: {}", pod.name());
                    self.context.recorder.event(rc, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    // A pod that changed meanwhile is judged anew: it may be another's by now, or dearer.
                    if !error.is_conflict() {
                        let message = format!("Error deleting: {error}");
                        self.context.recorder.event(rc, EventType::Warning, "FailedDelete", message);
                    }
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes the status if it changed. Pods that are ready but not yet available make a later look necessary.
    async fn report(
        &self,
        rc: &ReplicationController,
        active: &[Arc<SeenPod>],
        trouble: Trouble,
    ) -> Result<Option<Duration>, Error> {
        let spec = rc.spec();
        let (now, min_ready) = (jiff::Timestamp::now().as_second(), i64::from(spec.min_ready_seconds));
        let waits: Vec<i64> =
            active.iter().filter_map(|pod| pods::ready_since(pod)).map(|since| (since + min_ready - now).max(0)).collect();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let template = &spec.template().metadata().labels;
        let labelled = |pod: &&Arc<SeenPod>| template.iter().all(|(name, value)| pod.metadata().labels.get(name) == Some(value));
        let mut status = rc.status().clone();
        status.replicas = count(active.len());
        status.fully_labeled_replicas = count(active.iter().filter(labelled).count());
        status.ready_replicas = count(waits.len());
        status.available_replicas = count(waits.iter().filter(|wait| **wait == 0).count());
        status.observed_generation = rc.metadata().generation;
        status.conditions = conditions(rc, active.len(), trouble);
        if status != *rc.status() {
            let changed = ReplicationController { status: Some(status), ..rc.clone() };
            match self.context.client.namespaced(&rc.metadata().namespace).update_status(&changed).await {
                Err(error) if error.is_not_found() => {}
                outcome => drop(outcome?),
            }
        }
        let next = waits.into_iter().filter(|wait| *wait > 0).min();
        Ok(next.map(|wait| Duration::from_secs(wait.unsigned_abs())))
    }
}

fn conditions(rc: &ReplicationController, replicas: usize, trouble: Trouble) -> Vec<ReplicationControllerCondition> {
    let mut conditions = rc.status().conditions.clone();
    let current = conditions.iter().position(|condition| condition.r#type == "ReplicaFailure");
    match (trouble, current) {
        (Trouble::None, Some(index)) => drop(conditions.remove(index)),
        (Trouble::Lasting(message), None) => {
            conditions.push(ReplicationControllerCondition {
                r#type: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                last_transition_time: Some(api::meta::v1::Time::now()),
                reason: if replicas > wanted(rc) { "FailedDelete" } else { "FailedCreate" }.to_owned(),
                message,
            });
        }
        _ => {}
    }
    conditions
}

fn from_template(rc: &ReplicationController, owner: &Owner) -> Pod {
    let template = rc.spec().template();
    let meta = template.metadata();
    Pod {
        metadata: Some(ObjectMeta {
            generate_name: format!("{}-", rc.name()),
            namespace: rc.namespace().to_owned(),
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            finalizers: meta.finalizers.clone(),
            owner_references: vec![owner.reference()],
            ..ObjectMeta::default()
        }),
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
