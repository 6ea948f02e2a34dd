//! What a seed means: machines, configs, and what goes wrong when.

mod rare;
mod units;

use std::net::Ipv4Addr;

use azure_vnet_crds::{AzureVnetConfig, AzureVnetConfigSpec};
use azure_vnet_operator_core::policy::{Policy, choose};

use crate::{
    cloud::{Nic, Subnet},
    dice::Dice,
    fault::{Fault, Mutation},
    ruling,
};

const MINUTE: i64 = 60_000;
/// Storms end here, and what came of them is looked at there.
const CALM_FROM: i64 = 75 * MINUTE;
const END: i64 = 125 * MINUTE;
/// In the calm, an address goes behind everybody's back: by then it is to be found, given up and made up for, whoever tells of it.
const FOUND: i64 = 15 * MINUTE;

/// A seed's meaning.
#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    pub mutation: Option<Mutation>,
    /// Whether agents look at everything each time.
    pub thorough: bool,
    pub machines: Vec<Ids>,
    pub policies: Vec<Policy>,
    /// What is kept of each where its config is gone.
    pub kept: Vec<Policy>,
    pub strikes: Vec<(i64, Strike)>,
    /// Mean pause between pods on one node.
    pub churn: i64,
    pub calm_from: i64,
    pub end: i64,
    capacity: [usize; 2],
}

/// A machine's names: the same for all machines that ever have this name.
#[derive(Debug)]
pub struct Ids {
    pub name: String,
    pub provider: String,
    pub uniform: bool,
    nic: String,
    instance: Option<String>,
    subnet: usize,
}

/// A fault that strikes requests for a time.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub fault: Fault,
    pub per_mille: u32,
    pub until: i64,
}

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Strike {
    Join {
        name: usize,
        foreign: usize,
    },
    Weather(Weather),
    KillReplica(usize),
    KillLeader,
    KillAll,
    /// The leader is asked to end, as in a rollout.
    Leave,
    /// The leader is killed, or frozen for a time, when it next comes to a point.
    Arm(Armed),
    Freeze {
        pause: i64,
    },
    CutOff {
        pause: i64,
    },
    Jump {
        by: i64,
    },
    Panic,
    ApiDown {
        pause: i64,
    },
    Stall {
        pause: i64,
        anew: bool,
    },
    Config {
        name: usize,
        policy: Option<usize>,
        fault: Fault,
    },
    /// So many pods for a few minutes.
    Burst {
        name: usize,
        many: usize,
    },
    DeleteObject(usize),
    Remake(usize),
    DeleteMachine {
        name: usize,
        back_after: Option<i64>,
    },
    Cordon {
        name: usize,
        drain: bool,
        pause: i64,
    },
    Snapshot,
    Restore {
        bump: bool,
    },
    KillAgent {
        name: usize,
        pause: i64,
    },
    Fuse {
        name: usize,
        steps: u32,
    },
    /// In the dark, neither the API server nor the metadata answers for a while.
    Reboot {
        name: usize,
        dark: Option<i64>,
    },
    Deallocate {
        name: usize,
        pause: i64,
    },
    Reimage {
        name: usize,
    },
    Metadata {
        name: usize,
        late: i64,
        mute: bool,
        pause: i64,
    },
    Silent {
        name: usize,
        pause: i64,
    },
    ForeignDrop(usize),
    /// The same once the storms are over.
    QuietDrop(usize),
    ForeignSwap(usize),
    ForeignAdd {
        name: usize,
        many: usize,
    },
    SubnetShrinks {
        subnet: usize,
        leave: usize,
        pause: i64,
    },
    /// Controllers of an earlier version take over: there is something that they do not understand.
    Downgrade {
        pause: i64,
    },
    /// Undoes what a strike began.
    End(Box<Undo>),
}

/// What happens to a leader at a point.
#[derive(Clone, Copy, Debug)]
pub struct Armed {
    pub point: Point,
    /// For how long it is frozen; none: it is killed.
    pub freeze: Option<i64>,
}

/// A point on the way of a write at which its leader waits for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    Recorded,
    Departed,
    Accepted,
    Ended,
    ReadBack,
    Published,
}

impl Point {
    const ALL: [Self; 6] = [Self::Recorded, Self::Departed, Self::Accepted, Self::Ended, Self::ReadBack, Self::Published];

    /// A kill there, by its name.
    pub fn fault(self) -> Fault {
        match self {
            Self::Recorded => Fault::O01KilledBeforeSending,
            Self::Departed => Fault::O01KilledInFlight,
            Self::Accepted => Fault::O01KilledOnceAccepted,
            Self::Ended => Fault::O01KilledBeforeReadBack,
            Self::ReadBack => Fault::O01KilledBeforePublishing,
            Self::Published => Fault::O01KilledBeforeClosing,
        }
    }
}

/// The end of a strike.
#[derive(Clone, Debug)]
pub enum Undo {
    CutOff(usize),
    Clock(usize, i64),
    Dark(usize),
    Api,
    Upgrade,
    Config(usize),
    Cordon(usize),
    Metadata(usize),
    Silent(usize),
    Boot(usize),
    Join(usize),
    Subnet(usize, Vec<Ipv4Addr>),
}

const WEATHERS: [Fault; 24] = [
    Fault::A01ThrottledWithTime,
    Fault::A02ThrottledWithoutTime,
    Fault::A03ThrottledWrites,
    Fault::A04AnotherOperation,
    Fault::A05OperationFails,
    Fault::A05OperationSuperseded,
    Fault::A06Ignored,
    Fault::A07ErrorBeforeEffect,
    Fault::A07ErrorAfterEffect,
    Fault::A08ConnectionCut,
    Fault::A09OperationTakesTenMinutes,
    Fault::A10PartialSuccess,
    Fault::A11Forbidden,
    Fault::A11Locked,
    Fault::A12Unauthenticated,
    Fault::A13Gone,
    Fault::A14StaleRead,
    Fault::A15UnknownShape,
    Fault::A19SubnetFullUntrue,
    Fault::A25Outage,
    Fault::A27NoConnection,
    Fault::O04LateWrite,
    Fault::N08AnswerLost,
    Fault::K17RequestLate,
];

impl Plan {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut dice = Dice::new(seed);
        let count = 5 + dice.below(3);
        let machines = (0..count).map(|n| Ids::new(n, dice.chance(400), dice.below(2))).collect();
        let mut policies: Vec<Policy> = (0..3).map(|n| policy(&mut dice, n)).collect();
        units::give(seed, &mut policies);
        let kept = ruling::kept(&policies);
        let capacity = [450 + dice.below(100), 450 + dice.below(100)];
        let churn = dice.time(2 * MINUTE, 6 * MINUTE);
        let mut plan = Self {
            seed,
            mutation,
            thorough: false,
            machines,
            policies,
            kept,
            strikes: vec![],
            churn,
            calm_from: CALM_FROM,
            end: END,
            capacity,
        };
        plan.set_up(&mut dice);
        plan.storm(&mut dice);
        plan.change_units();
        plan.add_rare();
        if seed % 5 == 2 {
            let name = usize::try_from(seed / 5).unwrap_or_default() % plan.machines.len();
            plan.at(END - FOUND, Strike::QuietDrop(name));
        }
        plan
    }

    /// Whether a node's agent is of a version that does not say what metadata shows of the NIC.
    pub fn is_older(&self, name: usize) -> bool {
        usize::try_from(self.seed).unwrap_or_default().wrapping_add(name).is_multiple_of(4)
    }

    pub fn nics(&self) -> Vec<Nic> {
        let nic = |(n, ids): (usize, &Ids)| {
            let nic = Nic::new(&ids.nic, ids.instance.as_deref(), n, ids.subnet);
            nic.with_blocks(units::shown(self.seed), units::taken(self.seed, n))
        };
        self.machines.iter().enumerate().map(nic).collect()
    }

    pub fn subnets(&self) -> Vec<Subnet> {
        let subnet = |n: usize| {
            let third = u8::try_from(n).unwrap_or_default();
            let host = |host: usize| u8::try_from(host).unwrap_or_default();
            let free = (4..self.capacity[n]).rev().map(|number| Ipv4Addr::new(10, third, host(number / 250), host(number % 250)));
            Subnet { free: free.collect(), dice: Some(Dice::new(self.seed ^ 0x5ab << n)) }
        };
        (0..2).map(subnet).collect()
    }

    /// Whether what is wrong with a config is never mended.
    pub const fn leaves_configs_broken(&self) -> bool {
        self.seed % 3 == 1
    }

    fn at(&mut self, at: i64, strike: Strike) {
        self.strikes.push((at, strike));
    }

    /// Joins and everyday faults.
    fn set_up(&mut self, dice: &mut Dice) {
        let together = dice.chance(300);
        for name in 0..self.machines.len() {
            let at = if together { 5_000 } else { dice.time(0, 10 * MINUTE) };
            let foreign = if name == 0 && dice.chance(10) { 250 } else { dice.below(3) };
            self.at(at, Strike::Join { name, foreign });
        }
        for _ in 0..2 + dice.below(4) {
            let Some(fault) = dice.pick(&WEATHERS) else { continue };
            let rare = matches!(fault, Fault::N08AnswerLost | Fault::K17RequestLate);
            let per_mille = if rare { 30 } else { [80, 300, 600][dice.below(3)] };
            let from = dice.time(0, 60 * MINUTE);
            self.at(from, Strike::Weather(Weather { fault, per_mille, until: from + dice.time(3 * MINUTE, 20 * MINUTE) }));
        }
        for _ in 0..9 + dice.below(17) {
            let at = dice.time(3 * MINUTE, CALM_FROM - 2 * MINUTE);
            let strike = self.everyday(dice);
            self.at(at, strike);
        }
    }

    fn everyday(&self, dice: &mut Dice) -> Strike {
        let name = dice.below(self.machines.len());
        let pause = dice.time(5_000, 5 * MINUTE);
        match dice.below(37) {
            0 | 1 => Strike::KillLeader,
            2 => Strike::KillReplica(dice.below(2)),
            3 => Strike::KillAll,
            4 | 5 => Strike::Freeze { pause: dice.time(3_000, 90_000) },
            6 => Strike::CutOff { pause: dice.time(5_000, 120_000) },
            7 => Strike::Jump { by: [-3_600_000, 3_600_000, -20_000, 20_000][dice.below(4)] },
            8 => Strike::Panic,
            9 => Strike::ApiDown { pause: if dice.chance(150) { 20 * MINUTE } else { dice.time(5_000, 3 * MINUTE) } },
            10 | 11 => Strike::Stall { pause: dice.time(2_000, 90_000), anew: dice.chance(300) },
            12 => Strike::Config { name, policy: None, fault: [Fault::K08ConfigDeleted, Fault::K06ConfigInvalid][dice.below(2)] },
            13 => Strike::Config { name, policy: Some(1 + dice.below(2)), fault: Fault::K07OtherConfigCounts },
            14 => Strike::DeleteObject(name),
            15 => Strike::Remake(name),
            16 => Strike::DeleteMachine { name, back_after: dice.chance(700).then(|| dice.time(2_000, 10 * MINUTE)) },
            17 | 18 => Strike::Cordon { name, drain: dice.chance(500), pause },
            19 => Strike::KillAgent { name, pause: if dice.chance(200) { 25 * MINUTE } else { pause } },
            20..=22 => Strike::Fuse { name, steps: u32::try_from(dice.below(14)).unwrap_or_default() },
            23 => Strike::Reboot { name, dark: dice.chance(500).then(|| dice.time(20_000, 5 * MINUTE)) },
            24 => Strike::Deallocate { name, pause },
            25 => Strike::Reimage { name },
            26 => Strike::Metadata { name, late: dice.time(10_000, 4 * MINUTE), mute: dice.chance(400), pause: 2 * pause },
            27 => Strike::Silent { name, pause: 2 * pause },
            28 => Strike::ForeignDrop(name),
            30..=32 => {
                let freeze = dice.chance(350).then(|| dice.time(8_000, 90_000));
                Strike::Arm(Armed { point: Point::ALL[dice.below(Point::ALL.len())], freeze })
            }
            33 | 34 => Strike::Leave,
            35 => Strike::ForeignSwap(name),
            29 => Strike::ForeignAdd { name, many: 1 + dice.below(4) },
            _ => Strike::SubnetShrinks { subnet: dice.below(2), leave: dice.below(6), pause: 3 * pause },
        }
    }

    /// One of the combined storms, or none.
    fn storm(&mut self, dice: &mut Dice) {
        let from = dice.time(15 * MINUTE, 45 * MINUTE);
        let all = 0..self.machines.len();
        let weather = |fault, per_mille, minutes: i64| Strike::Weather(Weather { fault, per_mille, until: from + minutes * MINUTE });
        match self.seed % 8 {
            0 => {
                // A third of the nodes is evicted while writes are throttled.
                self.at(from, weather(Fault::A01ThrottledWithTime, 500, 15));
                for name in all.step_by(3) {
                    let back = Some(dice.time(MINUTE, 10 * MINUTE));
                    self.at(from + dice.time(0, 2 * MINUTE), Strike::DeleteMachine { name, back_after: back });
                }
            }
            1 => {
                // A rolling upgrade while the controller is killed every minute.
                for (turn, name) in all.enumerate() {
                    let at = from + i64::try_from(turn).unwrap_or_default() * 3 * MINUTE;
                    self.at(at, Strike::Cordon { name, drain: true, pause: 2 * MINUTE });
                    self.at(at + 90_000, Strike::Reimage { name });
                }
                for minute in 0..15 {
                    self.at(from + minute * MINUTE, Strike::KillLeader);
                }
            }
            2 => {
                // The autoscaler flaps.
                for turn in 0..3 {
                    for name in all.clone().skip(1) {
                        let at = from + turn * 9 * MINUTE + dice.time(0, MINUTE);
                        self.at(at, Strike::DeleteMachine { name, back_after: Some(dice.time(2_000, 6 * MINUTE)) });
                    }
                }
            }
            3 => {
                // A full subnet while others give back.
                for subnet in 0..2 {
                    self.at(from, Strike::SubnetShrinks { subnet, leave: dice.below(4), pause: 20 * MINUTE });
                }
                self.at(from + 10 * MINUTE, Strike::KillLeader);
            }
            4 => {
                // The API server restarts while operations take ten minutes.
                self.at(from, weather(Fault::A09OperationTakesTenMinutes, 700, 12));
                for turn in 0..4 {
                    self.at(from + turn * 3 * MINUTE, Strike::ApiDown { pause: dice.time(10_000, 100_000) });
                }
            }
            5 => {
                // An older state comes back, and a node is made anew.
                let before = from - dice.time(MINUTE, 12 * MINUTE);
                self.at(before, Strike::Snapshot);
                self.at(from, Strike::Restore { bump: dice.chance(500) });
                let name = dice.below(self.machines.len());
                self.at(from + dice.time(0, 2 * MINUTE), Strike::Remake(name));
                self.at(from + dice.time(0, 60_000), Strike::KillAll);
            }
            6 => {
                // Two leaders and late writes.
                self.at(from, weather(Fault::O04LateWrite, 400, 20));
                for turn in 0..8 {
                    self.at(from + turn * 2 * MINUTE, Strike::Freeze { pause: dice.time(10_000, 60_000) });
                }
            }
            _ => {}
        }
    }
}

impl Ids {
    fn new(number: usize, uniform: bool, subnet: usize) -> Self {
        let name = format!("n{number}");
        let group = "/subscriptions/s/resourceGroups/g/providers";
        let (provider, instance, nic) = if uniform {
            let instance = format!("{group}/Microsoft.Compute/virtualMachineScaleSets/set/virtualMachines/{number}");
            (instance.clone(), Some(instance.clone()), format!("{instance}/networkInterfaces/nic"))
        } else {
            let vm = format!("{group}/Microsoft.Compute/virtualMachines/{name}");
            (vm, None, format!("{group}/Microsoft.Network/networkInterfaces/nic-{number}"))
        };
        Self { name, provider: format!("azure://{provider}"), uniform, nic, instance, subnet }
    }
}

/// A config, as users write it.
fn policy(dice: &mut Dice, number: usize) -> Policy {
    let mut config = AzureVnetConfig::new(&format!("config-{number}"), AzureVnetConfigSpec::default());
    config.metadata.generation = Some(1);
    let pool = &mut config.spec.pool;
    let free = u16::try_from(1 + dice.below(5)).unwrap_or(1);
    (pool.min_free, pool.batch, pool.max) = (Some(free), Some([1, 2, 4][dice.below(3)]), Some([8, 16, 24][dice.below(3)]));
    pool.release.after = ["2m", "5m", "10m"][dice.below(3)].into();
    pool.release.batch = u16::try_from(1 + dice.below(6)).unwrap_or(1);
    if number == 2 && dice.chance(300) {
        (pool.min_free, pool.batch, pool.max, pool.ip_address_count) = (None, None, None, Some(9));
    }
    config.spec.arm.intent_ttl = ["2m", "10m"][dice.below(2)].into();
    config.spec.cni.chain.clear();
    let chosen = choose([&config], &std::collections::BTreeMap::new());
    chosen.and_then(|config| Policy::of(config).ok()).unwrap_or_else(|| unreachable!("the plan's configs are valid"))
}
