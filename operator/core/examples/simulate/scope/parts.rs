//! The parts of a state, each kept once, and what an event makes of the node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    hash::{DefaultHasher, Hasher as _},
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec, AzureVnetNodeStatus,
    node::{self, Cloud, IntentOp, Machine, SlotAddress},
};
use azure_vnet_operator_core::{arm::Write, decide::Send, pass::Effect, policy::Policy};

use super::{
    Bounds, NODE, Seat, State, TICK,
    side::{Side, Wait},
};
use crate::{
    agent::{self, Agent, Seen},
    cloud::{self, End, Nic, Subnet},
    controller::time,
    fault::Mutation,
    life::Pod,
    server::Server,
    store::{Disk, Store},
};

/// Things of one kind. Those that are the same by what tells them apart are one.
#[derive(Debug)]
pub struct Kept<T> {
    all: Vec<Rc<T>>,
    by_print: HashMap<u128, u32>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { all: vec![], by_print: HashMap::new() }
    }
}

impl<T> Kept<T> {
    pub fn keep(&mut self, print: u128, make: impl FnOnce(u32) -> T) -> u32 {
        *self.by_print.entry(print).or_insert_with(|| {
            let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
            self.all.push(Rc::new(make(number)));
            number
        })
    }

    pub fn get(&self, number: u32) -> Rc<T> {
        Rc::clone(&self.all[number as usize])
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }
}

/// A number that tells things apart by their text.
pub fn print(of: impl Debug) -> u128 {
    print_text(&format!("{of:?}"))
}

pub fn print_text(text: &str) -> u128 {
    let (mut first, mut second) = (DefaultHasher::new(), DefaultHasher::new());
    second.write_u8(1);
    for hasher in [&mut first, &mut second] {
        hasher.write(text.as_bytes());
    }
    u128::from(first.finish()) << 64 | u128::from(second.finish())
}

/// The machine: its agent, its store and its pods.
#[derive(Clone, Debug)]
pub struct Node {
    pub agent: Agent,
    pub store: Store,
    pub pods: BTreeMap<String, Pod>,
    /// What the agent is about to tell.
    pub report: Option<(Rc<node::Agent>, bool)>,
    /// The object that it last heard of.
    pub heard: u32,
}

#[derive(Clone, Debug)]
pub struct Azure {
    pub nic: Nic,
    pub subnet: Subnet,
}

#[derive(Debug)]
pub struct Departed {
    pub write: Box<Write>,
    pub send: Send,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OfNode {
    Look { object: Option<u32>, nic: u32, tick: u8 },
    Told,
    Binds,
    Starts(usize, Ipv4Addr),
    Finishes(usize),
    Ends(usize),
}

/// All parts of all states.
pub struct Parts<'p> {
    pub policy: &'p Policy,
    pub bounds: Bounds,
    pub objects: Kept<Arc<AzureVnetNode>>,
    pub nodes: Kept<Node>,
    pub nics: Kept<Azure>,
    pub sides: Kept<Side<'p>>,
    pub writes: Kept<Departed>,
    node_steps: HashMap<(u32, OfNode), u32>,
    pub side_steps: HashMap<(u32, super::side::Told), u32>,
    reports: HashMap<u32, u128>,
    told: HashMap<(u32, u128), u32>,
    written: HashMap<(u32, u32), u32>,
    pub departed: HashMap<u32, u32>,
    pub blanks: BTreeMap<u8, u32>,
    heard: HashMap<u32, u32>,
    /// What is stored when it begins.
    pub first: u32,
}

impl<'p> Parts<'p> {
    /// Three addresses are attached and adopted, and one of them is a pod's.
    pub fn new(policy: &'p Policy, bounds: Bounds) -> (Self, State) {
        let mut parts = Self {
            policy,
            bounds,
            objects: Kept::default(),
            nodes: Kept::default(),
            nics: Kept::default(),
            sides: Kept::default(),
            writes: Kept::default(),
            node_steps: HashMap::new(),
            side_steps: HashMap::new(),
            reports: HashMap::new(),
            told: HashMap::new(),
            written: HashMap::new(),
            departed: HashMap::new(),
            blanks: BTreeMap::new(),
            heard: HashMap::new(),
            first: 0,
        };
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/nic";
        let free = (1..=6).rev().map(|host| Ipv4Addr::new(10, 0, 0, host)).collect();
        let (mut nic, mut subnet) = (Nic::new(id, None, NODE, 0), Subnet { free, dice: None });
        nic.create(&mut subnet, 0, 0);
        nic.accept(&mut subnet, &cloud::Effect { add: (1..=3).collect(), blocks: [].into(), remove: [].into() }, (0, End::Well), 0);
        nic.finish(&mut subnet, 0);
        let addresses = nic.good().map(|(slot, address)| SlotAddress::single(slot, address)).collect();
        let machine = Machine { uid: "node".into(), boot_id: "boot".into(), ..Machine::default() };
        let (config, effective) = (policy.config.clone(), policy.effective.clone());
        let spec = AzureVnetNodeSpec { node: machine, config, effective, revision: 1, addresses, ..AzureVnetNodeSpec::default() };
        let made = Server::new(false).apply_spec(NODE, None, spec, time(0)).unwrap_or_else(|_| unreachable!("it is the first"));
        let (nic, object) = (parts.keep_nic(Azure { nic, subnet }), parts.keep_object(&made));
        let store = Store { disk: Disk { id: "disk".into(), ..Disk::default() }, ..Store::default() };
        let heard = parts.as_heard(object);
        let mut node = Node { agent: Agent::default(), store, pods: BTreeMap::new(), report: None, heard };
        node.agent.start(Some(Arc::clone(&parts.objects.get(heard))));
        // It came up a while ago.
        let shown = &parts.nics.get(nic).nic;
        node.look(shown, -2, None);
        node.look(shown, -1, None);
        node.pods.insert("a".into(), Pod::new("a"));
        node.store.add("a", 0, |free| free.first().copied(), false);
        node.look(shown, 0, None);
        let node = parts.keep_node(node);
        let (object, node) = parts.tell(object, node);
        parts.first = object;
        let seat = |side| Seat { side, ground_is_current: false, nic_is_current: false };
        let seats = [seat(parts.keep_side(Side::new(0))); 2];
        (parts, State { tick: 0, terms: 0, object, node, nic, seats, flights: vec![], operation: None })
    }

    /// What of an object an agent goes by.
    pub fn as_heard(&mut self, object: u32) -> u32 {
        if let Some(known) = self.heard.get(&object) {
            return *known;
        }
        let mut bare = AzureVnetNode::clone(&self.objects.get(object));
        if let Some(status) = &mut bare.status {
            let cloud = status.cloud.take().map(|cloud| {
                let intent = cloud.intent.filter(|intent| intent.op == IntentOp::Remove);
                Cloud { intent, last_read_at: cloud.last_read_at, ..Cloud::default() }
            });
            *status = AzureVnetNodeStatus { cloud, ..AzureVnetNodeStatus::default() };
        }
        let heard = self.keep_object(&Arc::new(bare));
        self.heard.insert(object, heard);
        heard
    }

    /// Its version is its number here: that it is current is told apart from that.
    pub fn keep_object(&mut self, object: &Arc<AzureVnetNode>) -> u32 {
        let mut bare = AzureVnetNode::clone(object);
        bare.metadata.resource_version = None;
        self.objects.keep(print(&bare), |number| {
            bare.metadata.resource_version = Some(number.to_string());
            Arc::new(bare.clone())
        })
    }

    pub fn keep_node(&mut self, node: Node) -> u32 {
        let Node { agent, store, pods, report, heard } = &node;
        let pods: Vec<_> = pods.values().map(|pod| (&pod.shown, pod.address)).collect();
        let print = print((agent.gist(), store.gist(), pods, report, heard));
        self.nodes.keep(print, |_| node)
    }

    pub fn keep_nic(&mut self, mut azure: Azure) -> u32 {
        azure.nic.forget();
        let print = print((azure.nic.gist(), &azure.subnet));
        self.nics.keep(print, |_| azure)
    }

    /// What an event makes of the node.
    pub fn node_after(&mut self, before: u32, event: OfNode) -> u32 {
        if let Some(after) = self.node_steps.get(&(before, event)) {
            return *after;
        }
        let mut node = Node::clone(&self.nodes.get(before));
        match event {
            OfNode::Look { object, nic, tick } => {
                if let Some(object) = object {
                    node.heard = object;
                    node.agent.object = Some(Arc::clone(&self.objects.get(object)));
                }
                node.look(&self.nics.get(nic).nic, i64::from(tick), self.bounds.mutation);
            }
            OfNode::Told => node.agent.told = node.report.take(),
            OfNode::Binds => _ = node.pods.insert("b".into(), Pod::new("b")),
            OfNode::Starts(number, address) => {
                let uid = node.uid(number);
                node.store.add(&uid, i64::MAX / 2, |_| Some(address), false);
            }
            OfNode::Finishes(number) => {
                let uid = node.uid(number);
                node.pods.entry(uid).and_modify(|pod| pod.shown.finished = true);
            }
            OfNode::Ends(number) => {
                let uid = node.uid(number);
                node.store.delete(&uid, 0);
            }
        }
        let after = self.keep_node(node);
        self.node_steps.insert((before, event), after);
        after
    }

    /// The agent's report is stored.
    pub fn tell(&mut self, object: u32, node: u32) -> (u32, u32) {
        let told = self.node_after(node, OfNode::Told);
        let Some((report, behind)) = self.nodes.get(node).report.clone() else { return (object, told) };
        let number = *self.reports.entry(node).or_insert_with(|| print((&report, behind)));
        if let Some(stored) = self.told.get(&(object, number)) {
            return (*stored, told);
        }
        let mut server = self.server(object);
        let taken = server.apply_agent(NODE, &report, agent::adopted(behind)).is_ok();
        let stored = if taken { self.stored(&server, object) } else { object };
        self.told.insert((object, number), stored);
        (stored, told)
    }

    pub fn count(&self) -> [usize; 4] {
        [self.objects.len(), self.nodes.len(), self.nics.len(), self.sides.len()]
    }

    /// A server that holds this object.
    pub fn server(&self, object: u32) -> Server {
        let mut server = Server::new(true);
        server.objects.insert(NODE, Arc::clone(&self.objects.get(object)));
        server
    }

    pub fn stored(&mut self, server: &Server, before: u32) -> u32 {
        server.objects.get(&NODE).map_or(before, |object| self.keep_object(object))
    }

    /// What the write of the object that a controller waits for makes of it.
    pub fn write(&mut self, object: u32, side: u32) -> Result<u32, String> {
        if let Some(written) = self.written.get(&(object, side)) {
            return Ok(*written);
        }
        let (stored, side_of) = (self.objects.get(object), self.sides.get(side));
        let mut server = self.server(object);
        let done = match &side_of.waits {
            Some(Wait::Server(Effect::WriteSpec(spec))) => server.apply_spec(NODE, None, (**spec).clone(), time(0)),
            Some(Wait::Server(Effect::WriteStatus(cloud, conditions))) => {
                server.apply_cloud(NODE, &stored.metadata, (**cloud).clone(), conditions.clone())
            }
            Some(Wait::Server(_) | Wait::Turn(..) | Wait::Answer(_)) | None => Ok(Arc::clone(&stored)),
        };
        done.map_err(|denied| format!("the API server's rules refuse it: {denied:?}"))?;
        let written = self.stored(&server, object);
        self.written.insert((object, side), written);
        Ok(written)
    }
}

impl Node {
    pub fn uid(&self, number: usize) -> String {
        self.pods.keys().nth(number).cloned().unwrap_or_default()
    }

    /// The agent looks at everything.
    fn look(&mut self, nic: &Nic, tick: i64, mutation: Option<Mutation>) {
        let shown: BTreeSet<Ipv4Addr> = nic.good().map(|(_, address)| address).collect();
        let now = (tick + 2) * TICK + 1;
        let (shown, beside) = (Some(shown.into()), Rc::default());
        let seen = Seen { now, boot_id: "boot", machine: "vm", pods: &self.pods, shown, beside, older: true, mutation, thorough: true };
        if let Ok(outcome) = self.agent.reconcile(&mut self.store, &seen) {
            self.report = outcome.report.filter(|report| self.agent.told.as_ref() != Some(report));
        }
    }
}
