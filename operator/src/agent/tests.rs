//! The whole agent but for its watches, on real files and a real kernel: each test in a network and mount namespace of its own.

mod blocks;
mod bridged;
mod counted;
mod host;
mod packets;
mod pool;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    config::{Backend, CniSpec},
    node::{Release, SlotAddress},
};
use azure_vnet_operator_core::adoption::Source;
use azure_vnet_plugin::store::{KernelUse, LeaseRequest, Supply};
use azure_vnet_plugin_core::attachment::{Attachment, Mode, PodRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{
    Options,
    clocks::since_boot,
    host::Look,
    keep::{Answer, CutOff, Node, NodeError, Outcome, Seen, Want},
    object::Object,
};

const MAC: &str = "00:0d:3a:00:00:01";

/// Runs on a thread that has left the machine's network and mounts.
pub(crate) fn apart(test: impl FnOnce() + Send + 'static) {
    let done = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests make namespaces: run them as root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "fabric"]);
        run("ip", &["link", "set", "fabric", "up"]);
        run("ip", &["address", "add", "10.0.0.4/24", "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "up"]);
        test();
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "conf", "log", "run", "state", "sys/bridge", "sys/ipv4/conf/all", "sys/ipv4/conf/eth0"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let settings = ["ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter"].map(|name| format!("sys/ipv4/{name}"));
        for file in settings.iter().map(String::as_str).chain(["sys/bridge/bridge-nf-call-iptables"]) {
            fs::write(root.path().join(file), "0\n").unwrap();
        }
        for plugin in ["azure-vnet", "azure-vnet-ipam"] {
            let path = root.path().join("bin").join(plugin);
            fs::write(&path, "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let machine = Self { root };
        machine.boot("first");
        machine
    }

    /// A reboot: another boot id, and nothing under /run.
    fn boot(&self, id: &str) {
        fs::write(self.path("boot_id"), format!("{id}\n")).unwrap();
        empty(&self.path("run"));
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn start(&self) -> Node {
        self.start_with(|_| ())
    }

    fn start_with(&self, change: impl FnOnce(&mut Options)) -> Node {
        let mut options = Options {
            node_name: "n1".into(),
            proc_sys_net: self.path("sys"),
            boot_id_file: self.path("boot_id"),
            run_dir: self.path("run"),
            state_dir: self.path("state"),
            cni_bin_dir: self.path("bin"),
            install_from: Some(self.path("image")).filter(|image| image.exists()),
            cni_conf_dir: self.path("conf"),
            log_dir: self.path("log"),
        };
        change(&mut options);
        Node::open(options).unwrap()
    }

    fn conflist(&self) -> bool {
        self.path("conf/10-azure-vnet.conflist").exists()
    }
}

/// What `remark` says of a topic that is in order, or `note` of one that is not.
fn told(outcome: &Outcome, kind: &str) -> (String, String, String) {
    let conditions = outcome.report.as_ref().unwrap().conditions(&[], &Time(jiff::Timestamp::UNIX_EPOCH));
    let condition = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
    (condition.status, condition.reason, condition.message)
}

fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

fn all(texts: &[&str]) -> Vec<SlotAddress> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn object(revision: u64, texts: &[&str]) -> Object {
    let mut spec = AzureVnetNodeSpec { revision, addresses: all(texts), ..AzureVnetNodeSpec::default() };
    spec.node.mac = MAC.into();
    spec.node.subnet_prefix = "10.0.0.0/24".into();
    spec.node.primary_address = "10.0.0.4".into();
    spec.node.vnet_cidrs = vec!["10.0.0.0/16".into()];
    spec.effective.cni = CniSpec { chain: vec![], ..CniSpec::default() };
    spec.effective.masquerade.backend = Backend::Nft;
    spec.effective.cool_down_seconds = 10;
    spec.effective.probation_seconds = 600;
    Object { uid: "uid-1".into(), spec, leaving: false, removing: vec![], last_read: None, agent: None, conditions: vec![] }
}

fn seen(object: Option<&Object>, answers: Vec<Answer>) -> Seen {
    let listed = super::orphans::Listed::default();
    Seen { object: object.cloned(), pods: Some(vec![]), watched: Some(listed), listed: None, answers, reread: false, look: Look::ForDrift }
}

fn imds(machine: &str, addresses: &[&str]) -> Answer {
    let shown = addresses.iter().map(|text| address(text)).collect();
    Answer { source: Source::Imds, asked: since_boot(), vm_id: Some(machine.into()), shown: vec![(MAC.into(), shown)] }
}

/// Looks again until the condition holds: settling takes two seconds of the boot's own clock.
fn until(node: &mut Node, seen: &Seen, holds: impl Fn(&Node, &Outcome) -> bool) -> Outcome {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let outcome = node.reconcile(seen).unwrap();
        if holds(node, &outcome) {
            return outcome;
        }
        assert!(std::time::Instant::now() < deadline, "{outcome:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn offered(node: &Node) -> Option<Vec<Ipv4Addr>> {
    node.keeper.store().pool().ok().map(|pool| pool.addresses().iter().map(|at| at.address).collect())
}

/// A node whose addresses have been shown and are offered.
fn filled(machine: &Machine, object: &Object) -> Node {
    let mut node = machine.start();
    let listed: Vec<String> = object.spec.addresses.iter().map(|at| at.address.to_string()).collect();
    let shown: Vec<&str> = listed.iter().map(String::as_str).collect();
    let count = shown.len();
    until(&mut node, &seen(Some(object), vec![imds("vm-1", &shown)]), |node, _| offered(node).is_some_and(|pool| pool.len() == count));
    node
}

fn condition(outcome: &Outcome, topic: super::problems::Topic) -> Option<&'static str> {
    outcome.report.as_ref()?.problems.iter().find(|(found, _)| *found == topic).map(|(_, problem)| problem.reason)
}

fn lease(node: &Node, container: &str) -> Ipv4Addr {
    lease_for(node, container, None)
}

fn lease_for(node: &Node, container: &str, uid: Option<&str>) -> Ipv4Addr {
    let request = LeaseRequest {
        attachment: Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() },
        pod: uid.map(|uid| PodRef { namespace: "default".into(), name: container.into(), uid: Some(uid.parse().unwrap()) }),
        network: "azure-vnet".parse().unwrap(),
        mode: Mode::Transparent,
        host_link: "azv00000000001".parse().unwrap(),
        netns: "/run/netns/a".parse().unwrap(),
        netns_cookie: None,
        requested: None,
        supply: Supply::default(),
        avoid: BTreeMap::new(),
    };
    let granted = node.keeper.store().lease(&request, &mut |_| KernelUse::Free).unwrap();
    granted.held.lease().address
}

#[test]
fn up1_an_empty_pool_counts_as_adopted_and_the_conflist_comes_last() {
    apart(|| {
        let machine = Machine::new();
        let mut node = machine.start();
        let waiting = node.reconcile(&seen(None, vec![])).unwrap();
        assert!(!waiting.ready && offered(&node).is_none() && !machine.conflist());
        let outcome = node.reconcile(&seen(Some(&object(1, &[])), vec![])).unwrap();
        assert!(outcome.ready && machine.conflist());
        let agent = outcome.report.unwrap().agent;
        assert_eq!((agent.revision_adopted, agent.ready, agent.boot_id.as_str()), (1, true, "first"));
        assert_eq!(offered(&node), Some(vec![]));
        assert_eq!(fs::read_to_string(machine.path("sys/ipv4/ip_forward")).unwrap(), "1");
    });
}

#[test]
fn up4_without_its_plugins_a_node_is_not_ready_and_says_why() {
    apart(|| {
        let machine = Machine::new();
        fs::remove_file(machine.path("bin/azure-vnet-ipam")).unwrap();
        let mut node = machine.start();
        let outcome = node.reconcile(&seen(Some(&object(1, &[])), vec![])).unwrap();
        assert!(!outcome.ready && !machine.conflist());
        assert_eq!(condition(&outcome, super::problems::Topic::ConflistInPlace), Some("PluginMissing"));
    });
}

#[test]
fn re6_a_new_address_is_offered_once_this_nodes_imds_shows_it() {
    apart(|| {
        let machine = Machine::new();
        let mut node = machine.start();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![imds("vm-1", &["10.0.0.4"])])).unwrap();
        assert_eq!(offered(&node), Some(vec![]));
        assert!(outcome.waits_for_metadata);
        until(&mut node, &seen(Some(&object), vec![imds("vm-1", &["10.0.0.4", "10.0.0.6"])]), |node, _| {
            offered(node) == Some(vec![address("10.0.0.6")])
        });
    });
}

#[test]
fn re5_an_address_that_imds_shows_no_more_is_withheld_at_once() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        node.reconcile(&seen(Some(&object), vec![imds("vm-1", &["10.0.0.6"])])).unwrap();
        assert_eq!(offered(&node), Some(vec![address("10.0.0.6")]));
    });
}

#[test]
fn re5_metadata_without_the_nic_says_nothing_as_long_as_the_machine_has_it_and_re6_else_shows_no_address() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        let other = Answer { shown: vec![("00:0d:3a:00:00:99".into(), vec![])], ..imds("vm-1", &[]) };
        node.reconcile(&seen(Some(&object), vec![other.clone()])).unwrap();
        assert_eq!(offered(&node), Some(vec![address("10.0.0.5"), address("10.0.0.6")]), "metadata lags behind the machine");
        run("ip", &["link", "set", "eth0", "address", "00:0d:3a:00:00:99"]);
        let answer = Answer { asked: since_boot(), ..other };
        node.reconcile(&seen(Some(&object), vec![answer])).unwrap();
        assert_eq!(offered(&node), Some(vec![]), "the pool is another NIC's");
    });
}

#[test]
fn re5_what_imds_took_back_stays_withheld_over_a_restart_and_re6_over_a_reboot() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        node.reconcile(&seen(Some(&object), vec![imds("vm-1", &["10.0.0.6"])])).unwrap();
        for boot in ["first", "second"] {
            drop(node);
            if boot == "second" {
                machine.boot(boot);
            }
            node = machine.start();
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!(offered(&node), Some(vec![address("10.0.0.6")]), "after the {boot} boot's start");
            assert!(!outcome.waits_for_metadata && outcome.due.is_none(), "no time brings it back");
        }
        until(&mut node, &seen(Some(&object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.6"])]), |node, _| {
            offered(node).is_some_and(|pool| pool.len() == 2)
        });
    });
}

#[test]
fn re5_after_a_boot_the_disks_pool_waits_for_a_witness_of_this_boot() {
    apart(|| {
        let machine = Machine::new();
        drop(filled(&machine, &object(3, &["1/10.0.0.5", "2/10.0.0.6"])));
        machine.boot("second");
        let mut node = machine.start();
        assert!(!node.reconcile(&seen(None, vec![])).unwrap().ready);
        assert_eq!(offered(&node), None, "STATUS and ADD refuse");
        node.reconcile(&seen(None, vec![imds("vm-2", &["10.0.0.5"])])).unwrap();
        assert_eq!(offered(&node), None, "another machine's metadata is no witness");
        until(&mut node, &seen(None, vec![imds("vm-1", &["10.0.0.5"])]), |node, _| offered(node) == Some(vec![address("10.0.0.5")]));
        assert!(machine.conflist());
    });
}

#[test]
fn re5_after_a_boot_the_object_read_again_is_witness_enough() {
    apart(|| {
        let machine = Machine::new();
        let object = object(3, &["1/10.0.0.5", "2/10.0.0.6"]);
        drop(filled(&machine, &object));
        machine.boot("second");
        let mut node = machine.start();
        assert!(node.reconcile(&seen(Some(&object), vec![])).unwrap().ready);
        assert_eq!(offered(&node), Some(vec![address("10.0.0.5"), address("10.0.0.6")]));
    });
}

#[test]
fn re3_an_older_revision_is_not_adopted_and_is_reported() {
    apart(|| {
        let machine = Machine::new();
        let mut node = filled(&machine, &object(7, &["1/10.0.0.5"]));
        for wrong in [object(6, &["1/10.0.0.5", "2/10.0.0.6"]), object(7, &["2/10.0.0.6"])] {
            let outcome = node.reconcile(&seen(Some(&wrong), vec![])).unwrap();
            assert_eq!(condition(&outcome, super::problems::Topic::PoolAdopted), Some("RevisionRegressed"));
            assert_eq!(outcome.report.unwrap().agent.revision_adopted, 7);
            assert_eq!(offered(&node), Some(vec![address("10.0.0.5")]));
        }
        let outcome = node.reconcile(&seen(Some(&object(8, &["1/10.0.0.5"])), vec![])).unwrap();
        assert_eq!(condition(&outcome, super::problems::Topic::PoolAdopted), None);
    });
}

#[test]
fn st6_a_release_is_acknowledged_with_both_records_and_again_after_a_restart() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
        let mut node = filled(&machine, &object);
        let in_use = lease(&node, "c1");
        object.spec.revision = 2;
        object.spec.release = vec![Release { id: 9, nonce: "abc".into(), addresses: object.spec.addresses.clone() }];
        let acks = node.reconcile(&seen(Some(&object), vec![])).unwrap().report.unwrap().agent.release_acks;
        let [ack] = acks.as_slice() else { panic!("{acks:?}") };
        let (kept, gone): (Vec<_>, Vec<_>) = object.spec.addresses.iter().copied().partition(|at| at.address == in_use);
        assert_eq!((ack.id, ack.nonce.as_str(), &ack.quarantined, &ack.refused), (9, "abc", &gone, &kept));
        assert_eq!(offered(&node), Some(vec![]));
        drop(node);
        machine.boot("second");
        let mut node = machine.start();
        let acks = node.reconcile(&seen(Some(&object), vec![])).unwrap().report.unwrap().agent.release_acks;
        assert!(gone.iter().all(|at| acks[0].quarantined.contains(at)), "{acks:?}");
    });
}

#[test]
fn st7_what_left_the_nic_is_forgotten_and_re8_what_was_withdrawn_stays_set_aside() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
        let mut node = filled(&machine, &object);
        object.spec.revision = 2;
        object.spec.release = vec![Release { id: 9, nonce: "abc".into(), addresses: all(&["1/10.0.0.5", "2/10.0.0.6"]) }];
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        object.spec.revision = 3;
        object.spec.release.clear();
        object.spec.addresses = all(&["2/10.0.0.6", "3/10.0.0.7"]);
        let agent = node.reconcile(&seen(Some(&object), vec![])).unwrap().report.unwrap().agent;
        assert_eq!((agent.counts.quarantined, agent.counts.free, agent.release_acks), (1, 1, vec![]));
        assert_eq!(offered(&node), Some(vec![address("10.0.0.7")]));
    });
}

#[test]
fn st3_a_lost_run_folder_is_rebuilt_from_the_pods_links_before_it_is_sealed() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "pod", "up"]);
        run("ip", &["link", "set", "azv00000000001", "alias", "azure-vnet:c1/eth0 10.0.0.5"]);
        for name in ["sealed", "pool"] {
            fs::remove_file(machine.path("run").join(name)).unwrap();
        }
        empty(&machine.path("run/lease"));
        let agent = node.reconcile(&seen(Some(&object), vec![])).unwrap().report.unwrap().agent;
        assert_eq!(agent.counts.assigned, 1);
        assert!(offered(&node).is_some());
    });
}

#[test]
fn st12_a_replaced_folder_ends_the_agent() {
    apart(|| {
        let machine = Machine::new();
        let mut node = machine.start();
        fs::remove_dir_all(machine.path("run")).unwrap();
        fs::create_dir(machine.path("run")).unwrap();
        assert!(matches!(node.reconcile(&seen(None, vec![])), Err(NodeError::Store(_))));
    });
}

#[test]
fn st3_a_store_that_loses_its_leases_while_the_agent_runs_is_made_whole_before_it_gives_an_address() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "azv00000000001", "alias", "azure-vnet:c1/eth0 10.0.0.5"]);
        fs::remove_dir_all(machine.path("run/lease")).unwrap();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert!(outcome.ready && condition(&outcome, super::problems::Topic::StoreHealthy).is_none());
        assert_eq!(lease(&node, "c2"), address("10.0.0.6"), "the other is the pod's that lives");
        assert_eq!(lease(&node, "c1"), address("10.0.0.5"));
    });
}

#[test]
fn pk1_every_pool_address_is_unreachable_until_it_leaves_and_re7_a_lost_one_loses_its_host_route() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = machine.start();
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let unreachable = || run("ip", &["route", "show", "type", "unreachable"]);
        assert_eq!(unreachable().lines().count(), 2, "{}", unreachable());
        assert!(unreachable().lines().all(|line| line.contains("metric 4096")));
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "pod", "up"]);
        run("ip", &["link", "set", "azv00000000001", "up", "alias", "azure-vnet:c1/eth0 10.0.0.6"]);
        run("ip", &["route", "add", "10.0.0.6/32", "dev", "azv00000000001"]);
        // Others': of another metric, and of the same.
        for (to, metric, protocol) in [("10.9.9.7/32", "77", "boot"), ("10.9.9.8/32", "4096", "static"), ("10.9.9.9/32", "4096", "boot")] {
            run("ip", &["route", "add", "unreachable", to, "metric", metric, "proto", protocol]);
        }
        object.spec.revision = 2;
        object.spec.addresses = all(&["1/10.0.0.5"]);
        object.spec.lost = all(&["2/10.0.0.6"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!(outcome.cut_off.iter().map(|cut| cut.address).collect::<Vec<_>>(), [address("10.0.0.6")]);
        assert_eq!(run("ip", &["route", "show", "10.0.0.6/32"]), "");
        let left = unreachable();
        let left: Vec<&str> = left.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(left, ["10.0.0.5", "10.9.9.7", "10.9.9.8", "10.9.9.9"]);
        let view = node.kernel.view().unwrap();
        let differ = node.kernel.converge_unreachable(&view, &[address("10.0.0.5")].into()).unwrap();
        assert_eq!(differ, 0, "others' do not even count as ours");
    });
}

#[test]
fn pk1_routes_that_an_earlier_version_did_not_mark_are_ours_if_their_addresses_were_in_its_pool() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        drop(filled(&machine, &object));
        for to in ["10.0.0.5/32", "10.0.0.6/32", "10.9.9.9/32"] {
            run("ip", &["route", "replace", "unreachable", to, "metric", "4096"]);
        }
        object.spec.revision = 2;
        object.spec.addresses = all(&["1/10.0.0.5"]);
        let mut node = machine.start();
        let unreachable = || run("ip", &["route", "show", "type", "unreachable"]);
        until(&mut node, &seen(Some(&object), vec![]), |_, _| !unreachable().contains("10.0.0.6"));
        let left = unreachable();
        let left: Vec<&str> = left.lines().map(str::trim).collect();
        assert_eq!(left, ["unreachable 10.0.0.5 proto 97 metric 4096", "unreachable 10.9.9.9 metric 4096"]);
    });
}

#[test]
fn pk1_an_unmarked_route_to_a_pool_address_is_ours_from_when_it_is_met() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5"]);
        let mut node = filled(&machine, &object);
        let refuse = |to: &str, protocol: &str| {
            run("ip", &["route", "add", "unreachable", to, "metric", "4096", "proto", protocol]);
        };
        // As an earlier version made it of a revision that it did not come to remember; and one that says whose it is.
        refuse("10.0.0.6/32", "boot");
        refuse("10.0.0.7/32", "static");
        let unreachable = || run("ip", &["route", "show", "type", "unreachable"]);
        let mut of_revision = |revision, addresses: &[&str]| {
            (object.spec.revision, object.spec.addresses) = (revision, all(addresses));
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            unreachable().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        let ours = |last: u8| format!("unreachable 10.0.0.{last} proto 97 metric 4096");
        let theirs = "unreachable 10.0.0.7 proto static metric 4096".to_owned();
        assert_eq!(of_revision(2, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]), [ours(5), ours(6), theirs.clone()]);
        assert_eq!(of_revision(3, &["1/10.0.0.5"]), [ours(5), theirs]);
    });
}

#[test]
fn pk1_the_first_agent_that_marks_its_routes_takes_over_those_of_the_one_before_in_the_pools_subnet_and_no_later_one_does() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5"]);
        drop(filled(&machine, &object));
        fs::remove_file(machine.path("run/routes-marked")).expect("it notes that it marks them");
        let refuse = |to: &str, metric: &str, protocol: &str| {
            run("ip", &["route", "add", "unreachable", to, "metric", metric, "proto", protocol]);
        };
        // Of revisions that nobody remembers.
        refuse("10.0.0.8/32", "4096", "boot");
        refuse("10.0.0.9/32", "4096", "boot");
        // Of others: of another maker, another metric, of more than an address, outside of the subnet.
        refuse("10.0.0.10/32", "4096", "static");
        refuse("10.0.0.11/32", "77", "boot");
        refuse("10.0.0.16/28", "4096", "boot");
        refuse("10.9.9.9/32", "4096", "boot");
        let left = || {
            let routes = run("ip", &["route", "show", "type", "unreachable"]);
            routes.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut node = machine.start();
        until(&mut node, &seen(Some(&object), vec![]), |_, _| !left().contains(&"10.0.0.9".into()));
        assert_eq!(left(), ["10.0.0.5", "10.0.0.10", "10.0.0.11", "10.0.0.16/28", "10.9.9.9"]);
        drop(node);
        refuse("10.0.0.9/32", "4096", "boot");
        let mut node = machine.start();
        for _ in 0..2 {
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
        }
        assert!(left().contains(&"10.0.0.9".into()), "routes of this boot are marked: somebody typed this one");
    });
}

#[test]
fn pk1_where_no_agent_was_in_this_boot_unmarked_routes_are_others() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5"]);
        run("ip", &["route", "add", "unreachable", "10.0.0.9/32", "metric", "4096"]);
        let mut node = filled(&machine, &object);
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert!(run("ip", &["route", "show", "type", "unreachable"]).contains("10.0.0.9"));
    });
}

#[test]
fn st13_after_a_jump_of_the_clocks_the_pool_is_withheld_until_imds_confirms_it() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        node.clocks.look(std::time::Duration::from_secs(1), std::time::SystemTime::UNIX_EPOCH);
        let asked_before = seen(Some(&object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.6"])]);
        for _ in 0..2 {
            assert!(node.reconcile(&asked_before).unwrap().wants.contains(&Want::Object), "an answer from before the jump proves nothing");
            assert_eq!(offered(&node), Some(vec![]));
        }
        let confirmed = seen(Some(&object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.6"])]);
        until(&mut node, &confirmed, |node, _| offered(node).is_some_and(|pool| pool.len() == 2));
    });
}

#[test]
fn st13_after_a_jump_of_the_clocks_the_object_read_again_is_a_witness_too() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5"]);
        let mut node = filled(&machine, &object);
        node.clocks.look(std::time::Duration::from_secs(1), std::time::SystemTime::UNIX_EPOCH);
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert!(node.reconcile(&seen(Some(&object), vec![])).unwrap().wants.contains(&Want::Object), "the watch's copy proves nothing");
        let reread = Seen { reread: true, ..seen(Some(&object), vec![]) };
        assert!(!node.reconcile(&reread).unwrap().wants.contains(&Want::Object));
    });
}

#[test]
fn st13_over_a_reboot_a_pod_keeps_its_address_though_others_come_first() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
        let listed = || super::orphans::Listed { uids: ["a", "b"].map(Into::into).into(), names: BTreeSet::new() };
        let look = || Seen { watched: Some(listed()), ..seen(Some(&object), vec![]) };
        let mut node = filled(&machine, &object);
        let had = lease_for(&node, "a1", Some("a"));
        node.reconcile(&look()).unwrap();
        drop(node);
        machine.boot("second");
        let mut node = machine.start();
        until(&mut node, &look(), |node, _| offered(node).is_some_and(|pool| pool.len() == 3));
        assert_ne!(lease_for(&node, "b2", Some("b")), had);
        assert_eq!(lease_for(&node, "a2", Some("a")), had);
    });
}

#[test]
fn cm4_a_lease_whose_pod_the_watch_lacks_asks_for_lists_and_stays_meanwhile() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5"]);
        let mut node = filled(&machine, &object);
        let address = lease(&node, "c1");
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "azv00000000001", "alias", &format!("azure-vnet:c1/eth0 {address}")]);
        let listed = || Seen { listed: Some(super::orphans::Listed::default()), ..seen(Some(&object), vec![]) };
        for _ in 0..3 {
            assert!(node.reconcile(&listed()).unwrap().wants.contains(&Want::Pods));
        }
        assert_eq!(node.reconcile(&listed()).unwrap().report.unwrap().agent.counts.assigned, 1);
    });
}
