//! configMap volumes: the keys of a ConfigMap as files.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Problem,
    filled::{Medium, publish},
    plugin::{Plugin, Published, Request},
};

pub(super) struct ConfigMap;

impl Plugin for ConfigMap {
    fn directory(&self) -> &'static str {
        "configmap"
    }

    fn is_filled(&self) -> bool {
        true
    }

    fn publish<'a>(&'a self, request: &'a Request<'a>) -> BoxFuture<'a, Result<Published, Problem>> {
        async move {
            let (source, reader) = (request.source().config_map(), request.reader());
            let name = &source.local_object_reference().name;
            let payload = reader.config_map(name, &source.items, source.optional, source.default_mode).await?;
            publish(request, payload, Medium::Disk, None).await
        }
        .boxed()
    }
}
