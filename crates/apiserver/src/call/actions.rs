//! What creating a subresource stands for, where that is more than a change of the object.

use api::{Object, StatusError, authentication::v1::TokenRequest, policy::v1::Eviction};
use futures::future::BoxFuture;

use super::Server;
use crate::{decode::expect, pipeline::Fence, request::Request};

type Done<'a> = BoxFuture<'a, Result<Box<dyn Object>, StatusError>>;

/// Deletes a pod because its place is wanted. The place for disruption budgets.
pub(crate) fn evict<'a>(server: &'a Server, request: &'a Request, body: Box<dyn Object>, fence: Option<&'a Fence>) -> Done<'a> {
    Box::pin(async move {
        let options = expect::<Eviction>(&*body)?.delete_options().clone();
        let dry_run = request.dry_run || !options.dry_run.is_empty();
        let deletion = Request { subresource: None, dry_run, ..request.clone() };
        server.pipeline.delete(&deletion, &options, fence).await?;
        Ok(body)
    })
}

/// Issues a token for the service account.
pub(crate) fn issue_token<'a>(server: &'a Server, request: &'a Request, body: Box<dyn Object>, _: Option<&'a Fence>) -> Done<'a> {
    Box::pin(async move {
        let token = expect::<TokenRequest>(&*body)?.clone();
        Ok(Box::new(server.identity.issue_token(request, token).await?) as Box<dyn Object>)
    })
}
