//! The local copy of a kind's objects. One writer, the reflector; any number of readers.
//!
//! Invariant: every index is exactly what its function says of the objects that are there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;

use crate::{Item, key::ObjectKey};

type IndexValues<T> = Arc<dyn Fn(&T) -> Vec<String> + Send + Sync>;

/// Reads the local copy. Cheap to clone; all clones are one.
pub struct Store<T>(Arc<RwLock<Contents<T>>>);

struct Contents<T> {
    objects: HashMap<ObjectKey, Arc<T>>,
    indexes: BTreeMap<&'static str, Index<T>>,
}

struct Index<T> {
    values: IndexValues<T>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

// === impl Store ===

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("objects", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Store<T> {
    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.0.read().objects.get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.0.read().objects.values().cloned().collect()
    }

    /// All keys, in no order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.0.read().objects.keys().cloned().collect()
    }

    /// The objects for which the index function gave `value`, in no order; none if there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<T>> {
        let contents = self.0.read();
        let keys = contents.indexes.get(index).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| contents.objects.get(key).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.read().objects.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Item> Store<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new(RwLock::new(Contents { objects: HashMap::new(), indexes: BTreeMap::new() })))
    }

    /// A name that is taken keeps its first function.
    pub(super) fn add_index(&self, name: &'static str, values: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) {
        let mut contents = self.0.write();
        if contents.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values: Arc::new(values), keys: HashMap::new() };
        for (key, object) in &contents.objects {
            index.insert(key, object);
        }
        contents.indexes.insert(name, index);
    }

    /// Puts an object in, or takes it out; returns what was there.
    pub(super) fn put(&self, key: &ObjectKey, object: Option<Arc<T>>) -> Option<Arc<T>> {
        let mut contents = self.0.write();
        let Contents { objects, indexes } = &mut *contents;
        let former = match &object {
            Some(object) => objects.insert(key.clone(), object.clone()),
            None => objects.remove(key),
        };
        for index in indexes.values_mut() {
            if let Some(former) = &former {
                index.remove(key, former);
            }
            if let Some(object) = &object {
                index.insert(key, object);
            }
        }
        former
    }

    /// Replaces everything at once; returns what was there.
    pub(super) fn swap(&self, objects: HashMap<ObjectKey, Arc<T>>) -> HashMap<ObjectKey, Arc<T>> {
        let mut contents = self.0.write();
        for index in contents.indexes.values_mut() {
            index.keys.clear();
            for (key, object) in &objects {
                index.insert(key, object);
            }
        }
        std::mem::replace(&mut contents.objects, objects)
    }
}

// === impl Index ===

impl<T> Index<T> {
    fn insert(&mut self, key: &ObjectKey, object: &T) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &T) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{Resource, core::v1::Pod};

    use super::*;

    fn pod(name: &str, node: &str) -> (ObjectKey, Arc<Pod>) {
        let mut pod = Pod::default();
        pod.metadata_mut().name = name.into();
        pod.spec_mut().node_name = node.into();
        (ObjectKey::of(Resource::metadata(&pod)), Arc::new(pod))
    }

    fn on(store: &Store<Pod>, node: &str) -> Vec<String> {
        let mut names: Vec<_> = store.by_index("node", node).iter().map(|pod| pod.name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_index_follows_every_change() {
        let store = Store::new();
        let (a, on_x) = pod("a", "x");
        store.put(&a, Some(on_x));
        store.add_index("node", |pod: &Pod| vec![pod.spec().node_name.clone()]);
        assert_eq!(on(&store, "x"), ["a"]);
        store.put(&a, Some(pod("a", "y").1));
        assert_eq!((on(&store, "x").len(), on(&store, "y").len()), (0, 1));
        store.swap([pod("b", "x"), pod("c", "x")].into());
        assert_eq!((on(&store, "x"), on(&store, "y").len()), (vec!["b".to_owned(), "c".to_owned()], 0));
        store.put(&ObjectKey::new("", "b"), None);
        assert_eq!(on(&store, "x"), ["c"]);
    }
}
