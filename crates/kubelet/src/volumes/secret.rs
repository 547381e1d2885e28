//! secret volumes: the keys of a Secret as files, in memory only.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem,
    filled::{Medium, publish},
    plugin::{Plugin, Published, Request},
};

pub(super) struct Secret;

impl Plugin for Secret {
    fn directory(&self) -> &'static str {
        "secret"
    }

    fn is_filled(&self) -> bool {
        true
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let (source, reader) = (request.source().secret(), request.reader());
            let payload = reader.secret(&source.secret_name, &source.items, source.optional, source.default_mode).await?;
            publish(request, payload, Medium::Memory, None).await
        }
        .boxed()
    }
}
