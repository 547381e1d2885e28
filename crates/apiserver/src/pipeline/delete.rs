//! Delete: at once, or after a grace period, finalizers and whatever else holds the object back.

use api::{
    Object, StatusError,
    finalizers::{FOREGROUND, ORPHAN},
    meta::v1::{DeleteOptions, Time},
    rules::{FieldErrors, Path},
};
use futures::{StreamExt, TryStreamExt, stream};
use store::Collection;

use super::{ATTEMPTS, Attempt, Fence, Old, Pipeline, Selectors, Stored, contended, encode, pause};
use crate::{
    admission::{Effects, Write},
    decode,
    reader::store_error,
    request::{Request, Verb},
    strategy::DefaultPropagation,
};

/// What can become of dependents.
const POLICIES: &[&str] = &["Background", "Foreground", "Orphan"];
/// How many objects of a collection are deleted at the same time.
const PARALLEL: usize = 16;

/// What became of an object.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object as it is now, or as it last was.
    pub object: Stored,
    /// True if it is gone.
    pub gone: bool,
}

impl Pipeline {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// When it does not exist, a precondition fails, admission refuses, or etcd does not answer.
    pub async fn delete(
        &self,
        request: &Request,
        options: &DeleteOptions,
        fence: Option<&Fence>,
    ) -> Result<Deleted, StatusError> {
        let kind = &request.kind;
        let collection = self.collection(kind)?;
        check_options(options)?;
        // Upstream takes a negative grace period for the shortest one.
        let options = &DeleteOptions {
            grace_period_seconds: options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s }),
            ..options.clone()
        };
        for attempt in 0..ATTEMPTS {
            let newest = attempt > 0 || options.preconditions.is_some();
            let old = self.current(&collection, request, newest).await?;
            let answer = self.attempt_deletion(&collection, request, options, fence, attempt, &old).await;
            if !newest && self.is_premature(&collection, request, &old, &answer).await {
                continue;
            }
            match answer? {
                Attempt::Done(deleted) | Attempt::Unwritten(deleted) => return Ok(deleted),
                Attempt::Again => pause(attempt).await,
            }
        }
        Err(contended(kind, &request.name))
    }

    async fn attempt_deletion(
        &self,
        collection: &Collection,
        request: &Request,
        options: &DeleteOptions,
        fence: Option<&Fence>,
        attempt: u32,
        Old { entry, object: old }: &Old,
    ) -> Result<Attempt<Deleted>, StatusError> {
        let (kind, strategy) = (&request.kind, self.strategy(&request.kind));
        preconditions(request, options, &**old)?;
        let write = Write { request, old: Some(&**old) };
        self.admission.permit_deletion(&write, &**old).await?;

        let mut new = old.boxed_clone();
        set_propagation_finalizers(&mut *new, options, strategy.default_propagation());
        let grace = grace(&**old, options, strategy.grace_period(&**old, options));
        let waits = grace > 0 || !new.meta().finalizers.is_empty() || strategy.is_held(&*new);
        let mut effects = Effects::default();
        if let Some(fence) = fence {
            fence.guard(&self.store, attempt > 0, &mut effects).await?;
        }
        if waits {
            mark(&mut *new, grace);
            strategy.begin_deletion(&mut *new);
        } else {
            // An eviction is a creation to whoever asks, and a deletion to whoever counts.
            let deletion = Request { verb: Verb::Delete, ..request.clone() };
            self.admission.check(&Write { request: &deletion, old: Some(&**old) }, &*new, &mut effects).await?;
        }
        let bytes = encode(&mut *new);
        let deleted = |revision| Deleted { object: Stored::at(kind, &bytes, revision), gone: !waits };
        if request.dry_run || (waits && bytes == entry.stored()) {
            return Ok(Attempt::Unwritten(deleted(entry.revision())));
        }
        let place = (request.namespace.as_str(), request.name.as_str());
        let revision = self.commit(kind, collection, place, Some(entry.revision()), waits.then_some(&bytes[..]), effects).await?;
        Ok(revision.map_or(Attempt::Again, |revision| Attempt::Done(deleted(revision))))
    }

    /// Deletes every object that the selectors match; those that are gone meanwhile count as well. Answers how many.
    ///
    /// # Errors
    /// The first error that is not the object's absence.
    pub async fn delete_collection(
        &self,
        request: &Request,
        selectors: &Selectors,
        options: &DeleteOptions,
        fence: Option<&Fence>,
    ) -> Result<i64, StatusError> {
        let collection = self.collection(&request.kind)?;
        let selection = selectors.selection(&request.kind, collection.layout(), &request.namespace)?;
        let list = collection.list(&selection, Default::default()).await.map_err(|e| store_error(&request.kind, "", e))?;
        let one = |entry: std::sync::Arc<store::Entry>| async move {
            let request = Request { namespace: entry.namespace().to_owned(), name: entry.name().to_owned(), ..request.clone() };
            match self.delete(&request, options, fence).await {
                Err(e) if !e.is_not_found() => Err(e),
                _ => Ok(1),
            }
        };
        stream::iter(list.items).map(one).buffer_unordered(PARALLEL).try_fold(0, |sum, n| async move { Ok(sum + n) }).await
    }
}

fn check_options(options: &DeleteOptions) -> Result<(), StatusError> {
    let mut errors = FieldErrors::default();
    let root = Path::root();
    let policy = options.propagation_policy.as_deref();
    if options.orphan_dependents.is_some() && policy.is_some() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.invalid(&root.field("propagationPolicy"), policy.unwrap_or_default(), why);
    }
    if policy.is_some_and(|policy| !POLICIES.contains(&policy)) {
        errors.not_supported(&root.field("propagationPolicy"), policy.unwrap_or_default(), POLICIES);
    }
    for other in options.dry_run.iter().filter(|value| *value != "All") {
        errors.not_supported(&root.field("dryRun"), other, &["All"]);
    }
    if errors.is_empty() { Ok(()) } else { Err(decode::invalid("DeleteOptions.meta.k8s.io \"\"", &errors)) }
}

fn preconditions(request: &Request, options: &DeleteOptions, object: &dyn Object) -> Result<(), StatusError> {
    let (wanted, meta) = (options.preconditions(), object.meta());
    let conflict = |what, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Err(StatusError::conflict(&request.kind, &request.name, why))
    };
    match (&wanted.uid, &wanted.resource_version) {
        (Some(uid), _) if *uid != meta.uid => conflict("UID", uid, &meta.uid),
        (_, Some(version)) if *version != meta.resource_version => conflict("ResourceVersion", version, &meta.resource_version),
        _ => Ok(()),
    }
}

/// Sets or takes the finalizers that make the garbage collector orphan dependents or delete them first.
fn set_propagation_finalizers(object: &mut dyn Object, options: &DeleteOptions, default: DefaultPropagation) {
    let meta = object.meta_mut();
    let wanted = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some(_), _) | (None, Some(false)) => None,
        // Nothing was said: what the object says already, else the kind's default.
        (None, None) => match meta.finalizers.iter().find(|f| *f == ORPHAN || *f == FOREGROUND) {
            Some(f) if f == FOREGROUND => Some(FOREGROUND),
            Some(_) => Some(ORPHAN),
            None => (default == DefaultPropagation::Orphan).then_some(ORPHAN),
        },
    };
    if meta.deletion_timestamp.is_some() && wanted == Some(ORPHAN) && !meta.finalizers.iter().any(|f| f == ORPHAN) {
        return;
    }
    meta.finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    meta.finalizers.extend(wanted.map(str::to_owned));
}

/// Seconds the object still has. A deletion that has begun can only be made to end sooner.
fn grace(object: &dyn Object, options: &DeleteOptions, of_kind: Option<i64>) -> i64 {
    let Some(wanted) = of_kind else { return 0 };
    match (object.meta().deletion_timestamp.is_some(), object.meta().deletion_grace_period_seconds) {
        (true, Some(running)) if options.grace_period_seconds.is_some() => wanted.min(running),
        (true, Some(running)) => running,
        _ => wanted,
    }
}

/// Marks the object as about to go, `grace` seconds after the deletion was first asked for.
fn mark(object: &mut dyn Object, grace: i64) {
    let meta = object.meta_mut();
    // Where what is desired is counted, the wish to see the object go counts.
    if meta.deletion_timestamp.is_none() && meta.generation > 0 {
        meta.generation = meta.generation.saturating_add(1);
    }
    let begun = match (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        (Some(at), Some(running)) => at.seconds.saturating_sub(running),
        (Some(at), None) => at.seconds,
        (None, _) => Time::now().seconds,
    };
    // What was stored under older rules may be no time.
    meta.deletion_timestamp = Some(Time { seconds: begun.saturating_add(grace), nanos: 0 }.nearest());
    meta.deletion_grace_period_seconds = Some(grace);
}

#[cfg(test)]
mod tests {
    use api::core::v1::Pod;

    use super::*;

    fn pod(finalizers: &[&str]) -> Pod {
        let mut pod = Pod::default();
        pod.metadata_mut().finalizers = finalizers.iter().map(|f| (*f).to_owned()).collect();
        pod
    }

    #[test]
    fn a_grace_period_only_gets_shorter() {
        let mut pod = pod(&[]);
        pod.metadata_mut().generation = 1;
        assert_eq!(grace(&pod, &DeleteOptions::default(), Some(30)), 30);
        mark(&mut pod, 30);
        assert_eq!(pod.metadata().generation, 2);
        let first = pod.metadata().deletion_timestamp.unwrap().seconds;
        let longer = DeleteOptions { grace_period_seconds: Some(90), ..Default::default() };
        assert_eq!(grace(&pod, &longer, Some(90)), 30);
        let shorter = DeleteOptions { grace_period_seconds: Some(5), ..Default::default() };
        let left = grace(&pod, &shorter, Some(5));
        mark(&mut pod, left);
        assert_eq!((pod.metadata().deletion_timestamp.unwrap().seconds, pod.metadata().generation), (first - 25, 2));
    }

    #[test]
    fn whatever_grace_was_stored_the_time_of_deletion_is_one() {
        for grace in [0, 1, i64::MAX] {
            for stored in [None, Some((i64::MIN, i64::MAX)), Some((1 << 62, 1 << 62)), Some((0, i64::MIN))] {
                let mut pod = pod(&[]);
                if let Some((at, running)) = stored {
                    pod.metadata_mut().deletion_timestamp = Some(Time { seconds: at, nanos: 0 });
                    pod.metadata_mut().deletion_grace_period_seconds = Some(running);
                }
                mark(&mut pod, grace);
                let time = pod.metadata().deletion_timestamp.unwrap();
                assert_eq!(time.nearest(), time, "{grace} {stored:?}");
            }
        }
    }

    #[test]
    fn propagation_is_written_as_a_finalizer() {
        let policy = |p: &str| DeleteOptions { propagation_policy: Some(p.to_owned()), ..Default::default() };
        let mut object = pod(&["keep"]);
        set_propagation_finalizers(&mut object, &policy("Foreground"), DefaultPropagation::Background);
        assert_eq!(object.metadata().finalizers, ["keep", FOREGROUND]);
        set_propagation_finalizers(&mut object, &policy("Background"), DefaultPropagation::Orphan);
        assert_eq!(object.metadata().finalizers, ["keep"]);
        set_propagation_finalizers(&mut object, &DeleteOptions::default(), DefaultPropagation::Orphan);
        assert_eq!(object.metadata().finalizers, ["keep", ORPHAN]);
    }
}
