//! Who may come in, and how.

use azure_vnet_e2e::azure::{AdminClient, Command, Settings};
use reqwest::StatusCode;
use serde_json::json;

use crate::cloud::{Cloud, NETWORK, base64url, single};

#[tokio::test]
async fn arm_wants_a_token_that_lives_and_rights() {
    let cloud = Cloud::start(Settings { token_seconds: 0, ..Settings::instant() }).await;
    let (status, body) = cloud.get(&single(), NETWORK).await;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("ExpiredAuthenticationToken")));
    let anonymous = cloud.http.get(cloud.url(&single(), NETWORK)).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert!(anonymous.headers().contains_key("www-authenticate"));

    let denied = "Microsoft.Network/networkInterfaces/write".to_owned();
    let cloud = Cloud::start(Settings { denied_actions: [denied.clone()].into(), ..Settings::instant() }).await;
    let (_, nic) = cloud.get(&single(), NETWORK).await;
    let (status, body) = cloud.put(&single(), NETWORK, None, &nic).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("AuthorizationFailed")));
    assert!(body["error"]["message"].as_str().unwrap().contains(&denied));
}

#[tokio::test]
async fn the_authority_takes_federated_tokens_and_secrets_and_refuses_others() {
    let cloud = Cloud::start(Settings::instant()).await;
    let claims = |audience: &str, expires: i64| {
        format!("e30.{}.sig", base64url(&json!({ "aud": [audience], "sub": "x", "exp": expires }).to_string()))
    };
    let fields = |assertion: &str| {
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        format!("client_assertion_type={kind}&client_assertion={assertion}")
    };
    let far = 4_000_000_000;
    let (status, token) = cloud.login(&fields(&claims("api://AzureADTokenExchange", far))).await;
    assert_eq!(status, 200);
    assert!(token["expires_in"].is_number());
    let (status, body) = cloud.login(&fields(&claims("https://kubernetes.default.svc", far))).await;
    assert_eq!((status, &body["error_codes"]), (401, &json!([700_212])));
    assert_eq!(cloud.login(&fields(&claims("api://AzureADTokenExchange", 1))).await.0, 401);
    assert_eq!(cloud.login("client_secret=wrong").await.1["error"], "invalid_client");
}

#[tokio::test]
async fn arm_speaks_tls_with_a_certificate_of_its_own_authority() {
    let cloud = Cloud::start(Settings::instant()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    cloud.local.azure.serve_arm_tls(listener, &["127.0.0.1", "arm.lab"]).unwrap();
    let ca = reqwest::Certificate::from_pem(cloud.local.azure.ca_pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let answer = http.get(format!("https://127.0.0.1:{port}{}?api-version={NETWORK}", single())).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(cloud.http.get(format!("https://127.0.0.1:{port}/")).send().await.is_err(), "others do not trust it");
}

#[tokio::test]
async fn the_admin_api_answers_on_a_unix_socket_and_in_the_browser() {
    let cloud = Cloud::start(Settings::instant()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("azure.sock");
    cloud.local.azure.serve_admin_unix(tokio::net::UnixListener::bind(&path).unwrap());
    let admin = AdminClient::unix(&path);
    assert_eq!(admin.nics().await.unwrap().len(), 3);
    assert!(admin.remove_machine("n9").await.unwrap_err().to_string().contains("no machine n9"));
    assert_eq!(admin.command(&Command::Violations).await.unwrap(), json!([]));
}
