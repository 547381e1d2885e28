//! projected volumes: ConfigMaps, Secrets, fields of the pod and tokens in one directory.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem,
    filled::{Medium, publish},
    plugin::{Plugin, Published, Request},
};

pub(super) struct Projected;

impl Plugin for Projected {
    fn directory(&self) -> &'static str {
        "projected"
    }

    fn is_filled(&self) -> bool {
        true
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let mut reader = request.reader();
            let payload = reader.projected(request.source().projected()).await?;
            let renew_at = reader.renew_at;
            publish(request, payload, Medium::Memory, renew_at).await
        }
        .boxed()
    }
}
