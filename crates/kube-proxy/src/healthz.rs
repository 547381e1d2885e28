//! What load balancers ask: are this node's rules up to date, and is the node to stay?

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use daemon::Shutdown;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// A change that has waited longer than this is a proxy that does not get through.
const OVERDUE: Duration = Duration::from_secs(60);

/// The state of the rules. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Healthz(Arc<Mutex<Status>>);

#[derive(Debug)]
struct Status {
    updated: Option<SystemTime>,
    waiting_since: Option<Instant>,
    eligible: bool,
}

// === impl Healthz ===

impl Default for Healthz {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Status { updated: None, waiting_since: None, eligible: true })))
    }
}

impl Healthz {
    /// Changes have been taken up, the oldest of which came then. Those of failed syncs count on.
    pub fn taken(&self, since: Option<Instant>) {
        let mut status = self.0.lock();
        status.waiting_since = status.waiting_since.or(since);
    }

    /// Every change taken up is in the rules.
    pub fn updated(&self) {
        let mut status = self.0.lock();
        status.updated = Some(SystemTime::now());
        status.waiting_since = None;
    }

    /// Whether load balancers should still send new connections to the node.
    pub fn set_eligible(&self, eligible: bool) {
        self.0.lock().eligible = eligible;
    }

    /// Serves `/healthz` and `/livez` until the shutdown begins.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) -> std::io::Result<()> {
        let router = Router::new()
            .route("/healthz", get(|State(health): State<Self>| async move { health.answer(true) }))
            .route("/livez", get(|State(health): State<Self>| async move { health.answer(false) }))
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(shutdown.started()).await
    }

    /// Upstream's answer: a node on its way out is unhealthy to balancers, though the proxy itself is not.
    fn answer(&self, with_node: bool) -> Response {
        let status = self.0.lock();
        let overdue = status.waiting_since.is_some_and(|since| since.elapsed() > OVERDUE);
        let good = !overdue && (status.eligible || !with_node);
        let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({
            "lastUpdated": timestamp(status.updated.unwrap_or(SystemTime::UNIX_EPOCH)),
            "currentTime": timestamp(SystemTime::now()),
            "nodeEligible": status.eligible,
        });
        (code, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(body)).into_response()
    }
}

fn timestamp(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_that_wait_too_long_and_a_leaving_node_are_unhealthy() {
        let health = Healthz::default();
        assert_eq!(health.answer(true).status(), StatusCode::OK);
        health.taken(Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(health.answer(true).status(), StatusCode::OK);
        health.taken(Some(Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(health.answer(false).status(), StatusCode::SERVICE_UNAVAILABLE, "the first one still waits");
        health.updated();
        assert_eq!(health.answer(true).status(), StatusCode::OK);
        health.set_eligible(false);
        assert_eq!(health.answer(true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health.answer(false).status(), StatusCode::OK);
    }
}
