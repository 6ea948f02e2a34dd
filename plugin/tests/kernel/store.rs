//! The node store among processes: what threads of one process cannot show.
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use azure_vnet_plugin::store::{Adoption, Keeper, KernelUse, LeaseError, LeaseRequest, Store, Supply};
use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    pool::{ContentHash, PoolFacts, SealOwner, SlotAddress},
};
use tempfile::TempDir;

const FOLDER: &str = "AZURE_VNET_TEST_STORE";
const RACER: &str = "AZURE_VNET_TEST_RACER";
const TURNS: usize = 150;

#[test]
fn st1_eight_processes_never_hold_one_address_at_once() {
    let folder = sealed(3);
    let racers: Vec<_> = (0..8).map(|racer| spawn(folder.path(), &format!("r{racer}"))).collect();
    for mut racer in racers {
        assert!(racer.wait().unwrap().success());
    }
    let counts = store(folder.path()).counts().unwrap();
    assert_eq!((counts.leased, counts.free), (0, 3));
    let marks = marks(folder.path());
    assert!((0..8).all(|racer| marks.contains(&format!("r{racer}"))), "{marks:?}");
    println!("{} leases", marks.len() - 8);
    assert!(marks.len() > 16, "hardly anything was leased: {marks:?}");
}

#[test]
fn st1_a_killed_process_holds_no_lock_and_del_finds_its_lease() {
    let folder = sealed(1);
    let (store, witness) = (store(folder.path()), folder.path().join("witness/10.240.0.1"));
    for round in 0..20 {
        let mut racer = spawn(folder.path(), &format!("k{round}"));
        while !witness.exists() && racer.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        racer.kill().unwrap();
        racer.wait().unwrap();
        let _ = fs::remove_file(&witness);
        for turn in 0..TURNS {
            if let Some(held) = store.find(&attachment(&format!("k{round}-{turn}"))).unwrap() {
                held.cool().unwrap();
            }
        }
        let counts = store.counts().unwrap();
        assert_eq!((counts.leased, counts.free), (0, 1));
        assert!(marks(folder.path()).contains(&format!("k{round}-0")), "it leased before it was killed");
    }
}

/// Body of the racing processes; nothing by itself.
#[test]
fn racer() {
    let (Ok(folder), Ok(name)) = (env::var(FOLDER), env::var(RACER)) else { return };
    mark(Path::new(&folder), &name);
    for turn in 0..TURNS {
        race(Path::new(&folder), &format!("{name}-{turn}"));
    }
}

/// Leases, marks the address as its own where no one else may have, answers, and gives it back.
fn race(folder: &Path, container: &str) {
    let store = store(folder);
    let granted = match store.lease(&request(container), &mut |_| KernelUse::Free) {
        Ok(granted) => granted,
        Err(LeaseError::Exhausted { .. }) => return,
        Err(error) => panic!("{error:?}"),
    };
    mark(folder, container);
    let witness = folder.join("witness").join(granted.held.lease().address.to_string());
    fs::File::create_new(&witness).unwrap();
    granted.confirm().unwrap();
    drop(granted);
    let held = store.find(&attachment(container)).unwrap().unwrap();
    fs::remove_file(&witness).unwrap();
    held.cool().unwrap();
}

/// Notes that a racer ran, or that it leased: a harness that finds no such test runs none, and succeeds.
fn mark(folder: &Path, what: &str) {
    fs::write(folder.join("marks").join(what), "").unwrap();
}

fn marks(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder.join("marks")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn spawn(folder: &Path, racer: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "store::racer", "--test-threads", "1", "--quiet"]).env(FOLDER, folder).env(RACER, racer);
    command.stdout(Stdio::null()).spawn().unwrap()
}

fn store(folder: &Path) -> Store {
    Store::at(&folder.join("run"), "boot-1".parse().unwrap())
}

fn sealed(addresses: u8) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["witness", "marks"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let keeper = Keeper::open(&folder.path().join("run"), &folder.path().join("lib"), "boot-1".parse().unwrap()).unwrap();
    let slots: Vec<_> = (1..=addresses).map(|slot| SlotAddress { slot, address: Ipv4Addr::new(10, 240, 0, slot) }).collect();
    let facts = PoolFacts {
        object_uid: "uid".into(),
        revision: 1,
        content: ContentHash(1),
        prefix: "10.240.0.0/16".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 240, 0, 1),
        cool_down: Duration::ZERO,
        mtu: None,
    };
    let offered = slots.iter().map(|slot| slot.address).collect();
    keeper.adopt(&Adoption { facts, addresses: slots, offered, hold: Vec::new() }).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    folder
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
        netns_cookie: None,
        requested: None,
        supply: Supply::default(),
        avoid: BTreeMap::new(),
    }
}
