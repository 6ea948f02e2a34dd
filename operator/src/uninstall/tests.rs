//! A node whose machine Azure does not find, against an API server and an Azure of a few lines each.

use std::sync::Mutex;

use azure_vnet_crds::AzureVnetNodeSpec;
use azure_vnet_operator_core::arm::{Document, Error, Read, Urgency, Write};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const NODE: &str = "n1";
const VM: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/n1";

/// Answers to reads of the machine, the last for ever; without a document it is not found.
struct Azure(Mutex<Vec<Option<Value>>>);

impl Arm for Azure {
    async fn read(&self, _: &Read, _: Urgency) -> Result<Document, Error> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        answer.map(|body| Document { body, etag: None }).ok_or_else(|| Error::from_answer(404, None, b"{}"))
    }

    async fn write(&self, _: &Write, _: Urgency, _: &(dyn Fn() -> bool + Send + Sync)) -> Result<(), Error> {
        unreachable!("there is nothing to write")
    }
}

async fn outcome(answers: Vec<Option<Value>>, has_node: bool) -> anyhow::Result<usize> {
    let (status, node) = if has_node {
        (200, json!({"metadata": {"name": NODE}, "spec": {}}))
    } else {
        (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}))
    };
    let answer = move |_: http::Request<Body>| {
        let body = Body::from(node.to_string().into_bytes());
        async move { Ok::<_, std::io::Error>(http::Response::builder().status(status).body(body).unwrap()) }
    };
    let options = Options {
        addresses: AddressesFlag::GiveBack,
        nodes_with_pods: OccupiedFlag::Leave,
        namespace: "azure-vnet-system".into(),
        controller: "azure-vnet-controller".into(),
        agent: "azure-vnet-agent".into(),
        lease_name: "azure-vnet-controller".into(),
        startup_taint: String::new(),
        restorer: PathBuf::new(),
        patience: 60,
    };
    let cluster = Cluster::new(&options, &Client::new(tower::service_fn(answer), "default"));
    let places = [(NODE.to_owned(), format!("azure://{VM}"))].into();
    let deadline = Instant::now() + Duration::from_secs(options.patience);
    let nics = Nics::new(Arc::new(Azure(Mutex::new(answers))), Leadership::new("me"), places, Duration::ZERO, deadline);
    given_back(&cluster, &nics, &AzureVnetNode::new(NODE, AzureVnetNodeSpec::default())).await
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_azure_does_not_find_is_gone_only_if_its_node_is() {
    assert_eq!(outcome(vec![None], false).await.unwrap(), 0);
    let error = outcome(vec![None], true).await.unwrap_err().to_string();
    assert!(error.contains("the Node is there") && error.contains("delete the Node"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_a_machine_is_not_found_counts_for_nothing() {
    // The second answer shows the machine, so that what it says counts, though no node is left.
    let bare = json!({"properties": {}});
    let error = format!("{:#}", outcome(vec![None, Some(bare)], false).await.unwrap_err());
    assert!(error.contains("has no a primary network interface"), "{error}");
}
