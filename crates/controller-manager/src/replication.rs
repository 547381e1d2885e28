//! Replication controllers: as many pods of a template as are asked for.
//!
//! Invariant: what this process created or deleted itself is known at once, not only when the watch brings it, so a local copy that lags never
//! makes it create or delete too many. A created pod is counted until the informer's revision has passed the one it was created
//! at; a deleted one is not counted from the moment its deletion succeeded. When the answer to a creation is lost, the server is asked
//! what became of it before anything else is created.
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
    meta::v1::{ObjectMeta, OwnerReference},
    selector::Selector,
};
use client::{Changed, Controller, Error, EventType, Informer, ListParams, ObjectKey, Patch, Reconcile, Requeue};
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::json;

use self::{
    patience::Failing,
    plan::{Plan, plan},
    refused::{Refused, has_more_left},
};
use crate::{
    Context,
    context::{LABEL, OWNER, by_label, by_owner, label_key, revision},
    pods,
};

pub use self::plan::DELETION_COST;

/// Creates and deletes pods. Keys are replication controllers.
struct Replication {
    context: Context,
    controllers: Informer<ReplicationController>,
    pods: Informer<Pod>,
    own: Mutex<HashMap<ObjectKey, OwnWrites>>,
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

/// Writes that the informer has not shown yet.
#[derive(Debug, Default)]
struct OwnWrites {
    /// UID of each created pod, and the revision at which it was created.
    created: HashMap<String, i64>,
    /// UIDs of deleted pods.
    deleted: HashSet<String>,
    /// The answer to a creation was lost, so there may be a pod that is not among the created ones.
    doubtful: bool,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let informers = &context.informers;
    let (controllers, pods) = (informers.of::<ReplicationController>(), informers.of::<Pod>());
    pods.add_index(OWNER, by_owner);
    pods.add_index(LABEL, by_label);
    controllers.add_index(LABEL, |rc: &ReplicationController| {
        let namespace = &rc.metadata().namespace;
        rc.spec().selector.iter().map(|(name, value)| label_key(namespace, name, value)).collect()
    });
    let refused = Refused::default();
    let reconciler = Replication {
        context: context.recording_as("replication-controller"),
        controllers: controllers.clone(),
        pods: pods.clone(),
        own: Mutex::default(),
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
fn concerned(controllers: &Informer<ReplicationController>, changed: Changed<'_, Pod>) -> HashSet<ObjectKey> {
    let mut keys = HashSet::new();
    for pod in changed.both() {
        let meta = pod.metadata();
        match pods::controller(pod) {
            Some(owner) if owner.kind == "ReplicationController" => {
                keys.insert(ObjectKey::new(&*meta.namespace, &*owner.name));
            }
            Some(_) => {}
            None => keys.extend(selecting(controllers, meta)),
        }
    }
    keys
}

fn selecting(controllers: &Informer<ReplicationController>, meta: &ObjectMeta) -> Vec<ObjectKey> {
    let candidates = by_label_of(meta).flat_map(|label| controllers.store().by_index(LABEL, &label));
    let matching = candidates.filter(|rc| selects(rc, &meta.labels));
    matching.map(|rc| ObjectKey::of(rc.metadata())).collect()
}

fn by_label_of(meta: &ObjectMeta) -> impl Iterator<Item = String> {
    meta.labels.iter().map(|(name, value)| label_key(&meta.namespace, name, value))
}

fn selects(rc: &ReplicationController, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let selector = &rc.spec().selector;
    !selector.is_empty() && Selector::from_map(selector).matches_map(labels)
}

impl Reconcile for Replication {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Requeue, Error> {
        let Some(rc) = self.controllers.store().get(key) else {
            self.own.lock().remove(key);
            self.refused.remove(key);
            return Ok(Requeue::Done);
        };
        self.clear_doubt(key, &rc).await?;
        // Read before the pods, so that it says no more than they do.
        let seen = self.pods.revision();
        let owned = self.claim(&rc).await?;
        let failing = self.failing(key, &rc, &owned);
        let (mut failure, mut wait) = (None, None);
        let mut owned = self.with_own_writes(key, owned, seen);
        if rc.metadata().deletion_timestamp.is_none() {
            let plan = plan(&rc, &owned.pods, owned.unseen, &self.neighbours(&rc));
            let (plan, left) = self.patient(key, &rc, (plan, owned.unseen), failing.as_ref());
            wait = left;
            failure = self.act(key, &rc, plan).await.err();
            if failure.is_none() {
                self.refused.remove(key);
            }
            let seen = self.pods.revision();
            owned = self.with_own_writes(key, self.owned(&rc), seen);
        }
        let trouble = match (&failure, failing) {
            (Some(error), _) if error.is_conflict() || error.is_unavailable() => Trouble::Passing,
            (Some(error), _) => Trouble::Lasting(error.to_string()),
            (None, Some(failing)) if owned.ready() < wanted(&rc) => Trouble::Lasting(failing.to_string()),
            (None, _) => Trouble::None,
        };
        let next = self.report(&rc, &owned, trouble).await?;
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

/// The pods of a controller as far as they are known.
struct Owned {
    /// Active pods in the local copy.
    pods: Vec<Arc<Pod>>,
    /// How many were created that the local copy does not have yet.
    unseen: usize,
}

impl Owned {
    fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| pods::is_ready(pod)).count()
    }
}

impl Replication {
    fn failing(&self, key: &ObjectKey, rc: &ReplicationController, owned: &[Arc<Pod>]) -> Option<Failing> {
        let changed = self.history.lock().get(key).map_or(0, |history| history.changed);
        patience::failing(owned, wanted(rc), changed, jiff::Timestamp::now().as_second())
    }

    /// While its pods fail at once, a controller creates one at a time, and not before its time. Returns what is left of the plan, and how
    /// long to wait for the rest.
    fn patient(
        &self,
        key: &ObjectKey,
        rc: &ReplicationController,
        (plan, unseen): (Plan, usize),
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
        // A pod that was created and is not seen yet is one that is tried.
        if wait > 0 || unseen > 0 { (Plan::Nothing, Some(Duration::from_secs(wait.max(1)))) } else { (Plan::Create(1), None) }
    }

    fn owned(&self, rc: &ReplicationController) -> Vec<Arc<Pod>> {
        let mut owned = self.pods.store().by_index(OWNER, &rc.metadata().uid);
        owned.retain(|pod| pods::controller(pod).is_some_and(|owner| owner.uid == rc.metadata().uid));
        owned
    }

    /// The active ones among the owned pods, with this process's own writes reckoned in. The pods are at least as new as `seen`.
    fn with_own_writes(&self, key: &ObjectKey, mut owned: Vec<Arc<Pod>>, seen: i64) -> Owned {
        let mut own = self.own.lock();
        let Some(writes) = own.get_mut(key) else {
            owned.retain(|pod| pods::is_active(pod));
            return Owned { pods: owned, unseen: 0 };
        };
        let known: HashSet<&str> = owned.iter().map(|pod| &*pod.metadata().uid).collect();
        writes.created.retain(|uid, created| *created > seen && !known.contains(&**uid));
        let going = |uid: &String| owned.iter().any(|pod| pod.metadata().uid == *uid && !pods::is_terminating(pod));
        writes.deleted.retain(going);
        owned.retain(|pod| pods::is_active(pod) && !writes.deleted.contains(&pod.metadata().uid));
        let unseen = writes.created.len();
        if unseen == 0 && writes.deleted.is_empty() && !writes.doubtful {
            own.remove(key);
        }
        Owned { pods: owned, unseen }
    }

    /// Learns from the server what became of creations whose answers were lost.
    async fn clear_doubt(&self, key: &ObjectKey, rc: &ReplicationController) -> Result<(), Error> {
        let doubtful = self.own.lock().get(key).is_some_and(|writes| writes.doubtful);
        if !doubtful {
            return Ok(());
        }
        let pods = self.context.client.namespaced::<Pod>(&key.namespace).list(&ListParams::default()).await?;
        let mut own = self.own.lock();
        let writes = own.entry(key.clone()).or_default();
        writes.doubtful = false;
        let owned = |pod: &Pod| pods::controller(pod).is_some_and(|owner| owner.uid == rc.metadata().uid);
        for pod in pods.items.iter().filter(|pod| owned(pod) && pods::is_active(pod)) {
            let meta = pod.metadata();
            writes.created.entry(meta.uid.clone()).or_insert_with(|| revision(meta));
        }
        Ok(())
    }

    /// How many active pods of controllers with the same pods run on each node: crowded nodes give up pods first.
    fn neighbours(&self, rc: &ReplicationController) -> HashMap<String, usize> {
        let mut neighbours = HashMap::new();
        for pod in self.selected(rc) {
            if pods::is_active(&pod) && !pod.spec().node_name.is_empty() {
                *neighbours.entry(pod.spec().node_name.clone()).or_default() += 1;
            }
        }
        neighbours
    }

    fn selected(&self, rc: &ReplicationController) -> Vec<Arc<Pod>> {
        let first = rc.spec().selector.iter().next();
        let key = first.map(|(name, value)| label_key(&rc.metadata().namespace, name, value));
        let mut selected = key.map(|key| self.pods.store().by_index(LABEL, &key)).unwrap_or_default();
        selected.retain(|pod| selects(rc, &pod.metadata().labels));
        selected
    }

    /// Adopts pods that nobody manages and lets go of pods that no longer match. Returns the pods that are managed.
    async fn claim(&self, rc: &ReplicationController) -> Result<Vec<Arc<Pod>>, Error> {
        let (mut owned, mut strays): (Vec<_>, Vec<_>) =
            self.owned(rc).into_iter().partition(|pod| selects(rc, &pod.metadata().labels));
        if rc.metadata().deletion_timestamp.is_some() {
            return Ok(owned);
        }
        strays.retain(|pod| !pods::is_terminating(pod));
        for pod in strays {
            let references = pod.metadata().owner_references.iter().filter(|owner| owner.uid != rc.metadata().uid);
            self.set_owners(&pod, references.cloned().collect()).await?;
        }
        let mut orphans = self.selected(rc);
        orphans.retain(|pod| pods::controller(pod).is_none() && pods::is_active(pod));
        if orphans.is_empty() || !self.may_adopt(rc).await? {
            return Ok(owned);
        }
        for pod in orphans {
            let mut references = pod.metadata().owner_references.clone();
            references.push(reference(rc));
            if self.set_owners(&pod, references).await? {
                owned.push(pod);
            }
        }
        Ok(owned)
    }

    /// The local copy may lag behind the controller's deletion, or show one of the same name that is gone.
    async fn may_adopt(&self, rc: &ReplicationController) -> Result<bool, Error> {
        let meta = rc.metadata();
        let stored = self.context.client.metadata(ReplicationController::KIND, &meta.namespace).get_opt(&meta.name).await?;
        Ok(stored.is_some_and(|stored| stored.metadata.uid == meta.uid && stored.metadata.deletion_timestamp.is_none()))
    }

    /// Says whether the pod was still there.
    async fn set_owners(&self, pod: &Pod, owners: Vec<OwnerReference>) -> Result<bool, Error> {
        let meta = pod.metadata();
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}});
        match self.context.client.metadata(Pod::KIND, &meta.namespace).patch(&meta.name, &Patch::Merge(patch)).await {
            Err(error) if error.is_not_found() => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    async fn act(&self, key: &ObjectKey, rc: &ReplicationController, plan: Plan) -> Result<(), Error> {
        match plan {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create(key, rc, count).await,
            Plan::Delete(surplus) => self.delete(key, rc, &surplus).await,
        }
    }

    /// Creates pods in batches that double, so that what fails, fails once and not five hundred times.
    async fn create(&self, key: &ObjectKey, rc: &ReplicationController, count: usize) -> Result<(), Error> {
        let pod = from_template(rc);
        let pods = self.context.client.namespaced::<Pod>(&key.namespace);
        let (mut left, mut batch) = (count, 1);
        // From before the first attempt, so that nothing is missed that happens during the last.
        self.refused.insert(key);
        while left > 0 {
            let outcomes = join_all((0..batch.min(left)).map(|_| pods.create(&pod))).await;
            let mut failure = None;
            for outcome in outcomes {
                match outcome {
                    Ok(created) => {
                        let meta = created.metadata();
                        let mut own = self.own.lock();
                        own.entry(key.clone()).or_default().created.insert(meta.uid.clone(), revision(meta));
                        drop(own);
                        let message = format!("Created pod: {}", meta.name);
                        self.context.recorder.event(rc, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        self.own.lock().entry(key.clone()).or_default().doubtful |= error.is_unavailable();
                        failure = Some(error);
                    }
                }
            }
            if let Some(error) = failure {
                let message = format!("Error creating: {error}");
                self.context.recorder.event(rc, EventType::Warning, "FailedCreate", message);
                return Err(error);
            }
            left -= batch.min(left);
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, rc: &ReplicationController, surplus: &[Arc<Pod>]) -> Result<(), Error> {
        let outcomes = join_all(surplus.iter().map(|pod| pods::delete(&self.context.client, pod, false))).await;
        let mut failure = None;
        for (pod, outcome) in surplus.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    let uid = pod.metadata().uid.clone();
                    self.own.lock().entry(key.clone()).or_default().deleted.insert(uid);
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
    async fn report(&self, rc: &ReplicationController, owned: &Owned, trouble: Trouble) -> Result<Option<Duration>, Error> {
        let spec = rc.spec();
        let (now, min_ready) = (jiff::Timestamp::now().as_second(), i64::from(spec.min_ready_seconds));
        let waits: Vec<i64> =
            owned.pods.iter().filter_map(|pod| pods::ready_since(pod)).map(|since| (since + min_ready - now).max(0)).collect();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let template = &spec.template().metadata().labels;
        let labelled = |pod: &&Arc<Pod>| template.iter().all(|(name, value)| pod.metadata().labels.get(name) == Some(value));
        let mut status = rc.status().clone();
        status.replicas = count(owned.pods.len());
        status.fully_labeled_replicas = count(owned.pods.iter().filter(labelled).count());
        status.ready_replicas = count(waits.len());
        status.available_replicas = count(waits.iter().filter(|wait| **wait == 0).count());
        status.observed_generation = rc.metadata().generation;
        status.conditions = conditions(rc, owned.pods.len(), trouble);
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

fn reference(rc: &ReplicationController) -> OwnerReference {
    let kind = ReplicationController::KIND;
    OwnerReference {
        api_version: kind.api_version.to_string(),
        kind: kind.kind.to_string(),
        name: rc.name().to_owned(),
        uid: rc.metadata().uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn from_template(rc: &ReplicationController) -> Pod {
    let template = rc.spec().template();
    let meta = template.metadata();
    Pod {
        metadata: Some(ObjectMeta {
            generate_name: format!("{}-", rc.name()),
            namespace: rc.namespace().to_owned(),
            labels: meta.labels.clone(),
            annotations: meta.annotations.clone(),
            finalizers: meta.finalizers.clone(),
            owner_references: vec![reference(rc)],
            ..ObjectMeta::default()
        }),
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests;
