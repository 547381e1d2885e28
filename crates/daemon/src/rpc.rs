//! The services every gRPC port has: health and reflection.

use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
};
use tonic_reflection::server::{
    Builder, Error as ReflectionError,
    v1::{ServerReflection, ServerReflectionServer},
    v1alpha,
};

use crate::{Health, Shutdown};

/// The standard gRPC health service, and the task that keeps the status of the whole server (service name `""`) and of `services` in
/// step with `health`. Spawn the task; it ends when the shutdown begins, after reporting NOT_SERVING.
pub fn health(
    health: &Health,
    services: &'static [&'static str],
    shutdown: Shutdown,
) -> (HealthServer<impl HealthService>, impl Future<Output = ()> + Send + 'static) {
    let (reporter, server) = tonic_health::server::health_reporter();
    let mut ready = health.readiness();
    let follow = async move {
        loop {
            let serving = *ready.borrow_and_update() && !shutdown.has_started();
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in std::iter::once(&"").chain(services) {
                reporter.set_service_status(*service, status).await;
            }
            if shutdown.has_started() {
                return;
            }
            tokio::select! {
                () = shutdown.started() => {}
                changed = ready.changed() => if changed.is_err() {
                    // Health is gone, so its last word stands until the end.
                    shutdown.started().await;
                },
            }
        }
    };
    (server, follow)
}

/// The reflection service, version 1, over encoded file descriptor sets.
///
/// # Errors
/// When a set cannot be decoded.
pub fn reflection(sets: &[&'static [u8]]) -> Result<ServerReflectionServer<impl ServerReflection>, ReflectionError> {
    builder(sets).build_v1()
}

/// The reflection service, version 1alpha, which older tools speak.
///
/// # Errors
/// When a set cannot be decoded.
pub fn reflection_v1alpha(
    sets: &[&'static [u8]],
) -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, ReflectionError> {
    builder(sets).build_v1alpha()
}

fn builder(sets: &[&'static [u8]]) -> Builder<'static> {
    sets.iter()
        .fold(Builder::configure(), |builder, set| builder.register_encoded_file_descriptor_set(set))
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
