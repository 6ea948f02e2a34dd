//! Keeps an `AzureVnetSubnet` for each subnet that nodes are in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use azure_vnet_crds::{AzureVnetSubnet, AzureVnetSubnetSpec, AzureVnetSubnetStatus, CONTROLLER_MANAGER};
use azure_vnet_operator_core::{
    arm::{Error, Read, ResourceId, Urgency},
    subnet::{History, Refusals, Seen, Tally, Usage, name_of, status, usages},
};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    machine::is_refusal,
    metrics::{Metrics, SubnetName},
    node::Shell,
    pools::is_conflict,
};
use crate::azure::Arm;

/// How often nodes are counted, and no status is written more often.
const LOOK: Duration = Duration::from_secs(30);
/// How often Azure is asked to count.
const COUNT: Duration = Duration::from_mins(5);

/// Azure's counts of a network's subnets, or why there are none.
type Counts = Result<BTreeMap<String, Usage>, Error>;

/// What is remembered while this process leads.
#[derive(Default)]
struct Memory {
    /// By network: when it was read, and how that ended.
    networks: BTreeMap<String, (Instant, Counts)>,
    /// By subnet.
    histories: BTreeMap<String, History>,
    /// By name of the object; none before they were listed.
    stored: Option<BTreeMap<String, AzureVnetSubnetStatus>>,
}

/// Reports for ever, while this process leads.
pub async fn report<A: Arm>(shell: Arc<Shell<A>>, client: Client) {
    let api: Api<AzureVnetSubnet> = Api::all(client);
    let (mut memory, mut refusals) = (Memory::default(), Refusals::default());
    loop {
        sleep(LOOK).await;
        if !shell.leadership.is_leader_now() {
            (memory, refusals) = (Memory::default(), Refusals::default());
            shell.metrics.forget_subnets();
            shell.note_free(BTreeMap::new());
            continue;
        }
        let tallies = tally(&*shell);
        for id in networks(&tallies) {
            memory.read(&*shell, &id).await;
        }
        shell.note_free(memory.free());
        match memory.write(&*shell, &api, &tallies).await {
            Ok(()) => refusals = Refusals::default(),
            Err(error) => {
                shell.declared.note(&error);
                complain(&mut refusals, &error);
            }
        }
    }
}

fn complain(refusals: &mut Refusals, error: &kube::Error) {
    if let kube::Error::Api(status) = error
        && let Some(refusal) = refusals.news(status.code, &status.message)
    {
        return warn!("{refusal}");
    }
    debug!("the subnets' objects were not written: {error}");
}

fn tally<A: Arm>(shell: &Shell<A>) -> BTreeMap<String, (ResourceId, Tally)> {
    let mut tallies: BTreeMap<String, (ResourceId, Tally)> = BTreeMap::new();
    for pool in shell.caches.pools.state() {
        let Ok(id) = pool.spec.node.subnet_id.parse::<ResourceId>() else { continue };
        let cloud = pool.status.as_ref().and_then(|status| status.cloud.clone()).unwrap_or_default();
        let (_, tally) = tallies.entry(id.key()).or_insert_with(|| (id, Tally::default()));
        tally.nodes += 1;
        tally.attached += u32::from(cloud.attached);
        tally.target += u32::from(cloud.target);
        tally.missing += u32::from(cloud.target.saturating_sub(cloud.attached));
    }
    tallies
}

fn networks(tallies: &BTreeMap<String, (ResourceId, Tally)>) -> Vec<ResourceId> {
    let networks: BTreeMap<String, ResourceId> =
        tallies.values().filter_map(|(id, _)| id.parent()).map(|network| (network.key(), network)).collect();
    networks.into_values().collect()
}

impl Memory {
    /// Asks Azure for a network's counts, if the last ones are old. An answer that merely did not come leaves what was known.
    async fn read<A: Arm>(&mut self, shell: &Shell<A>, network: &ResourceId) {
        let known = self.networks.get(&network.key());
        if known.is_some_and(|(at, _)| at.elapsed() < COUNT) {
            return;
        }
        let asked = Instant::now();
        let result = match (shell.arm.read(&Read::Usages(network.clone()), Urgency::Background).await, known) {
            (Ok(document), _) => {
                let usages = usages(&document.body);
                for (subnet, usage) in &usages {
                    self.histories.entry(subnet.clone()).or_default().note(Timestamp::now(), usage.used);
                }
                Ok(usages)
            }
            (Err(error), Some((_, Ok(usages)))) if !is_refusal(&error) => Ok(usages.clone()),
            (Err(error), _) => Err(error),
        };
        self.networks.insert(network.key(), (asked, result));
    }

    /// How many addresses each subnet has left.
    fn free(&self) -> BTreeMap<String, u32> {
        let counted = self.networks.values().filter_map(|(_, counts)| counts.as_ref().ok()).flatten();
        counted.map(|(subnet, usage)| (subnet.clone(), usage.limit.saturating_sub(usage.used))).collect()
    }

    /// Writes what differs, and deletes what no node is in any more.
    async fn write<A: Arm>(
        &mut self,
        shell: &Shell<A>,
        api: &Api<AzureVnetSubnet>,
        tallies: &BTreeMap<String, (ResourceId, Tally)>,
    ) -> kube::Result<()> {
        let mut stored = match self.stored.take() {
            Some(stored) => stored,
            None => api
                .list(&ListParams::default())
                .await?
                .into_iter()
                .map(|object| (object.name_any(), object.status.unwrap_or_default()))
                .collect(),
        };
        let mut gone: Vec<String> = stored.keys().cloned().collect();
        for (key, (id, tally)) in tallies {
            let name = name_of(id);
            gone.retain(|other| *other != name);
            let old = stored.get(&name).cloned();
            let status = self.status(shell, (key, id), tally.clone(), &old.clone().unwrap_or_default());
            shell.metrics.subnet(&name, &status, Timestamp::now());
            if old.as_ref() != Some(&status) {
                apply(api, &name, id, old.is_none(), &status).await?;
                stored.insert(name, status);
            }
        }
        for name in gone {
            info!(subnet = name, "no node is in this subnet any more");
            match api.delete(&name, &DeleteParams::default()).await {
                Err(error) if !is_conflict(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
            shell.metrics.forget_subnet(&name);
            stored.remove(&name);
        }
        self.stored = Some(stored);
        Ok(())
    }

    fn status<A: Arm>(
        &self,
        shell: &Shell<A>,
        (key, id): (&str, &ResourceId),
        tally: Tally,
        old: &AzureVnetSubnetStatus,
    ) -> AzureVnetSubnetStatus {
        let unread = Error::not_sent("Azure has not been asked yet");
        let usage = match id.parent().and_then(|network| self.networks.get(&network.key())) {
            Some((_, Ok(usages))) => usages.get(key).copied().ok_or(&unread),
            Some((_, Err(error))) => Err(error),
            None => Err(&unread),
        };
        let prefixes = shell
            .machines
            .network_of(id)
            .and_then(|network| network.subnet(id).map(|subnet| subnet.prefixes.iter().map(ToString::to_string).collect()));
        let history = History::default();
        let seen = Seen {
            prefixes: prefixes.unwrap_or_default(),
            tally,
            usage,
            history: self.histories.get(key).unwrap_or(&history),
            refused: shell.is_exhausted(key),
        };
        status(&seen, old, Timestamp::now())
    }
}

async fn apply(api: &Api<AzureVnetSubnet>, name: &str, id: &ResourceId, new: bool, status: &AzureVnetSubnetStatus) -> kube::Result<()> {
    let params = PatchParams::apply(CONTROLLER_MANAGER).force();
    if new {
        let spec = AzureVnetSubnetSpec { subnet_id: id.to_string() };
        api.patch(name, &params, &Patch::Apply(envelope(name, "spec", json!(spec)))).await?;
    }
    api.patch_status(name, &params, &Patch::Apply(envelope(name, "status", json!(status)))).await.map(drop)
}

fn envelope(name: &str, field: &str, content: Value) -> Value {
    let mut patch =
        json!({"apiVersion": AzureVnetSubnet::api_version(&()), "kind": AzureVnetSubnet::kind(&()), "metadata": {"name": name}});
    if let Some(patch) = patch.as_object_mut() {
        patch.insert(field.to_owned(), content);
    }
    patch
}

impl Metrics {
    fn subnet(&self, name: &str, status: &AzureVnetSubnetStatus, now: Timestamp) {
        let label = SubnetName { subnet: name.to_owned() };
        self.subnet_needs.get_or_create(&label).set(i64::from(status.needs));
        match status.free {
            Some(free) => drop(self.subnet_free.get_or_create(&label).set(i64::from(free))),
            None => drop(self.subnet_free.remove(&label)),
        }
        match &status.exhausted_at {
            Some(at) => drop(self.subnet_eta.get_or_create(&label).set(now.duration_until(at.0).as_secs().max(0))),
            None => drop(self.subnet_eta.remove(&label)),
        }
    }

    fn forget_subnet(&self, name: &str) {
        let label = SubnetName { subnet: name.to_owned() };
        for family in [&self.subnet_needs, &self.subnet_free, &self.subnet_eta] {
            family.remove(&label);
        }
    }

    fn forget_subnets(&self) {
        for family in [&self.subnet_needs, &self.subnet_free, &self.subnet_eta] {
            family.clear();
        }
    }
}
