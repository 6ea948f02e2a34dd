//! Taking the product out of a cluster: which pods stand in the way, which nodes are as they were, and whose addresses go back to the subnet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_crds::AzureVnetNode;
use jiff::Timestamp;

use crate::nic::{Change, Slot, State, View};

/// Attempts at a node that are waited for: what failed once may have failed for something that ends by itself.
const ATTEMPTS: u32 = 3;

/// By how much clocks may differ, and a run be late with opening nodes again.
const LATE: Duration = Duration::from_mins(5);

/// The value of the taint that keeps pods off a node during a run, which ends by itself at that time.
#[must_use]
pub fn closed_until(end: Timestamp) -> String {
    end.as_second().to_string()
}

/// For how long a node with a taint of that value is a run's own; none left: the run was killed, and opens nothing any more. `None`: no run has written
/// it.
#[must_use]
pub fn closed_for(value: Option<&str>, now: Timestamp) -> Option<Duration> {
    let end = Timestamp::from_second(value?.parse().ok()?).ok()?;
    let left = end.saturating_add(LATE).map_or(Timestamp::MAX, |end| end).duration_since(now);
    Some(left.try_into().unwrap_or_default())
}

/// What becomes of the addresses on the NICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// They go back to the subnet.
    GiveBack,
    /// They stay on the NICs: a later installation takes them over.
    Keep,
}

/// What is done about nodes whose pods have addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// Nothing is begun while there is one.
    Refuse,
    /// They are left as they are, addresses included; the others are restored.
    Leave,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether all of its containers have ended for good.
    pub is_over: bool,
}

/// The pods that have an address of their node's pool. One of the host's network has the node's own, which is in no pool.
#[must_use]
pub fn holders<'a>(pods: &'a [Pod], pools: &[AzureVnetNode]) -> Vec<&'a Pod> {
    let pools: BTreeMap<&str, BTreeSet<Ipv4Addr>> = pools.iter().map(|pool| (name(pool), addresses(pool))).collect();
    let holds = |pod: &&Pod| {
        let pool = pools.get(pod.node.as_str());
        !pod.is_over && pool.is_some_and(|pool| pod.addresses.iter().any(|address| pool.contains(address)))
    };
    pods.iter().filter(holds).collect()
}

/// Those that were lost count: their pods are there all the same.
fn addresses(pool: &AzureVnetNode) -> BTreeSet<Ipv4Addr> {
    pool.spec.addresses.iter().chain(&pool.spec.lost).flat_map(|slot| slot.each()).map(|slot| slot.address).collect()
}

fn name(pool: &AzureVnetNode) -> &str {
    pool.metadata.name.as_deref().unwrap_or_default()
}

/// What stands in the way, for people: at most ten of them by name.
#[must_use]
pub fn in_the_way(holders: &[&Pod]) -> String {
    let named: Vec<String> = holders.iter().take(10).map(|pod| format!("{} on {}", pod.name, pod.node)).collect();
    let more = holders.len().saturating_sub(named.len());
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    format!("{} pods have addresses of the VNET: {}{more}", holders.len(), named.join(", "))
}

/// The pod that restores one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restorer {
    /// It is done.
    pub is_ready: bool,
    /// Why it last failed.
    pub failed: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing of ours is on it any more, or it is gone.
    Restored,
    /// It is being worked on; what came of the last attempt.
    Waits(Option<String>),
    /// It says why not.
    Refused(String),
    /// Nobody can work on it.
    Unreachable,
}

/// How far each node is that has a pool. `kubelets` tells of all nodes that are there whether their kubelet speaks; `restorers` are the pods that are
/// there by now. Nobody restores a node that is gone, and nothing on it is used.
#[must_use]
pub fn progress(
    pools: &[AzureVnetNode],
    kubelets: &BTreeMap<String, bool>,
    restorers: &BTreeMap<String, Restorer>,
) -> BTreeMap<String, Progress> {
    let of = |node: &str| match restorers.get(node) {
        Some(Restorer { is_ready: true, .. }) => Progress::Restored,
        restorer => match (kubelets.get(node), restorer) {
            (None, _) => Progress::Restored,
            (Some(false), _) => Progress::Unreachable,
            (Some(true), Some(Restorer { failed: Some(why), restarts, .. })) if restarts + 1 >= ATTEMPTS => {
                Progress::Refused(why.trim().to_owned())
            }
            (Some(true), restorer) => Progress::Waits(restorer.and_then(|restorer| Some(restorer.failed.as_ref()?.trim().to_owned()))),
        },
    };
    pools.iter().map(|pool| (name(pool).to_owned(), of(name(pool)))).collect()
}

/// Pods that were not there when all began, or that the kernel does not show, keep their node, whatever its restorer says: one more look before the
/// addresses go.
pub fn keep(progress: &mut BTreeMap<String, Progress>, holders: &[&Pod]) {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in holders {
        by_node.entry(&pod.node).or_default().push(pod);
    }
    for (node, pods) in by_node {
        progress.insert(node.to_owned(), Progress::Refused(in_the_way(&pods)));
    }
}

/// Why a node's addresses stay on its NIC and its object stays; nothing if it is done with.
#[must_use]
pub fn stays(progress: Option<&Progress>) -> Option<String> {
    match progress {
        Some(Progress::Restored) => None,
        Some(Progress::Waits(None)) | None => Some("it was not restored in time".into()),
        Some(Progress::Waits(Some(why))) => Some(format!("it was not restored in time: {why}")),
        Some(Progress::Unreachable) => Some("its kubelet does not answer".into()),
        Some(Progress::Refused(why)) => Some(why.clone()),
    }
}

/// The next write towards a NIC without anything of ours; nothing if it is without.
///
/// What is left of a removal that failed half way has its address and goes as well. What Azure failed to provision has none by which it could be
/// removed: once nothing else is left it is sent again as it stands, which gives it one.
#[must_use]
pub fn giving_back(view: &View) -> Option<Change> {
    if view.slots.is_empty() && view.state != State::Moving {
        return None;
    }
    let remove: BTreeSet<_> = view.attached().chain(view.dropped()).collect();
    let failed = view.slots.iter().filter(|(_, state)| matches!(state, Slot::Failed(_))).map(|(slot, _)| *slot);
    let add = if remove.is_empty() { failed.collect() } else { BTreeSet::new() };
    Some(Change { add, remove, failed: view.failed_blocks().collect(), ..Change::default() })
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::{AzureVnetNodeSpec, node::Unit};

    use super::*;

    fn pool(node: &str, addresses: &[&str]) -> AzureVnetNode {
        let addresses = addresses.iter().map(|slot| slot.parse().unwrap()).collect();
        AzureVnetNode::new(node, AzureVnetNodeSpec { addresses, ..AzureVnetNodeSpec::default() })
    }

    fn pod(name: &str, node: &str, address: &str) -> Pod {
        Pod { name: name.into(), node: node.into(), addresses: vec![address.parse().unwrap()], is_over: false }
    }

    #[test]
    fn up4_only_pods_with_an_address_of_their_nodes_pool_stand_in_the_way() {
        let mut pools = vec![pool("n1", &["1/10.0.0.5"]), pool("n2", &["1/10.0.0.6"])];
        let over = Pod { is_over: true, ..pod("d/over", "n1", "10.0.0.5") };
        let pods = [
            pod("d/holds", "n1", "10.0.0.5"),
            over,
            pod("d/host", "n1", "10.0.0.4"),
            pod("d/other-plugin", "n2", "10.244.0.9"),
            pod("d/elsewhere", "n3", "10.0.0.6"),
        ];
        assert_eq!(holders(&pods, &pools), [&pods[0]]);
        pools[0].spec.lost = std::mem::take(&mut pools[0].spec.addresses);
        assert_eq!(holders(&pods, &pools), [&pods[0]], "a lost address has its pod all the same");
        assert_eq!(in_the_way(&[&pods[0]]), "1 pods have addresses of the VNET: d/holds on n1");
        let many: Vec<&Pod> = std::iter::repeat_n(&pods[0], 12).collect();
        assert!(in_the_way(&many).ends_with(", and 2 more"));
    }

    #[test]
    fn up4_a_restored_node_whose_pods_have_addresses_all_the_same_keeps_them() {
        let pools = [pool("n1", &["1/10.0.0.5"]), pool("n2", &["1/10.0.0.6"])];
        let restorers = ["n1", "n2"].map(|node| (node.to_owned(), Restorer { is_ready: true, ..Restorer::default() })).into();
        let kubelets = ["n1", "n2"].map(|node| (node.to_owned(), true)).into();
        let mut progress = progress(&pools, &kubelets, &restorers);
        let pods = [pod("d/late", "n1", "10.0.0.5"), pod("d/host", "n2", "10.0.0.4")];
        keep(&mut progress, &holders(&pods, &pools));
        assert_eq!(stays(progress.get("n1")).as_deref(), Some("1 pods have addresses of the VNET: d/late on n1"));
        assert_eq!(stays(progress.get("n2")), None);
    }

    #[test]
    fn a_run_that_was_killed_keeps_no_node_closed() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let minutes = |minutes: i64| now.saturating_add(jiff::SignedDuration::from_mins(minutes)).unwrap();
        let left = |at: i64| closed_for(Some(&closed_until(now)), minutes(at)).map(|left| left.as_secs());
        assert_eq!([left(-1), left(0), left(4), left(5), left(600)], [Some(360), Some(300), Some(60), Some(0), Some(0)]);
        for value in [None, Some(""), Some("true"), Some("99999999999999999999")] {
            assert_eq!(closed_for(value, now), None, "{value:?} is somebody else's");
        }
    }

    #[test]
    fn a_node_is_done_with_only_once_its_restorer_says_so() {
        let pools = ["done", "off", "refuses", "fails", "works", "new", "gone"].map(|node| pool(node, &[]));
        let kubelets = ["done", "refuses", "fails", "works", "new"].map(|node| (node.to_owned(), true));
        let kubelets = kubelets.into_iter().chain([("off".to_owned(), false)]).collect();
        let failed = |why: &str, restarts| Restorer { is_ready: false, failed: Some(why.into()), restarts };
        let restorers = BTreeMap::from([
            ("done".to_owned(), Restorer { is_ready: true, ..failed("earlier", 7) }),
            ("off".to_owned(), Restorer::default()),
            ("refuses".to_owned(), failed("pods\n", 2)),
            ("fails".to_owned(), failed("the lock is held\n", 1)),
            ("works".to_owned(), Restorer::default()),
        ]);
        let progress = progress(&pools, &kubelets, &restorers);
        let of = |node: &str| progress[node].clone();
        assert_eq!(
            [of("done"), of("off"), of("works"), of("new")],
            [Progress::Restored, Progress::Unreachable, Progress::Waits(None), Progress::Waits(None)]
        );
        assert_eq!(of("refuses"), Progress::Refused("pods".into()));
        assert_eq!(of("fails"), Progress::Waits(Some("the lock is held".into())), "the kubelet tries again");
        assert_eq!(of("gone"), Progress::Restored, "nobody can restore it");
        assert_eq!(stays(Some(&of("done"))), None);
        for node in ["off", "refuses", "fails", "works", "new"] {
            assert!(stays(progress.get(node)).is_some(), "{node}");
        }
    }

    fn view(slots: &[(u8, Slot)], state: State) -> View {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n";
        let subnet = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n";
        let (id, subnet) = (id.parse().unwrap(), subnet.parse().unwrap());
        View {
            id,
            mac: String::new(),
            subnet,
            primary: Ipv4Addr::LOCALHOST,
            slots: slots.iter().copied().collect(),
            foreign: 1,
            foreign_ipv4: 1,
            state,
        }
    }

    #[test]
    fn a_block_that_azure_failed_to_make_is_not_asked_for_with_what_is_given_back() {
        let at = Ipv4Addr::new(10, 0, 0, 5);
        let slots = [(1, Slot::Attached(at, Unit::Address)), (2, Slot::Failed(Unit::Block28)), (3, Slot::Failed(Unit::Address))];
        assert_eq!(giving_back(&view(&slots, State::Settled)).unwrap().failed, [2].into());
    }

    #[test]
    fn what_azure_left_of_a_removal_is_given_back_too() {
        let at = |last| Ipv4Addr::new(10, 0, 0, last);
        let goes = |slots: &[(u8, Slot)]| {
            let change = giving_back(&view(slots, State::Settled)).unwrap();
            let removed: Vec<u8> = change.remove.iter().map(|slot| slot.slot).collect();
            (removed, change.add.into_iter().collect::<Vec<u8>>())
        };
        assert_eq!(goes(&[(1, Slot::Dropped(at(5), Unit::Address)), (2, Slot::Dropped(at(6), Unit::Address))]), (vec![1, 2], vec![]));
        assert_eq!(
            goes(&[(1, Slot::Attached(at(5), Unit::Address)), (2, Slot::Dropped(at(6), Unit::Address)), (3, Slot::Failed(Unit::Address))]),
            (vec![1, 2], vec![])
        );
        assert_eq!(
            goes(&[(3, Slot::Failed(Unit::Address)), (4, Slot::Provisioning(Unit::Address))]),
            (vec![], vec![3]),
            "it gets an address, and then goes"
        );
        assert_eq!(giving_back(&view(&[], State::Settled)), None);
        assert_eq!(giving_back(&view(&[], State::Moving)), Some(Change::default()), "something may still come");
    }
}
