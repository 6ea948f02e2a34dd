//! Tokens for Resource Manager: managed identity, workload identity, client secret.
//! One request at a time, refreshed before its end, never shown. Files are read again for every token: both kinds rotate.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture, future::Shared};
use http::{Method, Request, Response, StatusCode, header};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    endpoint::{AD_FS, Endpoints},
    retry::retry_after,
    secret::Secret,
    transport::{SharedTransport, TransportError},
};

/// What the user set; which kind of identity it is follows from what is there.
#[derive(Clone, Debug, Default)]
pub struct CredentialOptions {
    /// Client id of the application or of the user-assigned identity.
    pub client_id: Option<String>,
    /// The tenant of the application.
    pub tenant_id: Option<String>,
    /// A projected service account token.
    pub federated_token_file: Option<PathBuf>,
    /// The application's secret.
    pub client_secret: Option<Secret>,
    /// A file that holds it.
    pub client_secret_file: Option<PathBuf>,
}

/// How tokens are had.
#[derive(Clone, Debug)]
pub enum Credential {
    /// From IMDS; the client id chooses among several user-assigned identities.
    ManagedIdentity {
        /// None: the only one there is.
        client_id: Option<String>,
    },
    /// By a token of the cluster's own issuer.
    WorkloadIdentity {
        /// The application.
        application: Application,
        /// Where the kubelet keeps the cluster's token fresh.
        file: PathBuf,
    },
    /// By a secret.
    ClientSecret {
        /// The application.
        application: Application,
        /// Where the secret is.
        secret: SecretSource,
    },
}

/// An application in a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Its client id.
    pub client_id: String,
    /// Its tenant.
    pub tenant_id: String,
}

/// Where a client secret is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// Given in the environment.
    Given(Secret),
    /// In a file, read for every token.
    File(PathBuf),
}

/// Why options make no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given} needs {missing} as well")]
pub struct CredentialError {
    given: &'static str,
    missing: &'static str,
}

impl CredentialOptions {
    /// A secret wins over a federated token, that over the machine's identity.
    ///
    /// # Errors
    /// Names what is missing beside what is given.
    pub fn credential(&self) -> Result<Credential, CredentialError> {
        let secret = match (&self.client_secret, &self.client_secret_file) {
            (Some(secret), _) => Some(SecretSource::Given(secret.clone())),
            (None, Some(file)) => Some(SecretSource::File(file.clone())),
            (None, None) => None,
        };
        if let Some(secret) = secret {
            return Ok(Credential::ClientSecret { application: self.application("a client secret")?, secret });
        }
        if let Some(file) = self.federated_token_file.clone() {
            return Ok(Credential::WorkloadIdentity { application: self.application("AZURE_FEDERATED_TOKEN_FILE")?, file });
        }
        Ok(Credential::ManagedIdentity { client_id: self.client_id.clone().filter(|id| !id.is_empty()) })
    }

    fn application(&self, given: &'static str) -> Result<Application, CredentialError> {
        let need = |value: &Option<String>, missing| value.clone().filter(|v| !v.is_empty()).ok_or(CredentialError { given, missing });
        Ok(Application { client_id: need(&self.client_id, "AZURE_CLIENT_ID")?, tenant_id: need(&self.tenant_id, "AZURE_TENANT_ID")? })
    }
}

impl Credential {
    /// The kind, for logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ManagedIdentity { .. } => "managed identity",
            Self::WorkloadIdentity { .. } => "workload identity",
            Self::ClientSecret { .. } => "client secret",
        }
    }
}

/// Why there is no token. Holds nothing secret.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// The federated token or the secret cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// No answer.
    #[error("cannot reach {service}")]
    Unreachable {
        /// Who.
        service: &'static str,
        /// Why.
        source: TransportError,
    },
    /// It said no.
    #[error("{service} refuses a token: {status} {code}: {description}")]
    Refused {
        /// Who.
        service: &'static str,
        /// HTTP status.
        status: u16,
        /// `error` of the answer.
        code: String,
        /// `error_description` of the answer, without our secrets.
        description: String,
    },
    /// It answered something else.
    #[error("{service} answers no token")]
    Unreadable {
        /// Who.
        service: &'static str,
    },
}

/// A token and when to leave it.
#[derive(Clone)]
pub struct Token {
    secret: Secret,
    /// Which token it is: a refused one is replaced only once.
    number: u64,
    refresh_at: Instant,
    expires_at: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Token {
    /// Value of the `Authorization` header, marked as sensitive.
    #[must_use]
    pub fn authorization(&self) -> Option<header::HeaderValue> {
        let mut value = header::HeaderValue::try_from(format!("Bearer {}", self.secret.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn fresh(&self, now: Instant) -> bool {
        now < self.refresh_at
    }
}

type Pending = Shared<BoxFuture<'static, Result<Token, TokenError>>>;

/// The current token and the request for the next.
#[derive(Clone)]
pub struct Tokens {
    source: Arc<Source>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    current: Option<Token>,
    pending: Option<Pending>,
    /// The last failure, and until when it stands: nobody asks again before.
    failed: Option<(TokenError, Instant)>,
    issued: u64,
    /// When a refused token was last replaced: one that is refused as soon as it is made will not get better.
    replaced: Option<Instant>,
}

impl State {
    /// Takes over what a request brought, also one whose callers are gone.
    fn harvest(&mut self, now: Instant) {
        let Some(result) = self.pending.as_ref().and_then(|pending| pending.peek().cloned()) else { return };
        self.pending = None;
        match result {
            Ok(token) => (self.current, self.failed) = (Some(token), None),
            Err(error) => self.failed = Some((error, now + FAILED)),
        }
    }

    fn held(&self, now: Instant) -> Option<&Token> {
        self.current.as_ref().filter(|token| now < token.expires_at)
    }

    fn failed(&self, now: Instant) -> Option<&TokenError> {
        self.failed.as_ref().filter(|(_, until)| now < *until).map(|(error, _)| error)
    }
}

/// Between requests for a token when the last one failed, or brought one that is refused.
const FAILED: Duration = Duration::from_secs(10);

struct Source {
    credential: Credential,
    audience: String,
    authority: Url,
    imds: Url,
    cloud: SharedTransport,
    local: SharedTransport,
}

impl Tokens {
    /// No token is asked for before the first use.
    #[must_use]
    pub fn new(endpoints: &Endpoints, credential: Credential, cloud: SharedTransport, local: SharedTransport) -> Self {
        let Endpoints { audience, authority, imds, .. } = endpoints.clone();
        let source = Source { credential, audience, authority, imds, cloud, local };
        Self { source: Arc::new(source), state: Arc::default() }
    }

    /// A token that is not about to end.
    ///
    /// # Errors
    /// None can be had, and there is none that still holds.
    pub async fn get(&self) -> Result<Token, TokenError> {
        let now = Instant::now();
        let (pending, old) = {
            let mut state = self.lock();
            state.harvest(now);
            match (state.held(now).cloned(), state.failed(now)) {
                (Some(token), failed) if token.fresh(now) || failed.is_some() => return Ok(token),
                (None, Some(error)) => return Err(error.clone()),
                (old, _) => (self.pending(&mut state, Freshness::Cached), old),
            }
        };
        // An early refresh that fails leaves the old token in use.
        self.settled(pending).await.or_else(|error| old.ok_or(error))
    }

    /// A token other than the one that was refused.
    ///
    /// # Errors
    /// As [`Tokens::get`].
    pub async fn replace(&self, refused: &Token) -> Result<Token, TokenError> {
        let now = Instant::now();
        let pending = {
            let mut state = self.lock();
            state.harvest(now);
            if let Some(token) = state.held(now).filter(|token| token.number != refused.number) {
                return Ok(token.clone());
            }
            if let Some(error) = state.failed(now) {
                return Err(error.clone());
            }
            if state.replaced.is_some_and(|at| now < at + FAILED) {
                return Ok(refused.clone());
            }
            state.replaced = Some(now);
            self.pending(&mut state, Freshness::Bypass)
        };
        self.settled(pending).await
    }

    async fn settled(&self, pending: Pending) -> Result<Token, TokenError> {
        let result = pending.await;
        self.lock().harvest(Instant::now());
        result
    }

    /// How long the current token still holds.
    #[must_use]
    pub fn life(&self) -> Option<Duration> {
        self.lock().current.as_ref().map(|token| token.expires_at.saturating_duration_since(Instant::now()))
    }

    /// The request in flight, or a new one: many callers, one request.
    fn pending(&self, state: &mut State, freshness: Freshness) -> Pending {
        if let Some(pending) = &state.pending {
            return pending.clone();
        }
        state.issued += 1;
        let (source, number) = (Arc::clone(&self.source), state.issued);
        let pending = async move { source.ask(number, freshness).await }.boxed().shared();
        state.pending = Some(pending.clone());
        pending
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a cache of the identity service may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    Cached,
    Bypass,
}

const IMDS: &str = "the instance metadata service";
const AUTHORITY: &str = "the token service";

impl Source {
    async fn ask(&self, number: u64, freshness: Freshness) -> Result<Token, TokenError> {
        match &self.credential {
            Credential::ManagedIdentity { client_id } => self.managed(client_id.as_deref(), freshness, number).await,
            Credential::WorkloadIdentity { application, file } => {
                let assertion = read(file)?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                self.exchange(application, &[("client_assertion_type", kind), ("client_assertion", assertion.expose())], &assertion, number)
                    .await
            }
            Credential::ClientSecret { application, secret } => {
                let secret = match secret {
                    SecretSource::Given(secret) => secret.clone(),
                    SecretSource::File(file) => read(file)?,
                };
                self.exchange(application, &[("client_secret", secret.expose())], &secret, number).await
            }
        }
    }

    /// IMDS: retried on 404 (the identity is being assigned), 410 (it restarts, up to 70 s), 429 and 5xx.
    async fn managed(&self, client_id: Option<&str>, freshness: Freshness, number: u64) -> Result<Token, TokenError> {
        let mut url = self.imds.clone();
        url.set_path("/metadata/identity/oauth2/token");
        url.query_pairs_mut().append_pair("api-version", "2018-02-01").append_pair("resource", &self.audience);
        if let Some(id) = client_id {
            url.query_pairs_mut().append_pair("client_id", id);
        }
        if freshness == Freshness::Bypass {
            url.query_pairs_mut().append_pair("bypass_cache", "true");
        }
        let request = || Request::builder().method(Method::GET).uri(url.as_str()).header("Metadata", "true").body(Vec::new());
        let retried = |status: StatusCode| matches!(status.as_u16(), 404 | 410 | 429) || status.is_server_error();
        let plan = Retry { tries: 7, first: Duration::from_millis(1340), retried: &retried };
        ask(IMDS, &self.local, request, plan, &Secret::new(""), number).await
    }

    /// Microsoft Entra ID, or an AD FS, which knows neither tenants nor scopes: client credentials flow.
    async fn exchange(&self, application: &Application, proof: &[(&str, &str)], secret: &Secret, number: u64) -> Result<Token, TokenError> {
        let mut url = self.authority.clone();
        let scope = format!("{}/.default", self.audience.trim_end_matches('/'));
        let (path, audience) = match url.path() {
            AD_FS => (format!("{AD_FS}/oauth2/token"), ("resource", self.audience.as_str())),
            _ => (format!("/{}/oauth2/v2.0/token", application.tenant_id), ("scope", scope.as_str())),
        };
        url.set_path(&path);
        let mut form = self.authority.clone();
        form.query_pairs_mut()
            .append_pair("client_id", &application.client_id)
            .append_pair("grant_type", "client_credentials")
            .append_pair(audience.0, audience.1)
            .extend_pairs(proof);
        let body = form.query().unwrap_or_default().as_bytes().to_vec();
        let request = || {
            let kind = "application/x-www-form-urlencoded";
            Request::builder().method(Method::POST).uri(url.as_str()).header(header::CONTENT_TYPE, kind).body(body.clone())
        };
        let retried = |status: StatusCode| matches!(status.as_u16(), 408 | 429) || status.is_server_error();
        ask(AUTHORITY, &self.cloud, request, Retry { tries: 4, first: Duration::from_secs(1), retried: &retried }, secret, number).await
    }
}

struct Retry<'a> {
    tries: u32,
    first: Duration,
    retried: &'a (dyn Fn(StatusCode) -> bool + Sync),
}

/// Longest wait between two tries that a header may ask for.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

async fn ask(
    service: &'static str,
    transport: &SharedTransport,
    request: impl Fn() -> Result<Request<Vec<u8>>, http::Error>,
    retry: Retry<'_>,
    secret: &Secret,
    number: u64,
) -> Result<Token, TokenError> {
    let mut pause = retry.first;
    for attempt in 1.. {
        let last = attempt >= retry.tries;
        let request = request().map_err(|_| TokenError::Unreadable { service })?;
        let asked = Instant::now();
        let wait = match transport.send(request, Duration::from_secs(15)).await {
            Ok(answer) if answer.status().is_success() => return parse(service, &answer, number, asked),
            Ok(answer) if last || !(retry.retried)(answer.status()) => return Err(refused(service, &answer, secret)),
            Err(source) if last => return Err(TokenError::Unreachable { service, source }),
            Ok(answer) => retry_after(answer.headers()).unwrap_or_default().clamp(jitter(pause), LONGEST_WAIT.max(pause)),
            Err(_) => jitter(pause),
        };
        tokio::time::sleep(wait).await;
        pause *= 2;
    }
    Err(TokenError::Unreadable { service })
}

/// 75–100 % of a pause, so that nodes that failed together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 256;
    pause.saturating_sub(pause / 1024 * u32::try_from(random).unwrap_or(0))
}

fn read(path: &Path) -> Result<Secret, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TokenError::File { path: path.display().to_string(), source: Arc::new(source) })?;
    Ok(Secret::new(text.trim()))
}

fn refused(service: &'static str, answer: &Response<Vec<u8>>, secret: &Secret) -> TokenError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        error: String,
        error_description: String,
    }
    let Body { error, error_description } = serde_json::from_slice(answer.body()).unwrap_or_default();
    let clean = |text: &str| secret.scrub(text).chars().filter(|c| !c.is_control()).take(400).collect();
    TokenError::Refused { service, status: answer.status().as_u16(), code: clean(&error), description: clean(&error_description) }
}

/// IMDS answers every number as text, Entra ID as numbers.
#[derive(Deserialize)]
struct Grant {
    access_token: Secret,
    expires_in: Number,
    expires_on: Option<Number>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    fn get(&self) -> Option<u64> {
        match self {
            Self::Plain(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// Counts life from the moment of asking, by the monotonic clock: a wrong wall clock does not matter.
fn parse(service: &'static str, answer: &Response<Vec<u8>>, number: u64, asked: Instant) -> Result<Token, TokenError> {
    let unreadable = TokenError::Unreadable { service };
    let grant: Grant = serde_json::from_slice(answer.body()).map_err(|_| unreadable.clone())?;
    let life = Duration::from_secs(grant.expires_in.get().ok_or(unreadable)?).min(cached_life(grant.expires_on.as_ref(), answer));
    let early = life.saturating_sub(Duration::from_mins(5)).max(life / 2);
    Ok(Token { secret: grant.access_token, number, refresh_at: asked + early, expires_at: asked + life })
}

/// What `expires_on` leaves by the answerer's own clock, its `Date` header: a cached token is older than `expires_in` says.
fn cached_life(expires_on: Option<&Number>, answer: &Response<Vec<u8>>) -> Duration {
    let left = || {
        let date = answer.headers().get(header::DATE)?.to_str().ok()?;
        let now = u64::try_from(super::retry::http_date(date)?.as_second()).ok()?;
        expires_on?.get()?.checked_sub(now).filter(|&left| left > 0)
    };
    left().map_or(Duration::MAX, Duration::from_secs)
}

/// Reads a token answer as the client would: whether it is one, for who has recordings.
#[must_use]
pub fn is_token(body: &[u8]) -> bool {
    serde_json::from_slice::<Grant>(body).is_ok_and(|grant| grant.expires_in.get().is_some() && !grant.access_token.expose().is_empty())
}
