//! ADD and DEL, whole process, against their floor: an empty static process, and the fewest netlink messages that wire a pod. Both are
//! measured turn by turn in one loop, so that what else the machine does strikes both.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin::netlink::{Address, Change, LinkBy, Mac, Netlink, Peer, Reply, Request, Route, Veth};
use azure_vnet_plugin::netns::Netns;
use azure_vnet_plugin::store::{Adoption, Keeper};
use azure_vnet_plugin_core::pool::{ContentHash, PoolFacts, SealOwner, SlotAddress};
use azure_vnet_plugin_core::wiring::{GATEWAY, HOST_MAC};
use rustix::mount::{MountFlags, mount};

use super::figure::{Figure, median_millis};
use crate::build::{Cache, probe_binary};
use crate::lab::ip;

const ROUNDS: usize = 100;
const HELD: usize = 250;
const PARALLEL: usize = 8;

/// Measures in the namespaces of this process, which are its own.
///
/// # Errors
/// If the kernel refuses, or a plugin fails.
pub fn measure(bin: &Path) -> Result<Vec<Figure>> {
    let empty = probe_binary(&Cache::open()?)?;
    let bench = Setting::new(bin, empty)?;
    let mut figures = bench.alone("no lease held")?;
    for number in 0..HELD {
        bench.add(&pod(&format!("held{number}"))?)?;
    }
    figures.extend(bench.alone("250 leases held")?);
    figures.push(bench.together()?);
    Ok(figures)
}

struct Setting {
    plugin: PathBuf,
    empty: PathBuf,
}

struct Pod {
    name: String,
    netns: PathBuf,
}

impl Setting {
    fn new(bin: &Path, empty: PathBuf) -> Result<Self> {
        for folder in ["/run", "/var/log", "/var/lib"] {
            mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).with_context(|| format!("cannot mount a tmpfs on {folder}"))?;
        }
        ip("link set lo up")?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.parse().map_err(|_| anyhow::anyhow!("no boot id"))?;
        let keeper = Keeper::open(Path::new("/run/azure-vnet"), Path::new("/var/lib/azure-vnet"), boot)?;
        let addresses: Vec<SlotAddress> =
            (0..1000_u32).map(|number| SlotAddress { slot: 1, address: Ipv4Addr::from(0x0af0_0100 + number) }).collect();
        let offered: BTreeSet<Ipv4Addr> = addresses.iter().map(|slot| slot.address).collect();
        let facts = PoolFacts {
            object_uid: "bench".into(),
            revision: 1,
            content: ContentHash(1),
            prefix: "10.240.0.0/16".parse()?,
            gateway: Ipv4Addr::new(10, 240, 0, 1),
            cool_down: Duration::from_secs(10),
            mtu: Some(1500),
        };
        keeper.adopt(&Adoption { facts, addresses, offered, hold: vec![] })?;
        keeper.seal(SealOwner::Agent)?;
        Ok(Self { plugin: bin.join("azure-vnet"), empty })
    }

    /// One ADD and one DEL at a time.
    fn alone(&self, held: &str) -> Result<Vec<Figure>> {
        let mut host = Netlink::open()?;
        let (mut adds, mut deletions, mut empties, mut wires, mut unlinks) = (vec![], vec![], vec![], vec![], vec![]);
        for round in 0..ROUNDS {
            let (whole, bare) = (pod(&format!("p{round}"))?, pod(&format!("f{round}"))?);
            empties.push(timed(|| self.start_empty())?);
            let netns = Netns::open(&bare.netns.to_string_lossy())?;
            let mut there = netns.netlink()?;
            let address = Ipv4Addr::from(0x0af0_f000 + u32::try_from(round)?);
            let mut link = 0;
            wires.push(timed(|| wire(&mut host, &mut there, &netns, "azvfloor", address).map(|index| link = index))?);
            unlinks.push(timed(|| Ok(host.change(Change::DeleteLink(link))?))?);
            adds.push(timed(|| self.add(&whole))?);
            deletions.push(timed(|| self.command("DEL", &whole))?);
            for pod in [whole, bare] {
                ip(&format!("netns del {}", pod.name))?;
            }
        }
        let (process, wiring, unlinking) = (median_millis(&empties), median_millis(&wires), median_millis(&unlinks));
        Ok(vec![
            Figure::plain(format!("floor: empty static process ({held})"), process, "ms"),
            Figure::plain(format!("floor: netlink messages of ADD ({held})"), wiring, "ms"),
            Figure::against(format!("ADD, whole process ({held})"), median_millis(&adds), process + wiring, "ms"),
            Figure::against(format!("DEL, whole process ({held})"), median_millis(&deletions), process + unlinking, "ms"),
        ])
    }

    /// Eight at a time: ADDs a second, against as many empty processes and bare loops.
    fn together(&self) -> Result<Figure> {
        let pods: Vec<Vec<Pod>> = rows("t")?;
        let product = rate(&pods, |_, pod| self.add(pod))?;
        let bare: Vec<Vec<Pod>> = rows("b")?;
        let floor = rate(&bare, |number, pod| {
            self.start_empty()?;
            let netns = Netns::open(&pod.netns.to_string_lossy())?;
            let address = Ipv4Addr::from(0x0af0_e000 + u32::try_from(number)?);
            wire(&mut Netlink::open()?, &mut netns.netlink()?, &netns, &format!("azvb{number}"), address).map(|_| ())
        })?;
        Ok(Figure::against("ADD, 8 at a time", product, floor, "per s"))
    }

    fn add(&self, pod: &Pod) -> Result<()> {
        self.command("ADD", pod)
    }

    fn command(&self, command: &str, pod: &Pod) -> Result<()> {
        const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"azure-vnet","type":"azure-vnet","mode":"transparent","ipam":{"type":"azure-vnet-ipam","environment":"pool"}}"#;
        let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_UID={}", pod.name, pod.name);
        let mut child = Command::new(&self.plugin)
            .env_clear()
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", &pod.name),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", "/opt/cni/bin"),
                ("CNI_ARGS", &arguments),
            ])
            .env("CNI_NETNS", &pod.netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().context("a child with a piped input has one")?, CONFIG.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{command} failed: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    /// The test tool without a word to do: it says so and ends.
    fn start_empty(&self) -> Result<()> {
        let mut child = Command::new(&self.empty)
            .env_clear()
            .arg("nothing")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        child.wait()?;
        Ok(())
    }
}

/// A pod's namespace.
fn pod(name: &str) -> Result<Pod> {
    ip(&format!("netns add {name}"))?;
    Ok(Pod { name: name.to_owned(), netns: PathBuf::from("/run/netns").join(name) })
}

fn rows(prefix: &str) -> Result<Vec<Vec<Pod>>> {
    (0..PARALLEL).map(|row| (0..20).map(|column| pod(&format!("{prefix}{row}x{column}"))).collect()).collect()
}

fn rate(rows: &[Vec<Pod>], work: impl Fn(usize, &Pod) -> Result<()> + Sync) -> Result<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let work = &work;
        let row =
            |(number, row): (usize, &'_ Vec<Pod>)| row.iter().enumerate().try_for_each(|(column, pod)| work(number * 100 + column, pod));
        let threads: Vec<_> = rows.iter().enumerate().map(|numbered| scope.spawn(move || row(numbered))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let count = u32::try_from(rows.iter().map(Vec::len).sum::<usize>())?;
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// The fewest messages that wire a pod.
fn wire(host: &mut Netlink, pod: &mut Netlink, netns: &Netns, name: &str, address: Ipv4Addr) -> Result<u32> {
    let peer = Peer { name: "eth0", mac: Mac([2, 0, 0, 0, 0, 1]), netns: netns.as_fd() };
    let veth = Veth { name, mac: HOST_MAC, mtu: 1500, group: 0, peer };
    let replies = host.exchange(&[Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name(name))])?;
    let Some(Reply::Link(link)) = replies.into_iter().nth(1) else { anyhow::bail!("the link is not there") };
    let there = link.peer.context("the link has no peer")?;
    let mut refused =
        host.changes([Change::Label { link: link.index, alias: "floor" }, Change::AddRoute(Route::on_link(address.into(), link.index))])?;
    refused.extend(pod.changes([
        Change::SetUp(there),
        Change::AddAddress(Address { link: there, address, prefix_len: 16 }),
        Change::AddRoute(Route::on_link(GATEWAY.into(), there)),
        Change::AddRoute(Route::default_via(GATEWAY, there)),
        Change::SetNeighbour { link: there, address: GATEWAY, mac: HOST_MAC },
    ])?);
    ensure!(refused.is_empty(), "the kernel refused {refused:?}");
    Ok(link.index)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}
