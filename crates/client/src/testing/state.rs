//! The stored objects and what a write does to them.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Kind, Object, StatusError,
    core::v1::{Namespace, Pod},
    meta::v1::{DeleteOptions, Time},
};
use serde_json::{Map, Value};

type Key = (String, String, String, String);

/// Objects with their past.
#[derive(Clone)]
pub(super) struct State {
    revision: i64,
    /// Watches can resume after this revision.
    compacted: i64,
    objects: BTreeMap<Key, Arc<dyn Object>>,
    past: Vec<Past>,
}

/// One change.
#[derive(Clone)]
pub(super) struct Past {
    pub(super) revision: i64,
    pub(super) old: Option<Arc<dyn Object>>,
    pub(super) new: Option<Arc<dyn Object>>,
}

// === impl State ===

impl State {
    pub(super) fn new() -> Self {
        Self { revision: 1, compacted: 0, objects: BTreeMap::new(), past: Vec::new() }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision + 1;
        self.revision += 1;
        self.past.clear();
    }

    pub(super) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<dyn Object>> {
        self.objects.get(&key(kind, namespace, name))
    }

    pub(super) fn existing(&self, kind: &Kind, namespace: &str, name: &str) -> Result<&Arc<dyn Object>, StatusError> {
        self.get(kind, namespace, name).ok_or_else(|| StatusError::not_found(kind, name))
    }

    /// The objects of a kind, in one namespace if one is given, by namespace and name.
    pub(super) fn list(&self, kind: &Kind, namespace: &str) -> impl Iterator<Item = &Arc<dyn Object>> {
        let first = key(kind, namespace, "");
        let (group, plural) = (first.0.clone(), first.1.clone());
        let within = move |key: &Key| (&key.0, &key.1) == (&group, &plural);
        let namespace = namespace.to_owned();
        let of_kind = self.objects.range(first..).take_while(move |(key, _)| within(key));
        of_kind.filter(move |(key, _)| namespace.is_empty() || key.2 == namespace).map(|(_, object)| object)
    }

    /// Changes after a revision.
    pub(super) fn since(&self, kind: &Kind, revision: i64) -> Result<Vec<Past>, StatusError> {
        if revision < self.compacted {
            let message = format!("The resourceVersion for the provided watch is too old. ({revision})");
            return Err(StatusError::new(api::status::Reason::Expired, message));
        }
        if revision > self.revision {
            let message = format!("Too large resource version: {revision}, current: {}", self.revision);
            return Err(StatusError::new(api::status::Reason::Timeout, message));
        }
        let start = self.past.partition_point(|past| past.revision <= revision);
        let of_kind = |past: &&Past| past.new.as_ref().or(past.old.as_ref()).is_some_and(|object| **object.kind() == *kind);
        Ok(self.past[start..].iter().filter(of_kind).cloned().collect())
    }

    pub(super) fn put(&mut self, mut object: Box<dyn Object>) -> Arc<dyn Object> {
        let meta = object.meta_mut();
        if meta.uid.is_empty() {
            meta.uid = uuid::Uuid::new_v4().to_string();
        }
        if meta.creation_timestamp.is_none() {
            meta.creation_timestamp = Some(Time::now());
        }
        self.revision += 1;
        meta.resource_version = self.revision.to_string();
        let object: Arc<dyn Object> = object.into();
        let old = self.objects.insert(key_of(&*object), object.clone());
        self.past.push(Past { revision: self.revision, old, new: Some(object.clone()) });
        object
    }

    pub(super) fn remove(&mut self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<dyn Object>> {
        let old = self.objects.remove(&key(kind, namespace, name))?;
        self.revision += 1;
        let mut last = old.boxed_clone();
        last.meta_mut().resource_version = self.revision.to_string();
        let last: Arc<dyn Object> = last.into();
        self.past.push(Past { revision: self.revision, old: Some(last.clone()), new: None });
        Some(last)
    }

    pub(super) fn create(&mut self, mut object: Box<dyn Object>) -> Result<Arc<dyn Object>, StatusError> {
        let kind = &object.kind().clone();
        if kind.has_subresource("status") {
            object = with_status_of(&*object, None)?;
        }
        if let Some(pod) = object.downcast_mut::<Pod>() {
            pod.status_mut().phase = "Pending".to_owned();
        }
        if let Some(namespace) = object.downcast_mut::<Namespace>() {
            namespace.spec_mut().finalizers = vec![api::finalizers::KUBERNETES.to_owned()];
            namespace.status_mut().phase = "Active".to_owned();
        }
        let meta = object.meta_mut();
        if meta.name.is_empty() && !meta.generate_name.is_empty() {
            meta.name = format!("{}{}", meta.generate_name, &uuid::Uuid::new_v4().simple().to_string()[..5]);
        }
        meta.uid = String::new();
        meta.generation = 1;
        meta.creation_timestamp = None;
        meta.deletion_timestamp = None;
        let meta = object.meta();
        if self.get(kind, &meta.namespace, &meta.name).is_some() {
            return Err(StatusError::already_exists(kind, &meta.name));
        }
        Ok(self.put(object))
    }

    /// Replaces an object, or one part of it; what the other parts were stays.
    pub(super) fn update(&mut self, mut object: Box<dyn Object>, subresource: &str) -> Result<Arc<dyn Object>, StatusError> {
        let kind = &object.kind().clone();
        let (namespace, name) = (object.meta().namespace.clone(), object.meta().name.clone());
        let old = self.existing(kind, &namespace, &name)?.clone();
        let (wanted, stored) = (object.meta(), old.meta());
        if !wanted.resource_version.is_empty() && wanted.resource_version != stored.resource_version {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(StatusError::conflict(kind, &name, why));
        }
        if !wanted.uid.is_empty() && wanted.uid != stored.uid {
            return Err(StatusError::conflict(kind, &name, "Precondition failed: UID differs"));
        }
        if subresource == "status" {
            object = with_status_of(&*old, Some(&*object))?;
        } else if kind.has_subresource("status") {
            object = with_status_of(&*object, Some(&*old))?;
        }
        let bumped = i64::from(subresource.is_empty() && rest(&*object)? != rest(&*old)?);
        let meta = object.meta_mut();
        meta.uid.clone_from(&stored.uid);
        meta.resource_version.clone_from(&stored.resource_version);
        meta.creation_timestamp.clone_from(&stored.creation_timestamp);
        meta.deletion_timestamp.clone_from(&stored.deletion_timestamp);
        meta.deletion_grace_period_seconds = stored.deletion_grace_period_seconds;
        meta.generation = stored.generation + bumped;
        if object.equals(&*old) {
            return Ok(old);
        }
        let finished = match object.downcast_ref::<Namespace>() {
            Some(namespace) => namespace.spec().finalizers.is_empty(),
            None => true,
        };
        let going = object.meta().deletion_timestamp.is_some() && object.meta().deletion_grace_period_seconds == Some(0);
        if going && object.meta().finalizers.is_empty() && finished {
            self.put(object);
            return self.remove(kind, &namespace, &name).ok_or_else(|| StatusError::not_found(kind, &name));
        }
        Ok(self.put(object))
    }

    /// Returns the object and whether it is gone.
    pub(super) fn delete(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(Arc<dyn Object>, bool), StatusError> {
        let old = self.existing(kind, namespace, name)?.clone();
        let preconditions = options.preconditions();
        let differs = |wanted: &Option<String>, found: &str| wanted.as_ref().is_some_and(|wanted| wanted != found);
        if differs(&preconditions.uid, &old.meta().uid) || differs(&preconditions.resource_version, &old.meta().resource_version)
        {
            return Err(StatusError::conflict(kind, name, "Precondition failed: the object is another one by now"));
        }
        let mut object = old.boxed_clone();
        let mut grace = 0;
        if let Some(pod) = object.downcast_ref::<Pod>() {
            let finished = matches!(pod.status().phase.as_str(), "Succeeded" | "Failed");
            let own = options.grace_period_seconds.or(pod.spec().termination_grace_period_seconds).unwrap_or(30);
            if !pod.spec().node_name.is_empty() && !finished {
                grace = own;
            }
        }
        let mut held = false;
        if let Some(namespace) = object.downcast_mut::<Namespace>() {
            held = !namespace.spec().finalizers.is_empty();
            namespace.status_mut().phase = "Terminating".to_owned();
        }
        let meta = object.meta_mut();
        let finalizer = match options.propagation_policy.as_deref() {
            Some("Foreground") => Some(api::finalizers::FOREGROUND),
            Some("Orphan") => Some(api::finalizers::ORPHAN),
            _ => None,
        };
        if let Some(finalizer) = finalizer.filter(|finalizer| meta.finalizers.iter().all(|known| known != finalizer)) {
            meta.finalizers.push(finalizer.to_owned());
        }
        if grace == 0 && meta.finalizers.is_empty() && !held {
            let gone = self.remove(kind, namespace, name).ok_or_else(|| StatusError::not_found(kind, name))?;
            return Ok((gone, true));
        }
        let sooner = meta.deletion_grace_period_seconds.is_none_or(|known| grace < known);
        if sooner {
            meta.deletion_grace_period_seconds = Some(grace);
            meta.deletion_timestamp = Some(Time { seconds: Time::now().seconds + grace, nanos: 0 });
        }
        if object.equals(&*old) { Ok((old, false)) } else { Ok((self.put(object), false)) }
    }
}

fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    (kind.group.to_string(), kind.plural.to_string(), namespace.to_owned(), name.to_owned())
}

fn key_of(object: &dyn Object) -> Key {
    key(object.kind(), &object.meta().namespace, &object.meta().name)
}

/// `object` with the status of `other`, or none.
fn with_status_of(object: &dyn Object, other: Option<&dyn Object>) -> Result<Box<dyn Object>, StatusError> {
    let mut value = json(object)?;
    let status = other.map(json).transpose()?.and_then(|mut other| other.remove("status"));
    match status {
        Some(status) => value.insert("status".to_owned(), status),
        None => value.remove("status"),
    };
    object.kind().from_value(Value::Object(value)).map_err(|error| StatusError::bad_request(error.to_string()))
}

/// What the generation counts: all but metadata and status.
fn rest(object: &dyn Object) -> Result<Map<String, Value>, StatusError> {
    let mut value = json(object)?;
    value.remove("metadata");
    value.remove("status");
    Ok(value)
}

fn json(object: &dyn Object) -> Result<Map<String, Value>, StatusError> {
    match object.to_value() {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(StatusError::internal("an object is no JSON object")),
        Err(error) => Err(StatusError::internal(error.to_string())),
    }
}
