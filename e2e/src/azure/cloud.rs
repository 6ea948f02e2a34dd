//! The emulated cloud: all state, and what happens as time goes by. Synchronous and free of I/O: the time comes in with every call, changes for
//! the fabric go out through a channel, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::command::{FabricChange, Fault};
use super::fabric::NicRef;
use super::guest::Rates;
use super::journal::Journal;
use super::ledger::Ledger;
use super::limits::Limits;
use super::operation::Operation;
use super::path::{key, last, parent, subscription_of};
use super::resource::{Group, Machine, Nic, ScaleSet, Subnet, Vnet};
use super::seed::Directory;
use super::settings::Settings;
use super::tokens::Tokens;

/// Who acts when the admin API has a foreign writer act.
pub(super) const FOREIGN: &str = "foreign-writer";

pub(super) struct Cloud {
    pub now: Duration,
    /// Unix time of the start, in seconds.
    pub epoch: i64,
    pub settings: Settings,
    /// Lower-cased.
    pub subscriptions: BTreeSet<String>,
    pub location: String,
    pub directory: Directory,
    pub groups: BTreeMap<String, Group>,
    pub vnets: BTreeMap<String, Vnet>,
    pub nics: BTreeMap<String, Nic>,
    pub machines: BTreeMap<String, Machine>,
    pub scale_sets: BTreeMap<String, ScaleSet>,
    pub operations: BTreeMap<String, Operation>,
    pub ledger: Ledger,
    pub limits: Limits,
    pub faults: Vec<Fault>,
    pub journal: Journal,
    pub tokens: Tokens,
    pub rates: Rates,
    timeline: BTreeMap<(Duration, u64), Event>,
    /// When the last change of an address towards the fabric is due: later ones never overtake it.
    last_due: BTreeMap<Ipv4Addr, Duration>,
    fabric: UnboundedSender<FabricChange>,
    serial: u64,
    random: u64,
}

/// Something that happens later.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Finish(String),
    Attach { nic: String, address: Ipv4Addr },
    Detach { nic: NicRef, address: Ipv4Addr },
    Show { nic: String, address: Ipv4Addr },
    Hide { nic: String, address: Ipv4Addr },
}

impl Cloud {
    pub fn new(
        subscriptions: &BTreeSet<String>,
        location: String,
        directory: Directory,
        settings: Settings,
        fabric: UnboundedSender<FabricChange>,
    ) -> Self {
        Self {
            now: Duration::ZERO,
            epoch: jiff::Timestamp::now().as_second(),
            settings,
            subscriptions: subscriptions.iter().map(|id| id.to_lowercase()).collect(),
            location,
            directory,
            groups: BTreeMap::new(),
            vnets: BTreeMap::new(),
            nics: BTreeMap::new(),
            machines: BTreeMap::new(),
            scale_sets: BTreeMap::new(),
            operations: BTreeMap::new(),
            ledger: Ledger::default(),
            limits: Limits::default(),
            faults: Vec::new(),
            journal: Journal::default(),
            tokens: Tokens::default(),
            rates: Rates::new(),
            timeline: BTreeMap::new(),
            last_due: BTreeMap::new(),
            fabric,
            serial: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Lets everything happen that is due at `now`.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some(entry) = self.timeline.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let event = entry.remove();
            self.happen(event);
        }
    }

    /// When the next thing is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.timeline.first_key_value().map(|((due, _), _)| *due)
    }

    pub fn schedule(&mut self, due: Duration, event: Event) {
        let serial = self.next_serial();
        self.timeline.insert((due, serial), event);
    }

    /// Has the fabric let the address through and the guest see it, after their lags.
    pub fn bring_up(&mut self, nic: &str, address: Ipv4Addr) {
        let due = self.due(address);
        self.schedule(due, Event::Attach { nic: nic.into(), address });
        let shown = self.now.saturating_add(Duration::from_millis(self.settings.guest_lag_millis));
        self.schedule(shown, Event::Show { nic: nic.into(), address });
    }

    /// The reverse of [`Self::bring_up`].
    pub fn take_down(&mut self, nic: &str, reference: Option<NicRef>, address: Ipv4Addr) {
        if let Some(nic) = reference {
            let due = self.due(address);
            self.schedule(due, Event::Detach { nic, address });
        }
        let hidden = self.now.saturating_add(Duration::from_millis(self.settings.guest_lag_millis));
        self.schedule(hidden, Event::Hide { nic: nic.into(), address });
    }

    pub fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub fn guid(&mut self) -> String {
        let serial = self.next_serial();
        format!("{:08x}-0000-4000-8000-{serial:012x}", self.random_below(u64::from(u32::MAX)))
    }

    /// An etag of the network provider.
    pub fn weak_etag(&mut self) -> String {
        format!("W/\"{}\"", self.guid())
    }

    /// How long the next operation takes.
    pub fn draw_latency(&mut self) -> Duration {
        let (low, high) = self.settings.operation_millis;
        let span = high.saturating_sub(low).saturating_add(1);
        Duration::from_millis(low.saturating_add(self.random_below(span)))
    }

    pub fn subnet(&self, id: &str) -> Option<&Subnet> {
        self.vnets.get(&key(parent(id)))?.subnet(last(id))
    }

    /// The subnet that a NIC names: Azure finds none outside of the NIC's own subscription.
    pub fn subnet_for(&self, nic: &str, id: &str) -> Option<&Subnet> {
        self.subnet(id).filter(|_| subscription_of(nic).eq_ignore_ascii_case(subscription_of(id)))
    }

    pub fn machine_of(&self, node: &str) -> Option<&Machine> {
        self.machines.values().find(|machine| machine.node == node)
    }

    /// The machine whose NIC has the address, and whether it is the NIC's primary one.
    pub fn owner_of(&self, address: Ipv4Addr) -> Option<(&Machine, bool)> {
        let tenure = self.ledger.holder(address)?;
        let nic = self.nics.get(&key(&tenure.nic))?;
        let machine = self.machines.get(&key(nic.machine.as_deref()?))?;
        Some((machine, nic.primary().is_some_and(|primary| primary.address == Some(address))))
    }

    /// Unix time, in seconds.
    pub fn unix(&self) -> i64 {
        self.epoch.saturating_add(i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX))
    }

    /// The time as ARM prints it.
    pub fn timestamp(&self, at: Duration) -> String {
        let seconds = self.epoch.saturating_add(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Finish(operation) => self.finish(&operation),
            Event::Attach { nic, address } => self.attach(&nic, address),
            Event::Detach { nic, address } => {
                self.ledger.detach(address, &nic.id);
                if let Some(own) = self.nics.get_mut(&key(&nic.id)) {
                    own.attached.retain(|other| *other != address);
                }
                self.tell(FabricChange::Detach(nic, address));
            }
            Event::Show { nic, address } => {
                if let Some(nic) = self.nics.get_mut(&nic).filter(|nic| !nic.shown.contains(&address)) {
                    nic.shown.push(address);
                }
            }
            Event::Hide { nic, address } => {
                if let Some(nic) = self.nics.get_mut(&nic) {
                    nic.shown.retain(|other| *other != address);
                }
            }
        }
    }

    fn attach(&mut self, key: &str, address: Ipv4Addr) {
        let Some((nic, reference)) = self.nics.get_mut(key).and_then(|nic| nic.fabric_ref().map(|reference| (nic, reference))) else {
            return;
        };
        nic.attached.push(address);
        self.ledger.attach(address, &reference.id);
        self.tell(FabricChange::Attach(reference, address));
    }

    fn tell(&self, change: FabricChange) {
        // Nobody listens once the cloud is being dropped.
        let _ = self.fabric.send(change);
    }

    fn due(&mut self, address: Ipv4Addr) -> Duration {
        let lagged = self.now.saturating_add(Duration::from_millis(self.settings.fabric_lag_millis));
        let due = self.last_due.get(&address).map_or(lagged, |earlier| lagged.max(*earlier));
        self.last_due.insert(address, due);
        due
    }

    /// splitmix64; the same run draws the same numbers.
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or_default()
    }
}
