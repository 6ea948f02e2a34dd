//! `node`: a node's own store and kernel, read on the node, with nobody else's help.

mod fsck;

use std::{collections::BTreeMap, fmt, fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use azure_vnet_operator_core::{
    conflist::NETWORK,
    fsck::node::{Mended, Plan, Refused, Report, mendable},
    look::{Bar, Table},
};
use azure_vnet_plugin::store::{Keeper, KeeperError, Rebuilt, Store};
use azure_vnet_plugin_core::{boot::BootId, lease::Entry, pool::Sealed};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Format, undo};
use crate::agent::kernel::Kernel;
use fsck::Seen;

/// What to look at.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whether the store is whole, what the pool holds, and whether the CNI configuration is in place.
    Status(Place),
    /// Every address that is not free: who has it, since when, by which link.
    Leases(Place),
    /// Compares the store with the kernel, and mends what a report allows.
    #[command(after_help = "Examples:\n  azure-vnet-operator node fsck\n  azure-vnet-operator node fsck --output json > report.json\n  \
                             azure-vnet-operator node fsck --repair report.json\n\nNothing is mended unless the report has it and it is still so. Then every \
                             pod's link gets its lease, where no agent keeps the store, and its route, where the pool has the address. Exits with 1 \
                             where something differs, or could not be mended.")]
    Fsck {
        /// The store.
        #[command(flatten)]
        place: Place,
        /// Mend what this report (of --output json) found and what is still so.
        #[arg(long, value_name = "REPORT")]
        repair: Option<PathBuf>,
        /// The same, with the report itself in place of a file
        #[arg(long, value_name = "JSON", hide = true, conflicts_with = "repair")]
        repair_json: Option<String>,
    },
    /// Takes the network of bridged pods back: the uplink gets its addresses and routes again, bridge and rules go. Refuses while pods are on it.
    #[command(after_help = "Examples:\n  azure-vnet-operator node undo-network --dry-run\n  azure-vnet-operator node undo-network\n\n\
                             The host stays connected. Run it after the node is drained and its CNI configuration is gone; it may be repeated.")]
    UndoNetwork(undo::Flags),
}

/// Where the node keeps what.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Form of the output.
    #[arg(long, short, default_value = "table", value_name = "FORM")]
    pub output: Format,
    /// The node store.
    #[arg(long, default_value = "/run/azure-vnet", env = "AZURE_VNET_RUN_DIR")]
    pub run_dir: PathBuf,
    /// What survives a reboot.
    #[arg(long, default_value = "/var/lib/azure-vnet", env = "AZURE_VNET_STATE_DIR")]
    pub state_dir: PathBuf,
    /// The folder that the container runtime reads its network configuration from.
    #[arg(long, default_value = "/etc/cni/net.d", env = "AZURE_VNET_CNI_CONF_DIR")]
    pub cni_conf_dir: PathBuf,
    /// The node's boot id.
    #[arg(long, default_value = "/proc/sys/kernel/random/boot_id", env = "AZURE_VNET_BOOT_ID_FILE")]
    pub boot_id_file: PathBuf,
}

/// Runs one command.
///
/// # Errors
/// What could not be read, and that store and kernel differ.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::UndoNetwork(flags) => undo::run(&flags),
        Command::Status(place) => place.output.print(&status(&place)?),
        Command::Leases(place) => place.output.print(&leases(&place)?),
        Command::Fsck { place, repair: None, repair_json: None } => {
            let report = check(&place)?;
            place.output.print(&report)?;
            anyhow::ensure!(report.findings.is_empty(), "store and kernel differ");
            Ok(())
        }
        Command::Fsck { place, repair: Some(path), .. } => {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            repair(&place, &text).with_context(|| format!("by {}", path.display()))
        }
        Command::Fsck { place, repair: None, repair_json: Some(text) } => repair(&place, &text),
    }
}

impl Place {
    fn store(&self) -> anyhow::Result<Store> {
        let path = &self.boot_id_file;
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the boot id from {}", path.display()))?;
        let boot: BootId = text.parse().with_context(|| format!("{} holds no boot id", path.display()))?;
        Ok(Store::at(&self.run_dir, boot))
    }

    fn seal(&self) -> Option<Sealed> {
        fs::read(self.run_dir.join("sealed")).ok().and_then(|bytes| Sealed::parse(&bytes).ok())
    }
}

/// A node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The running boot.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Who made the store whole; none while ADD refuses.
    pub sealed_by: Option<String>,
    /// Why ADD refuses.
    pub refuses: Option<String>,
    /// Revision of the pool.
    pub revision: u64,
    /// Addresses in the pool, with pods, resting, set aside, and free.
    pub addresses: [usize; 5],
    /// Addresses whose record cannot be read.
    pub unreadable: usize,
    /// Pods whose ADD failed in the last minute.
    pub waiting: usize,
    /// What the runtime reads, in its order: the first counts.
    pub configurations: Vec<String>,
}

fn status(place: &Place) -> anyhow::Result<Status> {
    let store = place.store()?;
    let pool = store.pool();
    let sealed = place.seal();
    let counts = store.counts().context("cannot read the store")?;
    Ok(Status {
        boot_id: store.boot().to_string(),
        sealed_by: pool.as_ref().ok().and(sealed).map(|sealed| sealed.owner.to_string()),
        refuses: pool.as_ref().err().map(ToString::to_string),
        revision: pool.map_or(0, |pool| pool.revision),
        addresses: [counts.total, counts.leased, counts.cooling, counts.quarantined, counts.free],
        unreadable: counts.unreadable,
        waiting: store.wants().context("cannot read the store")?.len(),
        configurations: configurations(place),
    })
}

fn configurations(place: &Place) -> Vec<String> {
    let names = fs::read_dir(&place.cni_conf_dir).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_read = |name: &String| [".conflist", ".conf", ".json"].iter().any(|ending| name.ends_with(ending));
    let mut names: Vec<String> = names.filter(is_read).collect();
    names.sort();
    names
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [total, leased, cooling, set_aside, free] = self.addresses;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let bar = Bar { used: number(leased), resting: number(cooling + set_aside), of: number(total), width: 40 };
        match (&self.sealed_by, &self.refuses) {
            (Some(owner), None) => writeln!(f, "✓ the store is whole, sealed by the {owner} in boot {}", self.boot_id)?,
            (_, why) => writeln!(f, "✗ ADD refuses: {}", why.as_deref().unwrap_or("the store is not sealed"))?,
        }
        writeln!(f, "\npool  {bar}  revision {}", self.revision)?;
        writeln!(f, "      {total} addresses: {leased} used, {cooling} resting, {set_aside} set aside, {free} free")?;
        if self.unreadable > 0 {
            writeln!(f, "✗ {} records cannot be read: see node fsck", self.unreadable)?;
        }
        if self.waiting > 0 {
            writeln!(f, "… {} pods found no address in the last minute", self.waiting)?;
        }
        match self.configurations.as_slice() {
            [] => writeln!(f, "\n✗ the runtime has no CNI configuration"),
            [first, rest @ ..] => writeln!(f, "\nCNI configuration: {first}; ignored by the runtime: {}", list(rest)),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// All addresses that are not free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Leases(pub Vec<LeaseRow>);

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRow {
    /// The address.
    pub address: Ipv4Addr,
    /// leased, cooling, quarantined or unreadable.
    pub state: &'static str,
    /// The pod, where the runtime named one.
    pub pod: String,
    /// `container/interface`.
    pub attachment: String,
    /// The host's end of its link.
    pub link: String,
    /// In this state for so long, in seconds.
    pub age_seconds: Option<u64>,
}

fn leases(place: &Place) -> anyhow::Result<Leases> {
    let store = place.store()?;
    let now = store.now();
    let cool_down = store.pool().map_or(Duration::MAX, |pool| pool.cool_down);
    let entries = store.list().context("cannot read the store")?;
    let held = entries.into_iter().filter(|(_, entry)| !entry.is_free(store.boot(), now, cool_down));
    let row = |(address, entry): (Ipv4Addr, Entry)| {
        let blank = LeaseRow { address, state: "", pod: String::new(), attachment: String::new(), link: String::new(), age_seconds: None };
        match entry {
            Entry::Leased(lease) => LeaseRow {
                state: "leased",
                pod: lease.pod.map(|pod| pod.to_string()).unwrap_or_default(),
                attachment: lease.attachment.to_string(),
                link: lease.host_link.to_string(),
                age_seconds: (lease.boot == *store.boot()).then(|| now.since(lease.since).as_secs()),
                ..blank
            },
            Entry::Cooling(cooling) => LeaseRow {
                state: "cooling",
                age_seconds: (cooling.boot == *store.boot()).then(|| now.since(cooling.since).as_secs()),
                ..blank
            },
            Entry::Quarantined(aside) => LeaseRow { state: "quarantined", attachment: format!("release {}", aside.release), ..blank },
            Entry::Unreadable(_) => LeaseRow { state: "unreadable", ..blank },
        }
    };
    Ok(Leases(held.map(row).collect()))
}

impl fmt::Display for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["ADDRESS", "STATE", "AGE", "POD", "CONTAINER/INTERFACE", "LINK"]);
        for row in &self.0 {
            let LeaseRow { address, state, pod, attachment, link, age_seconds } = row.clone();
            let age = age_seconds.map(|seconds| format!("{seconds}s")).unwrap_or_default();
            table.row([address.to_string(), state.to_owned(), age, pod, attachment, link]);
        }
        table.fmt(f)
    }
}

fn check(place: &Place) -> anyhow::Result<Report> {
    let store = place.store()?;
    let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?;
    let (pool, entries) = (store.pool().ok(), store.list().context("cannot read the store")?);
    let mut kernel = Kernel::open()?;
    let view = kernel.view()?;
    let kernel = std::cell::RefCell::new(kernel);
    let netns = |entry: &Entry| kernel.borrow_mut().trace(&view, entry.address().unwrap_or(Ipv4Addr::UNSPECIFIED), entry).0;
    let seen = Seen { entries: &entries, links: &view.pods, routes: &view.host_routes(), pool: pool.as_ref(), netns: &netns };
    let store_id = place.seal().filter(|seal| seal.boot == *store.boot()).map(|seal| seal.store.to_string());
    let facts = fsck::facts(store_id, &seen);
    Ok(Report { at: Some(at), facts: Some(facts), ..fsck::compare(store.boot().to_string(), &seen) })
}

fn repair(place: &Place, report: &str) -> anyhow::Result<()> {
    let report: Report = serde_json::from_str(report).context("this is no report of node fsck --output json")?;
    let mended = mend(place, &report)?;
    place.output.print(&mended)?;
    let refused: Vec<String> = mended.refused.iter().map(ToString::to_string).collect();
    anyhow::ensure!(refused.is_empty(), "not mended: {}", refused.join("; "));
    Ok(())
}

fn mend(place: &Place, report: &Report) -> anyhow::Result<Mended> {
    let Plan { leases, routes } = mendable(report, &check(place)?);
    let (mut mended, store) = (Mended::default(), place.store()?);
    mend_routes(&store, &routes, &mut mended)?;
    match Keeper::open(&place.run_dir, &place.state_dir, store.boot().clone()) {
        // It sweeps the store itself.
        Err(KeeperError::Kept { .. }) if leases.is_empty() => {}
        Err(KeeperError::Kept { .. }) => {
            let why = "an agent keeps this store: restart its pod, and it mends the store before it seals it".into();
            mended.refused.push(Refused { address: None, why });
        }
        opened => mend_store(&opened?, !leases.is_empty(), &mut mended)?,
    }
    mended.left = check(place)?;
    Ok(mended)
}

fn mend_routes(store: &Store, routes: &BTreeMap<Ipv4Addr, String>, mended: &mut Mended) -> anyhow::Result<()> {
    let mut kernel = Kernel::open()?;
    let (entries, view) = (store.list().context("cannot read the store")?, kernel.view()?);
    for (&address, attachment) in routes {
        let lease = entries.iter().find_map(|(_, entry)| match entry {
            Entry::Leased(lease) if lease.address == address && lease.attachment.to_string() == *attachment => Some(lease),
            Entry::Leased(_) | Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
        });
        let done = lease.map_or_else(|| Ok(Some(format!("{attachment} has no lease of it"))), |lease| kernel.mend_route(&view, lease));
        match done.unwrap_or_else(|error| Some(format!("{:#}", anyhow::Error::from(error)))) {
            None => mended.routes.push(address),
            Some(why) => mended.refused.push(Refused { address: Some(address), why }),
        }
    }
    Ok(())
}

fn mend_store(keeper: &Keeper, lacks_leases: bool, mended: &mut Mended) -> anyhow::Result<()> {
    if lacks_leases {
        // Of all links, not only of those in the report: a record that no link speaks for is forgotten.
        let links = Kernel::open()?.view()?.leases(&NETWORK.parse()?);
        for rebuilt in keeper.rebuild_from_kernel(&links)? {
            match rebuilt {
                Rebuilt::Made(address) => mended.leases.push(address),
                Rebuilt::Known(_) | Rebuilt::Conflict(..) | Rebuilt::Void(_) => {}
            }
        }
    }
    mended.litter = keeper.sweep()?.litter;
    Ok(())
}

#[cfg(test)]
mod tests {
    use azure_vnet_operator_core::fsck::node::Kind;
    use azure_vnet_plugin::store::Adoption;
    use azure_vnet_plugin_core::pool;

    use super::*;
    use crate::agent::tests::{apart, run as shell};

    fn place(root: &std::path::Path) -> Place {
        let path = |name: &str| root.join(name);
        for folder in ["run", "state", "conf"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        Place {
            output: Format::Json,
            run_dir: path("run"),
            state_dir: path("state"),
            cni_conf_dir: path("conf"),
            boot_id_file: path("boot_id"),
        }
    }

    fn link(name: &str, of: &str) {
        shell("ip", &["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")]);
        shell("ip", &["link", "set", name, "alias", &format!("azure-vnet:{of}")]);
    }

    #[test]
    fn st3_a_repair_looks_at_every_link_so_that_no_record_of_a_pod_that_is_there_is_forgotten() {
        apart(|| {
            let root = tempfile::tempdir().unwrap();
            let place = place(root.path());
            fs::write(&place.boot_id_file, "first\n").unwrap();
            link("azv00000000001", "c1/eth0 10.0.0.5");
            let keeper = Keeper::open(&place.run_dir, &place.state_dir, "first".parse().unwrap()).unwrap();
            keeper.rebuild_from_kernel(&Kernel::open().unwrap().view().unwrap().leases(&NETWORK.parse().unwrap())).unwrap();
            drop(keeper);
            // Its record is of another boot, as after a boot id that was read from elsewhere; the report does not have it.
            fs::write(&place.boot_id_file, "second\n").unwrap();
            link("azv00000000002", "c2/eth0 10.0.0.6");
            let found = check(&place).unwrap();
            assert!(
                !found
                    .findings
                    .iter()
                    .any(|found| found.address == Some(Ipv4Addr::new(10, 0, 0, 5)) && found.kind == Kind::LinkWithoutLease)
            );
            let mended = mend(&place, &found).unwrap();
            let entries = place.store().unwrap().list().unwrap();
            let leased: Vec<_> =
                entries.iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_))).map(|(address, _)| *address).collect();
            assert_eq!(leased, [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6)], "{mended:?}");
        });
    }

    #[test]
    fn st4_a_route_is_made_again_from_a_report_while_an_agent_keeps_the_store_and_never_in_anothers_place() {
        apart(|| {
            let root = tempfile::tempdir().unwrap();
            let place = place(root.path());
            fs::write(&place.boot_id_file, "first\n").unwrap();
            let (gone, taken) = (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6));
            for (name, of) in [("azv00000000001", "c1/eth0 10.0.0.5"), ("azv00000000002", "c2/eth0 10.0.0.6")] {
                link(name, of);
                shell("ip", &["link", "set", &format!("{name}p"), "up"]);
                shell("ip", &["link", "set", name, "up"]);
            }
            let keeper = Keeper::open(&place.run_dir, &place.state_dir, "first".parse().unwrap()).unwrap();
            keeper.rebuild_from_kernel(&Kernel::open().unwrap().view().unwrap().leases(&NETWORK.parse().unwrap())).unwrap();
            keeper.adopt(&adoption(&["1/10.0.0.5", "2/10.0.0.6"])).unwrap();
            keeper.seal(pool::SealOwner::Agent).unwrap();
            shell("ip", &["route", "add", "unreachable", "10.0.0.5/32", "metric", "4096"]);
            let found = check(&place).unwrap();
            assert_eq!(
                found.findings.iter().map(|found| (found.kind, found.address)).collect::<Vec<_>>(),
                [(Kind::LinkWithoutRoute, Some(gone)), (Kind::LinkWithoutRoute, Some(taken))]
            );
            // Meanwhile somebody else routes one of them.
            shell("ip", &["route", "add", "10.0.0.6/32", "dev", "eth0"]);
            let mended = mend(&place, &found).unwrap();
            assert_eq!((mended.routes.as_slice(), mended.refused.len()), ([gone].as_slice(), 1), "{mended:?}");
            assert!(shell("ip", &["route", "get", "10.0.0.5"]).contains("azv00000000001"));
            assert!(shell("ip", &["route", "get", "10.0.0.6"]).contains("eth0"));
            assert_eq!(mend(&place, &found).unwrap().routes, Vec::<Ipv4Addr>::new(), "it is not so any more");
            drop(keeper);
        });
    }

    #[test]
    fn st4_no_route_is_made_in_the_place_of_one_that_drops_packets() {
        apart(|| {
            let root = tempfile::tempdir().unwrap();
            let place = place(root.path());
            fs::write(&place.boot_id_file, "first\n").unwrap();
            link("azv00000000001", "c1/eth0 10.0.0.5");
            shell("ip", &["link", "set", "azv00000000001p", "up"]);
            shell("ip", &["link", "set", "azv00000000001", "up"]);
            let keeper = Keeper::open(&place.run_dir, &place.state_dir, "first".parse().unwrap()).unwrap();
            keeper.rebuild_from_kernel(&Kernel::open().unwrap().view().unwrap().leases(&NETWORK.parse().unwrap())).unwrap();
            keeper.adopt(&adoption(&["1/10.0.0.5"])).unwrap();
            keeper.seal(pool::SealOwner::Agent).unwrap();
            shell("ip", &["route", "add", "unreachable", "10.0.0.5/32", "metric", "4096", "proto", "97"]);
            for kind in ["blackhole", "prohibit", "unreachable"] {
                shell("ip", &["route", "add", kind, "10.0.0.5/32", "metric", "10"]);
                let found = check(&place).unwrap();
                assert_eq!(found.findings.iter().map(|found| found.kind).collect::<Vec<_>>(), [Kind::LinkWithoutRoute]);
                let mended = mend(&place, &found).unwrap();
                assert!(mended.routes.is_empty() && mended.refused[0].why.contains("a route of its own"), "{kind}: {mended:?}");
                shell("ip", &["route", "del", kind, "10.0.0.5/32", "metric", "10"]);
            }
            let mended = mend(&place, &check(&place).unwrap()).unwrap();
            assert_eq!(mended.routes, [Ipv4Addr::new(10, 0, 0, 5)], "the agent's own is no reason: {mended:?}");
            drop(keeper);
        });
    }

    #[test]
    fn st4_a_route_goes_to_the_link_of_the_reported_pod_and_never_to_a_port_that_left_its_bridge() {
        apart(|| {
            let root = tempfile::tempdir().unwrap();
            let place = place(root.path());
            fs::write(&place.boot_id_file, "first\n").unwrap();
            shell("ip", &["link", "add", "azure2", "type", "bridge"]);
            shell("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0"]);
            for (name, of) in [("azv00000000001", "c1/eth0 10.0.0.5"), ("azv00000000002", "c2/eth0 10.0.0.6")] {
                link(name, of);
                shell("ip", &["link", "set", &format!("{name}p"), "up"]);
                shell("ip", &["link", "set", name, "up"]);
            }
            shell("ip", &["link", "set", "azv00000000001", "master", "azure2"]);
            let keeper = Keeper::open(&place.run_dir, &place.state_dir, "first".parse().unwrap()).unwrap();
            keeper.rebuild_from_kernel(&Kernel::open().unwrap().view().unwrap().leases(&NETWORK.parse().unwrap())).unwrap();
            keeper.adopt(&adoption(&["1/10.0.0.5", "2/10.0.0.6"])).unwrap();
            keeper.seal(pool::SealOwner::Agent).unwrap();
            let (bridged, routed) = (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6));
            let kinds = || check(&place).unwrap().findings.iter().map(|found| (found.kind, found.address)).collect::<Vec<_>>();
            let (lacks_route, off_bridge) = ((Kind::LinkWithoutRoute, Some(routed)), (Kind::BridgedWithoutRoute, Some(bridged)));
            assert_eq!(kinds(), [lacks_route, off_bridge]);
            shell("ip", &["route", "add", "10.0.0.5/32", "dev", "azure2"]);
            assert_eq!(kinds(), [lacks_route]);
            shell("ip", &["route", "del", "10.0.0.5/32"]);
            shell("ip", &["link", "set", "azv00000000001", "nomaster"]);
            let found = check(&place).unwrap();
            assert_eq!(kinds(), [lacks_route, off_bridge]);
            // Between that look and the next step another pod got the address.
            let mut stale = Mended::default();
            mend_routes(&place.store().unwrap(), &[(routed, "c0/eth0".to_owned())].into(), &mut stale).unwrap();
            assert_eq!((stale.routes.as_slice(), stale.refused.len()), ([].as_slice(), 1), "{stale:?}");
            let mended = mend(&place, &found).unwrap();
            assert_eq!(mended.routes, [routed], "{mended:?}");
            // Nor is it made where it is asked for.
            assert_eq!(mended.refused, []);
            let mut asked = Mended::default();
            mend_routes(&place.store().unwrap(), &[(bridged, "c1/eth0".to_owned())].into(), &mut asked).unwrap();
            assert!(asked.routes.is_empty() && asked.refused[0].why.contains("bridge mode"), "{asked:?}");
            assert!(!shell("ip", &["route", "show"]).contains("10.0.0.5"), "{mended:?}");
            drop(keeper);
        });
    }

    fn adoption(addresses: &[&str]) -> Adoption {
        let addresses: Vec<pool::SlotAddress> = addresses.iter().map(|at| at.parse().unwrap()).collect();
        let facts = pool::PoolFacts {
            object_uid: "o".into(),
            revision: 1,
            content: pool::ContentHash(1),
            prefix: "10.0.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            cool_down: Duration::from_secs(30),
            mtu: None,
        };
        Adoption { facts, offered: addresses.iter().map(|at| at.address).collect(), addresses, hold: vec![] }
    }
}
