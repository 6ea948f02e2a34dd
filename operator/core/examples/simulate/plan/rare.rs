//! What strikes one seed of four beside the everyday faults, by dice of its own, so that all other seeds mean what they meant.

use super::{CALM_FROM, MINUTE, Plan, Strike, Weather};
use crate::{dice::Dice, fault::Fault};

/// For how long at most an older version is in charge: it looks at nothing that it does not understand.
const OLDER: i64 = 6 * MINUTE;

impl Plan {
    pub(super) fn add_rare(&mut self) {
        if self.seed % 4 != 3 {
            return;
        }
        let mut dice = Dice::new(self.seed ^ 0x0d_d5);
        for (fault, per_mille) in [
            (Fault::A28OthersUseUp, 600),
            (Fault::K05KindsRefused, 1000),
            (Fault::K09TokenRotated, 300),
            (Fault::K16CredentialsChanged, 1000),
        ] {
            if dice.chance(500) {
                let from = dice.time(3 * MINUTE, CALM_FROM - 6 * MINUTE);
                self.at(from, Strike::Weather(Weather { fault, per_mille, until: from + dice.time(30_000, 5 * MINUTE) }));
            }
        }
        if dice.chance(500) {
            let from = dice.time(10 * MINUTE, CALM_FROM - OLDER);
            self.at(from, Strike::Downgrade { pause: dice.time(MINUTE, OLDER) });
        }
    }
}
