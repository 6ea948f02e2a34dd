//! IMDS and the host agent: every recorded answer, and a conversation over loopback.

#![expect(clippy::unwrap_used, reason = "tests assert by panicking")]

use std::{fs, net::Ipv4Addr, path::Path};

use axum::{Json, Router, http::HeaderMap, http::StatusCode, http::Uri, response::IntoResponse, routing::get};
use azure_vnet_operator::azure::{
    EndpointOptions, Endpoints,
    credential::is_token,
    imds::{self, Imds, ImdsError},
    wireserver::Wireserver,
};
use serde_json::{Value, json};

fn example(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/azure-examples").join(path)).unwrap()
}

/// The body that an API description's example holds.
fn described(path: &str) -> Vec<u8> {
    let example: Value = serde_json::from_slice(&example(path)).unwrap();
    example.pointer("/responses/200/body").unwrap().to_string().into_bytes()
}

fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/azure-examples").join(folder);
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_recorded_imds_answer_is_read() {
    for name in names("imds") {
        let path = format!("imds/{name}");
        match name.as_str() {
            "GetIdentityToken.2021-05-01.json" => assert!(is_token(&described(&path))),
            "identity-token-from-docs.json" => assert!(is_token(&example(&path))),
            "GetInstanceMetadata.2021-05-01.json" => {
                let instance = imds::parse_instance(&described(&path)).unwrap();
                assert_eq!(instance.compute.az_environment, "AZUREPUBLICCLOUD");
                assert!(instance.network.interfaces.is_empty(), "the example has no network");
            }
            "instance-valid.json" => {
                let instance = imds::parse_instance(&example(&path)).unwrap();
                assert_eq!(instance.compute.vm_id, "e7fdbfc4-2deb-4a4e-8615-ea6aaf50162e");
                let nic = instance.network.by_mac("00-0D-3A-33-82-E8").unwrap();
                assert_eq!((nic.mac.as_str(), nic.addresses.as_slice()), ("00:0d:3a:33:82:e8", &[Ipv4Addr::new(10, 0, 1, 4)][..]));
                assert_eq!(nic.subnets, ["10.0.1.0/24".parse().unwrap()]);
            }
            "computeMetadata-aks-vmss-uniform.json" => {
                let compute = imds::parse_compute(&example(&path)).unwrap();
                assert!(compute.resource_id.ends_with("/virtualMachineScaleSets/aks-nodepool1-25781205-vmss/virtualMachines/0"));
                assert_eq!(compute.vm_scale_set_name, "aks-nodepool1-25781205-vmss");
            }
            "network-from-docs.json" => {
                let network = imds::parse_network(&example(&path)).unwrap();
                assert_eq!(network.by_mac("000D3AF806EC").unwrap().addresses, [Ipv4Addr::new(10, 1, 0, 4)]);
            }
            "error-no-api-version.json" => assert!(imds::parse_error(&example(&path)).starts_with("Bad request. api-version")),
            // Neither the tenant nor the list of versions is asked for.
            "GetIdentityInfo.2021-05-01.json" | "versions.json" => assert!(serde_json::from_slice::<Value>(&example(&path)).is_ok()),
            other => panic!("{other} has no expectation here"),
        }
    }
}

async fn serve(app: Router) -> (Endpoints, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (EndpointOptions { imds: url.clone(), wireserver: url, ..EndpointOptions::default() }.resolve(None).unwrap(), servers)
}

#[tokio::test]
async fn the_machine_is_asked_as_it_wants_to_be() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let network = |headers: HeaderMap, uri: Uri| async move {
        if headers.get("metadata").is_none_or(|value| value != "true") || !uri.query().unwrap_or_default().contains("api-version=") {
            return (StatusCode::BAD_REQUEST, Json(json!({"error": "Bad request"}))).into_response();
        }
        let address = json!({"privateIpAddress": "10.0.0.4", "publicIpAddress": ""});
        Json(json!({"interface": [{"macAddress": "000D3A000001", "ipv4": {"ipAddress": [address], "subnet": []}, "ipv6": {"ipAddress": []}}]})).into_response()
    };
    let instance = || async { (StatusCode::TOO_MANY_REQUESTS, Json(json!({"error": "slow down"}))) };
    let interfaces = |uri: Uri| async move {
        assert_eq!(uri.query(), Some("comp=nmagent&type=getinterfaceinfov1"));
        example("wireserver/getinterfaceinfov1-30-secondaries.xml")
    };
    let app = Router::new()
        .route("/metadata/instance/network", get(network))
        .route("/metadata/instance", get(instance))
        .route("/machine/plugins", get(interfaces));
    let (endpoints, _servers) = serve(app).await;
    let imds = Imds::new(&endpoints).unwrap();
    assert_eq!(imds.network().await.unwrap().interfaces[0].addresses, [Ipv4Addr::new(10, 0, 0, 4)]);
    assert_eq!(imds.instance().await, Err(ImdsError::Refused { status: 429, text: "slow down".into() }));
    assert_eq!(Wireserver::new(&endpoints).unwrap().interfaces().await.unwrap()[0].subnets[0].addresses.len(), 31);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let app = Router::new().fallback(|| async { " ".repeat(2 << 20) });
    let (endpoints, _servers) = serve(app).await;
    assert!(matches!(Imds::new(&endpoints).unwrap().network().await, Err(ImdsError::Unreachable(_))));
}
