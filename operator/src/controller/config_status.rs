//! What a config's status says: counts over its nodes, and what is wrong with all of them at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetConfig, AzureVnetConfigStatus, AzureVnetNode, CONTROLLER_MANAGER,
    config::{AddressCounts, NodeCounts, PlanCounts, PreflightFinding},
    node::Machine,
};
use azure_vnet_operator_core::{
    arm::{Error, ResourceId},
    declared::Field,
    doubles,
    first_fill::{kin, learn},
    network::Finding,
    policy::{Policy, shadowed},
    rights::Obstacle,
    size,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use serde_json::json;
use tokio::time::sleep;
use tracing::debug;

use super::{
    metrics::{AddressState, Metrics, NodeState},
    node::{Shell, provider_of},
};
use crate::{
    azure::Arm,
    controller::node::{NEWER, config_of, subscription_of},
};

/// No config's status is written more often.
const EVERY: Duration = Duration::from_secs(5);

/// What holds while a config is invalid, or not understood.
const LAST: &str = "Until then nodes go on with what was valid last";

/// What is known of the nodes of one config.
#[derive(Default)]
struct Tally {
    nodes: NodeCounts,
    addresses: AddressCounts,
    plan: PlanCounts,
    /// An older config of the same priority that counts for a node of this one.
    rival: Option<String>,
    missing: u32,
    /// What its nodes needed when they were new, by node pool.
    needs: BTreeMap<String, Vec<u16>>,
    troubles: Vec<Error>,
    /// Subnets of its nodes.
    subnets: BTreeMap<String, ResourceId>,
    /// What about them is in the way.
    findings: Vec<Finding>,
    /// Its nodes' machines.
    machines: Vec<Machine>,
    /// What Azure does not allow for them.
    obstacles: Vec<Obstacle>,
    /// Why a network of its nodes cannot be read.
    network: Option<Error>,
    /// Subscriptions of its nodes, and those of them about which Azure does not answer.
    subscriptions: BTreeSet<String>,
    silent: Vec<String>,
    /// Nodes whose objects are a newer version's.
    newer: Vec<String>,
    /// What the cluster's CRDs lack.
    outdated: Option<Finding>,
    /// Nodes whose agent says nothing.
    silent_agents: u32,
    /// Nodes whose agent is of another version than this controller.
    other_version: u32,
    /// When the oldest write that is not over was announced.
    oldest_intent: Option<Timestamp>,
}

/// Reports for ever, while this process leads.
pub async fn report<A: Arm>(shell: Arc<Shell<A>>, client: Client) {
    let api: Api<AzureVnetConfig> = Api::all(client);
    loop {
        sleep(EVERY).await;
        if !shell.leadership.is_leader_now() {
            // Another counts them now; what is said twice would be counted twice, and what is old for ever.
            measure(&shell.metrics, &BTreeMap::new(), Timestamp::now());
            shell.metrics.doubles.set(0);
            continue;
        }
        let mut tallies = tally(&*shell);
        measure(&shell.metrics, &tallies, Timestamp::now());
        let doubles = doubles::count(shell.caches.pools.state().iter().map(|pool| &**pool));
        shell.metrics.doubles.set(i64::try_from(doubles).unwrap_or(i64::MAX));
        shell.metrics.read_nics.set(i64::try_from(shell.read_nics()).unwrap_or(i64::MAX));
        for config in shell.caches.configs.unread() {
            shell.events.tell(&*config, EventType::Warning, "ConfigNotUnderstood", &not_understood(config.why().unwrap_or_default())).await;
        }
        let configs = shell.caches.configs.state();
        if let Some(percent) = configs.iter().map(|config| config.spec.arm.reserve_percent).max() {
            shell.arm.reserve(percent);
        }
        for config in configs {
            if let Err(error) = Policy::of(&config) {
                shell.events.tell(&*config, EventType::Warning, "ConfigInvalid", &format!("{error}. {LAST}.")).await;
            }
            let tally = tallies.remove(&config.name_any()).unwrap_or_default();
            let tally = Tally { outdated: shell.declared.finding(), ..tally };
            let mut status = status(&config, &tally, Timestamp::now());
            if shell.declared.lacks(Field::Learned) {
                status.learned.clear();
            }
            if config.status.as_ref() != Some(&status)
                && let Err(error) = write(&api, &config, &status).await
            {
                shell.declared.note(&error);
                debug!(config = config.name_any(), "its status was not written: {error}");
            }
        }
    }
}

/// Its status is left as it is: only its metadata can be read.
fn not_understood(why: &str) -> String {
    format!("this controller does not understand it ({why}). {LAST}; new nodes are not served by it: {NEWER}")
}

async fn write(api: &Api<AzureVnetConfig>, config: &AzureVnetConfig, status: &AzureVnetConfigStatus) -> kube::Result<()> {
    let patch = json!({
        "apiVersion": AzureVnetConfig::api_version(&()), "kind": AzureVnetConfig::kind(&()),
        "metadata": {"name": config.name_any(), "uid": config.uid()}, "status": status,
    });
    api.patch_status(&config.name_any(), &PatchParams::apply(CONTROLLER_MANAGER).force(), &Patch::Apply(patch)).await.map(drop)
}

fn tally<A: Arm>(shell: &Shell<A>) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let configs = shell.caches.configs_in_force();
    let mut needs: BTreeMap<String, u32> = BTreeMap::new();
    for node in shell.caches.nodes.state() {
        let Some(config) = config_of(&node, &configs) else { continue };
        for shadowed in shadowed(configs.iter().map(|config| &**config), &config, node.labels()) {
            tallies.entry(shadowed.name_any()).or_default().rival = Some(config.name_any());
        }
        let tally = tallies.entry(config.name_any()).or_default();
        tally.nodes.matched += 1;
        tally.subscriptions.insert(subscription_of(&node));
        if !node.spec.provider_id.is_empty() && provider_of(&node).is_err() {
            tally.nodes.refused += 1;
        }
        if shell.caches.not_understood(node.name()).is_some() {
            tally.newer.push(node.name().to_owned());
        }
        if let Some(pool) = shell.caches.pool(node.name()) {
            tally.add(&pool);
            let need = pool.status.as_ref().and_then(|status| status.cloud.as_ref()).and_then(|cloud| cloud.first_need);
            tally.needs.entry(kin(node.labels()).to_owned()).or_default().extend(need.filter(|_| pool.spec.node.uid == node.uid()));
            if let Ok(subnet) = pool.spec.node.subnet_id.parse::<ResourceId>() {
                *needs.entry(subnet.key()).or_default() += 1 + u32::from(most(&pool));
                tally.subnets.insert(subnet.key(), subnet);
            }
            tally.machines.push(pool.spec.node.clone());
            tally.network = tally.network.take().or_else(|| shell.machines.refusal(&pool.spec.node.subnet_id));
        }
        tally.troubles.extend(shell.trouble(node.name()));
    }
    for tally in tallies.values_mut() {
        let need = |subnet: &ResourceId| needs.get(&subnet.key()).copied().unwrap_or_default();
        let small = |subnet: &ResourceId| shell.too_small(subnet, need(subnet));
        tally.findings = tally.subnets.values().flat_map(|subnet| shell.findings(subnet).into_iter().chain(small(subnet))).collect();
        tally.silent = tally.subscriptions.iter().filter(|subscription| shell.arm.is_silent(subscription)).cloned().collect();
        tally.obstacles = shell.with_rights(|rights| rights.obstacles(std::mem::take(&mut tally.machines).iter()));
    }
    tallies
}

impl Tally {
    fn add(&mut self, pool: &AzureVnetNode) {
        let status = pool.status.clone().unwrap_or_default();
        let is = |type_: &str| u32::from(status.conditions.iter().any(|found| found.type_ == type_ && found.status == "True"));
        self.nodes.ready += is("Ready");
        self.nodes.in_deficit += is("InDeficit");
        self.nodes.at_capacity += is("AtCapacity");
        self.silent_agents += u32::from(status.conditions.iter().any(|found| found.type_ == "AgentAlive" && found.status == "False"));
        let agent = status.agent.unwrap_or_default();
        self.other_version += u32::from(!agent.version.is_empty() && agent.version != env!("CARGO_PKG_VERSION"));
        let cloud = status.cloud.unwrap_or_default();
        let addresses = &mut self.addresses;
        addresses.attached += u32::from(cloud.attached);
        addresses.used += u32::from(agent.counts.assigned);
        addresses.free += u32::from(agent.counts.free);
        addresses.cooling += u32::from(agent.counts.cooling);
        addresses.releasing += u32::from(size::addresses(pool.spec.release.iter().flat_map(|release| &release.addresses)));
        addresses.lost += u32::from(size::addresses(&pool.spec.lost));
        if let Some(plan) = &cloud.plan {
            self.plan.nodes += 1;
            self.plan.add += count(plan.add.len());
            self.plan.remove += count(plan.remove.len());
        }
        let begun = cloud.intent.and_then(|intent| intent.created_at).map(|at| at.0);
        self.oldest_intent = self.oldest_intent.into_iter().chain(begun).min();
        self.missing += u32::from(cloud.target.saturating_sub(cloud.attached));
    }
}

/// The most addresses that a node's pods can have.
fn most(pool: &AzureVnetNode) -> u16 {
    let numbers = &pool.spec.effective.pool;
    numbers.fixed.unwrap_or(numbers.max)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn measure(metrics: &Metrics, tallies: &BTreeMap<String, Tally>, now: Timestamp) {
    let sum = |of: fn(&AddressCounts) -> u32| tallies.values().map(|tally| i64::from(of(&tally.addresses))).sum();
    let set = |state, count: i64| metrics.addresses.get_or_create(&AddressState { state }).set(count);
    set("attached", sum(|counts| counts.attached));
    set("used", sum(|counts| counts.used));
    set("free", sum(|counts| counts.free));
    set("cooling", sum(|counts| counts.cooling));
    set("releasing", sum(|counts| counts.releasing));
    set("lost", sum(|counts| counts.lost));
    let nodes = |of: fn(&Tally) -> u32| tallies.values().map(|tally| i64::from(of(tally))).sum();
    let set = |state, count: i64| metrics.nodes.get_or_create(&NodeState { state }).set(count);
    set("matched", nodes(|tally| tally.nodes.matched));
    set("refused", nodes(|tally| tally.nodes.refused));
    set("ready", nodes(|tally| tally.nodes.ready));
    set("in_deficit", nodes(|tally| tally.nodes.in_deficit));
    set("at_capacity", nodes(|tally| tally.nodes.at_capacity));
    set("agent_silent", nodes(|tally| tally.silent_agents));
    set("other_version", nodes(|tally| tally.other_version));
    let oldest = tallies.values().filter_map(|tally| tally.oldest_intent).min();
    metrics.oldest_intent.set(oldest.map_or(0, |at| now.duration_since(at).as_secs().max(0)));
    metrics.deficit.set(tallies.values().map(|tally| i64::from(tally.missing)).sum());
}

fn status(config: &AzureVnetConfig, tally: &Tally, now: Timestamp) -> AzureVnetConfigStatus {
    let trouble = |reasons: &[&str]| {
        tally.troubles.iter().find(|error| reasons.contains(&error.reason())).map(|e| (e.reason(), e.remedy().into_owned()))
    };
    let conflict = tally.rival.as_ref().map(|rival| {
        let remedy = "give one of them a higher priority, or selectors that do not overlap";
        ("Conflict", format!("{rival} is older, has the same priority and selects some of the same nodes, and counts for them: {remedy}"))
    });
    let valid = Policy::of(config).err().map(|error| ("Invalid", format!("{error}. {LAST}"))).or(conflict);
    let credentials = trouble(&["CredentialsRefused"]);
    let vital = tally.obstacles.iter().filter(|obstacle| obstacle.is_vital());
    let refused = trouble(&["PermissionMissing", "ScopeLocked", "NodeResourceGroupLockdown", "DisallowedByPolicy", "WriteForbidden"]);
    let permissions =
        vital.clone().next().map(|first| (first.reason(), joined(vital.map(|obstacle| obstacle.finding().message)))).or(refused);
    let peerings = tally.network.as_ref().map(|error| {
        let until = "Until then pods keep their own address towards their subnet and masquerade.nonMasqueradeCIDRs only.";
        (error.reason(), format!("{} {until}", error.remedy()))
    });
    let network = tally.outdated.iter().chain(&tally.findings).map(|found| PreflightFinding {
        reason: found.reason.into(),
        message: found.message.clone(),
        ..PreflightFinding::default()
    });
    let findings: Vec<PreflightFinding> = tally.obstacles.iter().map(Obstacle::finding).chain(network).take(256).collect();
    let reason =
        tally.obstacles.first().map(Obstacle::reason).or(tally.outdated.iter().chain(&tally.findings).next().map(|found| found.reason));
    let preflight = reason.map(|reason| (reason, joined(findings.iter().map(|found| found.message.clone()))));
    let degraded = tally.silent.first().map(|_| {
        let works = "Pods start and stop with the addresses that their nodes have; none are attached or given back until it answers";
        let remedy = "check the way to Azure Resource Manager (DNS, proxy, firewall), and the state of Azure";
        ("AzureUnavailable", format!("Azure does not answer for subscription {}. {works}: {remedy}.", tally.silent.join(", ")))
    });
    let newer = tally.newer.first().map(|_| {
        let names: Vec<&str> = tally.newer.iter().take(10).map(String::as_str).collect();
        let what = "hold what this controller does not understand: nothing is written for them, and pods go on with what they have";
        ("ObjectNotUnderstood", format!("{} AzureVnetNode objects {what}; {NEWER}: {}", tally.newer.len(), names.join(", ")))
    });
    let degraded = degraded.or(newer);
    let ready = valid.clone().or_else(|| credentials.clone()).or_else(|| permissions.clone());
    // Healthy is True for the first six and False for the others.
    let found = [
        ("Ready", ready, true, "InForce"),
        ("ConfigValid", valid, true, "Valid"),
        ("CredentialsValid", credentials, true, "Accepted"),
        ("PermissionsOk", permissions, true, "Sufficient"),
        ("PeeringsKnown", peerings, true, "Read"),
        ("PreflightPassed", preflight, true, "Passed"),
        ("Throttled", trouble(&["Throttled"]), false, "WithinBudget"),
        ("SubnetExhausted", trouble(&["SubnetExhausted"]), false, "AddressesLeft"),
        ("Degraded", degraded, false, "AzureAnswers"),
    ];
    let old = config.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let learned = config.status.as_ref().map(|status| status.learned.as_slice()).unwrap_or_default();
    let conditions = found.map(|(type_, problem, healthy, well)| {
        let status = if problem.is_none() == healthy { "True" } else { "False" };
        let same = old.iter().find(|old| old.type_ == type_ && old.status == status);
        let (reason, message) = problem.unwrap_or((well, String::new()));
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_transition_time: same.map_or_else(|| seconds(now), |old| old.last_transition_time.clone()),
            observed_generation: None,
        }
    });
    AzureVnetConfigStatus {
        observed_generation: config.metadata.generation.unwrap_or_default(),
        nodes: tally.nodes.clone(),
        addresses: tally.addresses.clone(),
        learned: learn(learned, tally.needs.clone()),
        plan: tally.plan.clone(),
        preflight: findings,
        conditions: conditions.into(),
    }
}

/// Messages in one, at most as long as a condition's may be.
fn joined(messages: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = messages.collect();
    all.join(". ").chars().take(32_768).collect()
}

/// Times of the API have no fractions: with them nothing would ever equal what was stored.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::{AzureVnetConfigSpec, config::Learned};
    use azure_vnet_operator_core::first_fill::First;

    use super::*;

    #[test]
    fn a_status_that_is_stored_is_not_written_again() {
        let mut config = AzureVnetConfig::new("c", AzureVnetConfigSpec::default());
        let mut tally = Tally::default();
        tally.troubles.push(Error::credentials("no".into()));
        let first = status(&config, &tally, "2026-01-01T00:00:00.5Z".parse().unwrap());
        config.status = Some(serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap());
        assert_eq!(status(&config, &tally, "2026-01-02T00:00:00Z".parse().unwrap()), first);
        let ready = first.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "CredentialsRefused"));
        let second = status(&config, &Tally::default(), "2026-01-02T00:00:00Z".parse().unwrap());
        let unusual = |condition: &&Condition| {
            (condition.status == "True") == ["Throttled", "SubnetExhausted", "Degraded"].contains(&&*condition.type_)
        };
        assert_eq!(second.conditions.iter().find(unusual), None);
    }

    #[test]
    fn nodes_are_counted_by_what_is_to_be_said_of_them_and_a_write_by_its_age() {
        let pool = |version: &str, alive: &str, begun: Option<&str>| {
            let status = json!({
                "agent": {"version": version}, "cloud": {"intent": begun.map(|at| json!({"createdAt": at}))},
                "conditions": [{"type": "AgentAlive", "status": alive, "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            });
            let mut pool = AzureVnetNode::new("n", azure_vnet_crds::AzureVnetNodeSpec::default());
            pool.status = Some(serde_json::from_value(status).unwrap());
            pool
        };
        let (mut tally, metrics) = (Tally::default(), Metrics::default());
        tally.add(&pool(env!("CARGO_PKG_VERSION"), "True", Some("2026-01-01T00:09:00Z")));
        tally.add(&pool("0.0.9", "True", Some("2026-01-01T00:05:00Z")));
        tally.add(&pool("", "False", None));
        measure(&metrics, &BTreeMap::from([("c".to_owned(), tally)]), "2026-01-01T00:10:00Z".parse().unwrap());
        let nodes = |state| metrics.nodes.get_or_create(&NodeState { state }).get();
        assert_eq!((nodes("agent_silent"), nodes("other_version"), metrics.oldest_intent.get()), (1, 1, 300));
        measure(&metrics, &BTreeMap::new(), "2026-01-01T00:10:00Z".parse().unwrap());
        assert_eq!((nodes("other_version"), metrics.oldest_intent.get()), (0, 0), "who does not lead counts nothing");
    }

    #[test]
    fn crds_that_are_older_than_the_controller_are_told_of() {
        let mut outdated = azure_vnet_operator_core::declared::Undeclared::default();
        outdated.refused("(/n; azure-vnet.dev/v1alpha1, Kind=AzureVnetNode): .status.cloud.x: field not declared in schema");
        let tally = Tally { outdated: outdated.finding(), ..Tally::default() };
        let status = status(&AzureVnetConfig::new("c", AzureVnetConfigSpec::default()), &tally, "2026-01-01T00:00:00Z".parse().unwrap());
        let preflight = status.conditions.iter().find(|condition| condition.type_ == "PreflightPassed").unwrap();
        assert_eq!((preflight.status.as_str(), preflight.reason.as_str()), ("False", "CrdsOutdated"));
        assert!(preflight.message.contains("kubectl apply --server-side") && status.preflight[0].reason == "CrdsOutdated", "{preflight:?}");
    }

    #[test]
    fn what_new_nodes_needed_is_kept_in_the_status_and_outlives_them() {
        let mut config = AzureVnetConfig::new("c", AzureVnetConfigSpec::default());
        let tally = Tally { needs: BTreeMap::from([("a".to_owned(), vec![3, 20, 40])]), ..Tally::default() };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        config.status = Some(status(&config, &tally, now));
        let later = status(&config, &Tally::default(), now);
        assert_eq!(later.learned, [Learned { pool: "a".into(), nodes: 3, needed: 20 }]);
        let first = |pool: &str| {
            let labels = BTreeMap::from([("agentpool".to_owned(), pool.to_owned())]);
            Policy::of(&config).unwrap().for_kin(&config, &labels).first
        };
        assert_eq!((first("a"), first("b")), (First::Learned(20), First::Learned(0)));
    }

    #[test]
    fn a25_that_azure_does_not_answer_is_told_with_what_still_works() {
        let mut config = AzureVnetConfig::new("c", AzureVnetConfigSpec::default());
        let tally = Tally { silent: vec!["s1".into()], ..Tally::default() };
        let degraded = |status: &AzureVnetConfigStatus| {
            let found = status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
            (found.status.clone(), found.reason.clone(), found.message.clone(), found.last_transition_time.0.to_string())
        };
        config.status = Some(status(&config, &tally, "2026-01-01T00:00:00Z".parse().unwrap()));
        let (is, reason, message, since) = degraded(&status(&config, &tally, "2026-01-01T01:00:00Z".parse().unwrap()));
        assert_eq!((is.as_str(), reason.as_str(), since.as_str()), ("True", "AzureUnavailable", "2026-01-01T00:00:00Z"));
        assert!(message.contains("subscription s1. Pods start and stop"), "{message}");
        let well = degraded(&status(&config, &Tally::default(), "2026-01-01T02:00:00Z".parse().unwrap()));
        assert_eq!((well.0.as_str(), well.3.as_str()), ("False", "2026-01-01T02:00:00Z"));
    }
}
