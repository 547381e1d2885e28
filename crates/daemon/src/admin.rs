//! The admin port: `/livez`, `/readyz`, a path below them for each of their checks, `/metrics`, `/version`. No authentication, hence
//! loopback only.

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{Health, Metrics, Shutdown, health::Checks};

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
        .route("/livez/{*check}", get(live_check))
        .route("/healthz", get(healthz))
        .route("/healthz/{*check}", get(live_check))
        .route("/readyz", get(readyz))
        .route("/readyz/{*check}", get(ready_check))
        .route("/metrics", get(metrics_text))
        .route("/version", get(version))
        .with_state(Admin { health, metrics })
}

async fn livez(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answer(&admin.health.live_checks(), query.as_deref(), "livez")
}

async fn healthz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answer(&admin.health.live_checks(), query.as_deref(), "healthz")
}

async fn readyz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    answer(&admin.health.ready_checks(), query.as_deref(), "readyz")
}

async fn live_check(State(admin): State<Admin>, Path(check): Path<String>) -> Response {
    answer_one(&admin.health.live_checks(), &check)
}

async fn ready_check(State(admin): State<Admin>, Path(check): Path<String>) -> Response {
    answer_one(&admin.health.ready_checks(), &check)
}

/// `ok`, or check by check when something is wrong or `?verbose` asks for it. What `?exclude=` names does not count.
fn answer(checks: &Checks, query: Option<&str>, name: &str) -> Response {
    let pairs: Vec<_> = query.unwrap_or_default().split('&').map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
    let is_excluded = |check: &str| pairs.contains(&("exclude", check));
    let mut text: String = checks.iter().map(|(check, wrong)| line(check, wrong.as_deref(), is_excluded(check))).collect();
    let good = checks.iter().all(|(check, wrong)| wrong.is_none() || is_excluded(check));
    if good && !pairs.iter().any(|(key, _)| *key == "verbose") {
        return "ok".into_response();
    }
    text += &format!("{name} check {}\n", if good { "passed" } else { "failed" });
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

fn line(check: &str, wrong: Option<&str>, is_excluded: bool) -> String {
    match (wrong, is_excluded) {
        (_, true) => format!("[+]{check} excluded: ok\n"),
        (None, false) => format!("[+]{check} ok\n"),
        (Some(wrong), false) => format!("[-]{check}: {wrong}\n"),
    }
}

/// One check alone.
fn answer_one(checks: &Checks, name: &str) -> Response {
    match checks.get(name) {
        None => {
            let known: Vec<_> = checks.keys().map(String::as_str).collect();
            (StatusCode::NOT_FOUND, format!("there is no check {name:?}; there are: {}\n", known.join(", "))).into_response()
        }
        Some(None) => "ok".into_response(),
        Some(Some(wrong)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{name}: {wrong}\n")).into_response(),
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
        assert!(fetch(address, "/readyz?verbose").await.ends_with("[+]shutdown ok\nreadyz check passed\n"));
        assert!(fetch(address, "/readyz/informers").await.ends_with("\r\n\r\nok"));
        assert!(fetch(address, "/readyz/etcd").await.starts_with("HTTP/1.1 404"));
        gate.close("lost");
        let one = fetch(address, "/readyz/informers").await;
        assert!(one.starts_with("HTTP/1.1 503") && one.ends_with("informers: lost\n"), "{one}");
        let others = fetch(address, "/readyz?exclude=informers&verbose").await;
        assert!(others.starts_with("HTTP/1.1 200") && others.contains("[+]informers excluded: ok"), "{others}");
        assert!(fetch(address, "/livez/none").await.starts_with("HTTP/1.1 404"));
        assert!(fetch(address, "/metrics").await.contains("process_resident_memory_bytes"));
        shutdown.start();
        server.await.unwrap().unwrap();
    }
}
