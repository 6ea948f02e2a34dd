//! The API server over HTTP, for what is asked again and again: a `kubectl` takes a tenth of a second of a processor just to start.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

/// Nodes.
pub const NODES: &str = "/api/v1/nodes";
/// Pods of all namespaces.
pub const ALL_PODS: &str = "/api/v1/pods";
/// Pods of the namespace that users get if they name none.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Services of that namespace.
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Jobs of that namespace.
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
/// Events of all namespaces.
pub const ALL_EVENTS: &str = "/api/v1/events";
/// Pods of the product's namespace.
pub const SYSTEM_PODS: &str = "/api/v1/namespaces/kube-system/pods";
/// The controller's Deployment.
pub const CONTROLLER: &str = "/apis/apps/v1/namespaces/kube-system/deployments/azure-vnet-controller";
/// What tells which controller leads.
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/azure-vnet-controller";
/// The product's configs.
pub const CONFIGS: &str = "/apis/azure-vnet.dev/v1alpha1/azurevnetconfigs";
/// The product's nodes.
pub const VNET_NODES: &str = "/apis/azure-vnet.dev/v1alpha1/azurevnetnodes";
/// The product's subnets.
pub const SUBNETS: &str = "/apis/azure-vnet.dev/v1alpha1/azurevnetsubnets";

/// How long one read may take, and how long one is asked to come again later.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of the API server, with all rights, through the lab's `kubectl proxy`.
pub struct Api {
    client: reqwest::Client,
}

impl Api {
    /// Talks to the proxy that listens at `socket`.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn at(socket: &Path) -> Result<Self> {
        // The proxy speaks plain HTTP, but the library makes no client without a provider; the first that is installed stays.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        Ok(Self { client: reqwest::Client::builder().unix_socket(socket).no_proxy().build()? })
    }

    /// Asks whether the API server serves.
    ///
    /// # Errors
    /// If it does not, or does not answer within two seconds.
    pub async fn ready(&self) -> Result<()> {
        let answer = self.client.get(url("/readyz")).timeout(Duration::from_secs(2)).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Reads an object, or a list of them, by its path and, in its query, `labelSelector` or `fieldSelector`.
    ///
    /// # Errors
    /// If there is none; the error holds the API server's words.
    pub async fn read(&self, path: &str) -> Result<Value> {
        answer(self.client.get(url(path)).timeout(PATIENCE)).await.with_context(|| format!("reading {path}"))
    }

    /// Creates an object in a collection; a field that the collection's schema does not know is an error.
    ///
    /// # Errors
    /// If the API server refuses it; the error holds its words.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldValidation=Strict");
        answer(self.client.post(url(&path)).json(object)).await.with_context(|| format!("creating in {path}"))
    }

    /// Merges into an object, or into its status where the path ends so.
    ///
    /// # Errors
    /// If the API server refuses; the error holds its words.
    pub async fn merge(&self, path: &str, change: &Value) -> Result<Value> {
        self.patch(path, "application/merge-patch+json", change).await
    }

    /// Applies what is one manager's of an object, or of its status where the path ends so, against other managers' claims.
    ///
    /// # Errors
    /// As [`Self::merge`].
    pub async fn apply(&self, path: &str, manager: &str, change: &Value) -> Result<Value> {
        self.patch(&format!("{path}?fieldManager={manager}&force=true"), "application/apply-patch+yaml", change).await
    }

    /// Hands on each event of a collection, its present objects first, until the API server ends the watch or `event` fails.
    ///
    /// # Errors
    /// If the watch breaks.
    pub async fn watch(&self, path: &str, mut event: impl FnMut(Value) -> Result<()>) -> Result<()> {
        let request = self.client.get(url(&format!("{path}?watch=true&resourceVersion=0&allowWatchBookmarks=false")));
        let mut stream = send(request).await?.error_for_status()?;
        let mut pending = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                event(serde_json::from_slice(&line)?)?;
            }
        }
        Ok(())
    }

    async fn patch(&self, path: &str, kind: &str, change: &Value) -> Result<Value> {
        let request = self.client.patch(url(path)).header(CONTENT_TYPE, kind).body(change.to_string());
        answer(request).await.with_context(|| format!("changing {path}"))
    }
}

/// The proxy serves those who ask for this host.
fn url(path: &str) -> String {
    format!("http://localhost{path}")
}

/// An API server that asks to come again later, as while it takes in a new kind, is asked again.
async fn send(request: RequestBuilder) -> Result<Response> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = request.try_clone().context("a request can be sent again")?.send().await?;
        let later = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        match later.map(Duration::from_secs) {
            Some(pause) if answer.status() == StatusCode::TOO_MANY_REQUESTS && Instant::now() < deadline => tokio::time::sleep(pause).await,
            _ => return Ok(answer),
        }
    }
}

async fn answer(request: RequestBuilder) -> Result<Value> {
    let answer = send(request).await?;
    let status = answer.status();
    let text = answer.text().await?;
    let said: Value = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
    if !status.is_success() {
        bail!("{status}: {}", said.get("message").and_then(Value::as_str).unwrap_or(&text));
    }
    Ok(said)
}
