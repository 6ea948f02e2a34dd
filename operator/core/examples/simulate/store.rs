//! The node store as a model: what lies on disk, what lies in memory until the next boot, and what the kernel has. Its steps and their order are
//! those of the product's store, which is tried on real files and a real kernel elsewhere; each step may be the last before a kill.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    rc::Rc,
};

use azure_vnet_crds::{AzureVnetNodeSpec, node::SlotAddress};

/// One address's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Leased(String),
    Cooling { since: i64 },
    Quarantined(SlotAddress),
}

/// The pool that was adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub uid: String,
    pub revision: u64,
    pub content: u64,
    pub addresses: Rc<BTreeSet<SlotAddress>>,
}

/// What survives a boot.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub id: String,
    /// Which disk it is, whatever it says.
    pub number: u64,
    pub adopted: Option<Adopted>,
    pub markers: BTreeMap<Ipv4Addr, SlotAddress>,
    pub spec: Option<Rc<AzureVnetNodeSpec>>,
    pub machine: String,
    /// What IMDS has shown, and what of it it shows no more.
    pub shown: BTreeSet<Ipv4Addr>,
    pub hidden: BTreeSet<Ipv4Addr>,
}

/// What does not.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub sealed: bool,
    /// What pods may have.
    pub pool: Option<BTreeSet<Ipv4Addr>>,
    pub records: BTreeMap<Ipv4Addr, Record>,
    /// Pods whose ADD failed, until when that counts.
    pub wants: BTreeMap<String, i64>,
}

/// A node's store, and what its kernel has.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub disk: Disk,
    pub run: Run,
    /// Addresses with a pod's route, and the pod.
    pub kernel: BTreeMap<Ipv4Addr, String>,
    pub cool_down: i64,
    /// After so many more steps the agent is killed.
    pub fuse: Option<u32>,
    /// How often somebody but the agent changed something.
    pub touched: u64,
}

/// The agent was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed;

impl Store {
    /// One step that lasts.
    pub fn step(&mut self) -> Result<(), Killed> {
        match &mut self.fuse {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// ADD: leases a free address, by the pool and the records; the kernel is the last guard (safety rule ST4).
    pub fn add(&mut self, pod: &str, now: i64, choose: impl FnOnce(&[Ipv4Addr]) -> Option<Ipv4Addr>, no_cooling: bool) -> Option<Ipv4Addr> {
        let pool = self.run.pool.as_ref().filter(|_| self.run.sealed)?;
        let free = |address: &&Ipv4Addr| match self.run.records.get(*address) {
            None => true,
            Some(Record::Cooling { since }) => no_cooling || since + self.cool_down <= now,
            Some(Record::Leased(_) | Record::Quarantined(_)) => false,
        };
        let free: Vec<Ipv4Addr> = pool.iter().filter(free).filter(|address| !self.kernel.contains_key(*address)).copied().collect();
        let address = choose(&free)?;
        self.touched += 1;
        self.run.records.insert(address, Record::Leased(pod.to_owned()));
        self.kernel.insert(address, pod.to_owned());
        Some(address)
    }

    /// All that counts of it.
    pub fn gist(&self) -> impl std::fmt::Debug + '_ {
        (&self.disk, &self.run, &self.kernel)
    }

    /// What ADD may choose from where nothing rests.
    pub fn available(&self) -> Vec<Ipv4Addr> {
        let mut available = vec![];
        let look = |free: &[Ipv4Addr]| {
            available = free.to_vec();
            None
        };
        self.clone().add("", i64::MAX / 2, look, false);
        available
    }

    /// DEL: the kernel first, then the rest.
    pub fn delete(&mut self, pod: &str, now: i64) -> Option<Ipv4Addr> {
        let address = self.address_of(pod)?;
        self.touched += 1;
        self.kernel.remove(&address);
        if matches!(self.run.records.get(&address), Some(Record::Leased(_))) {
            self.run.records.insert(address, Record::Cooling { since: now });
        }
        Some(address)
    }

    pub fn address_of(&self, pod: &str) -> Option<Ipv4Addr> {
        self.kernel.iter().find(|(_, of)| *of == pod).map(|(address, _)| *address)
    }

    pub fn boot(&mut self) {
        self.touched += 1;
        self.run = Run::default();
        self.kernel.clear();
    }

    fn run_markers(&self) -> impl Iterator<Item = SlotAddress> + '_ {
        self.run.records.values().filter_map(|record| if let Record::Quarantined(at) = record { Some(*at) } else { None })
    }

    /// With both records (safety rule ST6).
    pub fn quarantined(&self) -> BTreeSet<SlotAddress> {
        self.run_markers().filter(|at| self.disk.markers.get(&at.address) == Some(at)).collect()
    }

    /// With either.
    pub fn set_aside(&self) -> BTreeSet<SlotAddress> {
        self.run_markers().chain(self.disk.markers.values().copied()).collect()
    }

    /// Links the run marker unless somebody has the address.
    fn place(&mut self, at: SlotAddress, now: i64, over_rest: bool, over_lease: bool) -> bool {
        let free = match self.run.records.get(&at.address) {
            None | Some(Record::Quarantined(_)) => true,
            Some(Record::Cooling { since }) => over_rest || since + self.cool_down <= now,
            Some(Record::Leased(_)) => over_lease,
        };
        if free {
            self.run.records.insert(at.address, Record::Quarantined(at));
        }
        free
    }

    /// Run marker, kernel, durable marker; or neither.
    pub fn complete(&mut self, at: SlotAddress, now: i64, over_rest: bool, careless: bool) -> Result<bool, Killed> {
        self.step()?;
        let placed = self.place(at, now, over_rest, careless);
        self.step()?;
        if !placed || (!careless && self.kernel.contains_key(&at.address)) {
            self.disk.markers.remove(&at.address);
            self.step()?;
            self.drop_run_marker(at);
            return Ok(false);
        }
        self.disk.markers.insert(at.address, at);
        self.step()?;
        Ok(true)
    }

    /// Sets an address aside, unless the adopted pool contradicts (safety rule RE2).
    pub fn quarantine(&mut self, at: SlotAddress, now: i64, careless: bool) -> Result<bool, Killed> {
        let contradicts = |known: &SlotAddress| known.slot == at.slot || known.address == at.address;
        if self.disk.adopted.as_ref().is_some_and(|adopted| !adopted.addresses.contains(&at) && adopted.addresses.iter().any(contradicts)) {
            return Ok(false);
        }
        self.complete(at, now, false, careless)
    }

    /// Durable marker, then run marker (safety rule ST7).
    pub fn withdraw(&mut self, at: SlotAddress) -> Result<(), Killed> {
        if self.disk.markers.get(&at.address) == Some(&at) {
            self.disk.markers.remove(&at.address);
        }
        self.step()?;
        self.drop_run_marker(at);
        self.step()
    }

    fn drop_run_marker(&mut self, at: SlotAddress) {
        if self.run.records.get(&at.address) == Some(&Record::Quarantined(at)) {
            self.run.records.remove(&at.address);
        }
    }

    /// Completes or drops what is half set aside, after a start.
    pub fn restore(&mut self, now: i64) -> Result<(), Killed> {
        let markers: BTreeSet<SlotAddress> = self.set_aside();
        for at in markers {
            self.complete(at, now, true, false)?;
        }
        Ok(())
    }

    /// Adopts a revision, in the order of safety rules ST7 and ST8.
    pub fn adopt(&mut self, adopted: &Adopted, offered: &BTreeSet<Ipv4Addr>, hold: &BTreeSet<SlotAddress>, now: i64) -> Result<(), Killed> {
        for at in hold {
            self.step()?;
            self.place(*at, now, false, false);
        }
        let lists = |at: &SlotAddress| adopted.addresses.contains(at) || hold.contains(at);
        self.disk.adopted = Some(adopted.clone());
        self.step()?;
        let run: Vec<SlotAddress> = self.run_markers().collect();
        let mut withheld: BTreeSet<Ipv4Addr> = hold.iter().map(|at| at.address).collect();
        withheld.extend(run.iter().filter(|at| lists(at)).map(|at| at.address));
        withheld.extend(self.disk.markers.values().filter(|at| lists(at)).map(|at| at.address));
        let pool = offered.iter().filter(|address| adopted.addresses.iter().any(|at| at.address == **address));
        self.run.pool = Some(pool.filter(|address| !withheld.contains(*address)).copied().collect());
        self.step()?;
        for at in run.into_iter().filter(|at| !lists(at)) {
            self.drop_run_marker(at);
        }
        self.step()?;
        self.disk.markers.retain(|_, at| lists(at));
        self.step()
    }

    /// Removes rests that have ended, and notes of ADDs that are old.
    pub fn sweep(&mut self, now: i64) {
        let cool_down = self.cool_down;
        self.run.records.retain(|_, record| !matches!(record, Record::Cooling { since } if *since + cool_down <= now));
        self.run.wants.retain(|_, until| *until > now);
    }

    /// Until when an ADD that failed counts as demand.
    pub fn want(&mut self, pod: &str, until: Option<i64>) {
        let before = self.run.wants.remove(pod);
        // Until when counts for nothing else.
        self.touched += u64::from(before.is_some() != until.is_some());
        self.run.wants.extend(until.map(|until| (pod.to_owned(), until)));
    }

    /// When the next rest or want is over.
    pub fn next_end(&self) -> i64 {
        let rests = self.run.records.values().filter_map(|record| if let Record::Cooling { since } = record { Some(*since) } else { None });
        rests.map(|since| since + self.cool_down).chain(self.run.wants.values().copied()).min().unwrap_or(i64::MAX)
    }

    pub fn leased(&self) -> impl Iterator<Item = &String> + '_ {
        self.run.records.values().filter_map(|record| if let Record::Leased(pod) = record { Some(pod) } else { None })
    }

    /// Addresses with a record of any kind but a marker.
    pub fn recorded(&self) -> BTreeSet<Ipv4Addr> {
        let records = self.run.records.iter().filter(|(_, record)| !matches!(record, Record::Quarantined(_)));
        records.map(|(address, _)| *address).collect()
    }

    /// Whether the record of an address is this pod's lease.
    pub fn is_of(&self, address: Ipv4Addr, pod: &str) -> bool {
        matches!(self.run.records.get(&address), Some(Record::Leased(of)) if of == pod)
    }

    pub fn leases(&self, address: Ipv4Addr) -> bool {
        matches!(self.run.records.get(&address), Some(Record::Leased(_)))
    }

    pub fn cooling(&self) -> usize {
        self.run.records.values().filter(|record| matches!(record, Record::Cooling { .. })).count()
    }

    pub fn free(&self) -> usize {
        self.run.pool.iter().flatten().filter(|address| !self.run.records.contains_key(*address)).count()
    }
}
