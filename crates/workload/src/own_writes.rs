//! A process's own writes, until its informers show them.
//!
//! Invariant: from the moment a write is answered, [`OwnWrites::reckon`] shows what it did, whatever the informer has seen; and once the
//! informer has come so far, it shows what the informer does.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use api::meta::v1::ObjectMeta;
use client::Item;
use parking_lot::Mutex;

/// What was written on behalf of each key and is not seen yet.
#[derive(Debug)]
pub struct OwnWrites<K, T>(Mutex<HashMap<K, Unseen<T>>>);

#[derive(Debug)]
struct Unseen<T> {
    /// What was stored, by UID.
    stored: HashMap<String, Arc<T>>,
    /// UIDs of what was deleted.
    deleted: HashSet<String>,
    /// The answer to a creation was lost, so there may be an object that is not among the stored ones.
    doubtful: bool,
}

// === impl OwnWrites ===

impl<K, T> Default for OwnWrites<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Default for Unseen<T> {
    fn default() -> Self {
        Self { stored: HashMap::new(), deleted: HashSet::new(), doubtful: false }
    }
}

impl<K: Clone + Eq + Hash, T: Item> OwnWrites<K, T> {
    /// The object was created or replaced; this is what the server answered.
    pub fn stored(&self, key: &K, object: T) {
        let uid = object.meta().uid.clone();
        self.of(key, |unseen| drop(unseen.stored.insert(uid, Arc::new(object))));
    }

    /// The object of this UID was deleted, or has begun to go.
    pub fn deleted(&self, key: &K, uid: &str) {
        self.of(key, |unseen| {
            unseen.deleted.insert(uid.to_owned());
        });
    }

    /// The answer to a creation was lost.
    pub fn doubt(&self, key: &K) {
        self.of(key, |unseen| unseen.doubtful = true);
    }

    /// Learns from the server what became of creations whose answers were lost. `list` asks it for all that the key may own; nothing is asked
    /// where nothing is in doubt.
    ///
    /// # Errors
    /// Those of `list`; the doubt remains.
    pub async fn clear_doubt<E>(&self, key: &K, list: impl AsyncFnOnce() -> Result<Vec<T>, E>) -> Result<(), E> {
        if !self.0.lock().get(key).is_some_and(|unseen| unseen.doubtful) {
            return Ok(());
        }
        let objects = list().await?;
        self.of(key, |unseen| {
            unseen.doubtful = false;
            for object in objects {
                unseen.stored.entry(object.meta().uid.clone()).or_insert_with(|| Arc::new(object));
            }
        });
        Ok(())
    }

    /// What there is, where an informer shows `shown` and had seen everything up to the revision `seen` before they were read.
    pub fn reckon(&self, key: &K, mut shown: Vec<Arc<T>>, seen: i64) -> Vec<Arc<T>> {
        let mut all = self.0.lock();
        let Some(unseen) = all.get_mut(key) else { return shown };
        unseen.stored.retain(|_, object| revision(object.meta()) > seen);
        let mut news = unseen.stored.clone();
        for object in &mut shown {
            if let Some(stored) = news.remove(&object.meta().uid)
                && revision(stored.meta()) > revision(object.meta())
            {
                *object = stored;
            }
        }
        shown.extend(news.into_values());
        // What is gone or going in the informer's eyes needs no remembering.
        let going =
            |uid: &String| shown.iter().any(|object| object.meta().uid == *uid && object.meta().deletion_timestamp.is_none());
        unseen.deleted.retain(going);
        shown.retain(|object| !unseen.deleted.contains(&object.meta().uid));
        if unseen.stored.is_empty() && unseen.deleted.is_empty() && !unseen.doubtful {
            all.remove(key);
        }
        shown
    }

    /// True if an object that was stored on behalf of the key is not seen yet, as of the last time that was reckoned.
    pub fn is_unseen(&self, key: &K, uid: &str) -> bool {
        self.0.lock().get(key).is_some_and(|unseen| unseen.stored.contains_key(uid))
    }

    /// The key is gone.
    pub fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }

    fn of(&self, key: &K, change: impl FnOnce(&mut Unseen<T>)) {
        change(self.0.lock().entry(key.clone()).or_default());
    }
}

/// The revision of an object; 0 if it has none.
fn revision(meta: &ObjectMeta) -> i64 {
    meta.resource_version.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::core::v1::ConfigMap;
    use proptest::prelude::*;

    use super::*;

    fn map(uid: &str, revision: i64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata_mut().uid = uid.to_owned();
        map.metadata_mut().resource_version = revision.to_string();
        map
    }

    /// UID and revision of each object.
    fn shape(objects: Vec<Arc<ConfigMap>>) -> BTreeMap<String, i64> {
        let shown = objects.len();
        let shape: BTreeMap<_, _> = objects.iter().map(|o| (o.metadata().uid.clone(), revision(o.metadata()))).collect();
        assert_eq!(shape.len(), shown, "nothing is shown twice");
        shape
    }

    proptest! {
        /// Objects are written one after the other, the informer lags behind by any number of writes and may take back nothing: what is reckoned is
        /// always what was written.
        #[test]
        fn a_copy_that_lags_shows_what_was_written(writes in prop::collection::vec((0..5_u8, 0..3_u8, 0..4_usize), 1..40)) {
            let own = OwnWrites::<u8, ConfigMap>::default();
            let (mut history, mut seen) = (vec![BTreeMap::<String, i64>::new()], 0);
            for (uid, what, caught_up) in writes {
                let (mut state, uid) = (history.last().unwrap().clone(), uid.to_string());
                let revision = i64::try_from(history.len()).unwrap();
                if what == 0 && state.remove(&uid).is_some() {
                    own.deleted(&0, &uid);
                } else {
                    // Deleted UIDs never come back.
                    let uid = if state.contains_key(&uid) { uid } else { format!("{uid}-{revision}") };
                    own.stored(&0, map(&uid, revision));
                    state.insert(uid, revision);
                }
                history.push(state);
                seen = (seen + caught_up).min(history.len() - 1);
                let shown = history[seen].iter().map(|(uid, revision)| Arc::new(map(uid, *revision))).collect();
                let reckoned = shape(own.reckon(&0, shown, i64::try_from(seen).unwrap()));
                prop_assert_eq!(&reckoned, history.last().unwrap());
            }
            let all = history.last().unwrap();
            let shown = || all.iter().map(|(uid, revision)| Arc::new(map(uid, *revision))).collect();
            own.reckon(&0, shown(), i64::try_from(history.len()).unwrap());
            prop_assert!(own.0.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_once_and_until_then_nothing_else() {
        let own = OwnWrites::<u8, ConfigMap>::default();
        own.clear_doubt(&0, async || Err("not asked")).await.unwrap();
        own.doubt(&0);
        assert_eq!(own.clear_doubt(&0, async || Err("away")).await, Err("away"));
        own.clear_doubt(&0, async || Ok::<_, &str>(vec![map("a", 7)])).await.unwrap();
        own.clear_doubt(&0, async || Err("not asked")).await.unwrap();
        assert_eq!(shape(own.reckon(&0, Vec::new(), 6)), [("a".to_owned(), 7)].into());
        assert!(own.is_unseen(&0, "a"));
        assert!(own.reckon(&0, Vec::new(), 7).is_empty() && !own.is_unseen(&0, "a"));
    }
}
