//! The API server: objects with versions, the conditions under which a write is taken, and the rules of the kinds that matter for safety.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec, AzureVnetNodeStatus, FINALIZER,
    node::{Agent, Cloud},
};
use azure_vnet_operator_core::decide::Ready;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

/// A Node object.
#[derive(Clone, Debug)]
pub struct NodeObject {
    pub uid: String,
    pub boot_id: String,
    pub ready: Ready,
    pub cordoned: bool,
    pub deleting: bool,
    pub created: Timestamp,
}

/// The lease: holder, how often it was renewed, and for how long it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub holder: String,
    pub renewals: u64,
    pub version: u64,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Somebody else was quicker, or it is gone.
    Conflict,
    /// The server does not answer, or its rules refuse.
    Failed,
}

type Object = Arc<AzureVnetNode>;

/// What the server holds.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub objects: BTreeMap<usize, Object>,
    pub nodes: BTreeMap<usize, Rc<NodeObject>>,
    pub lease: Lease,
    pub down: bool,
    /// A defect: versions are not compared.
    pub lax: bool,
    version: u64,
    uids: u64,
    /// Every intent that was ever stored, by object and id.
    pub intents: BTreeSet<(String, u64)>,
}

impl Server {
    pub fn new(lax: bool) -> Self {
        Self { lax, ..Self::default() }
    }

    pub fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub fn new_uid(&mut self, kind: &str) -> String {
        self.uids += 1;
        format!("{kind}-{}", self.uids)
    }

    /// Applies a whole spec; makes the object where there is none and none is expected.
    pub fn apply_spec(
        &mut self,
        name: usize,
        expected: Option<&ObjectMeta>,
        spec: AzureVnetNodeSpec,
        now: Timestamp,
    ) -> Result<Object, Denied> {
        self.check(name, expected)?;
        let Some(stored) = self.objects.get(&name) else {
            let mut object = AzureVnetNode::new("", spec);
            object.metadata.uid = Some(self.new_uid("object"));
            object.metadata.creation_timestamp = Some(Time(whole(now)));
            object.metadata.finalizers = Some(vec![FINALIZER.into()]);
            object.status = Some(AzureVnetNodeStatus::default());
            return Ok(self.store(name, object));
        };
        let machine = &stored.spec.node.uid;
        if spec.revision < stored.spec.revision || (!machine.is_empty() && *machine != spec.node.uid) {
            return Err(Denied::Failed);
        }
        if stored.spec == spec {
            return Ok(Arc::clone(stored));
        }
        let object = AzureVnetNode { spec, metadata: stored.metadata.clone(), status: stored.status.clone() };
        Ok(self.store(name, object))
    }

    /// Applies all of the status that is the controller's.
    pub fn apply_cloud(&mut self, name: usize, expected: &ObjectMeta, cloud: Cloud, conditions: Vec<Condition>) -> Result<Object, Denied> {
        self.check(name, Some(expected))?;
        let stored = self.objects.get(&name).ok_or(Denied::Conflict)?;
        if let Some(intent) = &cloud.intent {
            self.intents.insert((stored.metadata.uid.clone().unwrap_or_default(), intent.id));
        }
        let agent = stored.status.as_ref().and_then(|status| status.agent.clone());
        let agents = stored.status.iter().flat_map(|status| &status.conditions).filter(|condition| condition.type_ == "PoolAdopted");
        let status = AzureVnetNodeStatus { cloud: Some(cloud), agent, conditions: conditions.into_iter().chain(agents.cloned()).collect() };
        if stored.status.as_ref() == Some(&status) {
            return Ok(Arc::clone(stored));
        }
        let object = AzureVnetNode { status: Some(status), metadata: stored.metadata.clone(), spec: stored.spec.clone() };
        Ok(self.store(name, object))
    }

    /// Applies what the agent reports; whoever wrote meanwhile.
    pub fn apply_agent(&mut self, name: usize, agent: &Agent, adopted: Condition) -> Result<(), Denied> {
        if self.down {
            return Err(Denied::Failed);
        }
        let stored = self.objects.get(&name).ok_or(Denied::Conflict)?;
        let said = |status: &AzureVnetNodeStatus| status.agent.as_ref() == Some(agent) && status.conditions.contains(&adopted);
        if !stored.status.as_ref().is_some_and(said) {
            let mut status = stored.status.clone().unwrap_or_default();
            status.agent = Some(agent.clone());
            status.conditions.retain(|condition| condition.type_ != "PoolAdopted");
            status.conditions.push(adopted);
            let object = AzureVnetNode { status: Some(status), metadata: stored.metadata.clone(), spec: stored.spec.clone() };
            self.store(name, object);
        }
        Ok(())
    }

    /// Marks an object for deletion, and lets it go if nothing holds it.
    pub fn delete(&mut self, name: usize, now: Timestamp) {
        let Some(stored) = self.objects.get(&name).filter(|stored| stored.metadata.deletion_timestamp.is_none()) else { return };
        let mut object = (**stored).clone();
        object.metadata.deletion_timestamp = Some(Time(whole(now)));
        self.store(name, object);
    }

    /// Takes the finalizer off an object that is being deleted: it is gone.
    pub fn let_go(&mut self, name: usize, expected: &ObjectMeta) -> Result<(), Denied> {
        self.check(name, Some(expected))?;
        self.objects.remove(&name);
        self.next_version();
        Ok(())
    }

    fn check(&self, name: usize, expected: Option<&ObjectMeta>) -> Result<(), Denied> {
        if self.down {
            return Err(Denied::Failed);
        }
        let Some(expected) = expected else { return Ok(()) };
        let same = |stored: &Object| {
            let stored = &stored.metadata;
            stored.uid == expected.uid && (self.lax || stored.resource_version == expected.resource_version)
        };
        if self.objects.get(&name).is_some_and(same) { Ok(()) } else { Err(Denied::Conflict) }
    }

    fn store(&mut self, name: usize, mut object: AzureVnetNode) -> Object {
        object.metadata.resource_version = Some(self.next_version().to_string());
        let object = Arc::new(object);
        self.objects.insert(name, Arc::clone(&object));
        object
    }
}

/// As the server keeps times.
pub fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

impl Server {
    /// Goes on counting versions from here, if that is later.
    pub fn resume(&mut self, version: u64) {
        self.version = self.version.max(version);
        self.lease.version += 1;
    }
}
