//! The store on real files: leasing, keeping, and being stopped at any point. Each submodule speaks of one of these.

mod crash;
mod guarding;
mod keeping;
mod leasing;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    lease::{Entry, Quarantine, ReleaseId},
    pool::{ContentHash, PoolFacts, SealOwner, SlotAddress},
};
use tempfile::TempDir;

use super::{Adoption, Granted, Keeper, KernelLease, KernelUse, LeaseError, LeaseRequest, Store, Supply};

/// A node: its two folders, in one boot.
struct Node {
    folder: TempDir,
    boot: String,
}

impl Node {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), boot: "boot-1".into() }
    }

    /// With a sealed pool of these addresses (last octet, which is the slot too).
    fn with_pool(addresses: &[u8]) -> Self {
        let node = Self::new();
        let keeper = node.start();
        keeper.adopt(&revision(1, addresses)).unwrap();
        keeper.seal(SealOwner::Agent).unwrap();
        node
    }

    /// What the agent does at its start, before it knows a pool.
    fn start(&self) -> Keeper {
        let keeper = self.open();
        keeper.sweep().unwrap();
        keeper.rebuild_from_kernel(&[]).unwrap();
        keeper.restore_after_start(&mut free).unwrap();
        keeper
    }

    fn open(&self) -> Keeper {
        Keeper::open(&self.path("run"), &self.path("lib"), self.boot.parse().unwrap()).unwrap()
    }

    fn store(&self) -> Store {
        Store::at(&self.path("run"), self.boot.parse().unwrap())
    }

    /// Empties what a tmpfs would lose.
    fn reboot(&mut self) {
        std::fs::remove_dir_all(self.path("run")).unwrap();
        self.boot.push('1');
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

fn address(last: u8) -> Ipv4Addr {
    [10, 240, 0, last].into()
}

fn slot(last: u8) -> SlotAddress {
    SlotAddress { slot: last, address: address(last) }
}

fn revision(revision: u64, addresses: &[u8]) -> Adoption {
    let facts = PoolFacts {
        object_uid: "uid-1".into(),
        revision,
        content: ContentHash(addresses.iter().map(|&last| u64::from(last)).sum()),
        prefix: "10.240.0.0/16".parse().unwrap(),
        gateway: [10, 240, 0, 1].into(),
        cool_down: Duration::ZERO,
        mtu: None,
    };
    Adoption {
        facts,
        addresses: addresses.iter().copied().map(slot).collect(),
        offered: addresses.iter().copied().map(address).collect(),
        hold: Vec::new(),
    }
}

fn resting(mut adoption: Adoption, cool_down: Duration) -> Adoption {
    adoption.facts.cool_down = cool_down;
    adoption
}

fn holding(mut adoption: Adoption, hold: &[Quarantine]) -> Adoption {
    adoption.hold = hold.to_vec();
    adoption
}

fn marker(last: u8, id: u64) -> Quarantine {
    Quarantine { slot: slot(last), object_uid: "uid-1".into(), release: ReleaseId { id, nonce: "nonce".into() } }
}

fn attachment(container: &str) -> Attachment {
    Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
}

fn request(container: &str) -> LeaseRequest {
    LeaseRequest {
        attachment: attachment(container),
        pod: None,
        network: "azure".parse().unwrap(),
        mode: Mode::Transparent,
        host_link: "azv0".parse().unwrap(),
        netns: "/run/netns/x".parse().unwrap(),
        netns_cookie: Some(1),
        requested: None,
        supply: Supply::default(),
        avoid: BTreeMap::new(),
    }
}

fn kernel_lease(last: u8, container: &str) -> KernelLease {
    let LeaseRequest { attachment, pod, network, mode, host_link, .. } = request(container);
    KernelLease { address: address(last), attachment, host_link, pod, network, mode, netns: None }
}

fn free(_: Ipv4Addr) -> KernelUse {
    KernelUse::Free
}

fn used(_: Ipv4Addr) -> KernelUse {
    KernelUse::Used("the test".into())
}

/// Leases, answers, and goes.
fn add(store: &Store, container: &str) -> Result<Ipv4Addr, LeaseError> {
    let granted = store.lease(&request(container), &mut free)?;
    granted.confirm()?;
    Ok(granted.held.lease().address)
}

fn delete(store: &Store, container: &str) {
    if let Some(held) = store.find(&attachment(container)).unwrap() {
        held.cool().unwrap();
    }
}

/// Leases until nothing is free.
fn add_all(store: &Store) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    loop {
        match add(store, &format!("all-{}", addresses.len())) {
            Ok(address) => addresses.push(address),
            Err(LeaseError::Exhausted { .. }) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    addresses.sort_unstable();
    addresses
}

fn is_leased(store: &Store, last: u8) -> bool {
    matches!(store.read(address(last)).unwrap(), Some(Entry::Leased(_)))
}

fn is_quarantined(store: &Store, last: u8) -> bool {
    matches!(store.read(address(last)).unwrap(), Some(Entry::Quarantined(_)))
}

fn is_cooling(store: &Store, last: u8) -> bool {
    matches!(store.read(address(last)).unwrap(), Some(Entry::Cooling(_)))
}

/// Names in a folder of the store.
fn names(node: &Node, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(node.path(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
