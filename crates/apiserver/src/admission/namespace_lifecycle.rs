//! Objects are created in namespaces that exist and stay, and the cluster's own namespaces stay for good.
//!
//! The namespace is guarded in the transaction of the creation: once its deletion has begun, nothing new comes, not even from a server
//! that has not heard of it yet. That is what makes emptying it come to an end.

use api::{Object, Resource, StatusError, core::v1::Namespace, meta::v1::StatusCause, names::SYSTEM_NAMESPACES};
use store::{Guard, Store};

use super::{Admitted, Effects, Plugin, Write, action::Action};
use crate::reader::Reader;

/// See the module.
pub(super) struct NamespaceLifecycle {
    namespaces: Reader<Namespace>,
}

impl NamespaceLifecycle {
    pub(super) fn new(store: &Store) -> Self {
        Self { namespaces: Reader::new(store) }
    }

    async fn creation(&self, write: &Write<'_>, object: &dyn Object, effects: &mut Effects) -> Result<(), StatusError> {
        let (kind, name) = (&write.request.kind, &write.request.namespace);
        let Some(found) = self.namespaces.cached("", name).await? else {
            return Err(StatusError::not_found(Namespace::KIND, name));
        };
        let namespace = &found.object;
        if namespace.metadata().deletion_timestamp.is_some() || namespace.status().phase == "Terminating" {
            let why = format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(StatusError::forbidden(kind, &object.meta().name, why).with_cause(StatusCause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".to_owned(),
            }));
        }
        effects.guard(found.entry.key(), Guard::At(found.entry.revision()));
        Ok(())
    }
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn permit_deletion<'a>(&'a self, _write: &'a Write<'a>, object: &'a dyn Object) -> Admitted<'a> {
        let immortal = *object.kind() == Namespace::KIND && SYSTEM_NAMESPACES.contains(&object.meta().name.as_str());
        let answer = if immortal {
            Err(StatusError::forbidden(object.kind(), &object.meta().name, "this namespace may not be deleted"))
        } else {
            Ok(())
        };
        Box::pin(std::future::ready(answer))
    }

    fn admit<'a>(&'a self, write: &'a Write<'a>, object: &'a mut dyn Object, effects: &'a mut Effects) -> Admitted<'a> {
        Box::pin(async move {
            if write.action() == Action::Create && write.request.kind.namespaced {
                self.creation(write, object, effects).await?;
            }
            Ok(())
        })
    }
}
