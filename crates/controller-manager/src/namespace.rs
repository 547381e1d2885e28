//! Empties and removes namespaces that are being deleted.
//!
//! Works on every namespaced kind of the kind table alike. Pods go first, because what isolates them must not go before them; the
//! namespace's own finalizer goes last.

use std::{collections::BTreeMap, time::Duration};

use api::{
    Kind, KindRef, Resource,
    core::v1::{Namespace, NamespaceCondition, Pod},
    finalizers::KUBERNETES,
    meta::v1::{DeleteOptions, Time},
    registry::Kinds,
};
use client::{Controller, Error, Informer, Item, ListParams, ObjectKey, Reconcile, Requeue};

use crate::Context;

/// Pause before looking again when something could not be deleted, or goes unseen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long changes in a namespace that goes are gathered before it is looked at again.
const GATHER: Duration = Duration::from_millis(200);

/// Deletes namespaces. Keys are their names.
struct Namespaces {
    context: Context,
    namespaces: Informer<Namespace>,
}

/// What is left of a namespace's contents.
#[derive(Debug, Default)]
struct Remaining {
    /// How many objects, by resource.
    objects: BTreeMap<String, usize>,
    /// How many of them have a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted or counted, and why.
    failures: Vec<String>,
    /// Some of them are not on their way out yet, or of a kind that is not watched.
    unseen: bool,
}

/// Starts the controller.
pub fn start(context: &Context) {
    let namespaces = context.informers.of::<Namespace>();
    let reconciler = Namespaces { context: context.clone(), namespaces: namespaces.clone() };
    let mut controller = Controller::new("namespace", reconciler, &context.metrics).watches(&namespaces, |changed| {
        let going = changed.new.filter(|namespace| is_going(namespace));
        going.map(|namespace| namespace.name().to_owned())
    });
    for kind in Kinds::compiled().all().filter(|kind| is_watched(kind)) {
        let (contents, namespaces, queue) = (context.informers.metadata(kind), namespaces.clone(), controller.queue());
        // What is left in a namespace that goes changes, or is gone.
        contents.on_change(move |changed| {
            let Some(old) = changed.old else { return };
            let name = &old.meta().namespace;
            if namespaces.store().get(&ObjectKey::new("", &**name)).is_some_and(|namespace| is_going(&namespace)) {
                queue.add_after(name.clone(), GATHER);
            }
        });
        controller = controller.needs(&contents);
    }
    controller.spawn(&context.kit);
}

fn is_going(namespace: &Namespace) -> bool {
    namespace.metadata().deletion_timestamp.is_some()
}

/// Events come and go too often to be watched for this; nothing holds them.
fn is_watched(kind: &Kind) -> bool {
    is_content(kind) && kind.plural != "events"
}

impl Reconcile for Namespaces {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, name: &String) -> Result<Requeue, Error> {
        let Some(namespace) = self.namespaces.store().get(&ObjectKey::new("", &**name)) else { return Ok(Requeue::Done) };
        let finalizes = namespace.spec().finalizers.iter().any(|finalizer| finalizer == KUBERNETES);
        if !is_going(&namespace) || !finalizes {
            return Ok(Requeue::Done);
        }
        // The local copy may show a namespace that is gone, while another one of its name is there already.
        let api = self.context.client.all::<Namespace>();
        let stored = self.context.client.metadata(Namespace::KIND, "").get_opt(name).await?;
        if stored.is_none_or(|stored| stored.metadata.uid != namespace.metadata().uid) {
            return Ok(Requeue::Done);
        }
        let remaining = self.empty(name).await;
        let conditions = conditions(&namespace.status().conditions, &remaining);
        let mut namespace = (*namespace).clone();
        if conditions != namespace.status().conditions {
            namespace.status_mut().conditions = conditions;
            namespace = match api.update_status(&namespace).await {
                Err(error) if error.is_not_found() => return Ok(Requeue::Done),
                outcome => outcome?,
            };
        }
        if remaining.unseen || !remaining.failures.is_empty() {
            return Ok(Requeue::After(LOOK_AGAIN));
        }
        if !remaining.objects.is_empty() {
            return Ok(Requeue::Done);
        }
        namespace.spec_mut().finalizers.retain(|finalizer| finalizer != KUBERNETES);
        match api.update_subresource(name, "finalize", &namespace).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Requeue::Done),
        }
    }
}

impl Namespaces {
    /// Deletes what there is and says what is left.
    async fn empty(&self, namespace: &str) -> Remaining {
        let mut remaining = Remaining::default();
        self.empty_of(Pod::HANDLE, namespace, &mut remaining).await;
        if remaining.objects.is_empty() && remaining.failures.is_empty() {
            for kind in Kinds::compiled().all().filter(|kind| is_content(kind)) {
                self.empty_of(kind, namespace, &mut remaining).await;
            }
        }
        remaining
    }

    async fn empty_of(&self, kind: &KindRef, namespace: &str, remaining: &mut Remaining) {
        let objects = self.context.client.metadata(kind, namespace);
        let list = match objects.list(&ListParams::default()).await {
            Ok(list) if list.items.is_empty() => return,
            Ok(list) => list,
            Err(error) => return remaining.failures.push(format!("{}: {error}", kind.qualified_plural())),
        };
        // What goes through a grace period keeps the one it has.
        let left = if list.items.iter().any(|object| object.meta().deletion_timestamp.is_none()) {
            if let Err(error) = objects.delete_collection(&DeleteOptions::default(), &ListParams::default()).await {
                remaining.failures.push(format!("{}: {error}", kind.qualified_plural()));
            }
            match objects.list(&ListParams::default()).await {
                Ok(list) => list.items,
                Err(error) => return remaining.failures.push(format!("{}: {error}", kind.qualified_plural())),
            }
        } else {
            list.items
        };
        if !left.is_empty() {
            remaining.objects.insert(kind.qualified_plural(), left.len());
            remaining.unseen |= !is_watched(kind) || left.iter().any(|object| object.meta().deletion_timestamp.is_none());
        }
        for finalizer in left.iter().flat_map(|object| &object.meta().finalizers) {
            *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
}

/// True if objects of the kind are what a namespace is emptied of.
pub fn is_content(kind: &Kind) -> bool {
    kind.namespaced && kind.storage.is_some() && !kind.plural.is_empty()
}

/// Upstream's five conditions of a namespace that goes.
fn conditions(current: &[NamespaceCondition], remaining: &Remaining) -> Vec<NamespaceCondition> {
    let counted = |counts: &BTreeMap<String, usize>, what: &str| {
        let parts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {what} {count} resource instances")).collect();
        parts.join(", ")
    };
    let objects: Vec<_> =
        remaining.objects.iter().map(|(name, count)| format!("{name} has {count} resource instances")).collect();
    let failed = (!remaining.failures.is_empty())
        .then(|| ("ContentDeletionFailed", format!("Failed to delete all resource types: {}", remaining.failures.join("; "))));
    let content =
        (!objects.is_empty()).then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", objects.join(", "))));
    let held = (!remaining.finalizers.is_empty()).then(|| {
        let parts = counted(&remaining.finalizers, "in");
        ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {parts}"))
    });
    let wanted = [
        ("NamespaceDeletionDiscoveryFailure", None, ("ResourcesDiscovered", "All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            failed,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        ("NamespaceContentRemaining", content, ("ContentRemoved", "All content successfully removed")),
        ("NamespaceFinalizersRemaining", held, ("ContentHasNoFinalizers", "All content-preserving finalizers finished")),
    ];
    let condition = |(kind, bad, good): (&str, Option<(&str, String)>, (&str, &str))| {
        let status = if bad.is_some() { "True" } else { "False" };
        let (reason, message) = bad.unwrap_or_else(|| (good.0, good.1.to_owned()));
        let former = current.iter().find(|condition| condition.r#type == kind && condition.status == status);
        let since = former.and_then(|condition| condition.last_transition_time).unwrap_or_else(Time::now);
        NamespaceCondition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(since),
            reason: reason.to_owned(),
            message,
        }
    };
    wanted.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use api::{coordination::v1::Lease, core::v1::ConfigMap};
    use client::testing::MemoryServer;
    use serde_json::json;

    use super::*;
    use crate::testing::{context, namespace, object, running_pod};

    #[tokio::test]
    async fn a_namespace_goes_once_everything_in_it_is_gone_and_pods_go_first() {
        let server = MemoryServer::new();
        server.put(namespace("n"));
        server.put(namespace("other"));
        for n in ["n", "other"] {
            server.put(object::<ConfigMap>(json!({"metadata": {"namespace": n, "name": "m"}})));
            server.put(object::<Lease>(json!({"metadata": {"namespace": n, "name": "l"}})));
        }
        server.put(running_pod("n", "p", "node", "10.0.0.1"));
        let context = context(&server);
        start(&context);
        context.client.all::<Namespace>().delete("n", &DeleteOptions::default()).await.unwrap();
        server.eventually(|server| server.find::<Pod>("n", "p").is_some_and(|pod| crate::pods::is_terminating(&pod))).await;
        let remains = |server: &MemoryServer| {
            let namespace = server.find::<Namespace>("", "n").unwrap();
            let condition = namespace.status().conditions.iter().find(|c| c.r#type == "NamespaceContentRemaining").cloned();
            condition
                .is_some_and(|c| c.status == "True" && c.message == "Some resources are remaining: pods has 1 resource instances")
        };
        server.eventually(remains).await;
        assert!(server.find::<ConfigMap>("n", "m").is_some());
        // The kubelet says the pod is gone.
        context.client.namespaced::<Pod>("n").delete("p", &client::delete::now()).await.unwrap();
        server.eventually(|server| server.find::<Namespace>("", "n").is_none()).await;
        assert!(server.find::<ConfigMap>("n", "m").is_none() && server.find::<Lease>("n", "l").is_none());
        assert!(server.find::<ConfigMap>("other", "m").is_some());
    }

    #[tokio::test]
    async fn an_object_with_a_finalizer_holds_its_namespace_and_is_named() {
        let server = MemoryServer::new();
        server.put(namespace("n"));
        server.put(object::<ConfigMap>(json!({"metadata": {"namespace": "n", "name": "m", "finalizers": ["x.io/keep"]}})));
        let context = context(&server);
        start(&context);
        context.client.all::<Namespace>().delete("n", &DeleteOptions::default()).await.unwrap();
        let held = |server: &MemoryServer| {
            let namespace = server.find::<Namespace>("", "n").unwrap();
            namespace
                .status()
                .conditions
                .iter()
                .any(|c| c.status == "True" && c.message.contains("x.io/keep in 1 resource instances"))
        };
        server.eventually(held).await;
        let mut map = server.find::<ConfigMap>("n", "m").unwrap();
        map.metadata_mut().finalizers.clear();
        context.client.namespaced::<ConfigMap>("n").update(&map).await.unwrap();
        server.eventually(|server| server.find::<Namespace>("", "n").is_none()).await;
    }

    #[tokio::test]
    async fn a_namespace_made_anew_is_not_emptied_for_the_one_before_it() {
        let server = MemoryServer::new();
        let mut going = namespace("n");
        going.metadata_mut().deletion_timestamp = Some(Time::now());
        server.put(going);
        let context = context(&server);
        let namespaces = context.informers.of::<Namespace>();
        context.informers.synced().await;
        // For a while the local copy learns nothing.
        (0..50).for_each(|_| server.fail_next("watch", "namespaces", api::StatusError::unavailable("away")));
        server.disconnect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.remove::<Namespace>("", "n");
        server.put(namespace("n"));
        server.put(object::<ConfigMap>(json!({"metadata": {"namespace": "n", "name": "m"}})));
        let reconciler = Namespaces { context, namespaces: namespaces.clone() };
        reconciler.reconcile(&"n".to_owned()).await.unwrap();
        assert!(is_going(&namespaces.store().get(&ObjectKey::new("", "n")).unwrap()));
        assert!(server.find::<ConfigMap>("n", "m").is_some());
    }
}
