//! The client: where typed access to every kind begins.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use api::{
    KindRef, Resource,
    ferrokube::v1::{
        KindInfo, KindsRequest, VersionRequest, VersionResponse, WriteOptions, objects_client::ObjectsClient,
        pods_client::PodsClient,
    },
};

use crate::{
    api::{Api, Dynamic, Metadata},
    config::{Config, ConfigError},
    error::{Error, Result},
    fence::Fence,
    observe::Observer,
    pods::Pods,
    transport::Transport,
};

/// Largest message that is taken from the server, bytes: a chunk of a list, or one object.
const MAX_MESSAGE: usize = 64 << 20;
/// How long the server may take to answer a request that is no stream.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long reads that servers refuse for the moment are tried again.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// How often a read is tried while no server answers.
const READ_ATTEMPTS: u32 = 6;

type WarningHandler = Arc<dyn Fn(&str) + Send + Sync>;

/// Access to the API server. Cheap to clone; clones share one connection.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    namespace: Arc<str>,
    field_manager: Arc<str>,
    warnings: WarningHandler,
    fence: Option<Arc<Fence>>,
    /// How long a request that is no stream may take.
    unary_timeout: Duration,
}

// === impl Client ===

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("field_manager", &self.field_manager).field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects when it is first used. Must be called inside a runtime.
    ///
    /// # Errors
    /// When certificates cannot be read or used.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (namespace, user_agent) = (config.namespace.clone(), config.user_agent.clone());
        // Whoever asks for a longer time gets it.
        let unary_timeout = config.request_timeout.unwrap_or_default().max(REQUEST_TIMEOUT);
        Ok(Self { unary_timeout, ..Self::over(Transport::network(config)?, &namespace, &user_agent) })
    }

    /// As [`Self::new`], with somebody who is told of every call.
    ///
    /// # Errors
    /// As those of [`Self::new`].
    pub fn observed(config: Config, observer: impl Observer) -> Result<Self, ConfigError> {
        let (namespace, user_agent) = (config.namespace.clone(), config.user_agent.clone());
        Ok(Self::over(Transport::observed(config, Some(Arc::new(observer)))?, &namespace, &user_agent))
    }

    pub(crate) fn over(transport: Transport, namespace: &str, user_agent: &str) -> Self {
        Self {
            transport,
            namespace: namespace.into(),
            field_manager: user_agent.split('/').next().unwrap_or(user_agent).into(),
            warnings: Arc::new(|warning| tracing::warn!(warning, "the API server remarks")),
            fence: None,
            unary_timeout: REQUEST_TIMEOUT,
        }
    }

    /// The same client with `handler` called for each remark the server makes about a request.
    #[must_use]
    pub fn on_warning(mut self, handler: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.warnings = Arc::new(handler);
        self
    }

    /// The same client for a leader: it writes only while the lease is held.
    #[must_use]
    pub(crate) fn fenced(&self, fence: Arc<Fence>) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// Namespace to use when none is named.
    pub fn default_namespace(&self) -> &str {
        &self.namespace
    }

    /// Objects of one kind in all namespaces, or cluster-scoped ones.
    pub fn all<K: Resource>(&self) -> Api<K> {
        self.api(K::KIND, "")
    }

    /// Objects of one kind in one namespace.
    pub fn namespaced<K: Resource>(&self, namespace: &str) -> Api<K> {
        self.api(K::KIND, namespace)
    }

    /// Objects of a kind that is known at run time only. An empty namespace means all, or a cluster-scoped kind.
    pub fn dynamic(&self, kind: impl Into<KindRef>, namespace: &str) -> Api<Dynamic> {
        self.api(kind, namespace)
    }

    /// Only the metadata of objects of a kind. An empty namespace means all, or a cluster-scoped kind.
    pub fn metadata(&self, kind: impl Into<KindRef>, namespace: &str) -> Api<Metadata> {
        self.api(kind, namespace)
    }

    /// What can be done with a pod beyond reading and writing it.
    pub fn pods(&self) -> Pods {
        Pods { client: self.clone() }
    }

    /// The server's version. Needs no credentials.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn version(&self) -> Result<VersionResponse> {
        self.read(|| async {
            let request = self.request(VersionRequest::default());
            Ok(self.within(self.objects().version(request)).await?.into_inner())
        })
        .await
    }

    /// The kinds that are served.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn kinds(&self) -> Result<Vec<KindInfo>> {
        self.read(|| async {
            Ok(self.within(self.objects().kinds(self.request(KindsRequest::default()))).await?.into_inner().kinds)
        })
        .await
    }

    /// Objects of a kind in a namespace, or of all where it is empty, read as any [`Item`](crate::Item).
    pub fn api<T>(&self, kind: impl Into<KindRef>, namespace: &str) -> Api<T> {
        Api {
            client: self.clone(),
            kind: kind.into(),
            namespace: namespace.to_owned(),
            options: WriteOptions { field_manager: (*self.field_manager).to_owned(), ..WriteOptions::default() },
            item: PhantomData,
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    pub(crate) fn objects(&self) -> ObjectsClient<Transport> {
        ObjectsClient::new(self.transport.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn pods_service(&self) -> PodsClient<Transport> {
        PodsClient::new(self.transport.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn request<M>(&self, message: M) -> tonic::Request<M> {
        tonic::Request::new(message)
    }

    /// A request that writes: refused here once the lease is lost, and by the server if it belongs to somebody else by then.
    pub(crate) fn write_request<M>(&self, message: M) -> Result<tonic::Request<M>> {
        let mut request = tonic::Request::new(message);
        if let Some(fence) = &self.fence {
            fence.check()?;
            request.metadata_mut().insert(crate::fence::HEADER, fence.header().clone());
        }
        Ok(request)
    }

    pub(crate) fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| (self.warnings)(warning));
    }

    /// Runs a read, and again while no server answers, or one that answers at once cannot serve it. A server that has tried for long itself is
    /// believed.
    pub(crate) async fn read<T, F: Future<Output = Result<T>>>(&self, mut attempt: impl FnMut() -> F) -> Result<T> {
        let begun = tokio::time::Instant::now();
        let mut backoff = crate::backoff::Backoff::new(Duration::from_millis(40), Duration::from_secs(1));
        for _ in 1..READ_ATTEMPTS {
            match attempt().await {
                // The bound is for one request: asking six times would make it six.
                Err(error)
                    if error.is_unavailable()
                        && !error.is_out_of_time()
                        && (error.status().is_none() || begun.elapsed() < READ_PATIENCE) =>
                {
                    tracing::debug!(error = &error as &dyn std::error::Error, "reading again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                outcome => return outcome,
            }
        }
        attempt().await
    }

    /// Bounds a request that is no stream.
    pub(crate) async fn within<T>(&self, request: impl Future<Output = Result<T, tonic::Status>>) -> Result<T> {
        match tokio::time::timeout(self.unary_timeout, request).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => {
                let seconds = self.unary_timeout.as_secs();
                Err(Error::Transport(Box::new(tonic::Status::deadline_exceeded(format!("no answer within {seconds} s")))))
            }
        }
    }
}
