//! One pass over one node: observe, let it be decided, do that, and again until nothing is left to do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, EXHAUSTED_TAINT, POOL_OVERRIDE, UNMANAGED, config::Exhaustion};
use azure_vnet_operator_core::{
    arm::{Class, Error, ResourceId},
    decide::{Send, may_vanish},
    declared::Field,
    exhaustion::{Marking, Start, is_out, is_to_bear, mark},
    full::FullSubnets,
    network::{Cluster, Finding},
    nic::Nic,
    pass::{Pass, newer},
    policy::{Policy, choose},
    provider::{ProviderId, Unmanaged},
};
use jiff::Timestamp;
use kube::{Api, ResourceExt as _, runtime::events::EventType};
use tracing::{debug, info, warn};

use super::{
    clock::Clock,
    declared::Declared,
    events::Events,
    kinds::{Node, is_held},
    leader::Leadership,
    machine::Machines,
    metrics::Metrics,
    pools::{Pools, is_conflict},
    rights::Rights,
    taints::{self, Closed, Repair},
    watch::Caches,
    work::{Known, Work, subject},
};
use crate::{
    Shutdown,
    azure::{Arm, subscriptions::of_path},
};

/// What to do about an object that is not understood.
pub const NEWER: &str = "run the version that wrote it, or a newer one";
/// Grace of a config that is gone.
const GRACE: Duration = Duration::from_mins(6);

/// What passes need; shared by all.
pub struct Shell<A> {
    /// Resource Manager.
    pub arm: Arc<A>,
    /// Machines and networks.
    pub machines: Machines<A>,
    /// Whether to act at all.
    pub leadership: Leadership,
    /// What the API server holds.
    pub caches: Caches,
    /// Where pools are written.
    pub pools: Pools,
    /// Where nodes are patched.
    pub nodes: Api<Node>,
    /// For users.
    pub events: Events,
    /// For operators.
    pub metrics: Metrics,
    /// Which fields the API server does not know.
    pub declared: Declared,
    /// Time, as decisions see it.
    pub clock: Clock,
    /// Whether to come to an end: nothing is begun any more.
    pub leaving: Shutdown,
    pub(super) known: Mutex<BTreeMap<String, Known>>,
    full: Mutex<FullSubnets>,
    free: Mutex<BTreeMap<String, u32>>,
    troubles: Mutex<BTreeMap<String, Error>>,
    cluster: Mutex<Cluster>,
    rights: Mutex<Rights>,
}

/// A node that may ask for addresses of a full subnet: as long as its pass lasts, however that ends.
struct Asking<'a> {
    full: &'a Mutex<FullSubnets>,
    node: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).done(self.node);
    }
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The API server's words.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// Another leads now.
    #[error("leadership ended")]
    Deposed,
    /// A defect.
    #[error("the pass does not come to an end")]
    Endless,
}

impl<A: Arm> Shell<A> {
    /// One that knows nothing yet.
    pub fn new(arm: Arc<A>, leadership: Leadership, caches: Caches, client: &kube::Client, metrics: Metrics, leaving: Shutdown) -> Self {
        Self {
            machines: Machines::new(Arc::clone(&arm)),
            arm,
            caches,
            pools: Pools::new(client.clone()),
            nodes: Api::all(client.clone()),
            events: Events::new(client.clone(), leadership.identity()),
            leadership,
            metrics,
            declared: Declared::default(),
            clock: Clock::start(),
            leaving,
            known: Mutex::default(),
            full: Mutex::default(),
            free: Mutex::default(),
            troubles: Mutex::default(),
            cluster: Mutex::default(),
            rights: Mutex::default(),
        }
    }

    /// Begins a new term with a clock that is right, when the clock is not: a machine that slept would give intents an end that is over, and never send
    /// again. What is known of nodes counts for one term only.
    pub fn keep_time(&self) {
        if self.clock.is_off() {
            warn!("the time of day went another way than the controller's clock: setting it, in a new term");
            self.leadership.resign();
            self.clock.set();
        }
    }

    /// Nodes with a removal that is recorded and not over.
    pub fn removing(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(_, known)| known.of_pass.removes()).map(|(name, _)| name.clone()).collect()
    }

    /// How many NICs were read in this term, by passes that have come to their end.
    pub fn read_nics(&self) -> usize {
        let Some(nonce) = self.leadership.nonce() else { return 0 };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|known| known.of_pass.has_read(&nonce)).count()
    }

    /// Asks something of every NIC that was read, by its Node's UID. Passes need not wait for the answers.
    pub(super) fn nics<T>(&self, ask: impl Fn(&str, &Nic) -> Option<T>) -> Vec<T> {
        let nics: Vec<(String, Nic)> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().filter_map(|known| Some((known.of_pass.uid().to_owned(), known.of_pass.nic.clone()?))).collect()
        };
        nics.iter().filter_map(|(uid, nic)| ask(uid, nic)).collect()
    }

    /// One pass. Returns when to come again though nothing happens.
    ///
    /// # Errors
    /// What broke it off; it is to be repeated.
    pub async fn pass(&self, name: &str) -> Result<Option<Duration>, Broken> {
        let look_again = self.reopen(name).await;
        Ok(self.serve(name).await?.into_iter().chain(look_again).min())
    }

    /// Opens a node to pods again that an uninstallation closed and was killed; when to look again, while one is under way.
    async fn reopen(&self, name: &str) -> Option<Duration> {
        let node = self.caches.node(name).filter(|_| self.leadership.is_leader_now())?;
        match taints::closed(&node, Timestamp::now())? {
            Closed::For(rest) => Some(rest),
            Closed::Left(repair) => {
                warn!(node = name, "an uninstallation that was broken off had closed it to pods");
                self.mend_taints(&node, repair).await;
                None
            }
        }
    }

    async fn serve(&self, name: &str) -> Result<Option<Duration>, Broken> {
        let nonce = self.leadership.nonce().ok_or(Broken::Deposed)?;
        if let Some(why) = self.caches.not_understood(name) {
            self.tell_of_newer(name, &why).await;
            return Ok(None);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name).unwrap_or_default();
        // Asked for before the node is looked up: a cordon that comes between the two is noted for the next pass.
        let was_cordoned = self.caches.cordons.take(name);
        let node = self.caches.node(name);
        let (Some(node), object) = (node, newer(self.caches.pool(name), known.of_pass.take_object(&nonce))) else {
            self.note(name, None);
            return self.farewell(self.caches.pool(name).as_deref()).await;
        };
        if let Some(object) = object.as_ref().filter(|object| object.metadata.deletion_timestamp.is_some()) {
            return self.farewell(Some(&**object)).await;
        }
        let Some((policy, provider)) = self.managed(&node, object.as_deref()).await else {
            if let Some(repair) = taints::unmarked(&node) {
                self.mend_taints(&node, repair).await;
            }
            return Ok(None);
        };
        let look_again = self.repair(&node, object.as_deref(), &policy, &mut known.mark_wrong_since).await;
        let subject = subject(&node, &policy, self.leadership.identity(), &nonce);
        let masquerade = &policy.effective.masquerade;
        let boot = subject.node.boot_id.clone();
        let target = known.target.take().filter(|_| known.of_pass.is_of(&subject) && known.boot == boot);
        let mut work = Work { shell: self, node: &node, provider: &provider, target, masquerade };
        let mut of_pass = known.of_pass.renewed(&subject, object);
        if was_cordoned {
            of_pass.note_cordon();
        }
        let mut pass = Pass::new(subject.clone(), of_pass);
        let asking = Asking { full: &self.full, node: name };
        let result = work.run(&mut pass).await;
        drop(asking);
        let mut of_pass = pass.into_known();
        // After what pods wait for: the network's read takes its turn among the requests to Azure.
        let publish = (result.is_ok() && work.describe_anew(&mut of_pass).await).then_some(Duration::ZERO);
        let known = Known { of_pass, target: work.target, boot, ..known };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), known);
        result.map(|wake| wake.into_iter().chain(look_again).chain(publish).min())
    }

    /// Says why a node is left alone (fault O6).
    async fn tell_of_newer(&self, name: &str, why: &str) {
        if let Some(node) = self.caches.node(name) {
            let message = format!("its AzureVnetNode is left alone, since this controller does not understand it ({why}); {NEWER}");
            self.events.tell(&*node, EventType::Warning, "ObjectNotUnderstood", &message).await;
        }
    }

    /// What a node is served by: its config, or, where none selects it or that was never seen valid, what its object was last written by.
    async fn policy(&self, node: &Node, object: Option<&AzureVnetNode>) -> Option<Policy> {
        let last = object.filter(|object| object.spec.node.uid == node.uid()).and_then(|object| Policy::kept(&object.spec));
        // Whether it selects the node, and before which others, it does not say: no other takes its place.
        if last.as_ref().is_some_and(|last| self.caches.is_unread(&last.config.name)) {
            return last;
        }
        let Some(config) = config_of(node, &self.caches.configs_in_force()) else {
            if let Some(last) = &last {
                let message = format!(
                    "no AzureVnetConfig selects the node: it goes on with what {} said, and gives no address back; apply one that selects it",
                    last.config.name
                );
                self.events.tell(node, EventType::Warning, "NoConfig", &message).await;
            }
            return last;
        };
        match Policy::of(&config) {
            Ok(policy) => Some(self.of_node(policy.for_kin(&config, node.labels()), &config, node).await),
            Err(_) => last,
        }
    }

    /// The same with what the node's own annotation says.
    async fn of_node(&self, policy: Policy, config: &AzureVnetConfig, node: &Node) -> Policy {
        match node.annotation(POOL_OVERRIDE).map(|text| policy.overridden(config, text)) {
            Some(Ok(overridden)) => overridden,
            Some(Err(refused)) => {
                self.events.tell(node, EventType::Warning, "OverrideRefused", &refused.to_string()).await;
                policy
            }
            None => policy,
        }
    }

    /// What a node is served by and its place in Azure, if it is to be managed.
    async fn managed(&self, node: &Node, object: Option<&AzureVnetNode>) -> Option<(Policy, ProviderId)> {
        if !is_ours(node) {
            return None;
        }
        let mut policy = self.policy(node, object).await?;
        if self.declared.lacks(Field::Mode) {
            policy.effective.mode = None;
        }
        if self.declared.lacks(Field::ForController) {
            policy.effective.controller = None;
        }
        // What Azure may have done is better known before anything goes.
        policy.release.enabled &= !self.arm.is_silent(&subscription_of(node));
        match provider_of(node) {
            Ok(provider) => Some((policy, provider)),
            Err(unmanaged) => {
                // A node has no provider id for the first moments of its life.
                if !node.spec.provider_id.is_empty() {
                    self.events.tell(node, EventType::Warning, "NodeNotManaged", &unmanaged.to_string()).await;
                }
                None
            }
        }
    }

    /// Notes how the last request to Azure for a node ended.
    pub fn note(&self, name: &str, trouble: Option<&Error>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(error) => drop(troubles.insert(name.to_owned(), error.clone())),
            None => drop(troubles.remove(name)),
        }
    }

    /// Notes what Kubernetes uses.
    pub fn note_cluster(&self, cluster: Cluster) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    }

    /// What about a subnet with nodes is in the way.
    pub fn findings(&self, subnet: &ResourceId) -> Vec<Finding> {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.machines.network_of(subnet).map(|network| network.findings(subnet, &cluster)).unwrap_or_default()
    }

    /// What is in the way where all pools in a subnet together need so many addresses.
    pub fn too_small(&self, subnet: &ResourceId, need: u32) -> Option<Finding> {
        self.machines.network_of(subnet)?.subnet(subnet)?.too_small(need)
    }

    /// What Azure says of the controller's rights, under their lock.
    pub(super) fn with_rights<T>(&self, look: impl FnOnce(&mut Rights) -> T) -> T {
        look(&mut self.rights.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What lately went wrong in Azure for a node.
    pub fn trouble(&self, name: &str) -> Option<Error> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Takes the start-up taint off a node whose agent serves it, and marks one that is out of addresses. When to look again, if that is soon.
    async fn repair(
        &self,
        node: &Node,
        object: Option<&AzureVnetNode>,
        policy: &Policy,
        wrong_since: &mut Option<Timestamp>,
    ) -> Option<Duration> {
        let object = object?;
        let status = object.status.as_ref()?;
        let agent = status.agent.as_ref()?;
        let uid = object.uid().unwrap_or_default();
        if !taints::is_served(node, &uid, &object.spec.node.uid, Some(agent)) {
            return None;
        }
        let start = match policy.exhaustion {
            Some(Exhaustion::Taint) | None => Start::of(status, agent),
            Some(Exhaustion::ConditionOnly) => Start::Supplied,
        };
        let (out, marked) = (is_out(status, agent, self.is_exhausted(&object.spec.node.subnet_id)), node.has_taint(EXHAUSTED_TAINT));
        let marking = mark(is_to_bear(policy.exhaustion, out, marked), marked, wrong_since, Timestamp::now());
        let look_again = if let Marking::Wait(rest) = marking { Some(rest) } else { None };
        if let Some(repair) = taints::plan(node, &policy.startup_taint, start, marking, Timestamp::now()) {
            self.mend_taints(node, repair).await;
        }
        look_again
    }

    async fn mend_taints(&self, node: &Node, repair: Repair) {
        match taints::apply(&self.nodes, node.name(), repair).await {
            Ok(()) => info!(node = node.name(), "its taints are in order"),
            // Its change makes the node due again.
            Err(error) if is_conflict(&error) => debug!(node = node.name(), "the node changed before its taints were set"),
            // The node's addresses must not wait for it.
            Err(error) => warn!(node = node.name(), "its taints cannot be changed: {error}"),
        }
    }

    /// Lets the object of a node that is gone, or one that somebody deletes, go once no write may land any more (safety rule RE4).
    async fn farewell(&self, object: Option<&AzureVnetNode>) -> Result<Option<Duration>, Broken> {
        let Some(object) = object.filter(|object| is_held(object)) else { return Ok(None) };
        let Some(deleted) = object.metadata.deletion_timestamp.as_ref().map(|at| at.0) else { return Ok(None) };
        let config = self.caches.configs_in_force().into_iter().find(|config| config.name_any() == object.spec.config.name);
        let grace =
            config.and_then(|config| Policy::of(&config).ok()).or_else(|| Policy::kept(&object.spec)).map_or(GRACE, |policy| policy.grace);
        let cloud = object.status.as_ref().and_then(|status| status.cloud.as_ref());
        if !may_vanish(cloud, deleted, grace, self.clock.now()) {
            return Ok(Some(Duration::from_secs(15)));
        }
        match self.pools.release(object).await {
            Err(error) if !is_conflict(&error) => Err(error.into()),
            Ok(()) | Err(_) => Ok(None),
        }
    }

    /// Whether Azure lately had no address left in a subnet.
    pub fn is_exhausted(&self, subnet: &str) -> bool {
        self.full().is_full(subnet, self.clock.now())
    }

    /// Whether a node is to wait before it asks Azure for addresses of a subnet, and how long; if not, it asks until it is [`FullSubnets::done`].
    pub fn wait(&self, subnet: &str, node: &str, starving: bool) -> Option<Duration> {
        self.full().wait(subnet, node, starving, self.clock.now())
    }

    /// Notes what the end of a write tells about the room in a subnet.
    pub fn note_room(&self, subnet: &str, send: &Send, result: Result<(), &Error>) {
        let now = self.clock.now();
        let adds = !send.change.add.is_empty();
        match result {
            Ok(()) if adds => self.full().granted(subnet, now),
            Ok(()) => self.full().widened(subnet, now),
            Err(error) if error.class == Class::SubnetFull && adds && !send.generous => self.full().refused(subnet, now),
            Err(_) => {}
        }
    }

    fn full(&self) -> MutexGuard<'_, FullSubnets> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many addresses a subnet has left by Azure's last count, if there was one.
    pub fn free(&self, subnet: &str) -> Option<u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).get(&subnet.to_ascii_lowercase()).copied()
    }

    /// Notes how many addresses each subnet has left; of others nothing is known.
    pub fn note_free(&self, free: BTreeMap<String, u32>) {
        let mut known = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wider = |(subnet, free): &(&String, &u32)| known.get(*subnet).is_some_and(|before| free > &before);
        for (subnet, _) in free.iter().filter(is_wider) {
            self.full().widened(subnet, self.clock.now());
        }
        *known = free;
    }
}

/// The config of these that counts for a node.
pub fn config_of(node: &Node, configs: &[Arc<AzureVnetConfig>]) -> Option<Arc<AzureVnetConfig>> {
    let name = choose(configs.iter().map(|config| &**config).filter(|_| is_ours(node)), node.labels())?.name_any();
    configs.iter().find(|config| config.name_any() == name).map(Arc::clone)
}

/// Whether a node may be served at all.
fn is_ours(node: &Node) -> bool {
    matches!(node.status.node_info.operating_system.as_str(), "" | "linux") && node.annotation(UNMANAGED) != Some("true")
}

/// The subscription of a node's machine, in lower case; empty where it names none.
pub fn subscription_of(node: &Node) -> String {
    of_path(node.spec.provider_id.trim_start_matches("azure://"))
}

/// A node's place in Azure.
///
/// # Errors
/// When it has none.
pub fn provider_of(node: &Node) -> Result<ProviderId, Unmanaged> {
    node.spec.provider_id.parse()
}
