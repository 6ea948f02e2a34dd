//! `/metrics`, `/healthz` and `/readyz`. A busy port is reported and tried again; the work goes on without.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, time::Instant};
use tracing::{info, warn};

use super::Telemetry;
use crate::Shutdown;

/// Between tries to get a busy port.
const AGAIN: Duration = Duration::from_secs(10);

/// Serves until the process is asked to end. Never fails: what cannot be served is missing, nothing more.
pub async fn serve(telemetry: Telemetry, bind: SocketAddr, shutdown: Shutdown) {
    serve_router("metrics and health (--metrics-bind)", router(telemetry), bind, shutdown).await;
}

/// Serves something over HTTP, as [`serve`] does; `what` and the flag that names its address are told where it cannot be.
pub async fn serve_router(what: &str, router: Router, bind: SocketAddr, shutdown: Shutdown) {
    let Some(listener) = listen(what, bind, &shutdown).await else { return };
    let end = async move { shutdown.wait().await };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(end).await {
        warn!(%bind, %error, "no longer serving {what}");
    }
}

/// The three pages.
pub fn router(telemetry: Telemetry) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(telemetry)
}

async fn listen(what: &str, bind: SocketAddr, shutdown: &Shutdown) -> Option<TcpListener> {
    let mut reported = false;
    loop {
        match TcpListener::bind(bind).await {
            Ok(listener) => {
                info!(%bind, "serving {what}");
                return Some(listener);
            }
            Err(error) if !reported => {
                warn!(%bind, %error, "cannot serve {what}; trying again every {} s", AGAIN.as_secs());
                reported = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return None,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], telemetry.metrics())
}

async fn healthz(State(telemetry): State<Telemetry>) -> (StatusCode, String) {
    let hung = telemetry.hung(Instant::now());
    if hung.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("hung: {}\n", hung.join(", ")))
    }
}

async fn readyz(State(telemetry): State<Telemetry>) -> (StatusCode, &'static str) {
    if telemetry.ready() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}
