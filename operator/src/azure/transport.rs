//! HTTP to Azure: one request, one bounded answer, a deadline on both. Nothing is retried here.

use std::{error::Error as _, fmt::Write as _, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use http::{Request, Response};
use reqwest::{Certificate, Client, redirect};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: the request was certainly not seen.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection ended, or time ran out, before a whole answer was there.
    #[error("no whole answer: {0}")]
    Lost(String),
    /// More than the bound.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of trusted certificates.
    #[error("cannot read certificates from {path}")]
    CaFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no certificate, or a broken one.
    #[error("{path} holds no usable PEM certificate")]
    Certificates {
        /// The file.
        path: String,
    },
    /// TLS could not be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Build(String),
}

/// A boxed answer to come.
pub type Reply<'a> = Pin<Box<dyn Future<Output = Result<Response<Vec<u8>>, TransportError>> + Send + 'a>>;

/// What carries requests. The real one is [`Http`]; tests put an application in its place.
pub trait Transport: Send + Sync {
    /// Sends one request and reads its whole answer within `deadline`.
    fn send(&self, request: Request<Vec<u8>>, deadline: Duration) -> Reply<'_>;
}

/// The shared handle.
pub type SharedTransport = Arc<dyn Transport>;

/// A pooled HTTP client with a bound on answers.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    limit: usize,
}

impl Http {
    /// For Resource Manager and the token service: proxies of the environment, the system's certificates or those of a file.
    ///
    /// # Errors
    /// The file, or TLS.
    pub fn cloud(ca_file: Option<&Path>) -> Result<Self, ClientError> {
        // Without pings a connection that died silently would take every request with it, for a quarter of an hour.
        let mut builder = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if let Some(path) = ca_file {
            builder = builder.tls_certs_only(certificates(path)?);
        }
        Self::build(builder, 32 << 20)
    }

    /// For IMDS and the host agent: plain HTTP, never through a proxy, quick to give up.
    ///
    /// # Errors
    /// The client library.
    pub fn local() -> Result<Self, ClientError> {
        // No roots: none are needed, and loading the system's would cost memory on every node.
        let builder = Client::builder().no_proxy().tls_certs_only([]).connect_timeout(Duration::from_secs(2)).pool_max_idle_per_host(1);
        Self::build(builder, 1 << 20)
    }

    fn build(builder: reqwest::ClientBuilder, limit: usize) -> Result<Self, ClientError> {
        let agent = concat!("azure-vnet/", env!("CARGO_PKG_VERSION"));
        let builder = builder.redirect(redirect::Policy::none()).user_agent(agent).pool_idle_timeout(Duration::from_mins(1));
        let client = builder.build().map_err(|error| ClientError::Build(describe(error)))?;
        Ok(Self { client, limit })
    }

    async fn exchange(&self, request: Request<Vec<u8>>, deadline: Duration) -> Result<Response<Vec<u8>>, TransportError> {
        let mut request = reqwest::Request::try_from(request).map_err(|error| TransportError::Connect(describe(error)))?;
        *request.timeout_mut() = Some(deadline);
        let mut answer = self.client.execute(request).await.map_err(|error| {
            if error.is_connect() { TransportError::Connect(describe(error)) } else { TransportError::Lost(describe(error)) }
        })?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| TransportError::Lost(describe(error)))? {
            if body.len() + chunk.len() > self.limit {
                return Err(TransportError::TooLarge(self.limit));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

impl Transport for Http {
    fn send(&self, request: Request<Vec<u8>>, deadline: Duration) -> Reply<'_> {
        Box::pin(self.exchange(request, deadline))
    }
}

/// The whole chain of causes, without the URL: operation URLs carry signatures.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, ClientError> {
    let name = path.display().to_string();
    let pem = std::fs::read(path).map_err(|source| ClientError::CaFile { path: name.clone(), source })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) | Err(_) => Err(ClientError::Certificates { path: name }),
    }
}
