//! The local copy of a kind's objects. One writer, the reflector; any number of readers.
//!
//! Invariant: every index is exactly what its function says of the objects that are there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use api::{meta::v1::ObjectMeta, selector::Selector};
use parking_lot::RwLock;

use super::{
    labels::{Labels, Selectors},
    reflector::Snapshot,
};
use crate::{
    Item,
    error::{Error, Result},
    key::ObjectKey,
};

type IndexValues<T> = Arc<dyn Fn(&T) -> Vec<String> + Send + Sync>;
type SelectorOf<T> = Arc<dyn Fn(&T) -> Selector + Send + Sync>;

/// Reads the local copy. Cheap to clone; all clones are one.
pub struct Store<T>(Arc<RwLock<Contents<T>>>);

struct Contents<T> {
    objects: HashMap<ObjectKey, Arc<T>>,
    /// Objects that exist and cannot be read. `objects` may hold what they were before.
    unreadable: HashSet<ObjectKey>,
    indexes: BTreeMap<&'static str, Index<T>>,
    labels: Option<Labels>,
    selectors: Option<(SelectorOf<T>, Selectors)>,
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
    /// One object, as far as it is known. `None` does not say that there is none: ask [`Self::find`] before something is undone since an
    /// object is gone.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.0.read().objects.get(key).cloned()
    }

    /// One object; `None` if there is none as far as the store has seen.
    ///
    /// # Errors
    /// [`Error::InDoubt`] when it is not known, and may be one of those that exist and cannot be read.
    pub fn find(&self, key: &ObjectKey) -> Result<Option<Arc<T>>> {
        let contents = self.0.read();
        let known = contents.objects.get(key).cloned();
        // One that cannot even be named may be any.
        let in_doubt = || contents.unreadable.contains(key) || contents.unreadable.contains(&ObjectKey::default());
        if known.is_none() && in_doubt() { Err(Error::InDoubt { key: key.clone() }) } else { Ok(known) }
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
        let (objects, unreadable, indexes) = (HashMap::new(), HashSet::new(), BTreeMap::new());
        Self(Arc::new(RwLock::new(Contents { objects, unreadable, indexes, labels: None, selectors: None })))
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

    /// Indexes the objects by their labels, if they are not yet.
    pub(super) fn index_labels(&self) {
        let mut contents = self.0.write();
        if contents.labels.is_none() {
            let mut labels = Labels::default();
            contents.objects.iter().for_each(|(key, object)| labels.insert(key, object.meta()));
            contents.labels = Some(labels);
        }
    }

    /// Indexes the objects by their selectors. The first function counts.
    pub(super) fn index_selectors(&self, selector: impl Fn(&T) -> Selector + Send + Sync + 'static) {
        let mut contents = self.0.write();
        if contents.selectors.is_none() {
            let mut selectors = Selectors::default();
            contents.objects.iter().for_each(|(key, object)| selectors.insert(key, &selector(object)));
            contents.selectors = Some((Arc::new(selector), selectors));
        }
    }

    /// The objects of a namespace whose labels match, in no order. Quick after [`Informer::index_labels`](super::Informer::index_labels).
    pub fn selected(&self, namespace: &str, selector: &Selector) -> Vec<Arc<T>> {
        if selector.is_nothing() {
            return Vec::new();
        }
        let contents = self.0.read();
        let matches = |object: &&Arc<T>| {
            let meta = object.meta();
            meta.namespace == namespace && selector.matches_map(&meta.labels)
        };
        match contents.labels.as_ref().and_then(|labels| labels.candidates(namespace, selector)) {
            Some(keys) => keys.into_iter().filter_map(|key| contents.objects.get(key)).filter(matches).cloned().collect(),
            None => contents.objects.values().filter(matches).cloned().collect(),
        }
    }

    /// The objects whose selectors match an object of the same namespace with these labels, in no order. None if they are not indexed by
    /// their selectors.
    pub fn selecting(&self, meta: &ObjectMeta) -> Vec<Arc<T>> {
        let contents = self.0.read();
        let Some((selector, selectors)) = &contents.selectors else { return Vec::new() };
        // One that stands under two of the labels comes once.
        let keys: HashSet<_> = selectors.candidates(meta).collect();
        let candidates = keys.into_iter().filter_map(|key| contents.objects.get(key));
        candidates.filter(|object| selector(object).matches_map(&meta.labels)).cloned().collect()
    }

    /// Puts an object in, or takes it out; returns what was there.
    pub(super) fn put(&self, key: &ObjectKey, object: Option<Arc<T>>) -> Option<Arc<T>> {
        let mut contents = self.0.write();
        contents.unreadable.remove(key);
        let former = match &object {
            Some(object) => contents.objects.insert(key.clone(), object.clone()),
            None => contents.objects.remove(key),
        };
        if let Some(former) = &former {
            contents.unindex(key, former);
        }
        if let Some(object) = &object {
            contents.index(key, object);
        }
        former
    }

    /// Notes that an object exists that cannot be read. False if that was known.
    pub(super) fn doubt(&self, key: ObjectKey) -> bool {
        self.0.write().unreadable.insert(key)
    }

    /// Replaces everything at once; returns the objects that were there.
    pub(super) fn swap(&self, Snapshot { objects, unreadable }: Snapshot<T>) -> HashMap<ObjectKey, Arc<T>> {
        let mut contents = self.0.write();
        contents.unreadable = unreadable;
        contents.indexes.values_mut().for_each(|index| index.keys.clear());
        contents.labels.iter_mut().for_each(|labels| *labels = Labels::default());
        contents.selectors.iter_mut().for_each(|(_, selectors)| *selectors = Selectors::default());
        for (key, object) in &objects {
            contents.index(key, object);
        }
        std::mem::replace(&mut contents.objects, objects)
    }
}

// === impl Contents ===

impl<T: Item> Contents<T> {
    fn index(&mut self, key: &ObjectKey, object: &T) {
        self.indexes.values_mut().for_each(|index| index.insert(key, object));
        self.labels.iter_mut().for_each(|labels| labels.insert(key, object.meta()));
        self.selectors.iter_mut().for_each(|(selector, selectors)| selectors.insert(key, &selector(object)));
    }

    fn unindex(&mut self, key: &ObjectKey, object: &T) {
        self.indexes.values_mut().for_each(|index| index.remove(key, object));
        self.labels.iter_mut().for_each(|labels| labels.remove(key, object.meta()));
        self.selectors.iter_mut().for_each(|(selector, selectors)| selectors.remove(key, &selector(object)));
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
        store.swap(Snapshot { objects: [pod("b", "x"), pod("c", "x")].into(), ..Snapshot::default() });
        assert_eq!((on(&store, "x"), on(&store, "y").len()), (vec!["b".to_owned(), "c".to_owned()], 0));
        store.put(&ObjectKey::new("", "b"), None);
        assert_eq!(on(&store, "x"), ["c"]);
    }

    fn labelled(name: &str, labels: &str) -> (ObjectKey, Arc<Pod>) {
        let (key, pod) = pod(name, "n");
        let mut pod = (*pod).clone();
        pod.metadata_mut().labels =
            labels.split_terminator(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        (key, Arc::new(pod))
    }

    proptest::proptest! {
        #[test]
        fn what_the_indexes_find_is_what_a_walk_finds(
            puts in proptest::collection::vec((0..6_usize, "(a=[xy],)?(b=[xy],)?(c=[xy],)?", proptest::bool::ANY), 0..20),
            selector in "a=[xy]|a in \\(x,z\\)|a in \\(x,y\\),b=x|b|!a|a!=x|b,c!=y|a notin \\(x\\)|",
        ) {
            let of = |pod: &Pod| Selector::parse(pod.metadata().labels.get("a").map_or("", |v| if v == "x" { "a=x,!c" } else { "b in (x,y)" }));
            let store = Store::new();
            store.index_labels();
            store.index_selectors(move |pod: &Pod| of(pod).unwrap_or_default());
            for (n, labels, there) in puts {
                let (key, object) = labelled(&n.to_string(), &labels);
                store.put(&key, there.then_some(object));
                let names = |mut found: Vec<Arc<Pod>>| {
                    found.sort_by(|a, b| a.name().cmp(b.name()));
                    found.iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>()
                };
                let selector = Selector::parse(&selector).unwrap();
                let walk = store.list().into_iter().filter(|pod| selector.matches_map(&pod.metadata().labels)).collect();
                proptest::prop_assert_eq!(names(store.selected("", &selector)), names(walk));
                let (_, probe) = labelled("probe", &labels);
                let walk = store.list().into_iter().filter(|pod| of(pod).unwrap().matches_map(&probe.metadata().labels)).collect();
                proptest::prop_assert_eq!(names(store.selecting(probe.metadata())), names(walk));
            }
            store.swap(Snapshot::default());
            proptest::prop_assert!(store.selected("", &Selector::everything()).is_empty());
            let contents = store.0.read();
            proptest::prop_assert_eq!(format!("{:?}", contents.labels), format!("{:?}", Some(Labels::default())));
        }
    }
}
