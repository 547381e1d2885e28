//! Garbage collection by owner references, over the metadata of every kind.
//!
//! An object all of whose owners are gone goes too (background). An owner that is deleted in the foreground waits for the dependents that
//! block it, which go first; one that is deleted with orphaning lets go of them.
//!
//! Invariant: nothing is deleted or let go on the word of a local copy alone. That an owner is gone, that the object still names it, and that
//! nothing else names an owner that is let go, is asked of the server, and a deletion holds only for the very version that was seen.

use std::{collections::HashMap, sync::Arc};

use api::{
    KindRef,
    finalizers::{FOREGROUND, ORPHAN},
    meta::v1::{ObjectMeta, OwnerReference},
    registry::Kinds,
};
use client::{
    Changed, Client, Controller, Error, Informer, Item as _, ListParams, Metadata, ObjectKey, Patch, Reconcile, Requeue,
    WorkQueue,
};
use futures::future::try_join_all;
use serde_json::json;

use crate::{
    Context,
    context::{OWNER, by_owner},
};

/// An object to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    kind: KindRef,
    key: ObjectKey,
    uid: String,
}

/// The metadata of every kind.
#[derive(Clone)]
struct Graph(Arc<HashMap<KindRef, Informer<Metadata>>>);

struct Collector {
    client: Client,
    graph: Graph,
    queue: WorkQueue<Node>,
}

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// An owner that stays, or one that cannot be judged.
    Solid,
    /// An owner that waits for its dependents to go.
    Waiting,
    /// Nothing.
    Gone,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let informers: HashMap<_, _> = Kinds::compiled()
        .resources()
        .filter(|kind| kind.storage.is_some() && kind.plural != "events")
        .map(|kind| (kind.clone(), context.informers.metadata(kind)))
        .collect();
    informers.values().for_each(|informer| informer.add_index(OWNER, by_owner));
    let graph = Graph(Arc::new(informers));
    let queue = WorkQueue::new(Some(context.metrics.queue("garbage")));
    let collector = Collector { client: context.client.clone(), graph: graph.clone(), queue: queue.clone() };
    let mut controller = Controller::over("garbage", collector, queue, &context.metrics).workers(8);
    for informer in graph.0.values() {
        let graph = graph.clone();
        controller = controller.watches(informer, move |changed| graph.concerned(changed));
    }
    controller.spawn(&context.kit);
}

// === impl Node ===

impl Node {
    fn of(object: &Metadata) -> Self {
        Self { kind: object.kind.clone(), key: ObjectKey::of(&object.metadata), uid: object.metadata.uid.clone() }
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.kind, self.key)
    }
}

// === impl Graph ===

impl Graph {
    fn dependents(&self, uid: &str) -> Vec<Arc<Metadata>> {
        self.0.values().flat_map(|informer| informer.store().by_index(OWNER, uid)).collect()
    }

    /// What has to be looked at after a change.
    fn concerned(&self, changed: Changed<'_, Metadata>) -> Vec<Node> {
        let mut nodes = Vec::new();
        if let Some(new) = changed.new
            && (!new.metadata.owner_references.is_empty() || holds(&new.metadata).is_some())
        {
            nodes.push(Node::of(new));
        }
        let replaced = |old: &&Arc<Metadata>| changed.new.is_none_or(|new| new.metadata.uid != old.metadata.uid);
        if let Some(gone) = changed.old.filter(replaced) {
            nodes.extend(self.dependents(&gone.metadata.uid).iter().map(|dependent| Node::of(dependent)));
        }
        if let Some(old) = changed.old {
            // Owners may be waiting for this one to go, or to let them go.
            let owners = old.metadata.owner_references.iter().filter_map(|owner| self.find(owner, &old.metadata.namespace));
            nodes.extend(owners.filter(|owner| holds(&owner.metadata).is_some()).map(|owner| Node::of(&owner)));
        }
        nodes
    }

    /// The owner as the local copy has it.
    fn find(&self, owner: &OwnerReference, namespace: &str) -> Option<Arc<Metadata>> {
        let kind = Kinds::compiled().by_api_version(&owner.api_version, &owner.kind)?;
        let namespace = if kind.namespaced { namespace } else { "" };
        let found = self.0.get(kind)?.store().get(&ObjectKey::new(namespace, &*owner.name))?;
        (found.metadata.uid == owner.uid).then_some(found)
    }
}

/// The finalizer of ours that keeps a deleted object.
fn holds(meta: &ObjectMeta) -> Option<&'static str> {
    meta.deletion_timestamp.as_ref()?;
    [ORPHAN, FOREGROUND].into_iter().find(|ours| meta.finalizers.iter().any(|finalizer| finalizer == ours))
}

fn kind_of_owner(meta: &ObjectMeta) -> Owner {
    if holds(meta) == Some(FOREGROUND) { Owner::Waiting } else { Owner::Solid }
}

impl Reconcile for Collector {
    type Key = Node;
    type Error = Error;

    async fn reconcile(&self, node: &Node) -> Result<Requeue, Error> {
        if self.is_plainly_well(node) {
            return Ok(Requeue::Done);
        }
        let api = self.client.metadata(&node.kind, &node.key.namespace);
        let Some(object) = api.get_opt(&node.key.name).await?.filter(|object| object.metadata.uid == node.uid) else {
            return Ok(Requeue::Done);
        };
        match holds(&object.metadata) {
            Some(ORPHAN) => self.orphan_dependents(&object).await?,
            Some(_) => self.delete_dependents_first(&object).await?,
            None if object.metadata.deletion_timestamp.is_none() => self.judge(&object).await?,
            None => {}
        }
        Ok(Requeue::Done)
    }
}

impl Collector {
    /// The local copy is enough to see that nothing is wrong, which is nearly always so.
    fn is_plainly_well(&self, node: &Node) -> bool {
        let Some(object) = self.graph.0.get(&node.kind).and_then(|informer| informer.store().get(&node.key)) else {
            return false;
        };
        let meta = &object.metadata;
        let solid = |owner: &OwnerReference| {
            self.graph.find(owner, &meta.namespace).is_some_and(|owner| kind_of_owner(&owner.metadata) == Owner::Solid)
        };
        meta.uid == node.uid && holds(meta).is_none() && meta.owner_references.iter().all(solid)
    }

    /// Lets go of owners that are gone; deletes the object if none is left.
    async fn judge(&self, object: &Metadata) -> Result<(), Error> {
        let meta = &object.metadata;
        if meta.owner_references.is_empty() {
            return Ok(());
        }
        let (mut kept, mut waiting) = (Vec::new(), false);
        for owner in &meta.owner_references {
            match self.look_up(owner, object).await? {
                Owner::Solid => kept.push(owner.clone()),
                Owner::Waiting => waiting = true,
                Owner::Gone => {}
            }
        }
        if kept.len() == meta.owner_references.len() {
            return Ok(());
        }
        if !kept.is_empty() {
            return self.patch(object, json!({ "ownerReferences": kept })).await;
        }
        let dependents = self.graph.dependents(&meta.uid);
        let has = |finalizer: &str| meta.finalizers.iter().any(|own| own == finalizer);
        let policy = if waiting && !dependents.is_empty() {
            self.break_cycles(object, &dependents).await?;
            "Foreground"
        } else if has(ORPHAN) {
            "Orphan"
        } else if has(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        tracing::info!(kind = &*object.kind.kind, object = %ObjectKey::of(meta), policy, "deleting, since its owners are gone");
        self.client.metadata(&object.kind, &meta.namespace).delete_seen(meta, client::delete::propagation(policy)).await
    }

    async fn look_up(&self, owner: &OwnerReference, object: &Metadata) -> Result<Owner, Error> {
        let meta = &object.metadata;
        if let Some(found) = self.graph.find(owner, &meta.namespace) {
            return Ok(kind_of_owner(&found.metadata));
        }
        let kinds = Kinds::compiled();
        let Some(kind) = kinds.by_api_version(&owner.api_version, &owner.kind).filter(|kind| self.graph.0.contains_key(kind))
        else {
            tracing::debug!(owner.api_version, owner.kind, "an owner of an unknown kind counts as existing");
            return Ok(Owner::Solid);
        };
        if kind.namespaced && meta.namespace.is_empty() {
            tracing::warn!(
                kind = &*object.kind.kind,
                object = meta.name,
                owner.kind,
                "an owner in a namespace cannot own what is in none"
            );
            return Ok(Owner::Solid);
        }
        let namespace = if kind.namespaced { &*meta.namespace } else { "" };
        let found = self.client.metadata(kind, namespace).get_opt(&owner.name).await?;
        Ok(found.filter(|found| found.metadata.uid == owner.uid).map_or(Owner::Gone, |found| kind_of_owner(&found.metadata)))
    }

    /// Two objects that own, block and wait for each other would wait for ever.
    async fn break_cycles(&self, object: &Metadata, dependents: &[Arc<Metadata>]) -> Result<(), Error> {
        for dependent in dependents.iter().filter(|dependent| holds(&dependent.metadata) == Some(FOREGROUND)) {
            let mut owners = dependent.metadata.owner_references.clone();
            for owner in owners.iter_mut().filter(|owner| owner.uid == object.metadata.uid) {
                owner.block_owner_deletion = Some(false);
            }
            if owners != dependent.metadata.owner_references {
                self.patch(dependent, json!({ "ownerReferences": owners })).await?;
            }
        }
        Ok(())
    }

    /// What names the object as an owner, asked of the server: the local copies may lag behind what was created a moment ago.
    async fn dependents(&self, owner: &Metadata) -> Result<Vec<Metadata>, Error> {
        let (namespaced, all) = (owner.kind.namespaced, ListParams::default());
        let kinds = self.graph.0.keys().filter(|kind| kind.namespaced || !namespaced);
        let lists = kinds.map(|kind| {
            let objects = self.client.metadata(kind, if namespaced { &owner.metadata.namespace } else { "" });
            let all = &all;
            async move { objects.list(all).await }
        });
        let objects = try_join_all(lists).await?.into_iter().flat_map(|list| list.items);
        let owned = |object: &Metadata| object.metadata.owner_references.iter().any(|own| own.uid == owner.metadata.uid);
        Ok(objects.filter(owned).collect())
    }

    async fn orphan_dependents(&self, owner: &Metadata) -> Result<(), Error> {
        for dependent in self.dependents(owner).await? {
            let owners = dependent.metadata.owner_references.iter().filter(|reference| reference.uid != owner.metadata.uid);
            let owners: Vec<_> = owners.collect();
            self.patch(&dependent, json!({ "ownerReferences": owners })).await?;
        }
        self.release(owner, ORPHAN).await
    }

    async fn delete_dependents_first(&self, owner: &Metadata) -> Result<(), Error> {
        let uid = &owner.metadata.uid;
        let blocks = |dependent: &Metadata| {
            let mut owners = dependent.metadata.owner_references.iter();
            owners.any(|owner| owner.uid == *uid && owner.block_owner_deletion == Some(true))
        };
        let mut dependents: Vec<Node> = Vec::new();
        let known = self.graph.dependents(uid);
        if known.iter().any(|dependent| blocks(dependent)) {
            dependents.extend(known.iter().map(|dependent| Node::of(dependent)));
        } else {
            let found = self.dependents(owner).await?;
            if !found.iter().any(blocks) {
                return self.release(owner, FOREGROUND).await;
            }
            dependents.extend(found.iter().map(Node::of));
        }
        // Each of them sees that its owner waits; the owner is looked at again as they go.
        dependents.into_iter().for_each(|dependent| self.queue.add(dependent));
        Ok(())
    }

    async fn release(&self, object: &Metadata, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = object.metadata.finalizers.iter().filter(|own| *own != finalizer).collect();
        self.patch(object, json!({ "finalizers": left })).await
    }

    /// Changes the metadata of the very version that was seen. An object that is gone is no error.
    async fn patch(&self, object: &Metadata, mut change: serde_json::Value) -> Result<(), Error> {
        let meta = object.meta();
        change["uid"] = meta.uid.as_str().into();
        change["resourceVersion"] = meta.resource_version.as_str().into();
        let patch = Patch::Merge(json!({ "metadata": change }));
        match self.client.metadata(&object.kind, &meta.namespace).patch(&meta.name, &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

#[cfg(test)]
mod tests;
