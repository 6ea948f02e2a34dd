//! How many addresses a node should hold.

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    node::{Agent, SlotAddress, Unit},
};

use crate::{adoption, blocks, first_fill::First, policy::Pool};

/// What a node needs and what fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Addresses in use or about to be, 0 without a report, and those that pods never get.
    pub used: u16,
    /// Addresses that fit on the NIC beside the foreign ones.
    pub room: u16,
    /// Whether the subnet has no address left.
    pub exhausted: bool,
    /// Whether the node takes no new pods.
    pub cordoned: bool,
    /// What it holds already.
    pub holding: u16,
    /// Addresses left in the subnet by Azure's last count, where that is known.
    pub free: Option<u32>,
    /// What additions consist of.
    pub unit: Unit,
}

/// Addresses of a node that are in use or about to be, by its agent's report; `leaving` are asked for in releases. Before the agent has adopted
/// `revision`, its markers may be of addresses that have left.
#[must_use]
pub fn used(agent: &Agent, revision: u64, leaving: u16) -> u16 {
    let is_current = agent.revision_adopted >= revision;
    let aside = if is_current { agent.counts.quarantined.saturating_sub(leaving) } else { 0 };
    agent.demand.saturating_add(aside)
}

/// Addresses of a node that pods never get, as they are reserved, and that are not leaving: the node has none of them to spare.
#[must_use]
pub fn kept_from_pods(spec: &AzureVnetNodeSpec) -> u16 {
    if spec.effective.reserved.is_empty() {
        return 0;
    }
    // Of what is lost, what came again is for pods as soon as the agent has seen it.
    let spec = blocks::apart(AzureVnetNodeSpec { lost: vec![], ..spec.clone() });
    let listed = adoption::listed(&spec);
    let leaves = |at: &SlotAddress| spec.release.iter().any(|release| release.addresses.contains(at));
    let kept = spec.addresses.iter().filter(|at| !listed.contains(at) && !leaves(at)).count();
    u16::try_from(kept).unwrap_or(u16::MAX)
}

/// How many addresses these are.
pub fn addresses<'a>(list: impl IntoIterator<Item = &'a SlotAddress>) -> u16 {
    list.into_iter().fold(0, |sum, at| sum.saturating_add(at.unit.size()))
}

/// How many addresses fit on a NIC that takes so many IP configurations of ours, and has some that carry so many: Azure's limit is one of IP
/// configurations.
#[must_use]
pub fn room(limit: u16, slots: u16, carried: u16, unit: Unit) -> u16 {
    limit.checked_sub(slots).map_or(limit, |left| carried.saturating_add(left.saturating_mul(unit.size())))
}

/// What may go of so many that are too many, and from how many on, where slots of these units are attached: nothing where each carries more; anything as
/// long as some are not of the unit that the pool is to consist of, else as many as the pool's `step`.
#[must_use]
pub fn surplus(attached: impl IntoIterator<Item = Unit>, over: u16, wanted: Unit, step: u16) -> (u16, u16) {
    let fits: Vec<Unit> = attached.into_iter().filter(|unit| unit.size() <= over).collect();
    let surplus = if fits.is_empty() { 0 } else { over };
    (surplus, if fits.iter().all(|unit| *unit == wanted) { step } else { 1 })
}

/// What to ask for back: of the unit that the pool is not to consist of first, then the highest slots, so that the pool stays dense. As much as fits into
/// the surplus and into a batch, but one slot at least.
#[must_use]
pub fn candidates(mut idle: Vec<SlotAddress>, wanted: Unit, surplus: u16, batch: u16) -> Vec<SlotAddress> {
    idle.sort_by_key(|at| (at.unit == wanted, std::cmp::Reverse(at.slot)));
    let (mut chosen, mut sum) = (vec![], 0_u16);
    for at in idle {
        let with = sum.saturating_add(at.unit.size());
        if with <= surplus && (with <= batch || chosen.is_empty()) {
            chosen.push(at);
            sum = with;
        }
    }
    chosen.sort();
    chosen
}

impl Pool {
    /// The size of the steps in which the pool grows and shrinks.
    #[must_use]
    pub fn step(self, exhausted: bool) -> u16 {
        match self {
            Self::Floating { batch, .. } if !exhausted => batch,
            Self::Fixed(_) | Self::Floating { .. } => 1,
        }
    }

    /// The number of addresses to hold: a multiple of the batch that leaves enough free, within bounds; by formula and not by counting, so that
    /// the same need always gives the same number. A cordoned node gets what its pods need (safety rule UP1).
    #[must_use]
    pub fn target(self, need: Need) -> u16 {
        let Need { used, room, exhausted, cordoned, holding: _, free: _, unit: _ } = need;
        match self {
            Self::Fixed(count) if cordoned => used.min(count).min(room),
            Self::Fixed(count) => count.min(room),
            Self::Floating { max, .. } if cordoned => used.min(max).min(room),
            Self::Floating { min, min_free, max, .. } => {
                let step = u32::from(self.step(exhausted).max(1));
                let free = if exhausted { 1 } else { u32::from(min_free) };
                let wanted = (u32::from(used) + free).div_ceil(step) * step;
                let wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
                wanted.max(min).min(max).min(room)
            }
        }
    }

    /// The number that a node is to hold while it is new: never less than otherwise. A fixed pool has its size from the start; a full subnet has none to
    /// spare, and a cordoned node takes no new pods. Of what a subnet has left when the node has what is usual, half is for others.
    #[must_use]
    pub fn first(self, first: First, need: Need) -> u16 {
        let usual = self.target(need);
        let wanted = match (self, first) {
            (Self::Floating { .. }, _) if need.exhausted || need.cordoned => usual,
            (Self::Floating { .. }, First::Learned(needed)) => self.target(Need { used: need.used.max(needed), ..need }),
            (Self::Floating { max, .. }, First::Count(count)) => usual.max(count.min(max).min(need.room)),
            (Self::Fixed(_), First::Learned(_) | First::Count(_)) => usual,
        };
        let left = need.free.map_or(u32::MAX, |free| free.saturating_sub(u32::from(usual.saturating_sub(need.holding))) / 2);
        wanted.min(usual.max(need.holding).saturating_add(u16::try_from(left).unwrap_or(u16::MAX)))
    }

    /// What a node is to hold, and what it would be to hold if it were not new: in whole units.
    #[must_use]
    pub fn sizes(self, first: Option<First>, need: Need) -> (u16, u16) {
        let usual = self.target(need);
        // A cordoned node that has what its pods need gets nothing, though it is not in whole units (safety rule UP1).
        let whole = |count: u16| if need.cordoned && count <= need.holding { count } else { need.unit.whole(count).min(need.room) };
        (whole(first.map_or(usual, |first| self.first(first, need))), whole(usual))
    }

    /// The most that it ever is.
    #[must_use]
    pub fn most(self) -> u16 {
        match self {
            Self::Fixed(count) => count,
            Self::Floating { max, .. } => max,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: Pool = Pool::Floating { min: 0, min_free: 8, batch: 4, max: 110 };

    fn need(used: u16) -> Need {
        Need { used, room: 255, ..Need::default() }
    }

    #[test]
    fn up1_a_node_without_a_report_is_filled_and_a_cordoned_one_gets_what_it_needs() {
        assert_eq!(POOL.target(need(0)), 8);
        assert_eq!(POOL.target(Need { cordoned: true, ..need(5) }), 5);
        assert_eq!(POOL.target(Need { cordoned: true, ..need(0) }), 0);
    }

    #[test]
    fn up1_a_cordoned_node_gets_no_block_while_its_single_addresses_do() {
        let sizes = |used, holding| POOL.sizes(None, Need { cordoned: true, holding, unit: Unit::Block28, ..need(used) }).0;
        assert_eq!([sizes(1, 4), sizes(4, 4), sizes(5, 4), sizes(1, 0)], [1, 4, 16, 16]);
    }

    #[test]
    fn the_target_is_a_multiple_of_the_batch_within_bounds() {
        assert_eq!([0, 1, 4, 5, 100, 200].map(|used| POOL.target(need(used))), [8, 12, 12, 16, 108, 110]);
        assert_eq!(POOL.target(Need { exhausted: true, ..need(5) }), 6);
        assert_eq!(POOL.target(Need { room: 10, ..need(50) }), 10);
        assert_eq!(Pool::Fixed(30).target(need(99)), 30);
        assert_eq!(Pool::Floating { min: 20, min_free: 1, batch: 16, max: 24 }.target(need(0)), 20);
    }

    #[test]
    fn a_new_node_holds_what_its_kin_needed_beside_what_is_kept_free() {
        let first = |first, need| POOL.first(first, need);
        assert_eq!([0, 3, 30, 250].map(|needed| first(First::Learned(needed), need(0))), [8, 12, 40, 110]);
        assert_eq!([0, 8, 9, 250].map(|count| first(First::Count(count), need(0))), [8, 8, 9, 110]);
        assert_eq!(first(First::Learned(30), need(60)), 68, "it needs more than they did");
        let short = [Need { exhausted: true, ..need(0) }, Need { cordoned: true, ..need(0) }, Need { room: 5, ..need(0) }];
        assert_eq!(short.map(|need| (first(First::Learned(30), need), first(First::Count(30), need))), [(1, 1), (0, 0), (5, 5)]);
        assert_eq!(Pool::Fixed(6).first(First::Learned(30), need(0)), 6);
    }

    #[test]
    fn what_a_new_node_takes_beyond_what_is_usual_is_half_of_what_its_subnet_has_left() {
        let first = |holding, free| {
            let need = Need { holding, free: Some(free), ..need(0) };
            (POOL.first(First::Learned(30), need), POOL.first(First::Count(31), need))
        };
        assert_eq!([100, 72, 30, 9, 8, 0].map(|free| first(0, free)), [(40, 31), (40, 31), (19, 19), (8, 8), (8, 8), (8, 8)]);
        assert_eq!([32, 4, 0].map(|free| first(20, free)), [(36, 31), (22, 22), (20, 20)], "what it holds is not taken again");
        assert_eq!(first(40, 0), (40, 31));
    }

    proptest! {
        #[test]
        fn a_target_never_falls_as_demand_rises_and_never_passes_its_bounds(
            used in 0_u16..300, min_free in 1_u16..=20, batch in 1_u16..=20, max in 1_u16..=255, min in 0_u16..=255, room in 0_u16..=255,
        ) {
            let pool = Pool::Floating { min: min.min(max), min_free, batch, max };
            let (here, more) = (pool.target(Need { room, ..need(used) }), pool.target(Need { room, ..need(used + 1) }));
            prop_assert!(here <= more && more <= max.min(room));
            prop_assert!(here >= (used + min_free).min(max).min(room));
        }
    }
}
