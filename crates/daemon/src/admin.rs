//! The admin port: `/livez`, `/readyz`, `/metrics`, `/version`. No authentication, hence loopback only.

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{Health, Metrics, Shutdown};

#[derive(Clone)]
struct Admin {
    health: Health,
    metrics: Metrics,
}

/// Serves the admin port on `listener` until the shutdown has begun.
///
/// # Errors
/// When the listener fails.
pub async fn serve_admin(listener: TcpListener, health: Health, metrics: Metrics, shutdown: Shutdown) -> std::io::Result<()> {
    axum::serve(listener, admin_router(health, metrics)).with_graceful_shutdown(shutdown.started()).await
}

/// What the admin port serves, for a port that finds out itself who may ask.
pub fn admin_router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/version", get(version))
        .with_state(Admin { health, metrics })
}

async fn livez(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answer(admin.health.is_live(), admin.health.describe_live(), query.as_deref(), "livez")
}

async fn readyz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answer(admin.health.is_ready(), admin.health.describe_ready(), query.as_deref(), "readyz")
}

/// `ok`, or check by check when something is wrong or `?verbose` asks for it.
fn answer(good: bool, checks: String, query: Option<&str>, name: &str) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    match (good, verbose) {
        (true, false) => "ok".into_response(),
        (true, true) => format!("{checks}{name} check passed\n").into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{checks}{name} check failed\n")).into_response(),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {error}\n")).into_response(),
    }
}

async fn version() -> Response {
    let body = serde_json::json!({ "gitVersion": format!("v{}", crate::VERSION), "platform": crate::platform() });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn readyz_follows_its_gates_and_names_them() {
        let shutdown = Shutdown::new();
        let health = Health::new(shutdown.clone());
        let gate = health.ready_gate("informers");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_admin(listener, health, Metrics::new(), shutdown.clone()));
        let closed = fetch(address, "/readyz").await;
        assert!(closed.starts_with("HTTP/1.1 503") && closed.contains("[-]informers"), "{closed}");
        assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        gate.open();
        assert!(fetch(address, "/readyz").await.ends_with("\r\n\r\nok"));
        assert!(fetch(address, "/readyz?verbose").await.contains("[+]informers ok"));
        assert!(fetch(address, "/metrics").await.contains("process_resident_memory_bytes"));
        shutdown.start();
        server.await.unwrap().unwrap();
    }
}
