//! The client of Resource Manager against small applications: in memory, where time is simulated; over loopback, where
//! bytes and connections matter.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests assert by panicking")]

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, Request, Response, StatusCode, Uri},
    response::IntoResponse,
    routing::{get, post},
};
use azure_vnet_operator::azure::{
    Arm, ArmClient, ArmOptions, Credential, CredentialOptions, EndpointOptions, Endpoints, Secret,
    transport::{Http, Reply, Transport, TransportError},
};
use azure_vnet_operator_core::arm::{ApiVersions, Class, Error, Read, Trace, Urgency, Write};
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt as _;

const NIC: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n";
const OPERATION: &str = "/subscriptions/s/providers/Microsoft.Network/locations/l/operations/o";

/// An application in the place of the network: every request is answered at once, so paused time moves only by our waits.
struct Memory(Router);

impl Transport for Memory {
    fn send(&self, request: Request<Vec<u8>>, _: Duration) -> Reply<'_> {
        let app = self.0.clone();
        Box::pin(async move {
            let answer = app.oneshot(request.map(Body::from)).await.map_err(|never| TransportError::Lost(never.to_string()))?;
            let (parts, body) = answer.into_parts();
            let body = to_bytes(body, 1 << 20).await.map_err(|error| TransportError::Lost(error.to_string()))?;
            Ok(Response::from_parts(parts, body.to_vec()))
        })
    }
}

fn endpoints() -> Endpoints {
    EndpointOptions::default().resolve(None).unwrap()
}

/// A client of `app`, which also gives out tokens `t1`, `t2`, …, each valid for an hour.
fn client(app: Router) -> (ArmClient, Arc<AtomicU32>) {
    let issued = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&issued);
    let token = move || {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Json(json!({"access_token": format!("t{number}"), "expires_in": "3600", "expires_on": "1893456000"})) }
    };
    let imds = Router::new().route("/metadata/identity/oauth2/token", get(token));
    let credential = Credential::ManagedIdentity { client_id: None };
    let options = ArmOptions { reserve_percent: 0, ..ArmOptions::default() };
    (ArmClient::with_transport(&endpoints(), credential, &options, Arc::new(Memory(app)), Arc::new(Memory(imds))), issued)
}

fn nic() -> Read {
    Read::Nic(NIC.parse().unwrap())
}

fn put() -> Write {
    Write::Nic { id: NIC.parse().unwrap(), etag: Some("W/\"1\"".into()), body: json!({"location": "l"}) }
}

async fn write(client: &ArmClient) -> Result<(), Error> {
    client.write(&put(), Urgency::Fill, &|| true).await
}

/// Answers in turn, the last one for ever, and notes when and how it was asked.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<Vec<Response<String>>>>,
    asked: Arc<Mutex<Vec<(Duration, String, HeaderMap)>>>,
    start: Instant,
}

impl Script {
    fn new(answers: Vec<Response<String>>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers)), asked: Arc::default(), start: Instant::now() }
    }

    fn app(&self) -> Router {
        Router::new().fallback(Self::answer).with_state(self.clone())
    }

    #[expect(clippy::unused_async, reason = "the form that handlers have")]
    async fn answer(State(script): State<Self>, method: axum::http::Method, uri: Uri, headers: HeaderMap) -> Response<String> {
        script.asked.lock().unwrap().push((script.start.elapsed(), format!("{method} {uri}"), headers));
        let mut answers = script.answers.lock().unwrap();
        if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
    }

    fn times(&self) -> Vec<u128> {
        self.asked.lock().unwrap().iter().map(|(time, ..)| time.as_millis()).collect()
    }

    fn header(&self, index: usize, name: &str) -> String {
        self.asked.lock().unwrap()[index].2.get(name).unwrap().to_str().unwrap().to_owned()
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &Value) -> Response<String> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.to_string()).unwrap()
}

fn settled() -> Value {
    json!({"properties": {"provisioningState": "Succeeded"}})
}

fn throttle(seconds: &str) -> Response<String> {
    let code = json!({"error": {"code": "OperationNotAllowed", "message": "m", "details": [{"code": "TooManyRequests", "message": "{}"}]}});
    answer(429, &[("Retry-After", seconds)], &code)
}

#[tokio::test(start_paused = true)]
async fn a1_after_429_the_next_write_goes_at_the_second_that_azure_named() {
    let script = Script::new(vec![throttle("17"), answer(200, &[], &settled())]);
    let (client, _) = client(script.app());
    let error = write(&client).await.unwrap_err();
    assert_eq!((error.class, error.trace), (Class::Throttled { retry_after: Some(Duration::from_secs(17)) }, Trace::None));
    write(&client).await.unwrap();
    assert_eq!(script.times(), [0, 17_000]);
}

#[tokio::test(start_paused = true)]
async fn a1_a_long_wait_is_told_at_once_and_nothing_is_sent() {
    let script = Script::new(vec![throttle("1200"), answer(200, &[], &settled())]);
    let (client, _) = client(script.app());
    write(&client).await.unwrap_err();
    tokio::time::advance(Duration::from_mins(1)).await;
    let error = write(&client).await.unwrap_err();
    assert_eq!(error.class, Class::Throttled { retry_after: Some(Duration::from_mins(19)) });
    assert_eq!(script.count(), 1);
    client.read(&nic(), Urgency::Background).await.unwrap();
    assert_eq!(script.count(), 2, "a3: reads go on");
}

#[tokio::test(start_paused = true)]
async fn a_lock_on_one_nic_slows_nobody_else() {
    let body = json!({"error": {"code": "RetryableError", "details": [{"code": "RetryableErrorDueToAnotherOperation", "message": "The call can be retried in 12 seconds."}]}});
    let script = Script::new(vec![answer(429, &[], &body), answer(200, &[], &settled())]);
    let (client, _) = client(script.app());
    assert_eq!(write(&client).await.unwrap_err().class, Class::Busy { retry_after: Some(Duration::from_secs(12)) });
    write(&client).await.unwrap();
    assert_eq!(script.times(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a5_an_operation_that_failed_under_http_200_is_an_error() {
    let failed = json!({"status": "Failed", "error": {"code": "NetworkingInternalOperationError", "message": "An error occurred."}});
    let script = Script::new(vec![
        answer(202, &[("Azure-AsyncOperation", &format!("https://management.azure.com{OPERATION}?t=1")), ("Retry-After", "3")], &json!({})),
        answer(200, &[], &json!({"status": "InProgress"})),
        answer(200, &[("x-ms-request-id", "r-1")], &failed),
    ]);
    let (client, _) = client(script.app());
    let error = write(&client).await.unwrap_err();
    assert_eq!((error.class, error.trace, error.code.as_str()), (Class::Failed, Trace::Ended, "NetworkingInternalOperationError"));
    assert_eq!(error.request_id.as_deref(), Some("r-1"));
    assert_eq!(script.times(), [0, 3_000, 8_000], "as Azure asks, else every 5 s");
}

#[tokio::test(start_paused = true)]
async fn a9_a_ten_minute_operation_is_written_once_and_then_left_unknown() {
    let place = format!("https://management.azure.com{OPERATION}");
    let script =
        Script::new(vec![answer(202, &[("Azure-AsyncOperation", &place)], &json!({})), answer(200, &[], &json!({"status": "InProgress"}))]);
    let (client, _) = client(script.app());
    let error = write(&client).await.unwrap_err();
    assert_eq!((error.class, error.trace), (Class::Unavailable { retry_after: None }, Trace::Unknown));
    let writes = script.asked.lock().unwrap().iter().filter(|(_, line, _)| line.starts_with("PUT")).count();
    assert_eq!((writes, script.count()), (1, 121));
}

#[tokio::test(start_paused = true)]
async fn polling_outlasts_errors_and_throttling() {
    let place = format!("https://management.azure.com{OPERATION}");
    let script = Script::new(vec![
        answer(201, &[("Azure-AsyncOperation", &place)], &json!({})),
        answer(503, &[], &json!({})),
        throttle("20"),
        answer(200, &[], &json!({"status": "Succeeded"})),
    ]);
    let (client, _) = client(script.app());
    write(&client).await.unwrap();
    assert_eq!(script.times(), [0, 5_000, 10_000, 30_000]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_etag_surfaces_as_stale() {
    let body = json!({"error": {"code": "PreconditionFailed", "message": "Precondition failed.", "details": [{"code": "PreconditionFailedEtagMismatch", "message": "m"}]}});
    let script = Script::new(vec![answer(412, &[], &body)]);
    let (client, _) = client(script.app());
    let error = write(&client).await.unwrap_err();
    assert_eq!((error.class, error.trace, error.code.as_str()), (Class::Stale, Trace::None, "PreconditionFailedEtagMismatch"));
    assert_eq!(script.header(0, "if-match"), "W/\"1\"");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_without_an_etag() {
    let script = Script::new(vec![answer(200, &[], &settled())]);
    let (client, _) = client(script.app());
    let write = Write::Nic { id: NIC.parse().unwrap(), etag: None, body: json!({}) };
    assert_eq!(client.write(&write, Urgency::Fill, &|| true).await.unwrap_err().class, Class::NotSent);
    assert_eq!(script.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_asked_after_the_wait_and_before_the_bytes() {
    let script = Script::new(vec![throttle("10"), answer(200, &[], &settled())]);
    let (client, _) = client(script.app());
    write(&client).await.unwrap_err();
    let start = Instant::now();
    let leads = || start.elapsed() < Duration::from_secs(5);
    assert_eq!(client.write(&put(), Urgency::Fill, &leads).await.unwrap_err().class, Class::NotSent);
    assert_eq!((start.elapsed().as_secs(), script.count()), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn a12_a_refused_token_is_replaced_once() {
    let refused = json!({"error": {"code": "ExpiredAuthenticationToken", "message": "m"}});
    let script = Script::new(vec![answer(401, &[], &refused), answer(200, &[], &settled())]);
    let (client, issued) = client(script.app());
    client.read(&nic(), Urgency::Fill).await.unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 2);
    assert_eq!((script.header(0, "authorization"), script.header(1, "authorization")), ("Bearer t1".into(), "Bearer t2".into()));
    let always = Script::new(vec![answer(401, &[], &refused)]);
    let (client, issued) = self::client(always.app());
    assert_eq!(client.read(&nic(), Urgency::Fill).await.unwrap_err().class, Class::Unauthenticated);
    assert_eq!((issued.load(Ordering::SeqCst), always.count()), (2, 2));
    client.read(&nic(), Urgency::Fill).await.unwrap_err();
    assert_eq!(issued.load(Ordering::SeqCst), 2, "a token that is refused when new is not made again at once");
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_token_and_it_is_refreshed_before_its_end() {
    let script = Script::new(vec![answer(200, &[], &settled())]);
    let (client, issued) = client(script.app());
    let read = nic();
    futures::future::join_all((0..50).map(|_| client.read(&read, Urgency::Fill))).await;
    assert_eq!(issued.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_mins(54)).await;
    client.read(&nic(), Urgency::Fill).await.unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_mins(2)).await;
    client.read(&nic(), Urgency::Fill).await.unwrap();
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_whole_and_a_loop_of_pages_ends() {
    let usages = Read::Usages("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v".parse().unwrap());
    let next = "https://management.azure.com/page2?api-version=1";
    let script = Script::new(vec![answer(200, &[], &json!({"value": [1, 2], "nextLink": next})), answer(200, &[], &json!({"value": [3]}))]);
    let (client, _) = client(script.app());
    assert_eq!(client.read(&usages, Urgency::Fill).await.unwrap().body, json!({"value": [1, 2, 3]}));
    let endless = Script::new(vec![answer(200, &[], &json!({"value": [1], "nextLink": next}))]);
    let (client, _) = self::client(endless.app());
    assert_eq!(client.read(&usages, Urgency::Fill).await.unwrap_err().class, Class::Unavailable { retry_after: None });
    assert_eq!(endless.count(), 2);
    let foreign = Script::new(vec![answer(200, &[], &json!({"value": [1], "nextLink": "https://example.com/page2"}))]);
    let (client, _) = self::client(foreign.app());
    client.read(&usages, Urgency::Fill).await.unwrap_err();
    assert_eq!(foreign.count(), 1, "no token leaves for another host");
}

#[tokio::test(start_paused = true)]
async fn the_etag_of_header_or_body_comes_with_a_document() {
    let body = json!({"etag": "\"3\""});
    let script = Script::new(vec![answer(200, &[("ETag", "W/\"x\"")], &body), answer(200, &[], &body)]);
    let (client, _) = client(script.app());
    assert_eq!(client.read(&nic(), Urgency::Fill).await.unwrap().etag.as_deref(), Some("W/\"x\""));
    assert_eq!(client.read(&nic(), Urgency::Fill).await.unwrap().etag.as_deref(), Some("\"3\""));
}

#[tokio::test]
async fn a8_a_connection_cut_after_the_request_leaves_the_outcome_unknown() {
    provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
        }
    });
    let error = write(&loopback(port)).await.unwrap_err();
    assert_eq!((error.class, error.trace), (Class::Unavailable { retry_after: None }, Trace::Unknown));
    servers.shutdown().await;
    let error = write(&loopback(port)).await.unwrap_err();
    assert_eq!((error.class, error.trace), (Class::Unavailable { retry_after: None }, Trace::None), "no connection, no trace");
}

/// A client that has its tokens in memory and its Resource Manager behind a port.
fn loopback(port: u16) -> ArmClient {
    let endpoints = EndpointOptions { arm: Some(format!("http://127.0.0.1:{port}")), ..EndpointOptions::default() }.resolve(None).unwrap();
    let token = || async { Json(json!({"access_token": "t", "expires_in": "3600"})) };
    let imds = Router::new().route("/metadata/identity/oauth2/token", get(token));
    let cloud = Arc::new(Http::cloud(Some(&certificate())).unwrap());
    let credential = Credential::ManagedIdentity { client_id: None };
    ArmClient::with_transport(&endpoints, credential, &ArmOptions::default(), cloud, Arc::new(Memory(imds)))
}

/// A certificate that nobody uses, so that the tests do not depend on the machine's.
fn certificate() -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ca.pem").into()
}

fn provider() {
    // The second test of a process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[derive(Clone, Default)]
struct Authority {
    forms: Arc<Mutex<Vec<String>>>,
    /// What Resource Manager was asked.
    asked: Arc<Mutex<Vec<String>>>,
    refuse: bool,
}

impl Authority {
    fn app(&self) -> Router {
        let token = |State(authority): State<Self>, uri: Uri, form: String| async move {
            authority.forms.lock().unwrap().push(format!("{uri} {form}"));
            if authority.refuse {
                let echo = format!("AADSTS7000215: Invalid client secret: {form}");
                return (StatusCode::UNAUTHORIZED, Json(json!({"error": "invalid_client", "error_description": echo}))).into_response();
            }
            Json(json!({"token_type": "Bearer", "expires_in": 600, "ext_expires_in": 600, "access_token": "entra"})).into_response()
        };
        let nic = |State(authority): State<Self>, uri: Uri| async move {
            authority.asked.lock().unwrap().push(uri.to_string());
            Json(settled())
        };
        let service = Router::new().route("/{tenant}/oauth2/v2.0/token", post(token)).route("/adfs/oauth2/token", post(token));
        service.fallback(get(nic)).with_state(self.clone())
    }

    fn client(&self, options: &CredentialOptions) -> ArmClient {
        self.client_of(&endpoints(), options, &ArmOptions::default())
    }

    fn client_of(&self, endpoints: &Endpoints, options: &CredentialOptions, settings: &ArmOptions) -> ArmClient {
        let transport = Arc::new(Memory(self.app()));
        ArmClient::with_transport(endpoints, options.credential().unwrap(), settings, Arc::<Memory>::clone(&transport), transport)
    }
}

fn application() -> CredentialOptions {
    CredentialOptions { client_id: Some("c".into()), tenant_id: Some("tenant".into()), ..CredentialOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn a_rotated_federated_token_is_read_again() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"first\n").unwrap();
    let authority = Authority::default();
    let client = authority.client(&CredentialOptions { federated_token_file: Some(file.path().to_owned()), ..application() });
    client.read(&nic(), Urgency::Fill).await.unwrap();
    std::fs::write(file.path(), "second").unwrap();
    tokio::time::advance(Duration::from_mins(8)).await;
    client.read(&nic(), Urgency::Fill).await.unwrap();
    let forms = authority.forms.lock().unwrap().clone();
    let form = |assertion: &str| {
        format!(
            "https://login.microsoftonline.com/tenant/oauth2/v2.0/token client_id=c&grant_type=client_credentials\
             &scope=https%3A%2F%2Fmanagement.azure.com%2F.default\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
        )
    };
    assert_eq!(forms, [form("first"), form("second")]);
}

#[tokio::test(start_paused = true)]
async fn an_azure_stack_with_ad_fs_is_asked_there_for_its_audience_and_in_its_own_versions() {
    let authority = Authority::default();
    let set = EndpointOptions {
        arm: Some("https://management.local.azurestack.external".into()),
        audience: Some("https://management.adfs.azurestack.local/1a2b".into()),
        authority: Some("https://adfs.local.azurestack.external/adfs/".into()),
        ..EndpointOptions::default()
    };
    let options = CredentialOptions { client_secret: Some(Secret::new("s")), tenant_id: Some("adfs".into()), ..application() };
    let versions = ApiVersions { network: Some("2018-11-01".into()), compute: None };
    let client = authority.client_of(&set.resolve(None).unwrap(), &options, &ArmOptions { versions, ..ArmOptions::default() });
    client.read(&nic(), Urgency::Fill).await.unwrap();
    let form = "client_id=c&grant_type=client_credentials&resource=https%3A%2F%2Fmanagement.adfs.azurestack.local%2F1a2b&client_secret=s";
    assert_eq!(*authority.forms.lock().unwrap(), [format!("https://adfs.local.azurestack.external/adfs/oauth2/token {form}")]);
    let asked = authority.asked.lock().unwrap().clone();
    assert!(matches!(&asked[..], [nic] if nic.ends_with("?api-version=2018-11-01")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn k16_a_rotated_client_secret_is_read_again_and_never_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"hunter2").unwrap();
    let authority = Authority { refuse: true, ..Authority::default() };
    let options = CredentialOptions { client_secret_file: Some(file.path().to_owned()), ..application() };
    let error = authority.client(&options).read(&nic(), Urgency::Fill).await.unwrap_err();
    assert_eq!(error.class, Class::Unauthenticated);
    let text = format!("{error} {error:?} {:?} {options:?}", options.credential());
    assert!(!text.contains("hunter2") && text.contains("invalid_client"), "{text}");
    let given = CredentialOptions { client_secret: Some(Secret::new("hunter2")), ..application() };
    assert!(!format!("{given:?} {:?}", given.credential()).contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn imds_that_restarts_is_waited_for_but_a_missing_identity_is_not() {
    let script = Script::new(vec![
        answer(410, &[], &json!({"error": "gone"})),
        answer(500, &[], &json!({})),
        answer(200, &[], &json!({"access_token": "t", "expires_in": "3600"})),
    ]);
    let (arm, imds) = (Memory(Router::new().fallback(|| async { Json(settled()) })), Memory(script.app()));
    let credential = Credential::ManagedIdentity { client_id: Some("id".into()) };
    let client = ArmClient::with_transport(&endpoints(), credential.clone(), &ArmOptions::default(), Arc::new(arm), Arc::new(imds));
    client.read(&nic(), Urgency::Fill).await.unwrap();
    let line = script.asked.lock().unwrap()[0].1.clone();
    let query = "api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F&client_id=id";
    assert_eq!(line, format!("GET http://169.254.169.254/metadata/identity/oauth2/token?{query}"));
    assert_eq!(script.header(0, "metadata"), "true");

    let script = Script::new(vec![answer(400, &[], &json!({"error": "invalid_request", "error_description": "Identity not found"}))]);
    let arm = Memory(Router::new());
    let client = ArmClient::with_transport(&endpoints(), credential, &ArmOptions::default(), Arc::new(arm), Arc::new(Memory(script.app())));
    let error = client.read(&nic(), Urgency::Fill).await.unwrap_err();
    assert_eq!((error.class, script.count()), (Class::Unauthenticated, 1));
    assert!(error.message.contains("Identity not found"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_failing_token_service_is_not_asked_for_every_request() {
    let authority = Authority { refuse: true, ..Authority::default() };
    let client = authority.client(&CredentialOptions { client_secret: Some(Secret::new("x")), ..application() });
    for _ in 0..20 {
        assert_eq!(client.read(&nic(), Urgency::Fill).await.unwrap_err().class, Class::Unauthenticated);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(authority.forms.lock().unwrap().len(), 2);
}
