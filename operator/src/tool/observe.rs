//! Reads what is looked at from the API server, in pages, and no more than the question needs.

use std::fmt::Debug;

use anyhow::Context as _;
use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use azure_vnet_operator_core::look::{Cluster, Target};
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use kube::{Api, Client, api::ListParams};
use serde::de::DeserializeOwned;

/// Objects a page.
const PAGE: u32 = 500;

/// What to read beside configs, pools, subnets and Nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    pods: Vec<(String, ListParams)>,
    services: Vec<(String, String)>,
    events: Vec<(String, ListParams)>,
}

/// Where the chart is installed.
pub const SYSTEM: &str = "kube-system";
/// In all namespaces.
const ALL: &str = "";

fn field(text: &str) -> ListParams {
    ListParams::default().fields(text)
}

impl Scope {
    /// Nothing more.
    pub fn pools() -> Self {
        Self::default()
    }

    /// The pods of a node, and what happened to its pool.
    pub fn node(name: &str) -> Self {
        let events = field(&format!("involvedObject.kind=AzureVnetNode,involvedObject.name={name}"));
        Self {
            pods: vec![(ALL.into(), field(&format!("spec.nodeName={name}")))],
            events: vec![("default".into(), events)],
            ..Self::default()
        }
    }

    /// One pod, what happened to it, and what was attached lately: its node is not known yet.
    pub fn pod(namespace: &str, name: &str) -> Self {
        let events = field(&format!("involvedObject.kind=Pod,involvedObject.name={name}"));
        let attached = field("involvedObject.kind=AzureVnetNode,reason=AddressesAttached");
        Self {
            pods: vec![(namespace.into(), field(&format!("metadata.name={name}")))],
            events: vec![(namespace.into(), events), ("default".into(), attached)],
            ..Self::default()
        }
    }

    /// A pod and where it talks to.
    pub fn way(namespace: &str, name: &str, to: &Target) -> Self {
        let mut scope = Self { pods: vec![(namespace.into(), field(&format!("metadata.name={name}")))], ..Self::default() };
        let or_own = |other: &String| if other.is_empty() { namespace.to_owned() } else { other.clone() };
        match to {
            Target::Address(_) => {}
            Target::Pod(other, name) => scope.pods.push((or_own(other), field(&format!("metadata.name={name}")))),
            Target::Service(other, name) => scope.services.push((or_own(other), name.clone())),
        }
        scope
    }

    /// The pods of controller and agents.
    pub fn parts() -> Self {
        let ours = ListParams::default().labels("app.kubernetes.io/name=azure-vnet");
        Self { pods: vec![(ALL.into(), ours)], ..Self::default() }
    }

    /// All that support needs.
    pub fn everything() -> Self {
        let of = |kind: &str| ("default".to_owned(), field(&format!("involvedObject.kind={kind}")));
        let failed = field("involvedObject.kind=Pod,reason=FailedCreatePodSandBox");
        Self {
            pods: vec![(ALL.into(), ListParams::default())],
            events: vec![of("AzureVnetNode"), of("AzureVnetConfig"), (ALL.into(), failed)],
            ..Self::default()
        }
    }
}

/// Reads a cluster.
///
/// # Errors
/// What could not be read, and that the kinds are not installed where that is why.
pub async fn cluster(client: &Client, scope: &Scope) -> anyhow::Result<Cluster> {
    let version = client.apiserver_version().await.context("the API server does not answer")?.git_version;
    let configs = kinds(&Api::<AzureVnetConfig>::all(client.clone())).await?;
    let pools = kinds(&Api::<AzureVnetNode>::all(client.clone())).await?;
    let subnets = kinds(&Api::<AzureVnetSubnet>::all(client.clone())).await?;
    let nodes = all(&Api::<Node>::all(client.clone()), ListParams::default()).await.context("cannot list nodes")?;
    let mut cluster = Cluster {
        at: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?,
        version,
        configs,
        pools,
        subnets,
        machines: nodes.into_iter().map(Into::into).collect(),
        ..Cluster::default()
    };
    for (namespace, parameters) in &scope.pods {
        let pods: Vec<Pod> = all(&within(client, namespace), parameters.clone()).await.context("cannot list pods")?;
        cluster.pods.extend(pods.into_iter().map(Into::into));
    }
    for (namespace, name) in &scope.services {
        let found = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await.context("cannot read the service")?;
        cluster.services.extend(found.map(Into::into));
    }
    for (namespace, parameters) in &scope.events {
        let events: Vec<Event> = all(&within(client, namespace), parameters.clone()).await.context("cannot list events")?;
        cluster.events.extend(events.into_iter().map(Into::into));
    }
    cluster.events.sort_by_key(|event| event.at);
    Ok(cluster)
}

/// The image that the controller runs, which every node has: agents run it too. Of the system's namespace only, where nobody but administrators can
/// start a pod with a controller's labels and an image of their own.
///
/// # Errors
/// Pods cannot be listed.
pub async fn controller_image(client: &Client) -> anyhow::Result<Option<String>> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=azure-vnet,app.kubernetes.io/component=controller");
    let pods: Vec<Pod> = all(&Api::namespaced(client.clone(), SYSTEM), ours).await.context("cannot list the controller's pods")?;
    let image = |pod: Pod| pod.spec?.containers.into_iter().find(|container| container.name == "controller")?.image;
    Ok(pods.into_iter().find_map(image))
}

fn within<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    if namespace == ALL { Api::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) }
}

/// Of a kind of ours; a cluster that has none of it has no object of it, and preflight says so.
async fn kinds<K: Clone + DeserializeOwned + Debug>(api: &Api<K>) -> anyhow::Result<Vec<K>> {
    match all(api, ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(vec![]),
        found => found.context("cannot list this project's kinds"),
    }
}

/// Reads a whole list, page by page.
///
/// # Errors
/// The API server's.
pub async fn all<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, parameters: ListParams) -> Result<Vec<K>, kube::Error> {
    let (mut found, mut parameters) = (vec![], parameters.limit(PAGE));
    loop {
        let page = api.list(&parameters).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(found),
        }
    }
}
