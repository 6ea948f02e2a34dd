//! Which seeds have blocks of addresses, and how their nodes go from one unit to the other and back.

use std::time::Duration;

use azure_vnet_crds::node::Unit;
use azure_vnet_operator_core::policy::{Policy, Pool};

use super::{CALM_FROM, MINUTE, Plan, Strike};
use crate::{
    cloud::{Shows, Takes},
    dice::Dice,
    fault::Fault,
};

/// Of four seeds one has blocks. In half of these nodes begin with single addresses and come to blocks, in the other half it is the other way round.
const fn configs_with_blocks(seed: u64) -> [bool; 3] {
    match seed % 8 {
        0 => [false, true, true],
        4 => [true, false, true],
        _ => [false; 3],
    }
}

/// Makes some configs ask for blocks, with pools of which a whole block can be too much.
pub(super) fn give(seed: u64, policies: &mut [Policy]) {
    let with_blocks = configs_with_blocks(seed);
    if !with_blocks.contains(&true) {
        return;
    }
    let mut dice = Dice::new(!seed);
    for (policy, has_blocks) in policies.iter_mut().zip(with_blocks) {
        policy.unit = if has_blocks { Unit::Block28 } else { Unit::Address };
        policy.release.after = Duration::from_mins(2);
        if let Pool::Floating { max, .. } = &mut policy.pool {
            *max = [16, 32, 48][dice.below(3)];
            policy.effective.pool.max = *max;
        }
    }
}

/// What metadata shows of blocks in this seed.
pub(super) const fn shown(seed: u64) -> Shows {
    match seed / 8 % 3 {
        0 => Shows::Each,
        1 => Shows::First,
        _ => Shows::NoBlock,
    }
}

/// How a machine's NIC takes blocks in this seed.
pub(super) const fn taken(seed: u64, number: usize) -> Takes {
    match (seed / 24 + number as u64) % 7 {
        0 => Takes::Singles,
        1 => Takes::None,
        _ => Takes::Blocks,
    }
}

impl Plan {
    /// Nodes come under a config of the other unit, and back. Pods come in bursts, and few stay: of blocks each address has to be idle.
    pub(super) fn change_units(&mut self) {
        if !configs_with_blocks(self.seed).contains(&true) {
            return;
        }
        let mut dice = Dice::new(self.seed ^ 0x1c);
        self.churn *= 5;
        for name in 0..self.machines.len() {
            for _ in 0..2 + dice.below(4) {
                let at = dice.time(8 * MINUTE, CALM_FROM - 2 * MINUTE);
                self.at(at, Strike::Config { name, policy: Some(1 + dice.below(2)), fault: Fault::K07UnitChanges });
            }
            for _ in 0..2 + dice.below(3) {
                let at = dice.time(12 * MINUTE, CALM_FROM - 10 * MINUTE);
                self.at(at, Strike::Burst { name, many: 14 + dice.below(24) });
            }
        }
    }
}
