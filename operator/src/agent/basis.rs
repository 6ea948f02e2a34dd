//! What the agent goes by: the node's object, or what was kept of it, and what follows from either for the node store.

use std::{net::Ipv4Addr, time::Duration};

use azure_vnet_crds::{AzureVnetNodeSpec, node::SlotAddress};
use azure_vnet_operator_core::{
    adoption::{self, Adopted, Judgement, Listed},
    blocks,
};
use azure_vnet_plugin::store::KeeperError;
use azure_vnet_plugin_core::{
    lease::{Quarantine, ReleaseId},
    pool::{self, ContentHash, PoolFacts},
};
use ipnet::Ipv4Net;
use jiff::Timestamp;

use super::{
    keep::{Node, Seen},
    kernel::View,
    memory::Memory,
    object::Object,
    problems::{Problems, Topic},
};

/// What the object, or what was kept of it, says.
#[derive(Debug)]
pub(super) struct Basis {
    pub(super) uid: String,
    /// With each address by itself.
    pub(super) spec: AzureVnetNodeSpec,
    /// The same as it was published, with blocks as such.
    pub(super) published: AzureVnetNodeSpec,
    pub(super) removing: Vec<SlotAddress>,
    pub(super) last_read: Option<Timestamp>,
    pub(super) listed: Listed,
    /// Whether the object is being deleted.
    pub(super) leaving: bool,
    /// Whether the spec also has what rules and CNI configuration are made of.
    pub(super) whole: bool,
    /// Of the revision, as it was when it was adopted.
    pub(super) content: ContentHash,
}

impl Node {
    /// What to go by: the object, unless it is older than what was adopted (safety rule RE3); else what was kept of it.
    pub(super) fn basis(&self, seen: &Seen, problems: &mut Problems) -> Option<Basis> {
        let durable = problems.check(Topic::StoreHealthy, "PoolUnreadable", self.keeper.adopted())?;
        let adopted = durable.as_ref().map(|pool| Adopted { revision: pool.revision, content: pool.content.0 });
        let kept = durable.map(|pool| self.kept(&pool));
        let Some(object) = &seen.object else { return kept };
        // A revision of 0 says nothing yet.
        if object.spec.revision == 0 {
            return kept;
        }
        match adoption::judge(adopted.as_ref(), &Adopted::of(&object.spec)) {
            Judgement::Adopt | Judgement::Unchanged => Some(by_object(object)),
            Judgement::Regressed(why) => {
                problems.note(Topic::PoolAdopted, "RevisionRegressed", format!("{why}; the controller will answer with a higher revision"));
                kept
            }
        }
    }

    /// What was adopted last, as far as it lies on disk.
    pub fn last_spec(&self) -> Result<AzureVnetNodeSpec, KeeperError> {
        Ok(self.keeper.adopted()?.map(|pool| self.kept(&pool).spec).unwrap_or_default())
    }

    /// What lies on disk. Where the remembered spec is not of the adopted revision, the pool record alone has to do.
    fn kept(&self, pool: &pool::Pool) -> Basis {
        let same = |memory: &&Memory| memory.spec.revision == pool.revision && adoption::content(&memory.spec) == pool.content.0;
        let remembered = self.memory.as_ref().filter(same).map(|memory| memory.spec.clone());
        let whole = remembered.is_some();
        let published = remembered.unwrap_or_else(|| bare_spec(pool));
        Basis {
            uid: pool.object_uid.clone(),
            whole,
            spec: blocks::apart(published.clone()),
            published,
            removing: vec![],
            last_read: None,
            listed: Listed::OnDiskOnly,
            leaving: false,
            content: pool.content,
        }
    }
}

fn by_object(object: &Object) -> Basis {
    let Object { uid, spec, leaving, removing, last_read, agent: _, conditions: _ } = object.clone();
    let content = ContentHash(adoption::content(&spec));
    let removing = blocks::each(&removing);
    Basis {
        uid,
        spec: blocks::apart(spec.clone()),
        published: spec,
        removing,
        last_read,
        listed: Listed::ByObject,
        leaving,
        whole: true,
        content,
    }
}

/// All that a pool record tells of its spec: enough for addresses, not for rules or the CNI configuration.
fn bare_spec(pool: &pool::Pool) -> AzureVnetNodeSpec {
    let mut spec = AzureVnetNodeSpec { revision: pool.revision, ..AzureVnetNodeSpec::default() };
    spec.addresses = pool.addresses().iter().map(|at| SlotAddress::single(at.slot, at.address)).collect();
    spec.node.subnet_prefix = pool.prefix.to_string();
    spec.effective.cool_down_seconds = pool.cool_down.as_secs();
    spec
}

pub(super) fn to_store(slot: SlotAddress) -> pool::SlotAddress {
    pool::SlotAddress { slot: slot.slot, address: slot.address }
}

/// The marker of an address: of the release that names it, or of the removal that goes on.
pub(super) fn marker(basis: &Basis, slot: SlotAddress) -> Quarantine {
    let release = basis.spec.release.iter().find(|release| release.addresses.contains(&slot));
    let release =
        release.map_or(ReleaseId { id: 0, nonce: String::new() }, |release| ReleaseId { id: release.id, nonce: release.nonce.clone() });
    Quarantine { slot: to_store(slot), object_uid: basis.uid.clone(), release }
}

/// What pods are wired by. `None`: nobody says in which subnet. `before` is the prefix of what was adopted last: a NIC that is down for a moment
/// does not change it.
pub(super) fn facts(basis: &Basis, view: &View, before: impl FnOnce() -> Option<Ipv4Net>) -> Option<PoolFacts> {
    let spec = &basis.spec;
    // The controller leaves it out where it may not read the subnet.
    let primary = spec.node.primary_address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let told = spec.node.subnet_prefix.parse().ok().filter(|prefix: &Ipv4Net| prefix.prefix_len() > 0);
    let prefix = told.or_else(|| view.prefix(&spec.node.mac, primary)).or_else(|| before().filter(|prefix| prefix.contains(&primary)))?;
    Some(PoolFacts {
        object_uid: basis.uid.clone(),
        revision: spec.revision,
        content: basis.content,
        prefix,
        // Azure's gateway is always the first host of the subnet.
        gateway: prefix.hosts().next().unwrap_or(Ipv4Addr::UNSPECIFIED),
        cool_down: Duration::from_secs(spec.effective.cool_down_seconds),
        // The uplink's saves every ADD the question.
        mtu: if spec.effective.cni.mtu > 0 { Some(spec.effective.cni.mtu) } else { view.mtu(&spec.node.mac) },
    })
}
