//! Caches of nodes, configs and pools. Every change makes the nodes that it concerns due.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode};
use azure_vnet_operator_core::policy::LastValid;
use futures::StreamExt as _;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::ObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::warn;

use super::{
    kinds::{Node, trim},
    queue::Queue,
    stored::{Configs, Pools, Stored},
};

/// Lists come in pages of this size (safety rule SC1).
const PAGE: u32 = 500;

/// What the API server was last heard to hold.
#[derive(Clone)]
pub struct Caches {
    /// Nodes.
    pub nodes: Store<Node>,
    /// Configs.
    pub configs: Configs,
    /// Pools, by the node's name.
    pub pools: Pools,
    /// Cordons that may be over before a pass looks.
    pub cordons: Cordons,
    /// What was in force of configs that are invalid.
    pub last_valid: Arc<Mutex<LastValid>>,
}

/// Nodes that were seen cordoned since they were last asked for: a pass that waits for Azure may outlast a cordon.
#[derive(Clone, Debug, Default)]
pub struct Cordons(Arc<Mutex<BTreeSet<String>>>);

impl Cordons {
    /// Notes a node as it was seen.
    pub fn note(&self, node: &Node) {
        if node.spec.unschedulable {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.name().to_owned());
        }
    }

    /// Whether a node was cordoned since this was last asked.
    pub fn take(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}

impl Caches {
    /// Starts to follow all three.
    pub fn follow(client: &Client, queue: &Arc<Queue>, tasks: &mut JoinSet<()>) -> Self {
        let (nodes, node_writer) = reflector::store();
        let (configs, config_writer) = reflector::store::<Stored<AzureVnetConfig>>();
        let (pools, pool_writer) = reflector::store::<Stored<AzureVnetNode>>();
        let caches = Self { nodes, configs: configs.into(), pools: pools.into(), cordons: Cordons::default(), last_valid: Arc::default() };
        let this = (Arc::clone(queue), caches.clone());
        tasks.spawn(follow(Api::all(client.clone()), node_writer, Node::trim, move |event| {
            match &event {
                Event::Apply(node) | Event::InitApply(node) => this.1.cordons.note(node),
                Event::Delete(node) => _ = this.1.cordons.take(node.name()),
                Event::Init | Event::InitDone => {}
            }
            this.1.mark(&this.0, &event);
        }));
        let this = (Arc::clone(queue), caches.clone());
        tasks.spawn(follow(Api::all(client.clone()), pool_writer, trim_all, move |event| this.1.mark(&this.0, &event)));
        let this = (Arc::clone(queue), caches.clone());
        tasks.spawn(follow(Api::all(client.clone()), config_writer, trim_all, move |event| {
            this.1.note_configs();
            // Its status is ours: only the first generation of a change concerns nodes, but telling them apart is not worth a cache.
            if !matches!(event, Event::Init | Event::InitApply(_)) {
                this.1.mark_all(&this.0);
            }
        }));
        caches
    }

    /// Returns when all three hold a whole list.
    pub async fn ready(&self) {
        // An error means that a watcher has ended, and so has this process.
        let _ = tokio::join!(self.nodes.wait_until_ready(), self.configs.wait_until_ready(), self.pools.wait_until_ready());
    }

    /// The configs as they are in force: of one that is invalid, or not understood, the last generation that was valid.
    pub fn configs_in_force(&self) -> Vec<Arc<AzureVnetConfig>> {
        let last_valid = self.last_valid.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.configs.state().iter().map(|config| last_valid.in_force(config)).collect::<Vec<_>>();
        let unread = self.configs.unread();
        read.into_iter().chain(unread.iter().filter_map(|config| last_valid.last(config.meta()))).collect()
    }

    /// Whether a config is not understood, and was not before either.
    pub fn is_unread(&self, config: &str) -> bool {
        let last_valid = self.last_valid.lock().unwrap_or_else(PoisonError::into_inner);
        let unread = |stored: Arc<Stored<AzureVnetConfig>>| stored.why().is_some() && last_valid.last(stored.meta()).is_none();
        self.configs.get(config).is_some_and(unread)
    }

    /// Notes the configs as they are; at each change.
    pub fn note_configs(&self) {
        let unread = self.configs.unread();
        let unread: Vec<&ObjectMeta> = unread.iter().map(|config| config.meta()).collect();
        self.last_valid.lock().unwrap_or_else(PoisonError::into_inner).note(&self.configs.state(), &unread);
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    /// A pool by its node's name.
    pub fn pool(&self, name: &str) -> Option<Arc<AzureVnetNode>> {
        self.pools.get(name)?.object().map(Arc::clone)
    }

    /// What is not understood of a node's pool, if something is not.
    pub fn not_understood(&self, name: &str) -> Option<String> {
        self.pools.get(name)?.why().map(str::to_owned)
    }

    /// Makes all nodes, and all pools without one, due.
    pub fn mark_all(&self, queue: &Queue) {
        for node in self.nodes.state() {
            queue.mark(node.name());
        }
        for name in self.pools.names() {
            queue.mark(&name);
        }
    }

    fn mark<K: Resource<DynamicType = ()>>(&self, queue: &Queue, event: &Event<K>) {
        match event {
            Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) => queue.mark(&object.name_any()),
            Event::Init => {}
            // What vanished between two lists has no event of its own.
            Event::InitDone => self.mark_all(queue),
        }
    }
}

fn pages() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

fn trim_all<K: Resource>(object: &mut K) {
    trim(object.meta_mut());
}

async fn follow<K, T, F>(api: Api<K>, writer: reflector::store::Writer<K>, trim: T, on_change: F)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    T: FnMut(&mut K) + Send,
    F: Fn(Event<K>) + Send,
{
    let stream = watcher::watcher(api, pages()).modify(trim).default_backoff().reflect(writer);
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => on_change(event),
            Err(error) => warn!(kind = %K::kind(&()), "the watch broke off and starts anew: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_a_cordon_is_remembered_until_it_was_asked_for_though_it_is_over() {
        let cordons = Cordons::default();
        let mut node: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n1"}, "spec": {"unschedulable": true}})).unwrap();
        cordons.note(&node);
        node.spec.unschedulable = false;
        cordons.note(&node);
        assert!(!cordons.take("n2") && cordons.take("n1"));
        assert!(!cordons.take("n1"), "it counts once");
    }

    #[test]
    fn sc1_nodes_are_listed_in_pages_of_at_most_five_hundred() {
        assert!(pages().page_size.is_some_and(|size| size <= 500));
    }
}
