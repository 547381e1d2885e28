//! Issuing service-account tokens: the `token` subresource of service accounts.

use std::time::Duration;

use api::{
    Kind, Object, Resource, StatusError,
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus},
    core::v1::{Node, Pod, Secret, ServiceAccount},
    meta::v1::{ObjectMeta, Time},
    rules::FieldErrors,
};

use super::{
    authenticate::now,
    identity::Identity,
    tokens::{Bound, Claims, Reference, username},
};
use crate::{
    reader::{self, Reader},
    request::Request,
};
use store::Store;

/// Longest life of a token, whatever is asked for.
const MAX_LIFETIME: Duration = Duration::from_secs(48 * 3600);

/// Issues the token.
pub(super) async fn issue(identity: &Identity, request: &Request, mut token: TokenRequest) -> Result<TokenRequest, StatusError> {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    let meta = token.metadata();
    if (!meta.name.is_empty() && meta.name != name) || (!meta.namespace.is_empty() && meta.namespace != namespace) {
        let message = format!(
            "the token request is for {}/{}, the request's service account is {namespace}/{name}",
            meta.namespace, meta.name
        );
        return Err(StatusError::bad_request(message));
    }
    Object::set_defaults(&mut token);
    let mut errors = FieldErrors::default();
    Object::validate(&token, None, &mut errors);
    // Neither the metadata nor the audiences need be given, nor is the answer.
    errors.0.retain(|error| error.field.starts_with("spec") && error.field != "spec.audiences");
    if !errors.is_empty() {
        return Err(StatusError::invalid(TokenRequest::KIND, name, &errors));
    }
    let account = Reader::<ServiceAccount>::new(&identity.store).latest(namespace, name).await?;
    if let Some(node) = request.user.node_name() {
        of_own_pod(&identity.store, node, request, &token).await?;
    }
    let bound = match &token.spec().bound_object_ref {
        Some(reference) => bind(&identity.store, request, reference).await?,
        None => Bound::default(),
    };
    let audiences =
        if token.spec().audiences.is_empty() { identity.authenticator.audiences.clone() } else { token.spec().audiences.clone() };
    let lifetime = token.spec().expiration_seconds.unwrap_or(3600).min(MAX_LIFETIME.as_secs() as i64);
    let issued = now();
    let claims = Claims {
        audiences: audiences.clone(),
        expires: issued + lifetime,
        issued,
        issuer: identity.authenticator.tokens.issuer().to_owned(),
        id: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: namespace.to_owned(),
            service_account: Reference { name: name.to_owned(), uid: account.metadata().uid.clone() },
            ..bound
        },
        not_before: issued,
        subject: username(namespace, name),
    };
    let signed = identity.authenticator.tokens.sign(&claims);
    let signed = signed.map_err(|e| StatusError::internal(format!("the token cannot be signed: {e}")))?;
    token.metadata = Some(ObjectMeta {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        creation_timestamp: Some(Time { seconds: issued, nanos: 0 }),
        ..ObjectMeta::default()
    });
    let spec = token.spec_mut();
    spec.audiences = audiences;
    spec.expiration_seconds = Some(lifetime);
    let expiration_timestamp = Some(Time { seconds: claims.expires, nanos: 0 });
    token.status = Some(TokenRequestStatus { token: signed, expiration_timestamp });
    Ok(token)
}

/// The claims that bind the token to an object.
async fn bind(store: &Store, request: &Request, reference: &BoundObjectReference) -> Result<Bound, StatusError> {
    let namespace = request.namespace.as_str();
    match (reference.api_version.as_str(), reference.kind.as_str()) {
        ("v1", "Pod") => {
            let pod: Pod = find(store, namespace, reference).await?;
            let account = pod.spec().service_account_name.as_str();
            if account != request.name {
                return Err(StatusError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    request.name
                )));
            }
            let node = match pod.spec().node_name.as_str() {
                "" => None,
                node => {
                    let entry = Reader::<Node>::new(store).entry_unless_cached("", node, |_| true).await?;
                    let uid = entry.map(|entry| entry.uid().to_owned()).unwrap_or_default();
                    Some(Reference { name: node.to_owned(), uid })
                }
            };
            Ok(Bound { pod: Some(named(&pod)), node, ..Bound::default() })
        }
        ("v1", "Secret") => {
            let secret: Secret = find(store, namespace, reference).await?;
            Ok(Bound { secret: Some(named(&secret)), ..Bound::default() })
        }
        ("v1", "Node") => {
            let node: Node = find(store, "", reference).await?;
            Ok(Bound { node: Some(named(&node)), ..Bound::default() })
        }
        (version, kind) => Err(StatusError::bad_request(format!(
            "cannot bind token to object of type {version:?} {kind:?}: a Pod, Secret or Node of \"v1\" is wanted here"
        ))),
    }
}

async fn find<K: Resource>(store: &Store, namespace: &str, reference: &BoundObjectReference) -> Result<K, StatusError> {
    let uid = reference.uid.as_str();
    let entry = Reader::<K>::new(store)
        .entry_unless_cached(namespace, &reference.name, |entry| !uid.is_empty() && entry.uid() == uid)
        .await?;
    let entry = entry.ok_or_else(|| StatusError::not_found(K::KIND, &reference.name))?;
    if !uid.is_empty() && uid != entry.uid() {
        return Err(other_uid(K::KIND, &reference.name, uid, entry.uid()));
    }
    reader::decode(&entry)
}

fn other_uid(kind: &Kind, name: &str, wanted: &str, found: &str) -> StatusError {
    let why = format!(
        "the UID in the bound object reference ({wanted}) does not match the UID in record. \
         The object might have been deleted and then recreated ({found})"
    );
    StatusError::conflict(kind, name, why)
}

fn named(object: &impl Resource) -> Reference {
    Reference { name: object.name().to_owned(), uid: object.metadata().uid.clone() }
}

/// A node gets tokens only for pods that run on it, and only with an audience that such a pod asks for.
async fn of_own_pod(store: &Store, node: &str, request: &Request, token: &TokenRequest) -> Result<(), StatusError> {
    let forbidden = |why: String| Err(StatusError::forbidden(ServiceAccount::KIND, &request.name, why));
    let unbound = || forbidden("node requested token not bound to a pod".to_owned());
    let Some(reference) = &token.spec().bound_object_ref else { return unbound() };
    if reference.api_version != "v1" || reference.kind != "Pod" || reference.name.is_empty() {
        return unbound();
    }
    if reference.uid.is_empty() {
        return forbidden("node requested token with a pod binding without a uid".to_owned());
    }
    let pod: Pod = find(store, &request.namespace, reference).await?;
    if pod.spec().node_name != node {
        return forbidden("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    match token.spec().audiences.as_slice() {
        [] => Ok(()),
        [audience] if asks_for(&pod, audience) => Ok(()),
        [audience] => forbidden(format!("audience {audience:?} not found in pod spec volume")),
        _ => forbidden("node may only request 0 or 1 audiences".to_owned()),
    }
}

/// True if one of the pod's volumes is to hold a token for this audience.
fn asks_for(pod: &Pod, audience: &str) -> bool {
    let sources = pod.spec().volumes.iter().filter_map(|v| v.volume_source().projected.as_ref()).flat_map(|p| &p.sources);
    sources.filter_map(|source| source.service_account_token.as_ref()).any(|token| token.audience == audience)
}
