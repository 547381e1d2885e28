//! Which objects an owner manages.
//!
//! Invariant: an object is adopted only by an owner that the server still has and that is not going, and only in the very version that was
//! found to belong to nobody; so two owners with one selector never both have it.

use std::sync::Arc;

use api::{
    KindRef, Resource,
    meta::v1::{ObjectMeta, OwnerReference},
    selector::Selector,
};
use client::{Client, Error, Item, Metadata, Patch};
use serde_json::json;

/// An object that owns others.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its kind.
    pub kind: KindRef,
    /// Its metadata.
    pub meta: ObjectMeta,
}

/// Claims objects of a kind for one owner.
#[derive(Debug)]
pub struct Claims<'a> {
    /// Writes the owner references.
    pub client: &'a Client,
    /// Who claims.
    pub owner: &'a Owner,
    /// What it selects.
    pub selector: &'a Selector,
    /// The kind that is claimed.
    pub kind: KindRef,
}

/// The reference of the owner that manages an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().find(|owner| owner.controller == Some(true))
}

// === impl Owner ===

impl Owner {
    /// An object as an owner.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self { kind: K::KIND.into(), meta: object.metadata().clone() }
    }

    /// The reference by which an object names this owner as the one that manages it.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.kind.api_version.to_string(),
            kind: self.kind.kind.to_string(),
            name: self.meta.name.clone(),
            uid: self.meta.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// True if this owner manages the object.
    pub fn manages(&self, object: &ObjectMeta) -> bool {
        controller_of(object).is_some_and(|owner| owner.uid == self.meta.uid)
    }
}

// === impl Claims ===

impl Claims<'_> {
    /// Of the objects that the owner manages it lets go of those that it no longer selects; of `orphans`, which it selects, it adopts those that
    /// nobody manages and `may_adopt` allows. Returns what it manages then. An owner that is going changes nothing.
    ///
    /// # Errors
    /// When the server refuses a change, a conflict among them.
    pub async fn claim<T: Item>(
        &self,
        managed: Vec<Arc<T>>,
        orphans: impl FnOnce() -> Vec<Arc<T>>,
        may_adopt: impl Fn(&T) -> bool,
    ) -> Result<Vec<Arc<T>>, Error> {
        let selected = |object: &Arc<T>| self.selector.matches_map(&object.meta().labels);
        let (mut kept, strays): (Vec<_>, Vec<_>) = managed.into_iter().partition(selected);
        if self.owner.meta.deletion_timestamp.is_some() {
            return Ok(kept);
        }
        for stray in strays.iter().filter(|stray| stray.meta().deletion_timestamp.is_none()) {
            let owners = stray.meta().owner_references.iter().filter(|owner| owner.uid != self.owner.meta.uid);
            self.set_owners(stray.meta(), owners.cloned().collect()).await?;
        }
        let mut orphans = orphans();
        orphans.retain(|orphan| {
            let meta = orphan.meta();
            controller_of(meta).is_none() && meta.deletion_timestamp.is_none() && may_adopt(orphan)
        });
        if orphans.is_empty() || !self.is_there().await? {
            return Ok(kept);
        }
        for orphan in orphans {
            let owners = orphan.meta().owner_references.iter().cloned().chain([self.owner.reference()]).collect();
            if self.set_owners(orphan.meta(), owners).await? {
                kept.push(orphan);
            }
        }
        Ok(kept)
    }

    /// Asks the server, since a local copy may lag behind the owner's deletion, or show one of the same name that is gone.
    async fn is_there(&self) -> Result<bool, Error> {
        let (kind, meta) = (&self.owner.kind, &self.owner.meta);
        let stored: Option<Metadata> = self.client.metadata(kind.clone(), &meta.namespace).get_opt(&meta.name).await?;
        Ok(stored.is_some_and(|stored| stored.metadata.uid == meta.uid && stored.metadata.deletion_timestamp.is_none()))
    }

    /// Changes the owners of the very version that was seen. Says whether it was still there.
    async fn set_owners(&self, seen: &ObjectMeta, owners: Vec<OwnerReference>) -> Result<bool, Error> {
        let patch = json!({"metadata": {"uid": seen.uid, "resourceVersion": seen.resource_version, "ownerReferences": owners}});
        match self.client.metadata(self.kind.clone(), &seen.namespace).patch(&seen.name, &Patch::Merge(patch)).await {
            Err(error) if error.is_not_found() => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{ConfigMap, Secret};
    use client::testing::MemoryServer;

    use super::*;

    fn labelled<K: Resource>(name: &str, app: &str) -> K {
        let mut object = K::default();
        object.metadata_mut().name = name.to_owned();
        object.metadata_mut().namespace = "d".to_owned();
        object.metadata_mut().labels.insert("app".to_owned(), app.to_owned());
        object
    }

    /// Claims ConfigMaps for a Secret, as the server has them.
    async fn claim(server: &MemoryServer, owner: &Owner, selector: &str) -> Result<Vec<String>, Error> {
        let selector = Selector::parse(selector).unwrap();
        let client = server.client();
        let claims = Claims { client: &client, owner, selector: &selector, kind: ConfigMap::KIND.into() };
        let all = || server.all::<ConfigMap>().into_iter().map(Arc::new);
        let managed = all().filter(|map| owner.manages(map.metadata())).collect();
        let orphans = || all().filter(|map| selector.matches_map(&map.metadata().labels)).collect();
        let claimed = claims.claim(managed, orphans, |map| map.name() != "spared").await?;
        let mut names: Vec<_> = claimed.iter().map(|map| map.name().to_owned()).collect();
        names.sort();
        Ok(names)
    }

    #[tokio::test]
    async fn an_owner_has_what_it_selects_and_nobody_else_has() {
        let server = MemoryServer::new();
        let owners = ["one", "two"].map(|name| Owner::of(&server.put(labelled::<Secret>(name, ""))));
        for (name, app) in [("a", "x"), ("b", "y"), ("c", "z"), ("spared", "x")] {
            server.put(labelled::<ConfigMap>(name, app));
        }
        assert_eq!(claim(&server, &owners[0], "app in (x,y)").await.unwrap(), ["a", "b"]);
        assert_eq!(claim(&server, &owners[1], "app").await.unwrap(), ["c"]);
        let reference = server.find::<ConfigMap>("d", "a").unwrap().metadata().owner_references[0].clone();
        assert_eq!(reference, owners[0].reference());
        assert_eq!((reference.api_version.as_str(), reference.kind.as_str()), ("v1", "Secret"));
        // What is selected no more is let go, and is free for the other.
        assert_eq!(claim(&server, &owners[0], "app,app!=y").await.unwrap(), ["a"]);
        assert_eq!(claim(&server, &owners[1], "app").await.unwrap(), ["b", "c"]);
    }

    #[tokio::test]
    async fn an_owner_that_is_going_or_gone_adopts_nothing() {
        let server = MemoryServer::new();
        server.put(labelled::<ConfigMap>("a", "x"));
        let mut owner = Owner::of(&server.put(labelled::<Secret>("one", "")));
        let there = owner.clone();
        owner.meta.deletion_timestamp = Some(api::meta::v1::Time::now());
        assert!(claim(&server, &owner, "app").await.unwrap().is_empty());
        // Another of the same name is not the same.
        server.remove::<Secret>("d", "one");
        server.put(labelled::<Secret>("one", ""));
        assert!(claim(&server, &there, "app").await.unwrap().is_empty());
        assert!(server.find::<ConfigMap>("d", "a").unwrap().metadata().owner_references.is_empty());
    }
}
