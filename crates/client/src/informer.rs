//! Shared local copies of the objects of a kind.
//!
//! An [`Informer`] is a [`Store`] that one reflector keeps in step with the server, and the list of those who want to hear of
//! changes. [`Informers`] holds a process's informers, one for each kind and selection, so that controllers share them.
//!
//! Invariant: a handler sees changes to one object in order, each with the state that the handler saw before; what it has seen is what
//! the store holds, or held a moment ago.

mod labels;
mod reflector;
mod store;
mod subscription;

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use api::{KindRef, Resource, selector::Selector};
use daemon::{Gate, Kit};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument;

use self::reflector::{Reflector, Snapshot};
pub use self::{
    store::Store,
    subscription::{ObjectChange, Subscription},
};
use crate::{Client, Item, Metadata, Reads, Trimmed, WatchParams, key::ObjectKey};

/// Drops what this process does not need from an object before it is kept.
pub type Transform<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// Returns false when it is no longer wanted.
type Handler<T> = Box<dyn Fn(Changed<'_, T>) -> bool + Send>;

/// A local copy of the objects of a kind. Cheap to clone; all clones are one.
pub struct Informer<T>(Arc<Shared<T>>);

struct Shared<T> {
    kind: KindRef,
    store: Store<T>,
    /// Locked over each change of the store, so that a new handler neither misses nor repeats one.
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    /// The store holds everything up to this revision; 0 before the first list is in.
    revision: AtomicI64,
    gate: Mutex<Option<Gate>>,
}

/// A change of one object, as a handler is told of it. Several changes on the server may come as one.
#[derive(Debug)]
pub struct Changed<'a, T> {
    /// What was there; `None` if the object is new.
    pub old: Option<&'a Arc<T>>,
    /// What is there; `None` if the object is gone.
    pub new: Option<&'a Arc<T>>,
}

/// Which objects an informer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Namespace; empty for all.
    pub namespace: String,
    /// Label selector in text form.
    pub label_selector: String,
    /// Field selector in text form.
    pub field_selector: String,
}

/// The informers of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    kit: Kit,
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    informers: HashMap<(TypeId, KindRef, Scope), Box<dyn AnyInformer>>,
    transforms: HashMap<TypeId, Box<dyn Any + Send>>,
}

/// An informer of some type.
trait AnyInformer: Any + Send {
    fn synced(&self) -> watch::Receiver<bool>;
}

// === impl Changed ===

impl<T> Clone for Changed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Changed<'_, T> {}

impl<'a, T> Changed<'a, T> {
    /// The newest state there is: the object, or what it last was.
    pub fn newest(&self) -> Option<&'a Arc<T>> {
        self.new.or(self.old)
    }

    /// What was there and what is there, as far as they exist.
    pub fn both(&self) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.old.into_iter().chain(self.new)
    }
}

// === impl Informer ===

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Informer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").field("kind", &self.0.kind).field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl<T: Item> Informer<T> {
    fn new(kind: KindRef) -> Self {
        let (store, synced) = (Store::new(), watch::Sender::new(false));
        let (handlers, revision, gate) = (Mutex::default(), AtomicI64::new(0), Mutex::default());
        Self(Arc::new(Shared { kind, store, handlers, synced, revision, gate }))
    }

    /// The kind.
    pub fn kind(&self) -> &KindRef {
        &self.0.kind
    }

    /// The objects.
    pub fn store(&self) -> &Store<T> {
        &self.0.store
    }

    /// Keeps the objects' keys by the values that `values` gives for each. A name that is taken keeps its first function, so that
    /// controllers can share an index.
    pub fn add_index(&self, name: &'static str, values: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) {
        self.0.store.add_index(name, values);
    }

    /// Keeps an index of the objects by their labels, which [`Store::selected`] uses.
    pub fn index_labels(&self) {
        self.0.store.index_labels();
    }

    /// Keeps an index of the objects by what they select, which [`Store::selecting`] uses. The first function counts, so that controllers can
    /// share it.
    pub fn index_selectors(&self, selector: impl Fn(&T) -> Selector + Send + Sync + 'static) {
        self.0.store.index_selectors(selector);
    }

    /// Calls `handler` for each object that is there and then for each change, in order. It must not block, and must not register
    /// handlers of this informer.
    pub fn on_change(&self, handler: impl Fn(Changed<'_, T>) + Send + 'static) {
        self.handle(Box::new(move |changed| {
            handler(changed);
            true
        }));
    }

    /// Each object that is there and then each change, to be taken at the subscriber's own pace. What is not taken yet is merged
    /// object by object, so a subscriber that lags costs no more than one entry an object.
    pub fn subscribe(&self) -> Subscription<T> {
        let (subscription, handler) = Subscription::new();
        self.handle(handler);
        subscription
    }

    fn handle(&self, handler: Handler<T>) {
        let mut handlers = self.0.handlers.lock();
        for object in self.0.store.list() {
            if !handler(Changed { old: None, new: Some(&object) }) {
                return;
            }
        }
        handlers.push(handler);
    }

    /// The store holds every change up to this revision: what a write returned with a higher one has yet to come in. 0 before the
    /// first list is in.
    pub fn revision(&self) -> i64 {
        self.0.revision.load(Ordering::Acquire)
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits until the first list is in. Cancel safe.
    pub async fn wait_synced(&self) {
        wait(self.0.synced.subscribe()).await;
    }

    /// The reflector: everything up to this revision is in.
    fn advance(&self, revision: i64) {
        self.0.revision.store(revision, Ordering::Release);
    }

    /// The reflector: puts an object in or takes it out.
    fn put(&self, key: &ObjectKey, object: Option<Arc<T>>, revision: i64) {
        let mut handlers = self.0.handlers.lock();
        let former = self.0.store.put(key, object.clone());
        // Before the handlers, so that whoever they wake sees it.
        self.advance(revision);
        tell(&mut handlers, former.as_ref(), object.as_ref());
    }

    /// The reflector: replaces everything.
    fn replace(&self, snapshot: Snapshot<T>, revision: i64) {
        let objects = snapshot.objects.clone();
        {
            let mut handlers = self.0.handlers.lock();
            let mut former = self.0.store.swap(snapshot);
            self.advance(revision);
            for (key, object) in &objects {
                let old = former.remove(key);
                let same = |old: &Arc<T>| {
                    (&old.meta().uid, &old.meta().resource_version) == (&object.meta().uid, &object.meta().resource_version)
                };
                if !old.as_ref().is_some_and(same) {
                    tell(&mut handlers, old.as_ref(), Some(object));
                }
            }
            for gone in former.values() {
                tell(&mut handlers, Some(gone), None);
            }
        }
        if !self.0.synced.send_replace(true)
            && let Some(gate) = self.0.gate.lock().take()
        {
            gate.open();
            tracing::debug!(objects = objects.len(), "first list is in");
        }
    }
}

fn tell<T>(handlers: &mut Vec<Handler<T>>, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
    if old.is_some() || new.is_some() {
        handlers.retain(|handler| handler(Changed { old, new }));
    }
}

impl<T: Item> AnyInformer for Informer<T> {
    fn synced(&self) -> watch::Receiver<bool> {
        self.0.synced.subscribe()
    }
}

async fn wait(mut synced: watch::Receiver<bool>) {
    // The sender lives as long as its informer; without one there is nothing that could become ready.
    if synced.wait_for(|synced| *synced).await.is_err() {
        std::future::pending::<()>().await;
    }
}

// === impl Informers ===

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").field("informers", &self.running.lock().informers.len()).finish_non_exhaustive()
    }
}

impl Informers {
    /// No informers yet. Those to come run as critical tasks of the kit, and close its readiness until their first list is in.
    pub fn new(client: Client, kit: Kit) -> Self {
        Self { client, kit, running: Arc::default() }
    }

    /// Drops what this process does not need from every object of type `T` before it is kept. Has no effect on informers that
    /// exist already.
    pub fn transform<T: Item>(&self, transform: impl Fn(&mut T) + Send + Sync + 'static) {
        let transform: Transform<T> = Arc::new(transform);
        self.running.lock().transforms.insert(TypeId::of::<T>(), Box::new(transform));
    }

    /// All objects of a kind.
    pub fn of<K: Resource>(&self) -> Informer<K> {
        self.with(Scope::default())
    }

    /// Objects of a kind that are in scope.
    pub fn with<K: Resource>(&self, scope: Scope) -> Informer<K> {
        self.informer(K::KIND, scope)
    }

    /// All objects of a kind, as far as the process says that it reads them.
    pub fn trimmed<R: Reads>(&self) -> Informer<Trimmed<R>> {
        self.informer(R::Of::KIND, Scope::default())
    }

    /// The metadata of all objects of a kind.
    pub fn metadata(&self, kind: impl Into<KindRef>) -> Informer<Metadata> {
        self.informer(kind, Scope::default())
    }

    /// The informer of a type, kind and scope; starts it if there is none.
    pub fn informer<T: Item>(&self, kind: impl Into<KindRef>, scope: Scope) -> Informer<T> {
        let kind = kind.into();
        let mut running = self.running.lock();
        let key = (TypeId::of::<T>(), kind.clone(), scope);
        if let Some(informer) = running.informers.get(&key)
            && let Some(informer) = (&**informer as &dyn Any).downcast_ref::<Informer<T>>()
        {
            return informer.clone();
        }
        let transform = running.transforms.get(&TypeId::of::<T>());
        let transform = transform.and_then(|transform| transform.downcast_ref::<Transform<T>>()).cloned();
        let scope = &key.2;
        let informer = Informer::new(kind.clone());
        *informer.0.gate.lock() = Some(self.kit.health.ready_gate(format!("informer-{}{scope}", kind.qualified_plural())));
        let params = WatchParams::default().labels(&*scope.label_selector).fields(&*scope.field_selector);
        let reflector = Reflector::new(self.client.api(&kind, &scope.namespace), params, transform, informer.clone());
        let span = tracing::info_span!("informer", kind = &*kind.plural);
        let run = reflector.run(self.kit.shutdown.clone()).instrument(span);
        self.kit.tasks.spawn_infallible(format!("informer-{}", kind.qualified_plural()), run);
        running.informers.insert(key, Box::new(informer.clone()));
        informer
    }

    /// Waits until the first list of every informer that exists now is in. Cancel safe.
    pub async fn synced(&self) {
        let waiting: Vec<_> = self.running.lock().informers.values().map(|informer| informer.synced()).collect();
        for synced in waiting {
            wait(synced).await;
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.namespace, &self.label_selector, &self.field_selector] {
            if !part.is_empty() {
                write!(f, ":{part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
