//! Faults, and operations that do not succeed.

use azure_vnet_e2e::azure::{Class, Effect, Fault, RetryAfter, Settings, When};
use reqwest::Method;
use serde_json::Value;

use crate::cloud::{Cloud, NETWORK, names, push, single};

#[tokio::test]
async fn faults_strike_the_calls_they_are_meant_for() {
    let cloud = Cloud::start(Settings::instant()).await;
    let inject = async |class, effect| cloud.local.admin.inject(Fault::next(class, effect)).await.unwrap();
    let single = single();
    let (_, nic) = cloud.get(&single, NETWORK).await;
    let with = |name: &str| {
        let mut nic = nic.clone();
        push(&mut nic, name);
        nic
    };
    inject(Class::NetworkWrite, Effect::Throttle { retry_after: RetryAfter::Date(30) }).await;
    let answer = cloud.send(Method::PUT, &cloud.url(&single, NETWORK), None, Some(&nic)).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers()["retry-after"].to_str().unwrap().ends_with(" GMT"));

    inject(Class::NetworkWrite, Effect::Lock).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &nic).await.1["error"]["details"][0]["code"], "RetryableErrorDueToAnotherOperation");

    inject(Class::NetworkWrite, Effect::Cut { when: When::Before }).await;
    assert!(cloud.try_put(&single, &with("avn-1")).await.is_err());
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1"]);
    inject(Class::NetworkWrite, Effect::Cut { when: When::After }).await;
    assert!(cloud.try_put(&single, &with("avn-1")).await.is_err());
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-1"]);

    inject(Class::NetworkRead, Effect::Stale).await;
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1"]);
    inject(Class::NetworkWrite, Effect::Ignored).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &with("avn-9")).await.0, 200);
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-1"]);
    inject(Class::NetworkWrite, Effect::Error { status: 500, code: "InternalServerError".into(), when: When::After }).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &with("avn-2")).await.0, 500);
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-2"]);
    inject(Class::NetworkRead, Effect::Truncated).await;
    assert!(cloud.send(Method::GET, &cloud.url(&single, NETWORK), None, None).await.json::<Value>().await.is_err());
    assert_eq!(cloud.local.admin.faults().await.unwrap(), Vec::new());
}

#[tokio::test]
async fn failed_and_cancelled_operations_leave_what_azure_leaves() {
    let cloud = Cloud::start(Settings::instant()).await;
    let single = single();
    let inject = async |effect| cloud.local.admin.inject(Fault::next(Class::NetworkWrite, effect)).await.unwrap();
    let states = async || {
        let (_, nic) = cloud.get(&single, NETWORK).await;
        let configs = nic["properties"]["ipConfigurations"].as_array().unwrap().clone();
        configs.iter().map(|config| config["properties"]["provisioningState"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    inject(Effect::AsyncPartial { fail: 1 }).await;
    cloud.add_configs(&single, &["avn-1", "avn-2"]).await;
    assert_eq!(states().await, ["Succeeded", "Succeeded", "Failed"]);
    cloud.edit_nic(&single, |_| ()).await;
    assert_eq!(states().await, ["Succeeded"; 3], "a PUT of the unchanged NIC repairs it");
    inject(Effect::AsyncCanceled).await;
    cloud.edit_nic(&single, |configs| configs.retain(|config| config["name"] == "ipConfig1")).await;
    assert_eq!(states().await, ["Succeeded"; 3]);
    inject(Effect::AsyncFailed { code: "InternalServerError".into() }).await;
    cloud.add_configs(&single, &["avn-3"]).await;
    assert_eq!(states().await.last().unwrap(), "Failed");
    let nics = cloud.local.admin.nics().await.unwrap();
    let own = nics.iter().find(|nic| nic.node.as_deref() == Some("n3")).unwrap();
    assert_eq!((own.configurations.len(), own.attached.len()), (4, 3), "what failed carries no traffic");
    assert_eq!(cloud.local.admin.violations().await.unwrap(), Vec::<String>::new());
}
