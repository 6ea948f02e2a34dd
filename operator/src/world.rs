//! What the long-running parts are given: the API server, Azure's addresses, telemetry, and the end.

use std::io;

use kube::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

use crate::{azure::Endpoints, telemetry::Telemetry};

/// What a long-running part needs from outside.
#[derive(Clone)]
pub struct World {
    /// The Kubernetes API.
    pub kube: Client,
    /// Where Azure is.
    pub endpoints: Endpoints,
    /// Metrics and health.
    pub telemetry: Telemetry,
    /// When to end.
    pub shutdown: Shutdown,
}

/// Tells everybody that the process is asked to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: watch::Receiver<bool>,
}

impl Shutdown {
    /// Follows SIGTERM and SIGINT. The task ends with the first of them.
    ///
    /// # Errors
    /// No handler can be installed.
    pub fn on_signals(tasks: &mut tokio::task::JoinSet<()>) -> io::Result<Self> {
        let (trigger, shutdown) = Self::manual();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = term.recv() => info!("asked to end (SIGTERM)"),
                _ = int.recv() => info!("asked to end (SIGINT)"),
                _ = hangup.recv() => info!("asked to end (SIGHUP)"),
            }
            trigger.send_replace(true);
        });
        Ok(shutdown)
    }

    /// One that ends when the sender says so, or is dropped.
    #[must_use]
    pub fn manual() -> (watch::Sender<bool>, Self) {
        let (trigger, asked) = watch::channel(false);
        (trigger, Self { asked })
    }

    /// Returns when the process is asked to end.
    pub async fn wait(&self) {
        // An error means that nobody is left to ask: that is an end as well.
        let _ = self.asked.clone().wait_for(|asked| *asked).await;
    }

    /// Whether it has been asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.asked.borrow()
    }
}
