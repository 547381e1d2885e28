//! What the objects of all kinds have in common: the typed trait, and the object-safe trait that the API server's pipeline uses.

use std::{any::Any, fmt};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    json,
    kind::{Kind, KindRef},
    meta::v1::ObjectMeta,
    rules::{FieldErrors, Path, Rules},
};

pub use crate::generated::k8s::io::apimachinery::pkg::api::resource::Quantity;

/// An object of one kind.
pub trait Resource:
    prost::Message + Rules + Default + Clone + PartialEq + Serialize + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
    /// The kind.
    const KIND: &'static Kind;
    /// The handle on the kind.
    const HANDLE: &'static KindRef;
    /// The object's metadata, or its default if unset.
    fn metadata(&self) -> &ObjectMeta;
    /// The object's metadata, made first if unset.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;

    /// Sets the status to that of `other`. Does nothing for kinds that have none.
    fn copy_status_from(&mut self, other: &Self);

    /// `metadata.name`.
    fn name(&self) -> &str {
        &self.metadata().name
    }

    /// `metadata.namespace`; empty for cluster-scoped kinds.
    fn namespace(&self) -> &str {
        &self.metadata().namespace
    }
}

/// A message whose unset occurrences share one default.
pub trait SharedDefault: Sized + 'static {
    /// The default.
    fn shared_default() -> &'static Self;
}

/// An object of some kind, for code that serves all kinds alike. Implemented by every [`Resource`] and by
/// [`Unstructured`](crate::Unstructured).
pub trait Object: Any + fmt::Debug + Send + Sync {
    /// The object's kind.
    fn kind(&self) -> &KindRef;
    /// The object's metadata, or its default if unset.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, made first if unset.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Protobuf encoding.
    fn encode(&self) -> Bytes;
    /// JSON with `apiVersion` and `kind`.
    ///
    /// # Errors
    /// When a value has no JSON form, such as raw JSON that does not parse.
    fn to_value(&self) -> Result<Value, json::Error>;
    /// Sets what the schema defaults.
    fn set_defaults(&mut self);
    /// Checks every field on its own and, against the old object, that what cannot change did not. Objects of different kinds are not
    /// compared.
    fn validate(&self, old: Option<&dyn Object>, errors: &mut FieldErrors);
    /// Sets the status to that of `other`, if both are of the same kind and it has a status.
    fn copy_status_from(&mut self, other: &dyn Object);
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn Object>;
    /// True if both are of the same kind and equal.
    fn equals(&self, other: &dyn Object) -> bool;
}

impl<K: Resource> Object for K {
    fn kind(&self) -> &KindRef {
        K::HANDLE
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::metadata(self)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Resource::metadata_mut(self)
    }

    fn encode(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    fn to_value(&self) -> Result<Value, json::Error> {
        json::to_value(self)
    }

    fn set_defaults(&mut self) {
        Rules::set_defaults(self);
    }

    fn validate(&self, old: Option<&dyn Object>, errors: &mut FieldErrors) {
        Rules::validate(self, &Path::root(), errors);
        if let Some(old) = old.and_then(|old| old.downcast_ref::<K>()) {
            Rules::validate_update(self, old, &Path::root(), errors);
        }
    }

    fn copy_status_from(&mut self, other: &dyn Object) {
        if let Some(other) = other.downcast_ref::<K>() {
            Resource::copy_status_from(self, other);
        }
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn Object) -> bool {
        other.downcast_ref::<K>().is_some_and(|other| self == other)
    }
}

impl dyn Object {
    /// The object as its own type, if it is of that kind.
    pub fn downcast_ref<K: Object>(&self) -> Option<&K> {
        (self as &dyn Any).downcast_ref()
    }

    /// The object as its own type, if it is of that kind.
    pub fn downcast_mut<K: Object>(&mut self) -> Option<&mut K> {
        (self as &mut dyn Any).downcast_mut()
    }
}
