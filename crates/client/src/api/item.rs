//! What an object may be read as.

use api::{
    Bytes, KindRef, Resource,
    google::protobuf::Any,
    kind::DecodeError,
    mask::Mask,
    meta::v1::{ObjectMeta, PartialObjectMetadata},
    registry::Kinds,
    resource::Object,
};
use prost::Message as _;

use crate::{
    ObjectKey,
    error::{Error, Result},
};

/// What objects are read as: any [`Resource`] type, [`Dynamic`], or [`Metadata`].
pub trait Item: Send + Sync + Sized + 'static {
    /// True if the server need send nothing but metadata.
    const METADATA_ONLY: bool;

    /// Reads what the server sent for an object of `kind`, or of one of its subresources.
    ///
    /// # Errors
    /// When it is something else.
    fn read(kind: &KindRef, any: Any) -> Result<Self>;

    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;

    /// The object's metadata, to be changed.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

/// Reads one object of several, so that what cannot be read is named and costs only itself.
pub(super) fn read_one<T: Item>(kind: &KindRef, any: Any) -> Result<T> {
    let value = any.value.clone();
    T::read(kind, any).map_err(|source| {
        let any = Any { type_url: String::new(), value };
        let key = Metadata::read(kind, any).map(|metadata| ObjectKey::of(&metadata.metadata)).unwrap_or_default();
        Error::Unreadable { kind: format!("{kind:?}"), key, source: Box::new(source) }
    })
}

/// What can be sent to the server.
pub trait Body {
    /// The object as it travels.
    fn to_any(&self) -> Any;
}

/// An object of a kind that is known at run time only.
#[derive(Debug)]
pub struct Dynamic(pub Box<dyn Object>);

/// An object's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// The object's kind.
    pub kind: KindRef,
    /// Its metadata.
    pub metadata: ObjectMeta,
}

/// Says which fields of a kind a process reads.
pub trait Reads: Send + Sync + 'static {
    /// The kind.
    type Of: Resource;

    /// The fields; `None` for all of them.
    fn mask() -> Option<&'static Mask>;
}

/// An object of which only those fields are there that its process says it reads. It reads as the object; but it is no [`Body`], since
/// writing it back would clear the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Trimmed<R: Reads>(R::Of);

impl<K: Resource> Item for K {
    const METADATA_ONLY: bool = false;

    fn read(_: &KindRef, any: Any) -> Result<Self> {
        if any.type_url != K::KIND.type_url {
            return Err(Error::decode(K::KIND, None));
        }
        // From a slice, so that no field keeps the whole message alive.
        K::decode(&any.value[..]).map_err(|source| Error::decode(K::KIND, DecodeError::from(source)))
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::metadata(self)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Resource::metadata_mut(self)
    }
}

impl<K: Resource> Body for K {
    fn to_any(&self) -> Any {
        Any { type_url: K::KIND.type_url.to_string(), value: self.encode_to_vec().into() }
    }
}

// === impl Dynamic ===

impl Item for Dynamic {
    const METADATA_ONLY: bool = false;

    fn read(kind: &KindRef, any: Any) -> Result<Self> {
        let found = if any.type_url == kind.type_url { Some(kind) } else { Kinds::compiled().by_type_url(&any.type_url) };
        let kind = found.ok_or_else(|| Error::decode(kind, None))?;
        kind.decode(Bytes::copy_from_slice(&any.value)).map(Self).map_err(|source| Error::decode(kind, source))
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl Body for Dynamic {
    fn to_any(&self) -> Any {
        self.0.kind().any(self.0.encode())
    }
}

impl Clone for Dynamic {
    fn clone(&self) -> Self {
        Self(self.0.boxed_clone())
    }
}

impl std::ops::Deref for Dynamic {
    type Target = dyn Object;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

// === impl Trimmed ===

impl<R: Reads> Trimmed<R> {
    /// What a write returned, as one who watches gets it.
    ///
    /// # Errors
    /// Never, for what was encoded here.
    pub fn of(written: &R::Of) -> Result<Self> {
        Self::read(&R::Of::KIND.into(), written.to_any())
    }
}

impl<R: Reads> Item for Trimmed<R> {
    const METADATA_ONLY: bool = false;

    fn read(kind: &KindRef, any: Any) -> Result<Self> {
        let value = match R::mask() {
            Some(mask) => mask.apply(&any.value).map_err(|source| Error::decode(kind, DecodeError::from(source)))?,
            None => any.value,
        };
        R::Of::read(kind, Any { type_url: any.type_url, value }).map(Self)
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::metadata(&self.0)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Resource::metadata_mut(&mut self.0)
    }
}

impl<R: Reads> std::ops::Deref for Trimmed<R> {
    type Target = R::Of;

    fn deref(&self) -> &R::Of {
        &self.0
    }
}

// === impl Metadata ===

impl Item for Metadata {
    const METADATA_ONLY: bool = true;

    fn read(kind: &KindRef, any: Any) -> Result<Self> {
        // Every object has its metadata in field 1, as PartialObjectMetadata has; the other fields are passed over.
        let partial =
            PartialObjectMetadata::decode(&any.value[..]).map_err(|source| Error::decode(kind, DecodeError::from(source)))?;
        Ok(Self { kind: kind.clone(), metadata: partial.metadata.unwrap_or_default() })
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use api::core::v1::{Pod, Secret};

    use super::*;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata_mut().name = "a".into();
        pod.spec_mut().node_name = "n".into();
        pod
    }

    #[test]
    fn metadata_is_read_from_any_object() {
        let metadata = Metadata::read(Pod::HANDLE, pod().to_any()).unwrap();
        assert_eq!(metadata.meta().name, "a");
    }

    #[test]
    fn another_kind_is_an_error() {
        let error = Secret::read(Secret::HANDLE, pod().to_any()).unwrap_err();
        assert_eq!(error.to_string(), "the server's answer is no v1/Secret");
    }

    #[test]
    fn a_dynamic_object_is_what_its_type_says() {
        let dynamic = Dynamic::read(Secret::HANDLE, pod().to_any()).unwrap();
        assert_eq!(dynamic.downcast_ref::<Pod>().unwrap().spec().node_name, "n");
    }
}
