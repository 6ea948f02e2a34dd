//! The host agent ("wireserver"): the addresses of this machine's NICs, sooner than anybody else knows.
//! Asked as root, from the host's namespace and primary address, never through a proxy.

use std::{sync::Arc, time::Duration};

use azure_vnet_plugin_core::source::{
    Interface,
    wireserver::{AnswerError, QUESTION, parse},
};
use http::{Method, Request};
use reqwest::Url;

use super::{
    endpoint::Endpoints,
    transport::{ClientError, Http, SharedTransport, TransportError},
};

const ANSWER: Duration = Duration::from_secs(5);

/// The host agent as this machine sees it.
#[derive(Clone)]
pub struct Wireserver {
    base: Url,
    transport: SharedTransport,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireserverError {
    /// Also what a call as another user than root looks like.
    #[error("the host agent does not answer")]
    Unreachable(#[source] TransportError),
    /// A status other than 200.
    #[error("the host agent answers {0}")]
    Status(u16),
    /// An error, or what cannot be read.
    #[error("the host agent has no answer")]
    Answer(#[source] AnswerError),
    /// The question could not be put.
    #[error("the host agent cannot be asked: {0}")]
    Question(String),
}

impl Wireserver {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(endpoints: &Endpoints) -> Result<Self, ClientError> {
        Ok(Self { base: endpoints.wireserver.clone(), transport: Arc::new(Http::local()?) })
    }

    /// A client over another transport.
    #[must_use]
    pub fn with_transport(base: Url, transport: SharedTransport) -> Self {
        Self { base, transport }
    }

    /// The machine's NICs.
    ///
    /// # Errors
    /// No answer, or an unusable one.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, WireserverError> {
        let url = self.base.join(QUESTION).map_err(|error| WireserverError::Question(error.to_string()))?;
        let request = Request::builder().method(Method::GET).uri(url.as_str()).body(Vec::new());
        let request = request.map_err(|error| WireserverError::Question(error.to_string()))?;
        let answer = self.transport.send(request, ANSWER).await.map_err(WireserverError::Unreachable)?;
        match parse(answer.body()) {
            Err(error @ AnswerError::Refused { .. }) => Err(WireserverError::Answer(error)),
            _ if !answer.status().is_success() => Err(WireserverError::Status(answer.status().as_u16())),
            parsed => parsed.map_err(WireserverError::Answer),
        }
    }
}
