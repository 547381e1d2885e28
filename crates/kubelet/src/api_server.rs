//! [`Cluster`] over the real API server.
//!
//! ConfigMaps and Secrets are watched one by one, by name: the node authoriser lets a node see only those that its pods use. A watch lives as
//! long as a pod refers to the object. Tokens are kept until it is time to renew them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    Resource,
    authentication::v1::{BoundObjectReference, TokenRequest},
    core::v1::{ConfigMap, ObjectReference, Pod, PodStatus, Secret, Service, ServiceAccount},
};
use client::{Backoff, Change, Client, EventRecorder, EventType, Informer, Patch, WatchParams, reference};
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::cluster::{Cluster, Error, PodEvent, Reference, ReferenceKind, Result, Token, TokenSpec};

/// Called, without waiting, when an object that pods refer to has changed.
pub type OnChange = Arc<dyn Fn(&Reference) + Send + Sync>;

/// The API server.
pub struct ApiServer {
    client: Client,
    recorder: EventRecorder,
    services: Informer<Service>,
    on_change: OnChange,
    config_maps: Followed<ConfigMap>,
    secrets: Followed<Secret>,
    tokens: Mutex<HashMap<(String, TokenSpec), Token>>,
}

/// Objects that are watched by name. A missing entry is not known yet; `None` is known to be missing.
struct Followed<T> {
    kind: ReferenceKind,
    known: Known<T>,
    watches: Mutex<BTreeMap<Reference, AbortOnDropHandle<()>>>,
}

type Known<T> = Arc<Mutex<HashMap<Reference, Option<Arc<T>>>>>;

// === impl ApiServer ===

impl ApiServer {
    /// The API server behind a client. `services` holds all Services.
    pub fn new(client: Client, recorder: EventRecorder, services: Informer<Service>, on_change: OnChange) -> Self {
        Self {
            client,
            recorder,
            services,
            on_change,
            config_maps: Followed::new(ReferenceKind::ConfigMap),
            secrets: Followed::new(ReferenceKind::Secret),
            tokens: Mutex::default(),
        }
    }

    async fn request_token(&self, pod: &Pod, request: &TokenSpec) -> Result<Token> {
        let metadata = pod.metadata();
        let key = (metadata.uid.clone(), request.clone());
        let now = Timestamp::now();
        if let Some(token) = self.tokens.lock().get(&key).filter(|token| now < token.renew_at()) {
            return Ok(token.clone());
        }
        let mut body = TokenRequest::default();
        let spec = body.spec_mut();
        spec.audiences = Some(request.audience.clone()).filter(|audience| !audience.is_empty()).into_iter().collect();
        spec.expiration_seconds = Some(request.expiration_seconds);
        spec.bound_object_ref = Some(BoundObjectReference {
            kind: "Pod".into(),
            api_version: "v1".into(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        });
        let account = match pod.spec().service_account_name.as_str() {
            "" => "default",
            name => name,
        };
        let accounts = self.client.namespaced::<ServiceAccount>(&metadata.namespace);
        let answer = accounts.create_subresource(account, "token", &body).await.map_err(failed)?;
        let expires_at = answer.status().expiration_timestamp.as_ref().map(|time| time.timestamp());
        let fallback = Duration::from_secs(request.expiration_seconds.max(0) as u64);
        let expires_at = expires_at.unwrap_or_else(|| now.checked_add(fallback).unwrap_or(now));
        let token = Token { token: answer.status().token.clone(), issued_at: now, expires_at };
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, token| now < token.expires_at);
        tokens.insert(key, token.clone());
        Ok(token)
    }

    async fn patch_status(&self, pod: &Pod, status: &PodStatus) -> Result<Option<u64>> {
        let metadata = pod.metadata();
        let patch = status_patch(&metadata.uid, pod.status(), status).map_err(|error| Error(Box::new(error)))?;
        let pods = self.client.namespaced::<Pod>(&metadata.namespace);
        match pods.patch_status(&metadata.name, &Patch::Merge(patch)).await {
            Ok(stored) => Ok(stored.metadata().resource_version.parse().ok()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let metadata = pod.metadata();
        let options = api::meta::v1::DeleteOptions { grace_period_seconds: Some(0), ..client::delete::uid(&metadata.uid) };
        match self.client.namespaced::<Pod>(&metadata.namespace).delete(&metadata.name, &options).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn read<T: Resource>(&self, followed: &Followed<T>, namespace: &str, name: &str) -> Result<Option<Arc<T>>> {
        let reference = Reference { kind: followed.kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(known) = followed.known.lock().get(&reference) {
            return Ok(known.clone());
        }
        let found = self.client.namespaced::<T>(namespace).get_opt(name).await.map_err(failed)?;
        Ok(found.map(Arc::new))
    }
}

impl Cluster for ApiServer {
    fn config_map<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<ConfigMap>>>> {
        self.read(&self.config_maps, namespace, name).boxed()
    }

    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<Secret>>>> {
        self.read(&self.secrets, namespace, name).boxed()
    }

    fn token<'a>(&'a self, pod: &'a Pod, request: &'a TokenSpec) -> BoxFuture<'a, Result<Token>> {
        self.request_token(pod, request).boxed()
    }

    fn services(&self) -> BoxFuture<'_, Vec<Arc<Service>>> {
        async {
            self.services.wait_synced().await;
            self.services.store().list()
        }
        .boxed()
    }

    fn write_status<'a>(&'a self, pod: &'a Pod, status: &'a PodStatus) -> BoxFuture<'a, Result<Option<u64>>> {
        self.patch_status(pod, status).boxed()
    }

    fn delete_pod<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<()>> {
        self.remove_pod(pod).boxed()
    }

    fn event(&self, pod: &Pod, event: PodEvent) {
        let mut about: ObjectReference = reference(pod);
        if let Some(container) = &event.container {
            about.field_path = format!("spec.containers{{{container}}}");
        }
        let kind = if event.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event_about(about, kind, &event.reason, event.message);
    }

    fn follow(&self, references: BTreeSet<Reference>) {
        self.config_maps.follow(&self.client, &references, &self.on_change);
        self.secrets.follow(&self.client, &references, &self.on_change);
    }
}

fn failed(error: client::Error) -> Error {
    Error(Box::new(error))
}

/// A merge patch that replaces what was written before: fields that are empty now are removed. The UID guards against a pod of the same name.
fn status_patch(uid: &str, old: &PodStatus, new: &PodStatus) -> serde_json::Result<Value> {
    let mut status = serde_json::to_value(new)?;
    if let (Value::Object(status), Value::Object(old)) = (&mut status, serde_json::to_value(old)?) {
        for name in old.keys() {
            status.entry(name.clone()).or_insert(Value::Null);
        }
    }
    Ok(json!({ "metadata": { "uid": uid }, "status": status }))
}

// === impl Followed ===

impl<T: Resource> Followed<T> {
    fn new(kind: ReferenceKind) -> Self {
        Self { kind, known: Known::default(), watches: Mutex::default() }
    }

    fn follow(&self, client: &Client, references: &BTreeSet<Reference>, on_change: &OnChange) {
        let mut watches = self.watches.lock();
        watches.retain(|reference, _| references.contains(reference));
        self.known.lock().retain(|reference, _| references.contains(reference));
        for reference in references.iter().filter(|reference| reference.kind == self.kind) {
            watches.entry(reference.clone()).or_insert_with(|| {
                let work = keep_watching(client.clone(), reference.clone(), self.known.clone(), on_change.clone());
                AbortOnDropHandle::new(tokio::spawn(work))
            });
        }
    }
}

async fn keep_watching<T: Resource>(client: Client, reference: Reference, known: Known<T>, on_change: OnChange) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut refusals = 0;
    loop {
        let result = watch_once(&client, &reference, &known, &on_change, &mut backoff).await;
        if let Err(error) = result {
            let (kind, Reference { namespace, name, .. }) = (&*T::KIND.kind, &reference);
            if stays_refused(&mut refusals, &error) {
                warn!(kind, namespace, name, %error, "may not watch an object that pods use; they do not hear of its changes");
            } else {
                debug!(kind, namespace, name, %error, "watch broke off");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Whether this is the refusal to tell people of: not the first, which ends when the API server has seen the pod, and not each after it.
fn stays_refused(refusals: &mut u32, error: &client::Error) -> bool {
    *refusals = if error.is_forbidden() { refusals.saturating_add(1) } else { 0 };
    *refusals == 2
}

async fn watch_once<T: Resource>(
    client: &Client,
    reference: &Reference,
    known: &Known<T>,
    on_change: &OnChange,
    backoff: &mut Backoff,
) -> client::Result<()> {
    let params = WatchParams::from_now().fields(format!("metadata.name={}", reference.name));
    let mut changes = client.namespaced::<T>(&reference.namespace).watch(&params).await?;
    let mut found = None;
    let mut first = true;
    while let Some(event) = changes.try_next().await? {
        backoff.reset();
        match event.change {
            Change::Added(object) | Change::Modified(object) => found = Some(Arc::new(object)),
            Change::Deleted(_) => found = None,
            Change::Bookmark { initial_events_end: true } => {}
            Change::Bookmark { .. } => continue,
        }
        let before = known.lock().insert(reference.clone(), found.clone());
        // What was read when the pod started is what the watch begins with, unless it changed in between.
        let same = match &before {
            Some(before) => before.as_ref().map(version) == found.as_ref().map(version),
            None => first && found.is_some(),
        };
        if !same {
            on_change(reference);
        }
        first = false;
    }
    Ok(())
}

fn version<T: Resource>(object: &Arc<T>) -> String {
    object.metadata().resource_version.clone()
}

#[cfg(test)]
mod tests {
    use api::StatusError;

    use super::*;

    #[test]
    fn a_refusal_that_stays_is_told_once() {
        let forbidden = || client::Error::Api(StatusError::forbidden(Secret::KIND, "s", "no relationship found"));
        let other = || client::Error::Api(StatusError::unavailable("later"));
        let mut refusals = 0;
        let told =
            [forbidden(), forbidden(), forbidden(), other(), forbidden(), forbidden()].map(|e| stays_refused(&mut refusals, &e));
        assert_eq!(told, [false, true, false, false, false, true]);
    }

    #[test]
    fn a_status_patch_removes_what_is_no_more() {
        let old = PodStatus { reason: "Evicted".into(), phase: "Pending".into(), ..PodStatus::default() };
        let new = PodStatus { phase: "Running".into(), ..PodStatus::default() };
        let patch = status_patch("u", &old, &new).unwrap();
        assert_eq!(patch, json!({ "metadata": { "uid": "u" }, "status": { "phase": "Running", "reason": null } }));
    }
}
