//! Images: present or fetched, each only once at a time, and not too many at once from one registry.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::{
    reference::{BadReference, Reference},
    runtime::{self, Credentials, Image, Runtime},
};

/// Pulls at a time from one registry.
const PULLS_PER_REGISTRY: usize = 5;
/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Sees to the images of this node.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    pulls: Mutex<HashMap<String, Pull>>,
    registries: Mutex<HashMap<String, Arc<Semaphore>>>,
    pulled: Arc<Notify>,
}

/// A pull under way, for everyone who waits for it.
type Pull = Shared<BoxFuture<'static, Result<(), Arc<runtime::Error>>>>;

/// An image that is now present.
#[derive(Debug)]
pub struct Present {
    /// The image.
    pub image: Image,
    /// How long the pull took; `None` if it was there.
    pub pulled: Option<Duration>,
}

/// An image that is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be one.
    #[error("Failed to apply default image tag {0:?}: couldn't parse image name {0:?}: {1}")]
    InvalidName(String, #[source] BadReference),
    /// It is not present and must not be pulled.
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    /// It could not be pulled.
    #[error("{0}")]
    Pull(Arc<runtime::Error>),
    /// The runtime could not be asked.
    #[error("{0}")]
    Inspect(#[source] runtime::Error),
}

// === impl Images ===

impl Images {
    /// Images of a runtime. `pulled` is rung when there is a new one.
    pub fn new(runtime: Arc<dyn Runtime>, pulled: Arc<Notify>) -> Self {
        Self { runtime, pulls: Mutex::default(), registries: Mutex::default(), pulled }
    }

    /// Makes sure an image is present as the policy (`Always`, `IfNotPresent`, `Never`) wants. `pulling` is called when a pull begins. Dropping the
    /// future leaves a pull that others wait for alone.
    ///
    /// # Errors
    /// When the policy forbids the pull that would be needed, the reference is none, or the pull fails.
    pub async fn ensure(
        &self,
        image: &str,
        policy: &str,
        credentials: Option<Credentials>,
        pulling: impl FnOnce() + Send,
    ) -> Result<Present, ImageError> {
        Reference::parse(image).map_err(|error| ImageError::InvalidName(image.to_owned(), error))?;
        let present = self.runtime.image(image).await.map_err(ImageError::Inspect)?;
        match (present, policy) {
            (Some(image), "Never" | "IfNotPresent" | "") => return Ok(Present { image, pulled: None }),
            (None, "Never") => return Err(ImageError::NeverPull(image.to_owned())),
            _ => {}
        }
        pulling();
        let started = Instant::now();
        let pull = self.join_pull(image, credentials);
        let result = pull.clone().await;
        self.forget_pull(image, &pull);
        result.map_err(ImageError::Pull)?;
        self.pulled.notify_one();
        let image = self
            .runtime
            .image(image)
            .await
            .map_err(ImageError::Inspect)?
            .ok_or_else(|| ImageError::NeverPull(image.to_owned()))?;
        Ok(Present { image, pulled: Some(started.elapsed()) })
    }

    fn forget_pull(&self, image: &str, pull: &Pull) {
        let mut pulls = self.pulls.lock();
        if pulls.get(image).is_some_and(|current| current.ptr_eq(pull)) {
            pulls.remove(image);
        }
    }

    fn join_pull(&self, image: &str, credentials: Option<Credentials>) -> Pull {
        let permits = {
            let mut registries = self.registries.lock();
            registries.entry(registry(image).to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PULLS_PER_REGISTRY))).clone()
        };
        let (runtime, name) = (self.runtime.clone(), image.to_owned());
        let mut pulls = self.pulls.lock();
        let pull = pulls.entry(image.to_owned()).or_insert_with(|| {
            let work = async move {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                runtime.pull(&name, credentials).await.map_err(Arc::new)
            };
            work.boxed().shared()
        });
        pull.clone()
    }
}

/// The registry of a reference: its first part, if that looks like a host.
pub fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DEFAULT_REGISTRY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::FakeRuntime;

    #[test]
    fn a_registry_is_told_from_a_path() {
        assert_eq!(
            (registry("busybox"), registry("lib/x"), registry("localhost:5000/x")),
            ("docker.io", "docker.io", "localhost:5000")
        );
    }

    #[tokio::test]
    async fn policies_decide_whether_to_pull() {
        let runtime = FakeRuntime::new(&["here:1"]);
        let images = Images::new(Arc::new(runtime.clone()), Arc::default());
        assert!(images.ensure("here:1", "IfNotPresent", None, || panic!("must not pull")).await.unwrap().pulled.is_none());
        assert!(matches!(images.ensure("gone:1", "Never", None, || ()).await, Err(ImageError::NeverPull(_))));
        assert!(matches!(images.ensure("not a name", "Always", None, || ()).await, Err(ImageError::InvalidName(..))));
        assert!(runtime.take_calls().is_empty());
        let both =
            tokio::join!(images.ensure("gone:1", "Always", None, || ()), images.ensure("gone:1", "IfNotPresent", None, || ()));
        assert!(matches!(both, (Err(ImageError::Pull(_)), Err(ImageError::Pull(_)))));
        assert_eq!(runtime.take_calls(), ["pull gone:1"], "two containers, one pull");
    }

    #[tokio::test]
    async fn an_image_that_was_pulled_is_news() {
        let (runtime, pulled) = (FakeRuntime::new(&["here:1"]), Arc::new(Notify::new()));
        let images = Images::new(Arc::new(runtime.clone()), pulled.clone());
        runtime.offer("there:1");
        let news = || tokio::time::timeout(Duration::from_millis(10), pulled.notified());
        images.ensure("here:1", "IfNotPresent", None, || ()).await.unwrap();
        assert!(news().await.is_err(), "it was there");
        assert!(images.ensure("there:1", "IfNotPresent", None, || ()).await.unwrap().pulled.is_some());
        assert!(news().await.is_ok());
    }
}
