//! The client of Azure Resource Manager: leave from the budget, a token, one request, the end of its operation.
//! It decides nothing about nodes and repeats no write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use azure_vnet_operator_core::arm::{
    ApiVersions, Budget as Kind, Class as Fault, Document, Error, Operation as State, Read, Trace, Urgency, Write,
};
use http::{Method, Request, Response, StatusCode, header};
use prometheus_client::registry::Registry;
use reqwest::Url;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::{
    Arm,
    budget::{Admission, Charge, Class, Machine, Outcome, Reach, Ticket},
    credential::{Credential, Token, TokenError, Tokens},
    endpoint::{Endpoints, trusted},
    meter::Meter,
    operation::{Started, Style, Watch, polled, started},
    retry,
    subscriptions::{Subscriptions, of_path},
    transport::{ClientError, Http, SharedTransport, TransportError},
};

/// Longest wait for a closed gate inside a call; a longer one is the caller's to schedule.
const LONGEST_GATE: Duration = Duration::from_secs(30);
/// Longest wait in the queue of a budget.
const LONGEST_QUEUE: Duration = Duration::from_mins(5);
/// Time for one answer.
const ANSWER: Duration = Duration::from_mins(1);
/// Time for a token, beyond the 70 s that IMDS may take to restart.
const TOKEN: Duration = Duration::from_secs(100);
/// How long an operation is followed.
const OPERATION: Duration = Duration::from_mins(10);
/// Pages of a list: 256 NICs or subnets fit in a few.
const MAX_PAGES: usize = 100;

/// Talks to one Resource Manager as one identity. Clones share everything.
#[derive(Clone)]
pub struct ArmClient {
    inner: Arc<Inner>,
}

struct Inner {
    arm: Url,
    transport: SharedTransport,
    tokens: Tokens,
    budgets: Mutex<Subscriptions>,
    meter: Meter,
    poll: Duration,
    versions: ApiVersions,
}

/// How a client is set up beyond its endpoints.
#[derive(Clone, Debug)]
pub struct ArmOptions {
    /// Share of every budget that is left to others, in percent.
    pub reserve_percent: u8,
    /// Between polls of an operation where Azure names no time. At least 5 s suits Azure's limits.
    pub poll: Duration,
    /// Other versions of the providers' APIs than those of public Azure.
    pub versions: ApiVersions,
}

impl Default for ArmOptions {
    fn default() -> Self {
        Self { reserve_percent: 40, poll: Duration::from_secs(5), versions: ApiVersions::default() }
    }
}

impl ArmClient {
    /// A client over the network.
    ///
    /// # Errors
    /// Certificates or TLS.
    pub fn new(endpoints: &Endpoints, credential: Credential, options: &ArmOptions) -> Result<Self, ClientError> {
        let cloud = Arc::new(Http::cloud(endpoints.ca_file.as_deref())?);
        let local = Arc::new(Http::local()?);
        Ok(Self::with_transport(endpoints, credential, options, cloud, local))
    }

    /// A client over other transports: `cloud` to Resource Manager and the token service, `local` to IMDS.
    #[must_use]
    pub fn with_transport(
        endpoints: &Endpoints,
        credential: Credential,
        options: &ArmOptions,
        cloud: SharedTransport,
        local: SharedTransport,
    ) -> Self {
        let tokens = Tokens::new(endpoints, credential, Arc::clone(&cloud), local);
        let budgets = Mutex::new(Subscriptions::new(options.reserve_percent));
        let inner = Inner {
            arm: endpoints.arm.clone(),
            transport: cloud,
            tokens,
            budgets,
            meter: Meter::default(),
            poll: options.poll,
            versions: options.versions.clone(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds its metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.inner.meter.register(registry);
    }

    /// Asks for a token, to find wrong credentials before they are needed.
    ///
    /// # Errors
    /// None can be had.
    pub async fn login(&self) -> Result<(), TokenError> {
        self.inner.tokens.get().await.map(|_| ())
    }
}

impl Arm for ArmClient {
    async fn read(&self, read: &Read, urgency: Urgency) -> Result<Document, Error> {
        let path = self.inner.versions.of(read.path());
        let call = Call { op: read.op(), subscription: of_path(&path), charge: charge_of_read(read, urgency), may_send: &|| true };
        let url = self.inner.url(&path)?;
        match read {
            Read::InstanceNics(_) | Read::Usages(_) | Read::Permissions(_) | Read::Locks(_) | Read::Denials(_) => {
                self.inner.list(url, &call).await
            }
            Read::Nic(_) | Read::Machine(_) | Read::ScaleSet(_) | Read::Instance(_) | Read::Network(_) | Read::Subnet(_) => {
                self.inner.get(url, &call).await
            }
        }
    }

    async fn write(&self, write: &Write, urgency: Urgency, may_send: &(dyn Fn() -> bool + Send + Sync)) -> Result<(), Error> {
        let path = self.inner.versions.of(write.path());
        let call = Call { op: write.op(), subscription: of_path(&path), charge: charge_of_write(write, urgency), may_send };
        let url = self.inner.url(&path)?;
        let answer = self.inner.put(&url, write, &call).await?;
        let watch = match started(&self.inner.arm, &url, &answer)? {
            Started::Done => return Ok(()),
            Started::Ended(error) => return Err(error.with_request_id(request_id(&answer))),
            Started::Running(watch) => watch,
        };
        let first = retry::retry_after(answer.headers());
        let charge = Charge { classes: classes_of_poll(write.budget()), machine: None, urgency };
        self.inner.follow(&watch, first, Call { op: "poll", charge, may_send: &|| true, ..call }).await
    }

    fn reserve(&self, percent: u8) {
        self.inner.budgets().set_reserve(percent);
    }

    fn is_silent(&self, subscription: &str) -> bool {
        self.inner.budgets().is_silent(subscription)
    }

    fn levels(&self) -> Vec<super::Level> {
        self.inner.budgets().levels(Instant::now().into_std())
    }
}

/// What is the same for every try of one request.
struct Call<'a> {
    op: &'static str,
    /// Whose limits it counts against, in lower case.
    subscription: String,
    charge: Charge,
    may_send: &'a (dyn Fn() -> bool + Send + Sync),
}

fn charge_of_read(read: &Read, urgency: Urgency) -> Charge {
    let machine = match read {
        Read::Machine(id) | Read::Instance(id) => Some(Machine::Read(id.key())),
        Read::Nic(_)
        | Read::ScaleSet(_)
        | Read::InstanceNics(_)
        | Read::Network(_)
        | Read::Subnet(_)
        | Read::Usages(_)
        | Read::Permissions(_)
        | Read::Locks(_)
        | Read::Denials(_) => None,
    };
    Charge { classes: classes(read.budget()), machine, urgency }
}

fn charge_of_write(write: &Write, urgency: Urgency) -> Charge {
    let machine = match write {
        Write::Instance { id, .. } => Some(Machine::Write(id.key())),
        Write::Nic { .. } => None,
    };
    Charge { classes: classes(write.budget()), machine, urgency }
}

fn classes(kind: Kind) -> &'static [Class] {
    match kind {
        Kind::NetworkRead => &[Class::ArmRead, Class::NetworkRead],
        Kind::NetworkWrite => &[Class::ArmWrite, Class::NetworkWrite],
        Kind::ComputeRead => &[Class::ArmRead, Class::ComputeRead],
        Kind::ComputeWrite => &[Class::ArmWrite, Class::ComputeWrite],
        Kind::Rights => &[Class::ArmRead],
    }
}

fn classes_of_poll(kind: Kind) -> &'static [Class] {
    match kind {
        Kind::NetworkRead | Kind::NetworkWrite => &[Class::ArmRead, Class::NetworkRead],
        Kind::ComputeRead | Kind::ComputeWrite => &[Class::ArmRead, Class::ComputePoll],
        Kind::Rights => &[Class::ArmRead],
    }
}

impl Inner {
    fn url(&self, path: &str) -> Result<Url, Error> {
        let url = self.arm.join(path).ok().filter(|url| trusted(&self.arm, url));
        url.ok_or_else(|| Error::not_sent("the resource id makes no URL of Resource Manager"))
    }

    async fn get(&self, url: Url, call: &Call<'_>) -> Result<Document, Error> {
        let answer = self.exchange(&Method::GET, &url, None, call).await?;
        let body: Value = serde_json::from_slice(answer.body()).map_err(|error| unreadable(call.op, &error))?;
        let header = answer.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
        // Compute puts the tag of an instance into the body as well, Network the NIC's.
        let etag = header.or_else(|| body.get("etag").and_then(Value::as_str)).map(str::to_owned);
        Ok(Document { body, etag })
    }

    async fn list(&self, first: Url, call: &Call<'_>) -> Result<Document, Error> {
        let mut items = vec![];
        let mut next = Some(first);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(url) = next.take() {
            if seen.len() >= MAX_PAGES || !seen.insert(url.to_string()) {
                return Err(Error::transport(Trace::None, format!("{}: the list does not end", call.op)));
            }
            let Document { mut body, .. } = self.get(url, call).await?;
            let Some(Value::Array(page)) = body.get_mut("value").map(Value::take) else {
                return Err(Error::transport(Trace::None, format!("{}: the answer is no list", call.op)));
            };
            items.extend(page);
            next = body.get("nextLink").and_then(Value::as_str).filter(|link| !link.is_empty()).map(|link| self.url(link)).transpose()?;
        }
        Ok(Document { body: serde_json::json!({ "value": items }), etag: None })
    }

    async fn put(&self, url: &Url, write: &Write, call: &Call<'_>) -> Result<Response<Vec<u8>>, Error> {
        let Some(etag) = write.etag() else {
            return Err(Error::not_sent("the resource was read without an etag, and nothing is written without If-Match"));
        };
        let body = serde_json::to_vec(write.body()).map_err(|_| Error::not_sent("the body is no JSON"))?;
        self.exchange(&Method::PUT, url, Some((etag, body)), call).await
    }

    /// Polls to the end. Whatever hinders a poll says nothing about the operation, so polling goes on until its time is over.
    async fn follow(&self, watch: &Watch, first: Option<Duration>, call: Call<'_>) -> Result<(), Error> {
        let deadline = Instant::now() + OPERATION;
        let mut wait = self.pause(first);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::transport(Trace::Unknown, "the operation still runs after ten minutes".to_owned()));
            }
            // However long a poll is put off, one comes at the end.
            sleep(wait.min(left)).await;
            match self.exchange(&Method::GET, &watch.url, None, &call).await {
                Ok(answer) => match polled(watch.style, &answer) {
                    State::Succeeded => return Ok(()),
                    State::Ended(error) => return Err(error.with_request_id(request_id(&answer))),
                    State::Running => wait = self.pause(retry::retry_after(answer.headers())),
                },
                // The record of the operation is gone, or not ours to read: only the resource itself can tell.
                Err(error) if matches!(error.status, Some(403 | 404 | 410)) => return Err(Error { trace: Trace::Unknown, ..error }),
                Err(error) if watch.style == Style::Location && matches!(error.status, Some(400 | 402 | 405..=407 | 409 | 411..=428)) => {
                    return Err(Error { trace: Trace::Ended, ..error });
                }
                Err(error) => {
                    debug!(%error, "cannot poll");
                    wait = self.pause(error.retry_after());
                }
            }
        }
    }

    /// A server that says 0 is not polled in a tight loop.
    fn pause(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.poll, |wait| wait.max(Duration::from_millis(200)))
    }

    /// One request, with one more try if the token is refused.
    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        put: Option<(&str, Vec<u8>)>,
        call: &Call<'_>,
    ) -> Result<Response<Vec<u8>>, Error> {
        self.admit(call).await?;
        let token = self.token(self.tokens.get()).await?;
        let answer = self.attempt(method, url, put.clone(), &token, call).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return checked(answer);
        }
        warn!(op = call.op, "Resource Manager refuses the token; asking for another");
        self.admit(call).await?;
        let token = self.token(self.tokens.replace(&token)).await?;
        checked(self.attempt(method, url, put, &token, call).await?)
    }

    async fn token(&self, asked: impl Future<Output = Result<Token, TokenError>>) -> Result<Token, Error> {
        let result = timeout(TOKEN, asked).await;
        self.meter.token(self.tokens.life());
        match result {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(error)) => Err(Error::credentials(chain(&error))),
            Err(_) => Err(Error::credentials("no token in time".to_owned())),
        }
    }

    async fn attempt(
        &self,
        method: &Method,
        url: &Url,
        put: Option<(&str, Vec<u8>)>,
        token: &Token,
        call: &Call<'_>,
    ) -> Result<Response<Vec<u8>>, Error> {
        let request = request(method, url, put, token).ok_or_else(|| Error::not_sent("the request has an impossible header"))?;
        if !(call.may_send)() {
            return Err(Error::not_sent("its time, or this controller's leadership, ended before its turn"));
        }
        let start = Instant::now();
        let result = self.transport.send(request, ANSWER).await;
        self.meter.request(call.op, result.as_ref().ok().map(|answer| answer.status().as_u16()), start.elapsed());
        let kind = if *method == Method::GET { "reads" } else { "writes" };
        self.learn(call, kind, &result);
        result.map_err(|error| lost(method, &error))
    }

    /// Waits for the budget's leave.
    async fn admit(&self, call: &Call<'_>) -> Result<(), Error> {
        let start = Instant::now();
        let ticket = self.budgets().of(&call.subscription).enter(&call.charge);
        let place = Place { budgets: &self.budgets, subscription: &call.subscription, ticket };
        loop {
            let now = Instant::now();
            let admission = self.budgets().of(&call.subscription).admit(&place.ticket, &call.charge, now.into_std());
            let (until, longest, refuse): (_, _, fn(Duration) -> Error) = match admission {
                Admission::Go => break,
                Admission::Closed(until) => (until, LONGEST_GATE, Error::gated),
                Admission::Silent(until) => (until, LONGEST_GATE, Error::silent),
                Admission::Queue(until) => (until, LONGEST_QUEUE, Error::gated),
            };
            if until > (start + longest).into_std() {
                return Err(refuse(until.saturating_duration_since(now.into_std())));
            }
            sleep_until(until.into()).await;
        }
        self.meter.waited(&call.subscription, call.charge.classes, start.elapsed());
        Ok(())
    }

    fn learn(&self, call: &Call<'_>, kind: &str, result: &Result<Response<Vec<u8>>, TransportError>) {
        let now = Instant::now().into_std();
        let (outcome, remaining) = match result {
            Ok(answer) => (outcome(answer), retry::remaining(answer.headers(), kind)),
            Err(_) => (Outcome::Unavailable { retry_after: None }, retry::remaining(&http::HeaderMap::new(), kind)),
        };
        if let Outcome::Throttled { retry_after, .. } = outcome {
            warn!(op = call.op, ?retry_after, "Azure throttles");
            self.meter.throttled(&call.subscription, call.charge.classes);
        }
        let mut budgets = self.budgets();
        budgets.learn(&call.subscription, &call.charge, outcome, &remaining, now);
        let budget = budgets.of(&call.subscription);
        for &class in call.charge.classes {
            self.meter.level(&call.subscription, class, budget.level(class, now));
        }
    }

    fn budgets(&self) -> MutexGuard<'_, Subscriptions> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, given up also when the call is dropped.
struct Place<'a> {
    budgets: &'a Mutex<Subscriptions>,
    subscription: &'a str,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner).of(self.subscription).leave(&self.ticket);
    }
}

fn request(method: &Method, url: &Url, put: Option<(&str, Vec<u8>)>, token: &Token) -> Option<Request<Vec<u8>>> {
    let builder = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(header::AUTHORIZATION, token.authorization()?)
        .header(header::ACCEPT, "application/json");
    match put {
        Some((etag, body)) => builder.header(header::IF_MATCH, etag).header(header::CONTENT_TYPE, "application/json").body(body),
        None => builder.body(Vec::new()),
    }
    .ok()
}

fn outcome(answer: &Response<Vec<u8>>) -> Outcome {
    let status = answer.status().as_u16();
    if status >= 500 {
        return Outcome::Unavailable { retry_after: retry::retry_after(answer.headers()) };
    }
    let error = Error::from_answer(status, retry::retry_after(answer.headers()), answer.body());
    match error.class {
        Fault::Throttled { retry_after } if status == 429 => Outcome::Throttled {
            retry_after,
            reach: match error.code.as_str() {
                "TenantRequestsThrottled" => Reach::Tenant,
                "SubscriptionRequestsThrottled" => Reach::Subscription,
                _ => Reach::Provider,
            },
        },
        Fault::Throttled { .. }
        | Fault::Busy { .. }
        | Fault::Stale
        | Fault::Superseded
        | Fault::Gone
        | Fault::Forbidden { .. }
        | Fault::Locked
        | Fault::Unauthenticated
        | Fault::SubnetFull
        | Fault::Rejected
        | Fault::Unavailable { .. }
        | Fault::Failed
        | Fault::NotSent => Outcome::Answered,
    }
}

fn checked(answer: Response<Vec<u8>>) -> Result<Response<Vec<u8>>, Error> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let error = Error::from_answer(answer.status().as_u16(), retry::retry_after(answer.headers()), answer.body());
    Err(error.with_request_id(request_id(&answer)))
}

fn request_id(answer: &Response<Vec<u8>>) -> Option<String> {
    let id = answer.headers().get("x-ms-request-id")?.to_str().ok()?;
    Some(id.chars().take(64).collect())
}

/// A GET leaves no trace; a PUT whose answer is missing may have been taken.
fn lost(method: &Method, error: &TransportError) -> Error {
    let trace = match error {
        TransportError::Connect(_) => Trace::None,
        TransportError::Lost(_) | TransportError::TooLarge(_) if *method == Method::GET => Trace::None,
        TransportError::Lost(_) | TransportError::TooLarge(_) => Trace::Unknown,
    };
    Error::transport(trace, error.to_string())
}

fn unreadable(op: &str, error: &serde_json::Error) -> Error {
    Error::transport(Trace::None, format!("{op}: the answer is no JSON: {error}"))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
