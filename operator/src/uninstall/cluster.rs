//! The cluster while the product is taken out: pods, nodes and workloads as the API server tells, and what is removed there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet, EXHAUSTED_TAINT, UNINSTALL_TAINT};
use azure_vnet_operator_core::{
    policy::Policy,
    uninstall::{Pod, Restorer, closed_until},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    coordination::v1::Lease,
    core::v1 as core,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, ListParams, Object, Patch, PatchParams, PropagationPolicy},
    core::NamespaceResourceScope,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{LOOK, Options};
use crate::controller::{
    kinds::{Node, is_held, taint_key},
    pools::{Pools, is_conflict},
};

/// By which this part's writes are known.
const MANAGER: &str = "azure-vnet-uninstall";
/// Objects a page, as large clusters want it (safety rule SC1).
const PAGE: u32 = 500;
/// Grace of configs that are gone.
const GRACE: Duration = Duration::from_mins(6);

/// A pod, cut down.
type SlimPod = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// Which taints of ours a node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taints {
    /// The one that keeps new pods off, beside what it has.
    Closed,
    /// Not that one: it goes on as before.
    AsBefore,
    /// None, nor those that the controller would take off.
    None,
}

impl Taints {
    fn of(self, present: &[Value], startup: &str, until: &str) -> Vec<Value> {
        let goes = |key: &str| key == UNINSTALL_TAINT || self == Self::None && [EXHAUSTED_TAINT, startup].contains(&key);
        let stays = present.iter().filter(|taint| !taint_key(taint).is_some_and(goes)).cloned();
        stays.chain((self == Self::Closed).then(|| json!({"key": UNINSTALL_TAINT, "value": until, "effect": "NoSchedule"}))).collect()
    }
}

/// The API server, and what of it is ours.
pub struct Cluster {
    client: Client,
    namespace: String,
    controller: String,
    agent: String,
    lease: String,
    startup_taint: String,
    restorer: PathBuf,
    /// When this run is over at the latest, as its taint says.
    until: String,
}

impl Cluster {
    /// Nothing is asked yet.
    pub fn new(options: &Options, client: &Client) -> Self {
        let Options { namespace, controller, agent, lease_name, startup_taint, restorer, patience, .. } = options.clone();
        let until = closed_until(Timestamp::now().saturating_add(Duration::from_secs(patience)).unwrap_or(Timestamp::MAX));
        Self { client: client.clone(), namespace, controller, agent, lease: lease_name, startup_taint, restorer, until }
    }

    fn own<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Where the controllers' lead is.
    pub fn leases(&self) -> Api<Lease> {
        self.own()
    }

    /// All pods that run somewhere.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let api = Api::<SlimPod>::all_with(self.client.clone(), &ApiResource::erase::<core::Pod>(&()));
        let pods = list(&api, ListParams::default()).await.context("cannot list the pods")?;
        let pod = |pod: SlimPod| {
            let name =
                format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
            let PodStatus { phase, pod_ips } = pod.status.unwrap_or_default();
            let addresses = pod_ips.iter().filter_map(|at| at.ip.parse().ok()).collect();
            Pod { name, node: pod.spec.node_name, addresses, is_over: ["Succeeded", "Failed"].contains(&phase.as_str()) }
        };
        Ok(pods.into_iter().map(pod).collect())
    }

    /// All pools.
    pub async fn pools(&self) -> anyhow::Result<Vec<AzureVnetNode>> {
        list(&Api::all(self.client.clone()), ListParams::default()).await.context("cannot list the AzureVnetNodes")
    }

    async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        list(&Api::all(self.client.clone()), ListParams::default()).await.context("cannot list the Nodes")
    }

    /// Each node's machine.
    pub async fn places(&self) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(self.nodes().await?.into_iter().map(|node| (node.name().to_owned(), node.spec.provider_id.clone())).collect())
    }

    /// Whether a node is there, now.
    pub async fn has_node(&self, name: &str) -> anyhow::Result<bool> {
        let api: Api<Node> = Api::all(self.client.clone());
        Ok(api.get_opt(name).await.with_context(|| format!("cannot read the Node {name}"))?.is_some())
    }

    /// All nodes, and whether their kubelet speaks: that of one which is not ready for want of a network does.
    pub async fn kubelets(&self) -> anyhow::Result<BTreeMap<String, bool>> {
        let speaks = |node: &Node| node.condition("Ready").is_some_and(|status| status != "Unknown");
        Ok(self.nodes().await?.iter().map(|node| (node.name().to_owned(), speaks(node))).collect())
    }

    /// The longest time for which a write may still land, by the configs and what nodes were written by whose config is gone.
    pub async fn grace(&self) -> anyhow::Result<Duration> {
        let configs: Vec<AzureVnetConfig> =
            list(&Api::all(self.client.clone()), ListParams::default()).await.context("cannot list the configs")?;
        let pools = self.pools().await?;
        let policies =
            configs.iter().filter_map(|config| Policy::of(config).ok()).chain(pools.iter().filter_map(|pool| Policy::kept(&pool.spec)));
        Ok(policies.map(|policy| policy.grace).max().unwrap_or(GRACE))
    }

    /// Keeps new pods off all nodes that have a pool.
    pub async fn close(&self) -> anyhow::Result<()> {
        let pools: BTreeSet<String> = self.pools().await?.iter().map(kube::ResourceExt::name_any).collect();
        for node in self.nodes().await? {
            if pools.contains(node.name()) {
                self.mark(&node, Taints::Closed).await?;
            }
        }
        Ok(())
    }

    /// Takes taints off all nodes, off as many as can be.
    pub async fn open(&self, taints: Taints) -> anyhow::Result<()> {
        let mut result = Ok(());
        for node in self.nodes().await? {
            result = result.and(self.mark(&node, taints).await);
        }
        result
    }

    async fn mark(&self, node: &Node, taints: Taints) -> anyhow::Result<()> {
        self.set(node, taints).await.with_context(|| format!("cannot set the taints of {}", node.name()))
    }

    async fn set(&self, node: &Node, wanted: Taints) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut node = node.clone();
        loop {
            let taints = wanted.of(&node.spec.taints, &self.startup_taint, &self.until);
            if taints == node.spec.taints {
                return Ok(());
            }
            let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
            match api.patch(node.name(), &params(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                // Somebody else wrote the node meanwhile.
                Err(error) if is_conflict(&error) => {
                    let Some(newer) = api.get_opt(node.name()).await? else { return Ok(()) };
                    node = newer;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether there is a controller that may still write.
    pub async fn has_controller(&self) -> anyhow::Result<bool> {
        Ok(self.own::<Deployment>().get_opt(&self.controller).await.context("cannot read the controller's Deployment")?.is_some())
    }

    /// Removes the controller and waits until none runs.
    pub async fn stop_controller(&self, deadline: Instant) -> anyhow::Result<()> {
        remove(&self.own::<Deployment>(), &self.controller).await?;
        self.await_end("controller", deadline).await
    }

    /// Removes the agents and waits until none runs.
    pub async fn stop_agents(&self, deadline: Instant) -> anyhow::Result<()> {
        remove(&self.own::<DaemonSet>(), &self.agent).await?;
        self.await_end("agent", deadline).await
    }

    /// A pod on a node that does not answer never ends, as far as anybody can see. If it is a controller that works on, it holds the lead.
    async fn await_end(&self, component: &str, deadline: Instant) -> anyhow::Result<()> {
        loop {
            let kubelets = self.kubelets().await?;
            let running = self.own_pods(component).await?.into_iter().filter(|pod| kubelets.get(node_of(pod)) == Some(&true));
            let running: Vec<String> = running.map(|pod| pod.name_any()).collect();
            if running.is_empty() {
                info!(component, "stopped");
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("these do not end: {}", running.join(", "));
            }
            sleep(LOOK).await;
        }
    }

    async fn own_pods(&self, component: &str) -> anyhow::Result<Vec<core::Pod>> {
        let instance = self.restorer()?.metadata.labels.unwrap_or_default().remove("app.kubernetes.io/instance").unwrap_or_default();
        let selector = format!("app.kubernetes.io/instance={instance},app.kubernetes.io/component={component}");
        list(&self.own(), ListParams::default().labels(&selector)).await.with_context(|| format!("cannot list the pods of {component}"))
    }

    fn restorer(&self) -> anyhow::Result<DaemonSet> {
        let path = self.restorer.display();
        let text = std::fs::read(&self.restorer).with_context(|| format!("cannot read {path}"))?;
        serde_json::from_slice(&text).with_context(|| format!("{path} is no DaemonSet"))
    }

    /// Ends what an earlier attempt left of the restoration: its pods are done, and agents may have worked on the nodes since.
    pub async fn stop_restorer(&self, deadline: Instant) -> anyhow::Result<()> {
        self.remove_restorer().await?;
        self.await_end("uninstall-node", deadline).await
    }

    /// Starts the restoration of all nodes.
    pub async fn apply_restorer(&self) -> anyhow::Result<()> {
        let mut restorer = serde_json::to_value(self.restorer()?)?;
        if let Some(fields) = restorer.as_object_mut() {
            fields.insert("apiVersion".into(), json!("apps/v1"));
            fields.insert("kind".into(), json!("DaemonSet"));
        }
        let name = self.restorer()?.name_any();
        let applied = self.own::<DaemonSet>().patch(&name, &params().force(), &Patch::Apply(restorer)).await;
        applied.map(drop).with_context(|| format!("cannot apply the DaemonSet {name}"))
    }

    /// How far the restoration of each node is.
    pub async fn restorers(&self) -> anyhow::Result<BTreeMap<String, Restorer>> {
        let pods = self.own_pods("uninstall-node").await?;
        Ok(pods.iter().map(|pod| (node_of(pod).to_owned(), restorer_of(pod))).collect())
    }

    /// Ends the restoration.
    pub async fn remove_restorer(&self) -> anyhow::Result<()> {
        remove(&self.own::<DaemonSet>(), &self.restorer()?.name_any()).await
    }

    /// Removes a node's object. Nothing of it may land any more.
    pub async fn forget(&self, pool: &AzureVnetNode) -> anyhow::Result<()> {
        let api: Api<AzureVnetNode> = Api::all(self.client.clone());
        let name = pool.name_any();
        remove(&api, &name).await?;
        while let Some(rest) = api.get_opt(&name).await?.filter(|rest| rest.uid() == pool.uid() && is_held(rest)) {
            match Pools::new(self.client.clone()).release(&rest).await {
                Err(error) if !is_conflict(&error) => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// What is left when all nodes are done with.
    pub async fn remove_rest(&self) -> anyhow::Result<()> {
        let subnets: Api<AzureVnetSubnet> = Api::all(self.client.clone());
        for subnet in list(&subnets, ListParams::default()).await.context("cannot list the AzureVnetSubnets")? {
            remove(&subnets, &subnet.name_any()).await?;
        }
        remove(&self.own::<Lease>(), &self.lease).await
    }
}

fn params() -> PatchParams {
    PatchParams::apply(MANAGER)
}

fn node_of(pod: &core::Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn restorer_of(pod: &core::Pod) -> Restorer {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let ended =
        |state: Option<core::ContainerState>| state.and_then(|state| state.terminated).and_then(|ended| ended.message.or(ended.reason));
    Restorer {
        is_ready: !containers.is_empty() && containers.iter().all(|container| container.ready),
        restarts: containers.iter().filter_map(|container| container.restart_count.try_into().ok()).max().unwrap_or_default(),
        failed: containers.into_iter().find_map(|container| ended(container.state).or_else(|| ended(container.last_state))),
    }
}

/// All objects, page by page.
async fn list<K>(api: &Api<K>, params: ListParams) -> kube::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let (mut items, mut params) = (vec![], params.limit(PAGE));
    loop {
        let page = api.list(&params).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(items),
        }
    }
}

/// One that is gone is removed.
async fn remove<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug + kube::Resource<DynamicType = ()>,
{
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot delete the {} {name}", K::kind(&()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_changed_nothing_takes_only_its_own_taint_off() {
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let (other, startup, exhausted) = (taint("other"), taint("start"), taint(EXHAUSTED_TAINT));
        let before = [other.clone(), startup, exhausted];
        let own = |until: &str| json!({"key": UNINSTALL_TAINT, "value": until, "effect": "NoSchedule"});
        let closed = Taints::Closed.of(&before, "start", "7");
        assert_eq!(closed, [&before[..], &[own("7")]].concat());
        assert_eq!(Taints::Closed.of(&closed, "start", "8"), [&before[..], &[own("8")]].concat(), "the next attempt has its own time");
        assert_eq!(Taints::AsBefore.of(&closed, "start", "7"), before);
        assert_eq!(Taints::None.of(&closed, "start", "7"), [other]);
    }
}
