//! What the first bytes of a large request must show before the rest is read.

use std::sync::Arc;

use api::{StatusError, ferrokube::v1::ResourceName, registry::Kinds};
use prost::Message as _;
use store::wire;

use super::{Server, check_namespace, check_verb, objects, resolve};
use crate::request::{Asked, Request, Verb};

/// Numbers of the fields that Create, Update and Patch begin with.
const RESOURCE: u32 = 1;
const NAMESPACE: u32 = 2;
const NAME: u32 = 3;
const SUBRESOURCE: u32 = 4;

/// Decides on a request of which only the beginning has come. It is decided on again when all of it is there: what follows may differ.
///
/// # Errors
/// When its user may not do what it says, or the beginning does not say what that is.
pub(crate) async fn authorize_head(server: &Server, asked: &Arc<Asked>, path: &str, begin: &[u8]) -> Result<(), StatusError> {
    let request = request(&server.pipeline.kinds(), asked, path, begin)?;
    server.authorize(asked, &request).await
}

fn request(kinds: &Kinds, asked: &Asked, path: &str, begin: &[u8]) -> Result<Request, StatusError> {
    let verb = match path.rsplit('/').next() {
        Some("Create") => Verb::Create,
        Some("Update") => Verb::Update,
        _ => Verb::Patch,
    };
    let resource = wire::last(begin, &[RESOURCE]).and_then(wire::Value::bytes);
    let resource = resource.and_then(|bytes| ResourceName::decode(bytes).ok());
    let resource = resource.ok_or_else(|| StatusError::bad_request("resource: a large request must begin with its kind"))?;
    let kind = resolve(kinds, Some(&resource))?;
    let subresource = wire::text(begin, &[SUBRESOURCE]);
    check_verb(&kind, verb, subresource)?;
    if kind.storage.is_none() {
        let message = format!("{} are not stored; a request on them has at most 64 KiB", kind.plural);
        return Err(StatusError::new(api::status::Reason::RequestEntityTooLarge, message));
    }
    let namespace = wire::text(begin, &[NAMESPACE]);
    check_namespace(&kind, namespace, false)?;
    let request = objects::request(asked.user.clone(), verb, &kind, namespace, wire::text(begin, &[NAME]));
    Ok(Request { subresource: subresource.to_owned(), ..request })
}

#[cfg(test)]
mod tests {
    use api::ferrokube::v1::CreateRequest;
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_head_says_what_is_asked_for() {
        let asked = Asked::new(Arc::default());
        let create = CreateRequest {
            resource: Some(ResourceName { resource: "configmaps".to_owned(), ..ResourceName::default() }),
            namespace: "default".to_owned(),
            name: "big".to_owned(),
            json: Bytes::from(vec![b' '; 100_000]),
            ..CreateRequest::default()
        };
        let bytes = create.encode_to_vec();
        let found = request(Kinds::compiled(), &asked, "/ferrokube.v1.Objects/Create", &bytes[..1000]).unwrap();
        assert_eq!((found.verb, &*found.kind.plural), (Verb::Create, "configmaps"));
        assert_eq!((found.namespace.as_str(), found.name.as_str()), ("default", "big"));

        let nowhere = CreateRequest { namespace: String::new(), ..create.clone() }.encode_to_vec();
        let error = request(Kinds::compiled(), &asked, "/ferrokube.v1.Objects/Create", &nowhere[..1000]).unwrap_err();
        assert!(error.message().starts_with("namespace: "), "{error}");
        assert!(request(Kinds::compiled(), &asked, "/ferrokube.v1.Objects/Create", &[0xff; 1000]).is_err());
        let review = ResourceName {
            group: "authorization.k8s.io".to_owned(),
            resource: "selfsubjectaccessreviews".to_owned(),
            ..ResourceName::default()
        };
        let review = CreateRequest { resource: Some(review), namespace: String::new(), ..create }.encode_to_vec();
        let error = request(Kinds::compiled(), &asked, "/ferrokube.v1.Objects/Create", &review[..1000]).unwrap_err();
        assert_eq!(error.reason(), api::status::Reason::RequestEntityTooLarge, "{error}");
    }
}
