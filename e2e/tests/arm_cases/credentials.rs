//! Who the controller is to Azure, and where Azure is: identities that rotate, other clouds, certificates and proxies of one's own.

use std::{
    io::Write as _,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use azure_vnet_e2e::azure::{
    Settings,
    seed::{CLIENT_SECRET, OPERATOR_CLIENT_ID, TENANT},
};
use azure_vnet_operator::azure::{Arm as _, ArmClient, ArmOptions, CredentialOptions, EndpointOptions, Secret};
use azure_vnet_operator_core::arm::{Class, Read, Urgency};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::stage::{Stage, id};

/// What tells the copy of this program, which runs behind a proxy, about the clouds: the file of certificates.
const BEHIND: &str = "AZURE_VNET_TEST_CA";
/// The clouds: what IMDS calls them, and their hosts.
const CLOUDS: [(&str, [&str; 2]); 3] = [
    ("AzurePublicCloud", ["login.microsoftonline.com", "management.azure.com"]),
    ("AzureUSGovernmentCloud", ["login.microsoftonline.us", "management.usgovcloudapi.net"]),
    ("AzureChinaCloud", ["login.chinacloudapi.cn", "management.chinacloudapi.cn"]),
];
const STACK: [&str; 2] = ["login.stack.example", "management.stack.example"];

fn nic() -> Read {
    Read::Nic(id("Microsoft.Network/networkInterfaces/aks-single-0-nic").parse().unwrap())
}

fn application() -> CredentialOptions {
    CredentialOptions { client_id: Some(OPERATOR_CLIENT_ID.into()), tenant_id: Some(TENANT.into()), ..CredentialOptions::default() }
}

fn client(options: &EndpointOptions, environment: Option<&str>, identity: &CredentialOptions) -> ArmClient {
    ArmClient::new(&options.resolve(environment).unwrap(), identity.credential().unwrap(), &ArmOptions::default()).unwrap()
}

/// A token as the kubelet projects it; its signature is not looked at.
fn service_account_token(expires: u64) -> String {
    // {"alg":"RS256"} and the claims, in base64url.
    let claims = format!(r#"{{"aud":["api://AzureADTokenExchange"],"exp":{expires},"sub":"system:serviceaccount:a:b"}}"#);
    format!("eyJhbGciOiJSUzI1NiJ9.{}.x", base64url(&claims))
}

fn base64url(text: &str) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let bits = text.bytes().map(|byte| format!("{byte:08b}")).collect::<Vec<_>>().concat();
    let digit = |chunk: &[u8]| alphabet[usize::from_str_radix(&format!("{:0<6}", std::str::from_utf8(chunk).unwrap()), 2).unwrap()];
    bits.as_bytes().chunks(6).map(digit).collect()
}

#[tokio::test]
async fn k16_a_secret_and_a_token_that_are_replaced_count_without_a_restart() {
    let stage = Stage::start(Settings::instant()).await;
    let file = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (secret, token) = (file("the old one"), file(&service_account_token(1)));
    let by_secret = CredentialOptions { client_secret_file: Some(secret.path().to_owned()), ..application() };
    let by_token = CredentialOptions { federated_token_file: Some(token.path().to_owned()), ..application() };
    let options = stage.endpoints(&stage.local.arm);
    let clients = [client(&options, None, &by_secret), client(&options, None, &by_token)];
    for client in &clients {
        assert_eq!(client.read(&nic(), Urgency::Fill).await.unwrap_err().class, Class::Unauthenticated);
    }
    std::fs::write(secret.path(), CLIENT_SECRET).unwrap();
    std::fs::write(token.path(), service_account_token(4_102_444_800)).unwrap();
    let accepted = async {
        for client in &clients {
            while client.read(&nic(), Urgency::Fill).await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), accepted).await.unwrap();
}

/// The proxy is in the environment, which a process reads once: a copy of this program asks.
#[tokio::test]
async fn every_cloud_is_reached_through_the_proxy_with_certificates_of_ones_own() {
    let stage = Stage::start(Settings::instant()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let azure = listener.local_addr().unwrap().port();
    let hosts: Vec<&str> = CLOUDS.iter().flat_map(|(_, hosts)| *hosts).chain(STACK).collect();
    stage.local.azure.serve_arm_tls(listener, &hosts).unwrap();
    let imds = stage.local.imds("n2").await.unwrap();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(vec![]));
    let serving = tokio::spawn(serve_proxy(proxy, azure, Arc::clone(&asked)));
    let ca = stage.ca_file();
    let ran = tokio::task::spawn_blocking(move || {
        let mut inside = Command::new(std::env::current_exe().unwrap());
        inside.args(["--exact", "credentials::asks_each_cloud_behind_a_proxy", "--nocapture"]);
        inside
            .env(BEHIND, ca)
            .env("HTTPS_PROXY", &address)
            .env("HTTP_PROXY", &address)
            .env("NO_PROXY", "")
            .env("AZURE_VNET_TEST_IMDS", imds);
        inside.output().unwrap()
    });
    let output = tokio::time::timeout(Duration::from_mins(1), ran).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serving.abort();
    let asked = asked.lock().unwrap().clone();
    let missing: Vec<&&str> = hosts.iter().filter(|host| !asked.contains(&format!("{host}:443"))).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "{asked:?}");
    assert!(asked.iter().all(|host| !host.starts_with("127.")), "the machine's own services never go through a proxy: {asked:?}");
}

#[tokio::test]
async fn asks_each_cloud_behind_a_proxy() {
    let Some(ca_file) = std::env::var_os(BEHIND) else { return };
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let identity = CredentialOptions { client_secret: Some(Secret::new(CLIENT_SECRET)), ..application() };
    let own =
        EndpointOptions { ca_file: Some(ca_file.into()), imds: std::env::var("AZURE_VNET_TEST_IMDS").ok(), ..EndpointOptions::default() };
    for (environment, _) in CLOUDS {
        client(&own, Some(environment), &identity).read(&nic(), Urgency::Fill).await.unwrap();
    }
    let [login, management] = STACK.map(|host| Some(format!("https://{host}")));
    let stack = EndpointOptions {
        arm: management,
        authority: login,
        audience: Some("https://management.adfs.stack.example/x".into()),
        ..own.clone()
    };
    client(&stack, None, &identity).read(&nic(), Urgency::Fill).await.unwrap();
    client(&own, Some("AzureChinaCloud"), &CredentialOptions::default()).read(&nic(), Urgency::Fill).await.unwrap();
}

/// Leads every host to one port, and notes who was asked for.
async fn serve_proxy(listener: TcpListener, azure: u16, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let line = String::from_utf8(head).unwrap();
            let mut words = line.split(' ');
            let (method, host) = (words.next().unwrap(), words.next().unwrap());
            asked.lock().unwrap().push(host.to_owned());
            if method == "CONNECT" {
                let mut server = TcpStream::connect(("127.0.0.1", azure)).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            }
        });
    }
}
