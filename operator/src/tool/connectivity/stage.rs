//! What is made in the cluster for one run, how it comes to stand, and how it goes again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use azure_vnet_operator_core::look::{self, Cluster, Probe};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, sleep};

use super::{
    super::{
        exec::{PROGRAM, exec},
        observe::{self, Scope},
    },
    AGAIN, AT_ONCE, PAUSE,
};
use crate::Shutdown;

use super::objects::{Cast, RUN};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// For the service account of a new namespace.
const ACCOUNT: Duration = Duration::from_secs(10);
/// For what was made to be gone.
const GONE: Duration = Duration::from_mins(1);

/// Where the probes are.
enum Home {
    /// In pods on these nodes.
    Pods { nodes: Vec<String>, owns_namespace: bool },
    /// Beside the containers of these pods.
    Beside { pods: Vec<String> },
}

/// What was made: marked before the request, since one that fails on the way may have made it.
#[derive(Default)]
struct Made {
    namespace: bool,
    service: bool,
    pods: Vec<String>,
    containers: Vec<String>,
}

/// One run.
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) cluster: Cluster,
    pub(super) cast: Cast,
    pub(super) notes: Vec<String>,
    home: Home,
    made: Made,
}

impl Stage {
    pub(super) fn of_nodes(
        client: Client,
        cluster: Cluster,
        cast: Cast,
        (mut nodes, said): (Vec<String>, Vec<String>),
        owns_namespace: bool,
    ) -> Self {
        // One alone would have nobody to ask.
        if let [only] = nodes.as_slice() {
            nodes.push(only.clone());
        }
        Self { client, cluster, cast, notes: said, home: Home::Pods { nodes, owns_namespace }, made: Made::default() }
    }

    pub(super) async fn of_pods(client: Client, cluster: Cluster, cast: Cast, selector: &str, at_most: usize) -> anyhow::Result<Self> {
        let api = Api::<Pod>::namespaced(client.clone(), &cast.namespace);
        let found = api.list(&ListParams::default().labels(selector)).await.context("cannot list pods")?;
        let (mut pods, mut notes) = (vec![], vec![]);
        for pod in found.items.into_iter().map(look::Pod::from) {
            if pod.host_network || pod.terminating || pod.phase != "Running" || pod.address.is_none() {
                notes.push(format!("{} was left out: it is not running, or has no address of its own", pod.name));
            } else if pods.len() < at_most {
                pods.push(pod.name);
            } else {
                notes.push(format!("{} was left out: --at-most is {at_most}", pod.name));
            }
        }
        ensure!(!pods.is_empty(), "no pod of {selector} in namespace {} runs with an address of its own", cast.namespace);
        Ok(Self { client, cluster, cast, notes, home: Home::Beside { pods }, made: Made::default() })
    }

    pub(super) fn len(&self) -> usize {
        match &self.home {
            Home::Pods { nodes, .. } => nodes.len(),
            Home::Beside { pods, .. } => pods.len(),
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.cast.namespace)
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.cast.namespace)
    }

    /// Makes the objects. No request is dropped while it is under way: it might still make something, which nobody would take back.
    pub(super) async fn start(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        ensure!(!shutdown.is_set(), "broken off");
        let (api, cast, parameters) = (self.pods(), &self.cast, PostParams::default());
        match &self.home {
            Home::Pods { nodes, owns_namespace } => {
                if *owns_namespace {
                    let made = Api::<Namespace>::all(self.client.clone()).create(&parameters, &cast.own_namespace()?).await;
                    self.made.namespace = may_be_made(&made);
                    made.context("cannot make a namespace: --namespace names one that is there")?;
                }
                let made = self.services().create(&parameters, &cast.service()?).await;
                self.made.service = may_be_made(&made);
                made.context("cannot make a Service")?;
                for (index, node) in nodes.iter().enumerate() {
                    ensure!(!shutdown.is_set(), "broken off");
                    let pod = cast.pod(index, node)?;
                    let made = create(&api, &pod).await;
                    self.made.pods.extend(pod.metadata.name.filter(|_| may_be_made(&made)));
                    made.with_context(|| format!("cannot start a pod on {node}"))?;
                }
            }
            Home::Beside { pods } => {
                for name in pods {
                    ensure!(!shutdown.is_set(), "broken off");
                    let patch = Patch::Strategic(cast.ephemeral(&format!("{}/{name}", cast.namespace)));
                    let made = api.patch_ephemeral_containers(name, &PatchParams::default(), &patch).await;
                    self.made.containers.extend(may_be_made(&made).then(|| name.clone()));
                    made.with_context(|| format!("cannot add an ephemeral container to {name}"))?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the probes; those that do not come say why.
    pub(super) async fn wait(&mut self, patience: Duration) -> anyhow::Result<Vec<Probe>> {
        let until = Instant::now() + patience;
        loop {
            let probes = self.look().await?;
            if probes.iter().all(|probe| probe.absent.is_none()) {
                return Ok(probes);
            }
            if Instant::now() >= until {
                return Ok(self.explained(probes).await);
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self) -> anyhow::Result<Vec<Probe>> {
        let api = self.pods();
        let pods = match &self.home {
            Home::Pods { .. } => {
                let of_run = ListParams::default().labels(&format!("{RUN}={}", self.cast.run));
                api.list(&of_run).await.context("cannot list the probes")?.items
            }
            Home::Beside { pods, .. } => {
                let mut found = vec![];
                for name in pods {
                    found.extend(api.get_opt(name).await.with_context(|| format!("cannot read {name}"))?);
                }
                found
            }
        };
        let mut probes: Vec<Probe> = pods.into_iter().map(|pod| self.probe(pod)).collect();
        let started = if let Home::Beside { pods } = &self.home { pods } else { &self.made.pods };
        let started = started.iter().map(|name| format!("{}/{name}", self.cast.namespace));
        let gone: Vec<String> = started.filter(|name| probes.iter().all(|probe| probe.pod != *name)).collect();
        let absent = Some("it was deleted by somebody else".to_owned());
        probes.extend(gone.into_iter().map(|pod| Probe { pod, node: String::new(), address: None, absent: absent.clone() }));
        probes.sort_by(|a, b| (&a.node, &a.pod).cmp(&(&b.node, &b.pod)));
        Ok(probes)
    }

    fn probe(&self, pod: Pod) -> Probe {
        let status = pod.status.clone().unwrap_or_default();
        let (containers, name) = match &self.home {
            Home::Pods { .. } => (status.container_statuses, "probe".to_owned()),
            Home::Beside { .. } => (status.ephemeral_container_statuses, self.cast.name()),
        };
        let container = containers.unwrap_or_default().into_iter().find(|container| container.name == name);
        let rejected = status.reason.map(|reason| format!("{reason}: {}", status.message.unwrap_or_default()));
        let seen = look::Pod::from(pod);
        let absent = absent(container, rejected, seen.address.is_some());
        Probe { pod: format!("{}/{}", seen.namespace, seen.name), node: seen.node.unwrap_or_default(), address: seen.address, absent }
    }

    /// What keeps a pod that has no address, as `why` says it.
    async fn explained(&self, mut probes: Vec<Probe>) -> Vec<Probe> {
        let lacking = probes.iter_mut().filter(|probe| probe.address.is_none() && probe.absent.is_some());
        for probe in lacking.take(AT_ONCE) {
            let Some((namespace, name)) = probe.pod.split_once('/') else { continue };
            let Ok(cluster) = observe::cluster(&self.client, &Scope::pod(namespace, name)).await else { continue };
            let verdict = look::why(&cluster, namespace, name).map(|why| why.verdict);
            let told =
                cluster.events.iter().rev().find(|event| event.warning).map(|event| format!("; {}: {}", event.reason, event.message));
            if let Ok(verdict) = verdict {
                probe.absent = Some(format!("{verdict}{}", told.unwrap_or_default()));
            }
        }
        probes
    }

    /// The address of the Service before the probes; none where the pods are another's.
    pub(super) async fn service(&self) -> anyhow::Result<Option<String>> {
        match self.home {
            Home::Beside { .. } => Ok(None),
            Home::Pods { .. } => {
                let service = self.services().get(&self.cast.name()).await.context("cannot read the Service")?;
                Ok(service.spec.and_then(|spec| spec.cluster_ip).filter(|address| address != "None"))
            }
        }
    }

    /// Runs the probe's program in a pod, and answers what it printed.
    pub(super) async fn exec(&self, pod: &str, command: &[&str], deadline: Duration) -> anyhow::Result<String> {
        let container = match self.home {
            Home::Pods { .. } => "probe".to_owned(),
            Home::Beside { .. } => self.cast.name(),
        };
        let name = pod.rsplit_once('/').map_or(pod, |(_, name)| name);
        exec(&self.pods(), name, &container, command, deadline).await?.success()
    }

    /// Takes everything back that was made, and waits until it is gone.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        let mut left = self.remove().await;
        for _ in 0..AGAIN {
            if left.is_empty() {
                break;
            }
            sleep(PAUSE).await;
            left = self.remove().await;
        }
        ensure!(left.is_empty(), "what this made in namespace {} could not be removed: {}", self.cast.namespace, left.join(", "));
        self.end(&self.made.containers).await?;
        self.await_gone().await
    }

    /// What may be left if this is broken off, and how to remove it.
    pub(super) fn left(&self) -> String {
        let Cast { run, namespace, .. } = &self.cast;
        match &self.home {
            Home::Pods { owns_namespace: true, .. } => {
                format!("remove what is left with `kubectl delete namespace {namespace} --ignore-not-found`")
            }
            Home::Pods { owns_namespace: false, .. } => {
                format!("remove what is left with `kubectl delete pods,services --namespace {namespace} --selector {RUN}={run}`")
            }
            Home::Beside { .. } => "the probes in the pods end by themselves within ten minutes".into(),
        }
    }

    /// Answers what is left, and why.
    async fn remove(&self) -> Vec<String> {
        let (api, at_once) = (self.pods(), DeleteParams::default().grace_period(1));
        let removals = stream::iter(&self.made.pods).map(async |name| (format!("pod {name}"), api.delete(name, &at_once).await.map(drop)));
        let mut removals: Vec<_> = removals.buffer_unordered(AT_ONCE).collect().await;
        if self.made.service {
            let name = self.cast.name();
            removals.push((format!("service {name}"), self.services().delete(&name, &DeleteParams::default()).await.map(drop)));
        }
        if self.made.namespace {
            let name = &self.cast.namespace;
            let namespaces = Api::<Namespace>::all(self.client.clone());
            removals.push((format!("namespace {name}"), namespaces.delete(name, &DeleteParams::default()).await.map(drop)));
        }
        removals.into_iter().filter_map(|(what, removed)| gone(removed).err().map(|error| format!("{what} ({error})"))).collect()
    }

    async fn await_gone(&self) -> anyhow::Result<()> {
        let (api, of_run) = (self.pods(), ListParams::default().labels(&format!("{RUN}={}", self.cast.run)));
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let until = Instant::now() + GONE;
        loop {
            let pods = !self.made.pods.is_empty() && !api.list_metadata(&of_run).await.is_ok_and(|list| list.items.is_empty());
            let namespace = self.made.namespace && !matches!(namespaces.get_metadata_opt(&self.cast.namespace).await, Ok(None));
            if !pods && !namespace {
                return Ok(());
            }
            let name = &self.cast.namespace;
            ensure!(Instant::now() < until, "what this made in namespace {name} is being removed, and not gone after a minute");
            sleep(LOOK).await;
        }
    }

    /// Ephemeral containers cannot be removed, but end; those that cannot be told do so by themselves.
    async fn end(&self, entered: &[String]) -> anyhow::Result<()> {
        let port = self.cast.port.to_string();
        let command = [PROGRAM, "probe", "end", "--port", &port, "--token", &self.cast.run];
        let ended = stream::iter(entered).map(async |name| (name, self.exec(name, &command, Duration::from_secs(20)).await));
        let ended: BTreeMap<_, _> = ended.buffer_unordered(AT_ONCE).collect().await;
        let left: Vec<String> =
            ended.into_iter().filter_map(|(name, ended)| ended.err().map(|error| format!("{name} ({error:#})"))).collect();
        ensure!(left.is_empty(), "probes that could not be told to end, and end by themselves within ten minutes: {}", left.join(", "));
        Ok(())
    }
}

/// Why a probe takes no part yet.
fn absent(container: Option<ContainerStatus>, rejected: Option<String>, has_address: bool) -> Option<String> {
    if let Some(rejected) = rejected {
        return Some(rejected);
    }
    let Some(state) = container.and_then(|container| container.state) else { return Some("it has not started".into()) };
    if let Some(waiting) = state.waiting {
        let said = waiting.message.map(|message| format!(": {message}")).unwrap_or_default();
        return Some(format!("{}{said}", waiting.reason.unwrap_or_default()));
    }
    if let Some(ended) = state.terminated {
        return Some(format!("it ended at once with code {}: {}", ended.exit_code, ended.message.or(ended.reason).unwrap_or_default()));
    }
    (!has_address).then(|| "it has no address".into())
}

/// A namespace that was made just now has no service account for a moment, and its pods are refused.
async fn create(api: &Api<Pod>, pod: &Pod) -> kube::Result<Pod> {
    let until = Instant::now() + ACCOUNT;
    loop {
        match api.create(&PostParams::default(), pod).await {
            Err(kube::Error::Api(refused))
                if refused.code == 403 && refused.message.contains("service account") && Instant::now() < until => {}
            made => return made,
        }
        sleep(LOOK).await;
    }
}

/// What the API server refuses is not made; of what fails on the way, or takes it too long, nobody knows.
fn may_be_made<K>(made: &kube::Result<K>) -> bool {
    !matches!(made, Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 408)
}

/// Who got there first is as good.
fn gone(removed: kube::Result<()>) -> kube::Result<()> {
    match removed {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(state: serde_json::Value) -> Option<ContainerStatus> {
        let mut status = json!({"name": "probe", "image": "", "imageID": "", "ready": false, "restartCount": 0});
        status["state"] = state;
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn only_what_is_refused_is_surely_not_made() {
        let answered = |code| Err(kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::default() })));
        let made: Vec<bool> = [400, 403, 409, 429, 408, 500, 504].into_iter().map(|code| may_be_made::<()>(&answered(code))).collect();
        assert_eq!(made, [false, false, false, false, true, true, true]);
        assert!(may_be_made(&Ok(())));
    }

    #[test]
    fn what_keeps_a_probe_is_told() {
        let running = || state(json!({"running": {}}));
        assert_eq!(absent(running(), None, true), None);
        assert_eq!(absent(running(), None, false).unwrap(), "it has no address");
        let waiting = state(json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}));
        assert_eq!(absent(waiting, None, true).unwrap(), "ErrImagePull: not found");
        let ended = state(json!({"terminated": {"exitCode": 1, "message": "cannot listen on port 9480"}}));
        assert_eq!(absent(ended, None, true).unwrap(), "it ended at once with code 1: cannot listen on port 9480");
        assert_eq!(absent(None, Some("OutOfpods: too many".into()), false).unwrap(), "OutOfpods: too many");
        assert_eq!(absent(None, None, true).unwrap(), "it has not started");
    }
}
