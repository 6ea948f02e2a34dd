//! What a new node holds before its pods come: learned from what the other nodes of its pool needed. It counts nothing up: each node's need stands in its
//! own object, and what is concluded of them in the config's status, so that both outlive any controller, and the latter the nodes.

use std::{collections::BTreeMap, time::Duration};

use azure_vnet_crds::config::{Initial, Learned};
use jiff::Timestamp;

/// How long a node counts as new.
const NEW: Duration = Duration::from_mins(10);

/// Labels that name a node's pool, as AKS and its node provisioning set them.
const POOLS: [&str; 3] = ["kubernetes.azure.com/agentpool", "agentpool", "karpenter.sh/nodepool"];
/// Fewer nodes than this say nothing of the next one.
const ENOUGH: usize = 3;
/// Node pools that are remembered.
const MAX_POOLS: usize = 64;

/// What a new node is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// At least so many.
    Count(u16),
    /// Enough for a need of so many; 0 where nothing was learned.
    Learned(u16),
}

impl First {
    /// As a config says.
    #[must_use]
    pub fn of(initial: Option<Initial>) -> Self {
        match initial {
            Some(Initial::Count(count)) => Self::Count(count),
            Some(Initial::Auto(_)) | None => Self::Learned(0),
        }
    }

    /// The same with what was learned of nodes with these labels, where that counts.
    #[must_use]
    pub fn learned(self, learned: &[Learned], labels: &BTreeMap<String, String>) -> Self {
        let kin = kin(labels);
        match self {
            Self::Count(count) => Self::Count(count),
            Self::Learned(_) => Self::Learned(learned.iter().find(|of| of.pool == kin).map_or(0, |of| of.needed)),
        }
    }
}

/// How far the first fill of a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Nothing was published for it yet.
    Due,
    /// It was begun, by what was learned at that time: what is learned meanwhile is for the next node.
    Begun(Option<u16>),
}

impl First {
    /// What counts for a node whose first fill has come so far.
    #[must_use]
    pub fn at(self, fill: Fill) -> Self {
        match (self, fill) {
            (Self::Count(count), _) | (Self::Learned(_), Fill::Begun(Some(count))) => Self::Count(count),
            (Self::Learned(needed), Fill::Due) => Self::Learned(needed),
            (Self::Learned(_), Fill::Begun(None)) => Self::Learned(0),
        }
    }
}

/// For how long a node goes on being new.
#[must_use]
pub fn left(created: Timestamp, now: Timestamp) -> Option<Duration> {
    let age: Duration = now.duration_since(created).try_into().unwrap_or_default();
    NEW.checked_sub(age).filter(|left| !left.is_zero())
}

/// The pool of a node, by its labels; empty where none names it.
#[must_use]
pub fn kin(labels: &BTreeMap<String, String>) -> &str {
    POOLS.iter().find_map(|label| labels.get(*label)).map_or("", String::as_str)
}

/// What is known of a config's node pools once their nodes' needs were seen: of a pool with too few nodes what was known before, though it has none left.
#[must_use]
pub fn learn(before: &[Learned], needs: BTreeMap<String, Vec<u16>>) -> Vec<Learned> {
    let seen: BTreeMap<String, Learned> = needs.into_iter().filter_map(|(pool, needs)| Some((pool.clone(), of(pool, needs)?))).collect();
    let kept = before.iter().filter(|of| !seen.contains_key(&of.pool)).take(MAX_POOLS.saturating_sub(seen.len()));
    let all: BTreeMap<&str, &Learned> = kept.chain(seen.values()).map(|of| (of.pool.as_str(), of)).collect();
    all.into_values().take(MAX_POOLS).cloned().collect()
}

/// What 95 of a hundred nodes needed at most, and all but one of fewer than twenty: no node's word alone decides.
fn of(pool: String, mut needs: Vec<u16>) -> Option<Learned> {
    needs.sort_unstable();
    let rank = (needs.len() * 95).div_ceil(100).min(needs.len().saturating_sub(1));
    let needed = *needs.get(rank.checked_sub(1)?).filter(|_| needs.len() >= ENOUGH)?;
    Some(Learned { pool, nodes: u32::try_from(needs.len()).unwrap_or(u32::MAX), needed })
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::config::Auto;

    use super::*;

    fn learned(pool: &str, nodes: u32, needed: u16) -> Learned {
        Learned { pool: pool.into(), nodes, needed }
    }

    fn needs(pairs: &[(&str, &[u16])]) -> BTreeMap<String, Vec<u16>> {
        pairs.iter().map(|(pool, needs)| ((*pool).to_owned(), needs.to_vec())).collect()
    }

    #[test]
    fn what_95_of_a_hundred_nodes_needed_and_all_but_one_of_a_few_is_learned_from_three_on() {
        let hundred: Vec<u16> = (1..=100).rev().collect();
        assert_eq!(
            learn(&[], needs(&[("a", &hundred), ("b", &[7, 40, 9]), ("c", &[7, 40]), ("d", &[])])),
            [learned("a", 100, 95), learned("b", 3, 9)]
        );
        for (nodes, expected) in [(4_u16, 3), (19, 18), (20, 19), (21, 20), (40, 38)] {
            let needs = BTreeMap::from([("a".to_owned(), (1..nodes).chain([u16::MAX]).collect())]);
            assert_eq!(learn(&[], needs), [learned("a", u32::from(nodes), expected)], "one of {nodes} tells nonsense");
        }
    }

    #[test]
    fn what_was_learned_outlives_the_nodes_and_is_replaced_by_those_that_come() {
        let before = [learned("", 9, 1), learned("a", 9, 50)];
        assert_eq!(learn(&before, needs(&[])), before, "a pool that is scaled to nothing comes back as it was");
        assert_eq!(learn(&before, needs(&[("a", &[3, 4])])), before);
        assert_eq!(learn(&before, needs(&[("a", &[3, 4, 5])])), [learned("", 9, 1), learned("a", 3, 4)]);
        let many: Vec<Learned> = (0..MAX_POOLS).map(|n| learned(&format!("p{n:02}"), 3, 1)).collect();
        let after = learn(&many, needs(&[("new", &[8, 8, 8])]));
        assert_eq!((after.len(), after.contains(&learned("new", 3, 8))), (MAX_POOLS, true));
    }

    #[test]
    fn a_node_learns_from_those_of_its_own_pool_unless_the_config_says_how_many() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let known = [learned("", 9, 1), learned("a", 9, 50)];
        let first = |initial, pairs: &[(&str, &str)]| First::of(initial).learned(&known, &labels(pairs));
        assert_eq!(first(None, &[("agentpool", "a"), ("x", "y")]), First::Learned(50));
        assert_eq!(
            first(Some(Initial::Auto(Auto::Auto)), &[("kubernetes.azure.com/agentpool", "a"), ("agentpool", "b")]),
            First::Learned(50)
        );
        assert_eq!(first(None, &[]), First::Learned(1));
        assert_eq!(first(None, &[("karpenter.sh/nodepool", "new")]), First::Learned(0));
        assert_eq!(first(Some(Initial::Count(5)), &[("agentpool", "a")]), First::Count(5));
    }

    #[test]
    fn the_config_says_a_number_or_auto() {
        let parse = |text: &str| serde_json::from_str::<Initial>(text).ok();
        assert_eq!(
            (parse("12"), parse("\"Auto\""), parse("\"auto\""), parse("-1")),
            (Some(Initial::Count(12)), Some(Initial::Auto(Auto::Auto)), None, None)
        );
        assert_eq!(serde_json::to_string(&Initial::Auto(Auto::Auto)).unwrap(), "\"Auto\"");
    }
}
