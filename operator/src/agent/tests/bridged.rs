//! What outlives a bridged pod's links: the agent frees no address before it is gone.

use std::{collections::BTreeSet, net::IpAddr};

use azure_vnet_plugin::{frames::Frames, store::KernelUse};
use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    boot::BootTime,
    frames::{Frames as FramesGo, PodRule, RulePlan},
    lease::{Entry, Lease},
    wiring::pod_mac,
};

use super::{super::kernel::Kernel, Machine, apart, object, run, seen};

#[test]
fn cm4_nothing_of_a_bridged_pod_outlives_its_lease() {
    apart(|| {
        run("ip", &["link", "add", "azure2", "type", "bridge"]);
        run("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0"]);
        run("ip", &["route", "add", "10.0.0.9/32", "dev", "azure2"]);
        run("ip", &["neighbour", "add", "10.0.0.9", "lladdr", "02:61:00:00:00:09", "nud", "permanent", "dev", "azure2"]);
        let attachment = Attachment { container: "c1".parse().unwrap(), if_name: "eth0".parse().unwrap() };
        let address: IpAddr = [10, 0, 0, 9].into();
        let (port, uplink) = ("azv1".parse().unwrap(), "eth0".parse().unwrap());
        let rules = PodRule::desire(FramesGo::ToFabric, &port, &uplink, pod_mac(&attachment), [address].into_iter());
        run("ip", &["link", "add", "azv1", "type", "veth", "peer", "name", "azv1p"]);
        run("ip", &["link", "set", "azv1", "master", "azure2", "alias", "azure-vnet:c1/eth0 10.0.0.9"]);
        let mode = || Kernel::open().unwrap().view().unwrap().leases(&"azure".parse().unwrap()).remove(0).mode;
        assert_eq!(mode(), Mode::Bridge);
        let mut frames = Frames::open().unwrap();
        frames.apply(&RulePlan::of_pod(&attachment, &rules, &[])).unwrap();
        assert_eq!((frames.observe().unwrap().len(), mode()), (rules.len(), Mode::Tunnel));
        run("ip", &["link", "del", "azv1"]);
        let entry = Entry::Leased(Lease {
            address: [10, 0, 0, 9].into(),
            attachment,
            pod: None,
            network: "azure".parse().unwrap(),
            mode: Mode::Tunnel,
            host_link: port,
            netns: None,
            netns_cookie: None,
            boot: "boot-1".parse().unwrap(),
            since: BootTime::from_millis(0),
        });
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..2 {
            assert!(kernel.forget(&entry));
            assert_eq!(frames.observe().unwrap(), []);
            assert_eq!(run("ip", &["route", "show", "10.0.0.9"]) + &run("ip", &["neighbour", "show", "10.0.0.9", "nud", "permanent"]), "");
        }
    });
}

#[test]
fn cm4_what_pods_left_whose_leases_were_lost_goes_when_the_agent_makes_the_store_whole() {
    apart(|| {
        run("ip", &["link", "add", "azure2", "type", "bridge"]);
        run("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0"]);
        run("ip", &["link", "add", "azv1", "type", "veth", "peer", "name", "azv1p"]);
        run("ip", &["link", "set", "azv1", "master", "azure2", "alias", "azure-vnet:linked/eth0 10.0.0.5"]);
        let mut frames = Frames::open().unwrap();
        let pods = [("linked", 5), ("gone", 6)].map(|(container, last)| {
            let attachment = Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() };
            let address: IpAddr = [10, 0, 0, last].into();
            let (port, uplink) = ("azv1".parse().unwrap(), "eth0".parse().unwrap());
            let rules = PodRule::desire(FramesGo::Direct, &port, &uplink, pod_mac(&attachment), [address].into_iter());
            frames.apply(&RulePlan::of_pod(&attachment, &rules, &[])).unwrap();
            run("ip", &["route", "add", &format!("{address}/32"), "dev", "azure2"]);
            run("ip", &["neighbour", "add", &address.to_string(), "lladdr", "02:61:00:00:00:09", "nud", "permanent", "dev", "azure2"]);
            address
        });
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = machine.start();
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let left: BTreeSet<_> = frames.observe().unwrap().into_iter().filter_map(|rule| rule.comment.address).collect();
        assert_eq!(left, BTreeSet::from([pods[0]]));
        let entries = run("ip", &["neighbour", "show", "nud", "permanent", "dev", "azure2"]);
        let ways = [entries, run("ip", &["route", "show", "dev", "azure2"])];
        assert!(ways.iter().all(|ways| ways.contains("10.0.0.5") && !ways.contains("10.0.0.6")), "{ways:?}");
        assert_eq!(node.kernel.in_use([10, 0, 0, 6].into()), KernelUse::Free, "it can go back to the subnet");
    });
}
