//! A running cloud, and short forms of what the tests do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_vnet_e2e::azure::seed::{CLIENT_SECRET, NETWORK_GROUP, NODE_GROUP, OPERATOR_CLIENT_ID, SUBSCRIPTION, TENANT};
use azure_vnet_e2e::azure::{Fabric, Local, NicRef, NoFabric, Seed, Settings};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub const NETWORK: &str = "2025-05-01";
pub const COMPUTE: &str = "2025-04-01";
pub const INSTANCE_NICS: &str = "2018-10-01";

/// A cloud, a client that is logged in, and short forms of what the tests do.
pub struct Cloud {
    pub local: Local,
    pub http: reqwest::Client,
    pub token: String,
}

impl Cloud {
    pub async fn start(settings: Settings) -> Self {
        Self::with(&Seed::lab(), settings, Arc::new(NoFabric)).await
    }

    pub async fn with(seed: &Seed, settings: Settings, fabric: Arc<dyn Fabric>) -> Self {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let local = Local::start(seed, settings, fabric).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut cloud = Self { local, http, token: String::new() };
        let (status, token) = cloud.login(&format!("client_secret={CLIENT_SECRET}")).await;
        assert_eq!(status, 200, "{token}");
        token["access_token"].as_str().unwrap().clone_into(&mut cloud.token);
        cloud
    }

    pub async fn login(&self, fields: &str) -> (u16, Value) {
        let scope = "https%3A%2F%2Fmanagement.azure.com%2F.default";
        let form = format!("client_id={OPERATOR_CLIENT_ID}&grant_type=client_credentials&scope={scope}&{fields}");
        let url = format!("{}/{TENANT}/oauth2/v2.0/token", self.local.arm);
        let answer = self.http.post(url).header("Content-Type", "application/x-www-form-urlencoded").body(form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub fn url(&self, path: &str, version: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{}{path}{separator}api-version={version}", self.local.arm)
    }

    pub async fn send(&self, method: Method, url: &str, if_match: Option<&str>, body: Option<&Value>) -> reqwest::Response {
        self.try_send(method, url, if_match, body).await.unwrap()
    }

    pub async fn try_send(
        &self,
        method: Method,
        url: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> reqwest::Result<reqwest::Response> {
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(etag) = if_match {
            request = request.header("If-Match", etag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    pub async fn try_put(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.try_send(Method::PUT, &self.url(path, NETWORK), None, Some(body)).await
    }

    pub async fn get(&self, path: &str, version: &str) -> (u16, Value) {
        self.get_url(&self.url(path, version)).await
    }

    pub async fn get_url(&self, url: &str) -> (u16, Value) {
        let answer = self.send(Method::GET, url, None, None).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn put(&self, path: &str, version: &str, if_match: Option<&str>, body: &Value) -> (u16, Value) {
        let answer = self.send(Method::PUT, &self.url(path, version), if_match, Some(body)).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Changes a NIC's configurations, waits until the operation ended, and reads it again.
    pub async fn edit_nic(&self, nic: &str, change: impl FnOnce(&mut Vec<Value>)) -> Value {
        let (_, mut body) = self.get(nic, NETWORK).await;
        change(body["properties"]["ipConfigurations"].as_array_mut().unwrap());
        let (status, answer) = self.put(nic, NETWORK, body["etag"].as_str(), &body).await;
        assert!(status == 200, "{answer}");
        until("the NIC settles", async || self.get(nic, NETWORK).await.1["properties"]["provisioningState"] != "Updating").await;
        self.get(nic, NETWORK).await.1
    }

    pub async fn add_configs(&self, nic: &str, names: &[&str]) -> Value {
        self.edit_nic(nic, |configs| {
            for name in names {
                let addition = addition(&configs[0], name);
                configs.push(addition);
            }
        })
        .await
    }

    /// Adds configurations to the Uniform instance; returns the operation's URL.
    pub async fn add_to_instance(&self, names: &[&str]) -> String {
        let (_, instance) = self.get(&uniform(), COMPUTE).await;
        let mut profile = instance["properties"]["networkProfileConfiguration"].clone();
        let configs = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"].as_array_mut().unwrap();
        let subnet = configs[0]["properties"]["subnet"].clone();
        configs.extend(
            names.iter().map(|name| json!({ "name": name, "properties": { "subnet": subnet, "privateIPAddressVersion": "IPv4" } })),
        );
        let body = json!({ "location": instance["location"], "properties": { "networkProfileConfiguration": profile } });
        let answer = self.send(Method::PUT, &self.url(&uniform(), COMPUTE), instance["etag"].as_str(), Some(&body)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers()["azure-asyncoperation"].to_str().unwrap().to_owned()
    }
}

/// A fabric that remembers what it was told.
#[derive(Default)]
pub struct Recorder {
    attached: Mutex<Vec<(String, Ipv4Addr)>>,
    doubles: Mutex<usize>,
}

impl Recorder {
    pub fn has(&self, node: &str, address: Ipv4Addr) -> bool {
        self.attached.lock().unwrap().contains(&(node.to_owned(), address))
    }

    pub fn doubles(&self) -> usize {
        *self.doubles.lock().unwrap()
    }
}

impl Fabric for Recorder {
    fn attach(&self, nic: &NicRef, address: Ipv4Addr) {
        let mut attached = self.attached.lock().unwrap();
        if attached.iter().any(|(_, other)| *other == address) {
            *self.doubles.lock().unwrap() += 1;
        }
        attached.push((nic.node.clone(), address));
    }

    fn detach(&self, nic: &NicRef, address: Ipv4Addr) {
        self.attached.lock().unwrap().retain(|attached| *attached != (nic.node.clone(), address));
    }
}

/// Waits for a condition, at most ten seconds.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}

pub async fn shown(cloud: &Cloud, imds: &str) -> Vec<Ipv4Addr> {
    let url = format!("{imds}/metadata/instance/network?api-version=2021-02-01");
    let network: Value = cloud.http.get(url).header("Metadata", "true").send().await.unwrap().json().await.unwrap();
    let addresses = network["interface"][0]["ipv4"]["ipAddress"].as_array().unwrap();
    addresses.iter().map(|address| address["privateIpAddress"].as_str().unwrap().parse().unwrap()).collect()
}

/// A GET from a source address of loopback; empty if the connection is closed.
pub async fn ask_from(source: &str, to: SocketAddr, path: &str) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

pub fn push(nic: &mut Value, name: &str) {
    let configs = nic["properties"]["ipConfigurations"].as_array_mut().unwrap();
    let addition = addition(&configs[0], name);
    configs.push(addition);
}

/// A secondary configuration like the primary one: its subnet and its application security groups.
pub fn addition(primary: &Value, name: &str) -> Value {
    let mut addition = json!({
        "name": name, "properties": { "subnet": primary["properties"]["subnet"], "privateIPAllocationMethod": "Dynamic" },
    });
    if let Some(groups) = primary["properties"].get("applicationSecurityGroups") {
        addition["properties"]["applicationSecurityGroups"] = groups.clone();
    }
    addition
}

pub fn names(nic: &Value) -> Vec<String> {
    let configs = nic["properties"]["ipConfigurations"].as_array().unwrap();
    configs.iter().map(|config| config["name"].as_str().unwrap().to_owned()).collect()
}

pub fn address(nic: &Value, name: &str) -> String {
    let configs = nic["properties"]["ipConfigurations"].as_array().unwrap();
    let config = configs.iter().find(|config| config["name"] == name).unwrap();
    config["properties"]["privateIPAddress"].as_str().unwrap().to_owned()
}

pub fn group(provider: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}/providers/{provider}")
}

pub fn single() -> String {
    format!("{}/networkInterfaces/aks-single-nic", group("Microsoft.Network"))
}

pub fn flex() -> String {
    format!("{}/networkInterfaces/aks-flex-vmss_df53ee36-nic", group("Microsoft.Network"))
}

pub fn vnet() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NETWORK_GROUP}/providers/Microsoft.Network/virtualNetworks/lab-vnet")
}

pub fn uniform() -> String {
    format!("{}/virtualMachineScaleSets/aks-uniform-vmss/virtualMachines/0", group("Microsoft.Compute"))
}

pub fn base64url(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.bytes().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<u8>>();
    let sextets = bits.chunks(6).map(|chunk| chunk.iter().chain([0; 6].iter()).take(6).fold(0, |value, bit| value << 1 | bit));
    sextets.map(|value| char::from(ALPHABET[usize::from(value)])).collect()
}
