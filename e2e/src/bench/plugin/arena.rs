//! A node of a contestant's own: a thread in network and mount namespaces that end with it, which carries out what it is told.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use azure_vnet_plugin::netlink::{LinkIndex, Netlink};
use azure_vnet_plugin::store::{Adoption, Keeper};
use azure_vnet_plugin_core::pool::{ContentHash, PoolFacts, SealOwner, SlotAddress};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::contestant::{Contestant, Pod, Way, run};
use super::cost::{Cost, Footprint, Throughput, calls, measured, peak, size};
use super::floor::{Bare, FLOORS_BRIDGE};
use crate::lab::ip;

/// Addresses of the pool: those held, and those of the largest burst.
const POOL: u32 = 320;
/// Pods of a burst, in as many rows as there are at a time.
const BURST: usize = 64;

type Job = Box<dyn FnOnce(&mut Inside) + Send>;

/// A contestant in a node of its own.
#[derive(Debug)]
pub(super) struct Arena {
    name: String,
    floor: String,
    jobs: Sender<Job>,
}

/// What the thread has.
struct Inside {
    way: Way,
    count: u32,
}

impl Arena {
    /// Makes the node.
    pub(super) fn open(contestant: Contestant) -> Result<Self> {
        let Contestant { name, floor, way } = contestant;
        let (jobs, queue) = channel::<Job>();
        let (tell, made) = channel();
        std::thread::spawn(move || {
            let is_made = make_node();
            let is_usable = is_made.is_ok();
            if tell.send(is_made).is_err() || !is_usable {
                return;
            }
            let mut inside = Inside { way, count: 0 };
            for job in queue {
                job(&mut inside);
            }
        });
        made.recv()?.with_context(|| format!("cannot make a node for {name}"))?;
        Ok(Self { name, floor, jobs })
    }

    /// The contestant's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name of its floor.
    pub(super) fn floor(&self) -> &str {
        &self.floor
    }

    /// Wires pods that stay.
    pub(super) fn hold(&self, count: usize) -> Result<()> {
        self.run(move |inside| (0..count).try_for_each(|_| inside.pod().and_then(|pod| inside.added(&pod))))
    }

    /// One pod: what its ADD and its DEL took.
    pub(super) fn alone(&self) -> Result<(Cost, Cost)> {
        self.run(Inside::alone)
    }

    /// Several rows of pods at a time, each row one after the other.
    pub(super) fn burst(&self, parallel: usize) -> Result<Throughput> {
        self.run(move |inside| inside.burst(parallel))
    }

    /// What does not depend on time.
    pub(super) fn footprint(&self) -> Result<Footprint> {
        self.run(Inside::footprint)
    }

    /// The size of all executables that take part, in MiB.
    pub(super) fn size(&self) -> Result<f64> {
        self.run(|inside| match &inside.way {
            Way::Floor { empty, mode: _ } => size(std::slice::from_ref(empty)),
            Way::Plugin { executables, config: _ } => size(executables),
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Inside) -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, answered) = channel();
        let job = move |inside: &mut Inside| drop(answer.send(work(inside)));
        self.jobs.send(Box::new(job)).map_err(|_| anyhow!("the thread of {} ended", self.name))?;
        answered.recv()?.with_context(|| self.name.clone())
    }
}

impl Inside {
    fn pod(&mut self) -> Result<Pod> {
        self.count += 1;
        let name = format!("pod{}", self.count);
        ip(&format!("netns add {name}"))?;
        let netns = PathBuf::from("/run/netns").join(&name);
        Ok(Pod { name, netns, number: self.count })
    }

    /// Wires a pod that stays.
    fn added(&self, pod: &Pod) -> Result<()> {
        match &self.way {
            Way::Floor { empty, mode } => Bare::open(pod, *mode)?.add(&mut Netlink::open()?, empty).map(drop),
            Way::Plugin { .. } => self.command("ADD", pod),
        }
    }

    fn alone(&mut self) -> Result<(Cost, Cost)> {
        let pod = self.pod()?;
        let costs = match &self.way {
            Way::Floor { empty, mode } => {
                let (mut host, mut bare, mut link) = (Netlink::open()?, Bare::open(&pod, *mode)?, 0);
                let add = measured(|| bare.add(&mut host, empty).map(|index| link = index))?;
                (add, measured(|| bare.del(&mut host, empty, link))?)
            }
            Way::Plugin { .. } => (measured(|| self.command("ADD", &pod))?, measured(|| self.command("DEL", &pod))?),
        };
        ip(&format!("netns del {}", pod.name))?;
        Ok(costs)
    }

    fn burst(&mut self, parallel: usize) -> Result<Throughput> {
        let pods: Vec<Vec<Pod>> = (0..parallel).map(|_| (0..BURST / parallel).map(|_| self.pod()).collect()).collect::<Result<_>>()?;
        let count = f64::from(u32::try_from(pods.iter().map(Vec::len).sum::<usize>())?);
        let (adds, dels) = match &self.way {
            Way::Floor { empty, mode } => {
                let open = |row: &Vec<Pod>| row.iter().map(|pod| Bare::open(pod, *mode)).collect();
                let rows: Vec<Vec<Bare>> = pods.iter().map(open).collect::<Result<_>>()?;
                let begin = |mut bare: Bare| Ok((bare.add(&mut Netlink::open()?, empty)?, bare));
                let (wired, adds) = timed(|| each_row(rows, |row| row.into_iter().map(begin).collect()))?;
                let end = |(link, mut bare): (LinkIndex, Bare)| bare.del(&mut Netlink::open()?, empty, link);
                (adds, timed(|| each_row(wired, |row| row.into_iter().map(end).collect()))?.1)
            }
            Way::Plugin { .. } => {
                let all = |command: &'static str| {
                    let rows: Vec<&Vec<Pod>> = pods.iter().collect();
                    timed(|| each_row(rows, |row| row.iter().map(|pod| self.command(command, pod)).collect())).map(|(_, time)| time)
                };
                (all("ADD")?, all("DEL")?)
            }
        };
        pods.iter().flatten().try_for_each(|pod| ip(&format!("netns del {}", pod.name)))?;
        Ok(Throughput { adds: count / adds.as_secs_f64(), dels: count / dels.as_secs_f64() })
    }

    fn footprint(&mut self) -> Result<Footprint> {
        let (counted, weighed) = (self.pod()?, self.pod()?);
        let footprint = match &self.way {
            Way::Floor { empty, mode } => {
                Footprint { calls: calls(empty, "", &counted)? + Bare::calls(*mode), peak: peak(empty, "", &weighed)? }
            }
            Way::Plugin { executables, config } => {
                let program = executables.first().context("a plugin has an executable")?;
                Footprint { calls: calls(program, config, &counted)?, peak: peak(program, config, &weighed)? }
            }
        };
        for pod in [counted, weighed] {
            self.command("DEL", &pod)?;
            ip(&format!("netns del {}", pod.name))?;
        }
        Ok(footprint)
    }

    fn command(&self, command: &str, pod: &Pod) -> Result<()> {
        let Way::Plugin { executables, config } = &self.way else { return Ok(()) };
        let program = executables.first().context("a plugin has an executable")?;
        run(&mut Command::new(program), config, command, pod)
    }
}

/// A node: namespaces of this thread's own, and a sealed store.
fn make_node() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for folder in ["/run", "/var/log", "/var/lib"] {
        mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None).with_context(|| format!("cannot mount a tmpfs on {folder}"))?;
    }
    ip("link set lo up")?;
    // An uplink for bridged pods, and the bridge of their floor, whose entries go when its hardware address changes.
    ip("link add eth0 type veth peer name fabric")?;
    ip("link set fabric up")?;
    ip("link set eth0 up")?;
    ip("address add 10.240.0.4/16 dev eth0")?;
    ip(&format!("link add {FLOORS_BRIDGE} address 02:00:00:00:00:05 type bridge"))?;
    ip(&format!("link set {FLOORS_BRIDGE} up"))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.parse().map_err(|_| anyhow!("no boot id"))?;
    let keeper = Keeper::open(Path::new("/run/azure-vnet"), Path::new("/var/lib/azure-vnet"), boot)?;
    let addresses: Vec<SlotAddress> =
        (0..POOL).map(|number| SlotAddress { slot: 1, address: Ipv4Addr::from(0x0af0_0100 + number) }).collect();
    let offered: BTreeSet<Ipv4Addr> = addresses.iter().map(|slot| slot.address).collect();
    let facts = PoolFacts {
        object_uid: "bench".into(),
        revision: 1,
        content: ContentHash(1),
        prefix: "10.240.0.0/16".parse()?,
        gateway: Ipv4Addr::new(10, 240, 0, 1),
        cool_down: Duration::ZERO,
        mtu: Some(1500),
    };
    keeper.adopt(&Adoption { facts, addresses, offered, hold: vec![] })?;
    keeper.seal(SealOwner::Agent)?;
    Ok(())
}

/// Works on each row on a thread of its own.
fn each_row<Row: Send, T: Send>(rows: Vec<Row>, work: impl Fn(Row) -> Result<Vec<T>> + Sync) -> Result<Vec<Vec<T>>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = rows.into_iter().map(|row| scope.spawn(move || work(row))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    Ok((work()?, begun.elapsed()))
}
