//! downwardAPI volumes: fields of the pod as files.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem,
    filled::{Medium, publish},
    plugin::{Plugin, Published, Request},
};

pub(super) struct DownwardApi;

impl Plugin for DownwardApi {
    fn directory(&self) -> &'static str {
        "downward-api"
    }

    fn is_filled(&self) -> bool {
        true
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let source = request.source().downward_api();
            let payload = request.reader().downward(&source.items, source.default_mode)?;
            publish(request, payload, Medium::Memory, None).await
        }
        .boxed()
    }
}
