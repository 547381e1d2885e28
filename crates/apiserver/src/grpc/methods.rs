//! What the path of a gRPC request says of it, and what the first bytes of a large one do.

use api::{StatusError, ferrokube::v1::ResourceName as Wire, patch::PatchType};
use bytes::Bytes;
use prost::Message as _;
use store::wire;

use super::objects;
use crate::{
    call::{Action, Body, Call, Nature},
    request::Verb,
    subresource::{ATTACH, BINDING, EVICTION, EXEC, LOG, PORT_FORWARD},
};

/// Numbers of the fields that Create, Update and Patch begin with.
const RESOURCE: u32 = 1;
const NAMESPACE: u32 = 2;
const NAME: u32 = 3;
const SUBRESOURCE: u32 = 4;

/// What is known of a request by its method.
pub(crate) fn nature(path: &str) -> Nature {
    known(path).unwrap_or(Nature::INFORMATION)
}

fn known(path: &str) -> Option<Nature> {
    Some(match path {
        "/ferrokube.v1.Objects/Get" => Nature::of(Verb::Get, None),
        "/ferrokube.v1.Objects/List" => Nature::of(Verb::List, None),
        "/ferrokube.v1.Objects/Watch" => Nature::of(Verb::Watch, None),
        "/ferrokube.v1.Objects/Create" => Nature::of(Verb::Create, None),
        "/ferrokube.v1.Objects/Update" => Nature::of(Verb::Update, None),
        "/ferrokube.v1.Objects/Patch" => Nature::of(Verb::Patch, None),
        "/ferrokube.v1.Objects/Delete" => Nature::of(Verb::Delete, None),
        "/ferrokube.v1.Objects/DeleteCollection" => Nature::of(Verb::DeleteCollection, None),
        "/ferrokube.v1.Objects/Kinds" => Nature::INFORMATION,
        "/ferrokube.v1.Objects/Version" | "/grpc.health.v1.Health/Check" => Nature { public: true, ..Nature::INFORMATION },
        "/grpc.health.v1.Health/Watch" => Nature { public: true, lasts: true, ..Nature::INFORMATION },
        "/ferrokube.v1.Pods/Bind" => Nature::of(Verb::Create, Some(&BINDING)),
        "/ferrokube.v1.Pods/Evict" => Nature::of(Verb::Create, Some(&EVICTION)),
        "/ferrokube.v1.Pods/Logs" => Nature::of(Verb::Get, Some(&LOG)),
        "/ferrokube.v1.Pods/Exec" => Nature::of(Verb::Create, Some(&EXEC)),
        "/ferrokube.v1.Pods/Attach" => Nature::of(Verb::Create, Some(&ATTACH)),
        "/ferrokube.v1.Pods/PortForward" => Nature::of(Verb::Create, Some(&PORT_FORWARD)),
        _ if path.ends_with("/ServerReflectionInfo") => Nature { lasts: true, both_ways: true, ..Nature::INFORMATION },
        _ => return None,
    })
}

/// The call that a large request begins with.
///
/// # Errors
/// When the beginning does not say which kind it is about.
pub(crate) fn head(path: &str, begin: &[u8]) -> Result<Call, StatusError> {
    let action = match path.rsplit('/').next() {
        Some("Create") => Action::Create(Body::Awaited),
        Some("Update") => Action::Update(Body::Awaited),
        _ => Action::Patch(PatchType::Merge, Bytes::new()),
    };
    let resource = wire::last(begin, &[RESOURCE]).and_then(wire::Value::bytes).and_then(|bytes| Wire::decode(bytes).ok());
    let resource = resource.ok_or_else(|| StatusError::bad_request("resource: a large request must begin with its kind"))?;
    let text = |number| wire::text(begin, &[number]).to_owned();
    Ok(Call::new(objects::resource(Some(resource)), action).on(text(NAMESPACE), text(NAME), text(SUBRESOURCE)))
}

#[cfg(test)]
mod tests {
    use api::ferrokube::v1::CreateRequest;

    use super::*;

    #[test]
    fn a_head_says_what_is_asked_for() {
        let create = CreateRequest {
            resource: Some(Wire { resource: "configmaps".to_owned(), ..Wire::default() }),
            namespace: "default".to_owned(),
            name: "big".to_owned(),
            json: Bytes::from(vec![b' '; 100_000]),
            ..CreateRequest::default()
        };
        let bytes = create.encode_to_vec();
        let found = head("/ferrokube.v1.Objects/Create", &bytes[..1000]).unwrap();
        assert!(matches!(found.action, Action::Create(Body::Awaited)), "{found:?}");
        assert_eq!((&*found.resource.plural, &*found.namespace, &*found.name), ("configmaps", "default", "big"));
        assert!(head("/ferrokube.v1.Objects/Create", &[0xff; 1000]).is_err());
    }

    #[test]
    fn every_method_is_known() {
        for service in ["Objects", "Pods"] {
            let methods = methods_of(service);
            assert!(methods.len() >= 6, "{service}: {methods:?}");
            for method in methods {
                assert!(known(&format!("/ferrokube.v1.{service}/{method}")).is_some(), "{service}/{method}");
            }
        }
    }

    /// The methods of a service, as the schema has them (numbers are those of `descriptor.proto`).
    fn methods_of(service: &str) -> Vec<&'static str> {
        let (files, package, services, name, methods) = (1, 2, 6, 1, 2);
        let of_all = wire::repeated(api::FILE_DESCRIPTOR_SET, files);
        let ours = of_all.filter(|file| wire::text(file, &[package]) == "ferrokube.v1");
        let found = ours.flat_map(|file| wire::repeated(file, services)).filter(|found| wire::text(found, &[name]) == service);
        found.flat_map(|service| wire::repeated(service, methods)).map(|method| wire::text(method, &[name])).collect()
    }
}
