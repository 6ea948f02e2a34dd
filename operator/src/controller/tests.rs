//! Whole passes against an API server and an Azure of a few lines each.

use std::{
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetConfigSpec, AzureVnetNode, config::Mode};
use azure_vnet_operator_core::arm::{Class, Document, Error, Read, Urgency, Write};
use azure_vnet_operator_core::rights::Obstacle;
use kube::{
    client::Body,
    runtime::{reflector, watcher::Event},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{kinds::Node, watch::Cordons, *};

const SUBNET: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes";
const NIC: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/nic";

/// One `AzureVnetNode`, with versions and the two subresources.
#[derive(Default)]
struct Server {
    object: Mutex<Option<Value>>,
    writes: AtomicUsize,
    /// Patches of Nodes.
    nodes: Mutex<Vec<Value>>,
    /// Whether its CRDs are older than the controller.
    is_old: AtomicBool,
}

impl Server {
    async fn answer(self: Arc<Self>, request: http::Request<Body>) -> Result<http::Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body.collect_bytes().await.unwrap();
        if path.contains("/nodes/") {
            self.nodes.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        let (status, answer) = if path.starts_with("/openapi/") {
            (200, self.description())
        } else if !path.contains("azurevnetnodes") {
            (201, json!({}))
        } else if parts.method == http::Method::GET {
            self.object.lock().unwrap().clone().map_or((404, failure(404)), |object| (200, object))
        } else {
            self.patch(path.ends_with("/status"), &serde_json::from_slice(&body).unwrap())
        };
        Ok(http::Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).unwrap())
    }

    fn description(&self) -> Value {
        let cloud = if self.is_old.load(Ordering::SeqCst) { json!({}) } else { json!({"firstNeed": {"type": "integer"}}) };
        let agent = json!({"properties": {"imds": {"type": "object"}}});
        let status = json!({"properties": {"cloud": {"properties": cloud}, "agent": agent}});
        let spec = json!({"properties": {"effective": {"properties": {"mode": {"type": "string"}, "controller": {}}}}});
        json!({"components": {"schemas": {"dev.azure-vnet.v1alpha1.AzureVnetNode": {"properties": {"status": status, "spec": spec}}}}})
    }

    fn patch(&self, status: bool, patch: &Value) -> (u16, Value) {
        if self.is_old.load(Ordering::SeqCst) && patch.pointer("/status/cloud/firstNeed").is_some() {
            let mut failure = failure(500);
            failure["message"] = json!("(/n1; Kind=AzureVnetNode): .status.cloud.firstNeed: field not declared in schema");
            return (500, failure);
        }
        let mut stored = self.object.lock().unwrap();
        let wanted = patch.pointer("/metadata/resourceVersion");
        let object = stored.get_or_insert_with(
            || json!({"metadata": {"uid": "object", "resourceVersion": "0", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {}}),
        );
        if wanted.is_some_and(|wanted| *wanted != object["metadata"]["resourceVersion"]) {
            return (409, failure(409));
        }
        let writes = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        object["metadata"]["name"] = patch["metadata"]["name"].clone();
        object["metadata"]["resourceVersion"] = json!(writes.to_string());
        if status {
            assert!(patch.get("spec").is_none() && patch.pointer("/status/agent").is_none());
            object["status"]["cloud"] = patch["status"]["cloud"].clone();
            object["status"]["conditions"] = patch["status"]["conditions"].clone();
        } else {
            assert_eq!(patch.pointer("/metadata/finalizers/0"), Some(&json!("azure-vnet.dev/nic")));
            assert_eq!(patch.pointer("/metadata/ownerReferences/0/uid"), Some(&json!("node")));
            object["spec"] = patch["spec"].clone();
        }
        (200, object.clone())
    }

    fn pool(&self) -> AzureVnetNode {
        serde_json::from_value(self.object.lock().unwrap().clone().unwrap()).unwrap()
    }
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": if code == 404 { "NotFound" } else { "Conflict" }, "message": "no"})
}

/// One NIC; a write may be refused, and is checked to follow its recorded intent.
struct Azure {
    server: Arc<Server>,
    nic: Mutex<Value>,
    refusals: Mutex<Vec<Error>>,
    writes: AtomicUsize,
    nic_reads: AtomicUsize,
    /// The network's address spaces.
    spaces: Mutex<Vec<&'static str>>,
    /// Whether writes wait in the queue for ever.
    queued: AtomicBool,
    /// Asks the controller to end.
    end: watch::Sender<bool>,
}

impl Arm for Azure {
    async fn read(&self, read: &Read, _: Urgency) -> Result<Document, Error> {
        let body = match read {
            Read::Machine(_) => json!({"properties": {"networkProfile": {"networkInterfaces": [{"id": NIC}]}}}),
            Read::Nic(_) => {
                let nic = self.nic.lock().unwrap().clone();
                if nic.is_null() {
                    return Err(Error::from_answer(404, None, br#"{"error": {"code": "ResourceNotFound", "message": "no"}}"#));
                }
                self.nic_reads.fetch_add(1, Ordering::SeqCst);
                nic
            }
            Read::Network(_) => json!({"properties": {"addressSpace": {"addressPrefixes": *self.spaces.lock().unwrap()},
                "subnets": [{"id": SUBNET, "properties": {"addressPrefix": "10.240.0.0/16"}}]}}),
            Read::Subnet(_) | Read::ScaleSet(_) | Read::Instance(_) | Read::InstanceNics(_) | Read::Usages(_) => {
                panic!("nobody needs {read:?}")
            }
            Read::Permissions(_) => json!({"value": [{"actions": ["*/read"], "notActions": []}]}),
            Read::Locks(_) | Read::Denials(_) => {
                return Err(Error::from_answer(403, None, br#"{"error": {"code": "AuthorizationFailed", "message": "no"}}"#));
            }
        };
        Ok(Document { body, etag: None })
    }

    async fn write(&self, write: &Write, _: Urgency, may_send: &(dyn Fn() -> bool + Send + Sync)) -> Result<(), Error> {
        let intent = self.server.pool().status.unwrap().cloud.unwrap().intent.expect("a write without a recorded intent");
        if self.queued.load(Ordering::SeqCst) {
            return pending().await;
        }
        assert!(may_send() && !intent.add.is_empty());
        self.writes.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.refusals.lock().unwrap().pop() {
            return Err(error);
        }
        let mut body = write.body().clone();
        for (at, entry) in body.pointer_mut("/properties/ipConfigurations").unwrap().as_array_mut().unwrap().iter_mut().enumerate() {
            entry["properties"]["privateIPAddress"] = json!(format!("10.240.0.{}", at + 4));
            entry["properties"]["provisioningState"] = json!("Succeeded");
        }
        *self.nic.lock().unwrap() = body;
        Ok(())
    }
}

fn nic() -> Value {
    json!({"id": NIC, "name": "nic", "etag": "W/\"1\"", "properties": {"provisioningState": "Succeeded", "macAddress": "00-0D-3A-00-00-01",
        "ipConfigurations": [{"name": "ipconfig1", "properties": {"primary": true, "provisioningState": "Succeeded",
            "privateIPAddress": "10.240.0.4", "privateIPAddressVersion": "IPv4", "subnet": {"id": SUBNET}}}]}})
}

fn store<K>(objects: Vec<K>) -> reflector::Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    for object in objects {
        writer.apply_watcher_event(&Event::Apply(object));
    }
    store
}

fn configs(all: Vec<AzureVnetConfig>) -> stored::Configs {
    store(all.into_iter().map(stored::Stored::from).collect()).into()
}

fn node(boot: &str) -> Node {
    let provider = "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm";
    let node = json!({"metadata": {"name": "n1", "uid": "node"}, "spec": {"providerID": provider},
        "status": {"conditions": [{"type": "Ready", "status": "False"}], "nodeInfo": {"bootID": boot, "operatingSystem": "linux"}}});
    serde_json::from_value(node).unwrap()
}

fn shell(refusals: Vec<Error>) -> (Shell<Azure>, Arc<Server>) {
    shell_in(Mode::Enforce, refusals)
}

fn shell_in(mode: Mode, refusals: Vec<Error>) -> (Shell<Azure>, Arc<Server>) {
    let server = Arc::new(Server::default());
    let service = Arc::clone(&server);
    let client = kube::Client::new(tower::service_fn(move |request| Arc::clone(&service).answer(request)), "default");
    let caches = Caches {
        nodes: store(vec![node("boot")]),
        configs: configs(vec![AzureVnetConfig::new("default", AzureVnetConfigSpec { mode, ..AzureVnetConfigSpec::default() })]),
        pools: store::<stored::Stored<AzureVnetNode>>(vec![]).into(),
        cordons: Cordons::default(),
        last_valid: Arc::default(),
    };
    let (end, leaving) = Shutdown::manual();
    let arm = Azure {
        server: Arc::clone(&server),
        nic: Mutex::new(nic()),
        refusals: Mutex::new(refusals),
        writes: AtomicUsize::new(0),
        nic_reads: AtomicUsize::new(0),
        spaces: Mutex::new(vec!["10.240.0.0/16"]),
        queued: AtomicBool::new(false),
        end,
    };
    (Shell::new(Arc::new(arm), Leadership::leading("me"), caches, &client, Metrics::default(), leaving), server)
}

#[tokio::test]
async fn up1_one_pass_fills_a_new_node_with_one_write_and_rests_then() {
    let (shell, server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    let pool = server.pool();
    assert_eq!((pool.spec.addresses.len(), pool.spec.revision > 0), (8, true));
    assert_eq!((pool.spec.node.mac.as_str(), pool.spec.node.subnet_prefix.as_str()), ("00:0d:3a:00:00:01", "10.240.0.0/16"));
    let cloud = pool.status.unwrap().cloud.unwrap();
    assert_eq!((cloud.intent, cloud.attached, cloud.target), (None, 8, 8));
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 1);
    let writes = server.writes.load(Ordering::SeqCst);
    // The cache still lacks the object: what was read and written is known all the same.
    shell.pass("n1").await.unwrap();
    shell.pass("n1").await.unwrap();
    assert_eq!((server.writes.load(Ordering::SeqCst), shell.arm.writes.load(Ordering::SeqCst)), (writes, 1), "nothing at rest");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_grows_is_told_to_nodes_whose_nics_are_seldom_read() {
    let (mut shell, server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    let (reads, revision) = (shell.arm.nic_reads.load(Ordering::SeqCst), server.pool().spec.revision);
    shell.arm.spaces.lock().unwrap().push("10.241.0.0/16");
    for _ in 0..72 {
        tokio::time::advance(Duration::from_secs(5)).await;
        shell.leadership.renewed(Instant::now(), Default::default());
    }
    shell.clock = clock::Clock::set_to(shell.clock.now() + Duration::from_mins(6));
    assert_eq!(shell.pass("n1").await.unwrap(), Some(Duration::ZERO), "there is something to publish");
    assert_eq!(server.pool().spec.revision, revision, "the network is asked for after what pods wait for");
    assert_ne!(shell.pass("n1").await.unwrap(), Some(Duration::ZERO));
    let spec = server.pool().spec;
    assert_eq!((spec.node.vnet_cidrs, spec.revision), (vec!["10.240.0.0/16".to_owned(), "10.241.0.0/16".to_owned()], revision + 1));
    assert_eq!(shell.arm.nic_reads.load(Ordering::SeqCst), reads);
}

/// Lets the node's agent report that its pods need so many addresses.
fn need(shell: &mut Shell<Azure>, server: &Server, demand: u16) {
    let mut object = server.object.lock().unwrap().clone().unwrap();
    object["status"]["agent"] = json!({"objectUID": "object", "bootID": "boot", "storeID": "store", "demand": demand, "ready": true,
        "revisionAdopted": object["spec"]["revision"], "counts": {"assigned": demand}});
    let version = server.writes.fetch_add(1, Ordering::SeqCst) + 1;
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    *server.object.lock().unwrap() = Some(object);
    shell.caches.pools = store(vec![server.pool().into()]).into();
}

/// The config as the API server would have refused it, with a mode.
fn invalid(mode: Mode) -> AzureVnetConfig {
    let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec { mode, ..AzureVnetConfigSpec::default() });
    config.spec.arm.grace = "soon".into();
    (config.spec.pool.max, config.metadata.generation) = (Some(9), Some(2));
    config
}

#[tokio::test]
async fn k6_while_a_config_is_invalid_its_last_valid_generation_is_in_force() {
    let (mut shell, server) = shell(vec![]);
    shell.caches.note_configs();
    shell.pass("n1").await.unwrap();
    shell.caches.configs = configs(vec![invalid(Mode::Paused)]);
    shell.caches.note_configs();
    need(&mut shell, &server, 10);
    shell.pass("n1").await.unwrap();
    let pool = server.pool();
    assert_eq!((pool.spec.addresses.len(), pool.spec.config.generation), (20, 0));
}

#[tokio::test]
async fn k6_a_controller_that_never_saw_its_config_valid_goes_by_what_the_nodes_object_says() {
    let (mut shell, server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    shell.caches.configs = configs(vec![invalid(Mode::Paused)]);
    need(&mut shell, &server, 10);
    shell.pass("n1").await.unwrap();
    assert_eq!(server.pool().spec.addresses.len(), 20);
    drop((shell, server));

    let (mut shell, server) = self::shell(vec![]);
    shell.caches.configs = configs(vec![invalid(Mode::Enforce)]);
    shell.pass("n1").await.unwrap();
    assert!(server.object.lock().unwrap().is_none(), "for a new node nothing was ever in force");
}

#[tokio::test]
async fn k5_a_node_whose_config_is_a_newer_versions_goes_on_with_what_it_said_before_and_a_new_one_gets_nothing() {
    let newer = || {
        let config = json!({"metadata": {"name": "default"}, "spec": {"mode": "Observe", "priority": 9}});
        store(vec![serde_json::from_value::<stored::Stored<AzureVnetConfig>>(config).unwrap()]).into()
    };
    for was_seen in [true, false] {
        let (mut shell, server) = shell(vec![]);
        if was_seen {
            shell.caches.note_configs();
        }
        shell.pass("n1").await.unwrap();
        shell.caches.configs = newer();
        shell.caches.note_configs();
        assert_eq!(shell.caches.configs_in_force().len(), usize::from(was_seen));
        need(&mut shell, &server, 10);
        shell.pass("n1").await.unwrap();
        assert_eq!(server.pool().spec.addresses.len(), 20, "{was_seen}");
        let told = shell.events.recent();
        assert!(!told.iter().any(|event| event.reason == "NoConfig"), "it is there: {told:?}");
    }
    let (mut shell, server) = shell(vec![]);
    shell.caches.configs = newer();
    shell.pass("n1").await.unwrap();
    assert!(server.object.lock().unwrap().is_none(), "for a new node nothing was ever in force");
}

#[tokio::test]
async fn k8_a_node_whose_config_is_gone_keeps_what_that_said_and_its_mode() {
    for (mode, expected) in [(Mode::Enforce, 20), (Mode::Paused, 0)] {
        let (mut shell, server) = shell_in(mode, vec![]);
        shell.pass("n1").await.unwrap();
        shell.caches.configs = configs(vec![]);
        need(&mut shell, &server, 10);
        shell.pass("n1").await.unwrap();
        assert_eq!(server.pool().spec.addresses.len(), expected);
        let told = shell.events.recent();
        assert!(told.iter().any(|event| event.reason == "NoConfig" && event.message.contains("what default said")), "{told:?}");
    }
}

#[tokio::test]
async fn a_field_that_the_crds_do_not_declare_is_left_out_once_that_is_known() {
    let (shell, server) = shell(vec![]);
    let metadata = json!({"name": "n1", "uid": "object", "resourceVersion": "0", "creationTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["azure-vnet.dev/nic"], "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node"}]});
    let object = json!({"metadata": metadata, "spec": {"node": {"uid": "node"}}, "status": {"cloud": {"firstNeed": 5}}});
    *server.object.lock().unwrap() = Some(object);
    server.is_old.store(true, Ordering::SeqCst);
    let Err(Broken::Kube(refused)) = shell.pass("n1").await else { panic!("its status was written") };
    shell.declared.note(&refused);
    shell.declared.look(&shell.nodes.clone().into_client()).await;
    assert!(shell.declared.finding().is_some_and(|found| found.message.contains("firstNeed, which is left out")));
    shell.pass("n1").await.unwrap();
    assert_eq!(server.pool().spec.addresses.len(), 8);
    server.is_old.store(false, Ordering::SeqCst);
    shell.declared.look(&shell.nodes.clone().into_client()).await;
    assert_eq!(shell.declared.finding(), None);
}

#[tokio::test(start_paused = true)]
async fn what_looks_at_the_crds_ends_with_the_controller() {
    let (shell, _server) = shell(vec![]);
    let client = shell.nodes.clone().into_client();
    shell.arm.end.send_replace(true);
    let ended = timeout(Duration::from_secs(1), declared::follow(Arc::new(shell), client)).await;
    assert!(ended.is_ok());
}

/// A shell that knows what the kin of its node, which joined this moment, needed.
fn shell_with_kin(refusals: Vec<Error>) -> (Shell<Azure>, Arc<Server>) {
    let (mut shell, server) = shell(refusals);
    let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec::default());
    config.status = serde_json::from_value(json!({"learned": [{"pool": "a", "nodes": 9, "needed": 30}]})).unwrap();
    shell.caches.configs = configs(vec![config]);
    let mut node = serde_json::to_value(node("boot")).unwrap();
    node["metadata"]["labels"] = json!({"agentpool": "a"});
    node["metadata"]["creationTimestamp"] = json!(shell.clock.now().to_string());
    shell.caches.nodes = store(vec![serde_json::from_value(node).unwrap()]);
    (shell, server)
}

#[tokio::test]
async fn a_new_node_is_filled_with_what_its_kin_needed() {
    let (shell, server) = shell_with_kin(vec![]);
    shell.pass("n1").await.unwrap();
    assert_eq!((server.pool().spec.addresses.len(), shell.arm.writes.load(Ordering::SeqCst)), (40, 1));
}

#[tokio::test]
async fn a_first_fill_that_does_not_fit_does_not_mark_the_subnet_as_full() {
    let full = || Error::from_answer(400, None, br#"{"error": {"code": "SubnetIsFull", "message": "no"}}"#);
    let (shell, server) = shell_with_kin(vec![full()]);
    shell.pass("n1").await.unwrap();
    assert_eq!((server.pool().spec.addresses.len(), shell.arm.writes.load(Ordering::SeqCst)), (8, 2));
    assert!(!shell.is_exhausted(SUBNET), "there is room for what a node usually holds");
    drop((shell, server));

    let (shell, server) = shell_with_kin(vec![full(), full()]);
    shell.pass("n1").await.unwrap();
    assert_eq!((server.pool().spec.addresses.len(), shell.is_exhausted(SUBNET)), (0, true));
}

#[tokio::test]
async fn o6_a_node_whose_object_is_a_newer_versions_is_left_alone() {
    let (mut shell, server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    need(&mut shell, &server, 10);
    let mut object = server.object.lock().unwrap().clone().unwrap();
    object["status"]["cloud"]["intent"] = json!({"id": 9, "op": "Swap", "add": [1]});
    shell.caches.pools = store(vec![serde_json::from_value::<stored::Stored<AzureVnetNode>>(object).unwrap()]).into();
    let writes = server.writes.load(Ordering::SeqCst);
    assert_eq!(shell.pass("n1").await.unwrap(), None);
    assert_eq!((server.writes.load(Ordering::SeqCst), shell.arm.writes.load(Ordering::SeqCst)), (writes, 1));
    let told = shell.events.recent();
    assert!(told.iter().any(|event| event.reason == "ObjectNotUnderstood" && event.message.contains("Swap")), "{told:?}");
    need(&mut shell, &server, 10);
    shell.pass("n1").await.unwrap();
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 2, "once it is understood again it is served");
}

#[tokio::test]
async fn a18_after_a_refusal_other_nodes_of_the_subnet_wait_and_say_why() {
    let full = Error::from_answer(400, None, br#"{"error": {"code": "SubnetIsFull", "message": "no"}}"#);
    let (shell, server) = shell(vec![full]);
    shell.pass("n1").await.unwrap();
    // Whoever has not asked itself is as good as another node.
    shell.known.lock().unwrap().clear();
    let wake = shell.pass("n1").await.unwrap().unwrap();
    assert!(wake <= Duration::from_secs(10), "{wake:?}");
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 1);
    let status = server.pool().status.unwrap();
    let deficit = status.conditions.iter().find(|condition| condition.type_ == "InDeficit").unwrap();
    assert_eq!((deficit.status.as_str(), deficit.reason.as_str()), ("True", "SubnetExhausted"));
    assert_eq!(status.cloud.unwrap().intent, None);
    shell.note_free([(SUBNET.to_ascii_lowercase(), 0)].into());
    shell.note_free([(SUBNET.to_ascii_lowercase(), 5)].into());
    shell.known.lock().unwrap().clear();
    shell.pass("n1").await.unwrap();
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 2, "there is room again");
    assert_eq!(shell.wait(SUBNET, "n2", false), None, "n1 asks no more");
}

#[tokio::test]
async fn a_first_fill_goes_by_what_azure_counted() {
    let (shell, server) = shell_with_kin(vec![]);
    shell.note_free([(SUBNET.to_ascii_lowercase(), 30)].into());
    shell.pass("n1").await.unwrap();
    assert_eq!(server.pool().spec.addresses.len(), 19);
}

#[tokio::test]
async fn a_missing_permission_is_told_and_not_hammered() {
    let refused = Error::from_answer(403, None, br#"{"error": {"code": "AuthorizationFailed", "message": "no"}}"#);
    let (shell, server) = shell(vec![refused]);
    let wake = shell.pass("n1").await.unwrap().unwrap();
    assert!(wake >= Duration::from_secs(5), "{wake:?}");
    let status = server.pool().status.unwrap();
    let writable = status.conditions.iter().find(|condition| condition.type_ == "NicWritable").unwrap();
    assert_eq!((writable.status.as_str(), writable.reason.as_str()), ("False", "PermissionMissing"));
    assert_eq!(status.cloud.unwrap().last_error.unwrap().code, "AuthorizationFailed");
    assert!(matches!(shell.trouble("n1").unwrap().class, Class::Forbidden { .. }));
    shell.pass("n1").await.unwrap();
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn in_mode_plan_the_status_shows_what_would_be_sent_and_nothing_is_sent() {
    let (shell, server) = shell_in(Mode::Plan, vec![]);
    shell.pass("n1").await.unwrap();
    let plan = server.pool().status.unwrap().cloud.unwrap().plan.unwrap();
    assert_eq!((plan.add.len(), plan.if_match.as_str()), (8, "W/\"1\""));
    assert!(plan.request.starts_with(&format!("PUT {NIC}?")) && plan.properties.contains(SUBNET), "{plan:?}");
    let writes = server.writes.load(Ordering::SeqCst);
    shell.pass("n1").await.unwrap();
    assert_eq!((server.writes.load(Ordering::SeqCst), shell.arm.writes.load(Ordering::SeqCst)), (writes, 0), "nothing at rest");
}

#[tokio::test]
async fn what_the_identity_may_not_do_is_found_before_a_write_needs_it() {
    let (mut shell, server) = shell_in(Mode::Plan, vec![]);
    shell.pass("n1").await.unwrap();
    let pool = server.pool();
    shell.caches.pools = store(vec![pool.clone().into()]).into();
    shell.look_at_rights().await;
    let obstacles = shell.with_rights(|rights| rights.obstacles([&pool.spec.node].into_iter()));
    let found: Vec<(String, String)> = obstacles.iter().map(Obstacle::finding).map(|finding| (finding.action, finding.scope)).collect();
    let join = "Microsoft.Network/virtualNetworks/subnets/join/action";
    assert_eq!(found, [(join.into(), SUBNET.into()), ("Microsoft.Network/networkInterfaces/write".into(), NIC.into())]);
    let other = azure_vnet_crds::node::Machine::default();
    assert_eq!(shell.with_rights(|rights| rights.obstacles([&other].into_iter())), []);
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_node_that_a_killed_uninstallation_left_closed_is_opened_by_the_next_pass() {
    let (mut shell, server) = shell(vec![]);
    let closed = |until: i64| {
        let mut node = node("boot");
        node.spec.taints = vec![json!({"key": "azure-vnet.dev/uninstalling", "value": until.to_string(), "effect": "NoSchedule"})];
        store(vec![node])
    };
    let now = jiff::Timestamp::now().as_second();
    shell.caches.nodes = closed(now);
    let wake = shell.pass("n1").await.unwrap().unwrap();
    assert!(wake <= Duration::from_mins(5) && server.nodes.lock().unwrap().is_empty(), "it is under way: {wake:?}");
    shell.caches.nodes = closed(now - 301);
    shell.pass("n1").await.unwrap();
    assert_eq!(server.nodes.lock().unwrap()[0]["spec"]["taints"], json!([]));
}

#[tokio::test]
async fn what_was_read_of_nics_counts_for_one_term() {
    let (shell, _server) = shell(vec![]);
    assert_eq!(shell.read_nics(), 0);
    shell.pass("n1").await.unwrap();
    assert_eq!(shell.read_nics(), 1);
    shell.leadership.resign();
    assert_eq!(shell.read_nics(), 0);
}

#[tokio::test]
async fn no_pass_waits_while_something_is_asked_of_all_nics() {
    let (shell, _server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    assert_eq!(shell.nics(|uid, _| Some((uid.to_owned(), shell.known.try_lock().is_ok()))), [("node".to_owned(), true)]);
}

#[tokio::test]
async fn which_nic_a_machine_has_is_asked_again_after_a_boot_and_when_the_nic_is_gone() {
    let knows = |shell: &Shell<Azure>| shell.known.lock().unwrap()["n1"].target.is_some();
    let (mut shell, server) = shell(vec![]);
    shell.pass("n1").await.unwrap();
    shell.pass("n1").await.unwrap();
    assert!(knows(&shell), "it does not change as long as the machine runs");
    shell.arm.nic.lock().unwrap()["properties"]["macAddress"] = json!("00-0D-3A-00-00-02");
    shell.pass("n1").await.unwrap();
    assert_eq!(server.pool().spec.node.mac, "00:0d:3a:00:00:01");
    shell.caches.nodes = store(vec![node("next boot")]);
    shell.pass("n1").await.unwrap();
    assert_eq!(server.pool().spec.node.mac, "00:0d:3a:00:00:02", "a machine that was off may have another NIC");
    drop((shell, server));

    let (shell, _server) = self::shell(vec![]);
    *shell.arm.nic.lock().unwrap() = Value::Null;
    shell.pass("n1").await.unwrap();
    assert!(matches!(shell.trouble("n1").unwrap().class, Class::Gone) && !knows(&shell));
}

#[tokio::test]
async fn i6_a_clock_that_fell_behind_is_set_at_a_new_term() {
    let (shell, _) = shell(vec![]);
    shell.keep_time();
    assert!(shell.leadership.nonce().is_some(), "a clock that is right ends nothing");
    shell.clock.fall_behind(Duration::from_hours(1));
    let sent_by_now = shell.clock.now().saturating_add(Duration::from_mins(10)).unwrap();
    assert!(!shell.clock.is_before(sent_by_now), "no intent of this clock could be sent");
    shell.keep_time();
    assert_eq!(shell.leadership.nonce(), None);
    let sent_by_now = shell.clock.now().saturating_add(Duration::from_mins(10)).unwrap();
    assert!(shell.clock.is_before(sent_by_now));
}

#[tokio::test]
async fn a_controller_that_ends_does_not_wait_for_what_it_has_not_sent() {
    let (shell, server) = shell(vec![]);
    shell.arm.queued.store(true, Ordering::SeqCst);
    let recorded = || server.object.lock().unwrap().as_ref().is_some_and(|object| !object["status"]["cloud"]["intent"].is_null());
    let asked = async {
        while !recorded() {
            tokio::task::yield_now().await;
        }
        shell.arm.end.send_replace(true);
    };
    let (ended, ()) = tokio::join!(shell.pass("n1"), asked);
    ended.unwrap();
    assert!(recorded(), "an addition is the next leader's to send");
    assert_eq!(shell.arm.writes.load(Ordering::SeqCst), 0);
}
