//! What outlives a bridged pod's links: the agent frees no address before it is gone.

use std::{collections::BTreeSet, net::IpAddr};

use azure_vnet_plugin::{
    bridge,
    frames::Frames,
    netlink::{LinkBy, Netlink},
    store::KernelUse,
};
use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    boot::BootTime,
    bridge::NetworkWish,
    frames::{Frames as FramesGo, PodRule, RulePlan},
    lease::{Entry, Lease},
    wiring::pod_mac,
};

use super::{super::kernel::Kernel, MAC, Machine, address, all, apart, object, run, seen, until};

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

#[test]
fn re7_nothing_leads_to_a_bridged_pod_whose_address_is_lost_and_it_can_go_back_once_the_pod_is_gone() {
    apart(|| {
        // Made with a hardware address, it keeps that when ports come and go, and with it its entries.
        run("ip", &["link", "add", "azure2", "address", "02:00:00:00:00:05", "type", "bridge"]);
        run("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0"]);
        let mut frames = Frames::open().unwrap();
        let [keeps, loses, without_route] = [5, 6, 7].map(|last| on_bridge(&mut frames, last, last < 7));
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
        let mut node = machine.start();
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        (object.spec.revision, object.spec.addresses, object.spec.lost) = (2, all(&["1/10.0.0.5"]), all(&["2/10.0.0.6", "3/10.0.0.7"]));
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!(outcome.cut_off.iter().map(|cut| cut.address).collect::<Vec<_>>(), ["10.0.0.6", "10.0.0.7"].map(address));
        let left: BTreeSet<_> = frames.observe().unwrap().into_iter().filter_map(|rule| rule.comment.address).collect();
        assert_eq!(left, BTreeSet::from([keeps]), "what others on the bridge find it by");
        for ways in [run("ip", &["neighbour", "show", "nud", "permanent", "dev", "azure2"]), run("ip", &["route", "show", "dev", "azure2"])]
        {
            assert!(ways.contains(&keeps.to_string()), "{ways}");
            assert!(!ways.contains(&loses.to_string()) && !ways.contains(&without_route.to_string()), "{ways}");
        }
        let ports = run("ip", &["link", "show", "master", "azure2"]);
        assert!(ports.contains("azv5") && !ports.contains("azv6") && !ports.contains("azv7"), "{ports}");
        assert_eq!(node.reconcile(&seen(Some(&object), vec![])).unwrap().cut_off, [], "told once");
        run("ip", &["link", "del", "azv6"]);
        assert_eq!(node.kernel.in_use(address("10.0.0.6")), KernelUse::Free);
    });
}

#[test]
fn re7_what_the_kernel_refuses_of_one_lost_address_keeps_no_other_and_is_told() {
    apart(|| {
        run("ip", &["link", "add", "azure2", "address", "02:00:00:00:00:05", "type", "bridge"]);
        run("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0"]);
        let mut frames = Frames::open().unwrap();
        let [refused, next] = [6, 7].map(|last| on_bridge(&mut frames, last, true));
        let mut kernel = Kernel::open().unwrap();
        let mut view = kernel.view().unwrap();
        // No link has this number: the kernel takes nothing off its bridge.
        view.pods.iter_mut().find(|pod| pod.alias.address == refused).unwrap().index = 0;
        let lost = ["10.0.0.6", "10.0.0.7"].map(address).into();
        let cut = kernel.cut_off(&view, &lost);
        let said = cut.refusals().unwrap();
        assert!(said.starts_with("10.0.0.6: cannot take a pod of a lost address off its bridge: ") && !said.contains("10.0.0.7"), "{said}");
        assert!(cut.off.contains(&address("10.0.0.7")), "{:?}", cut.off);
        let ports = run("ip", &["link", "show", "master", "azure2"]);
        assert!(ports.contains("azv6") && !ports.contains("azv7"), "{ports}");
        let ways = run("ip", &["route", "show", "dev", "azure2"]);
        assert!(
            !ways.contains(&refused.to_string()) && !ways.contains(&next.to_string()),
            "a route goes also where the rest does not: {ways}"
        );
    });
}

#[test]
fn an_uplink_that_another_program_takes_out_of_its_bridge_is_put_back_whatever_the_mode() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &[]);
        // As in the agent's container: /proc/sys is read-only, and the host's is mounted elsewhere.
        let switches = machine.path("host");
        std::fs::create_dir(&switches).unwrap();
        run("mount", &["--bind", "/proc/sys/net", switches.to_str().unwrap()]);
        let mut node = machine.start_with(|options| options.proc_sys_net = switches.clone());
        run("ip", &["route", "add", "default", "via", "10.0.0.1"]);
        let (mut host, mut frames) = (Netlink::open().unwrap(), Frames::open().unwrap());
        let wish = NetworkWish { master: None, bridge: None, uplink_hairpin: true, via_host: vec![], frames: FramesGo::Direct };
        let bridge = bridge::ensure(&mut host, &mut frames, &wish, "10.0.0.0/24".parse().unwrap()).unwrap().network.bridge;
        until(&mut node, &seen(Some(&object), vec![]), |_, outcome| outcome.ready);
        let calls = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].map(|call| switches.join("bridge").join(call));
        for call in &calls {
            std::fs::write(call, "0").unwrap();
        }
        run("mount", &["--bind", "/proc/sys", "/proc/sys"]);
        run("mount", &["-o", "remount,bind,ro", "/proc/sys"]);
        // What systemd-networkd does when it is started anew.
        run("ip", &["link", "set", "eth0", "nomaster"]);
        run("ip", &["address", "add", "10.0.0.4/24", "dev", "eth0"]);
        run("ip", &["route", "add", "default", "via", "10.0.0.1", "dev", "eth0", "metric", "100"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let [eth0, azure] = ["eth0", bridge.as_str()].map(|name| host.link(LinkBy::Name(name)).unwrap().unwrap());
        assert_eq!((eth0.controller, eth0.hairpin), (Some(azure.index), true));
        assert_eq!(calls.map(|call| std::fs::read_to_string(call).unwrap()), ["1\n", "1\n"]);
        assert_eq!(run("ip", &["-4", "address", "show", "dev", "eth0"]) + &run("ip", &["route", "show", "dev", "eth0"]), "");
        assert!(run("ip", &["route", "show", "default"]).contains(&format!("dev {bridge}")));
        let notes: Vec<_> = outcome.news.iter().map(|news| news.note.clone()).collect();
        assert!(notes.iter().any(|note| note.contains(&format!("the uplink of bridge {bridge}"))), "{notes:?}");
        assert_eq!(node.reconcile(&seen(Some(&object), vec![])).unwrap().news, vec![], "told once");
        run("umount", &[switches.to_str().unwrap()]);
    });
}

#[test]
fn the_nic_of_bridged_pods_is_their_bridge_and_no_link_that_stands_on_another() {
    apart(|| {
        run("ip", &["link", "add", "link", "fabric", "name", "other", "address", MAC, "type", "macvlan"]);
        run("ip", &["link", "add", "azure2", "address", MAC, "type", "bridge"]);
        let nic = || Kernel::open().unwrap().view().unwrap().nic(MAC).map(str::to_owned);
        assert_eq!(nic().as_deref(), Some("eth0"));
        run("ip", &["link", "set", "eth0", "master", "azure2"]);
        assert_eq!(nic().as_deref(), Some("azure2"));
    });
}

/// A bridged pod's link, entry and rules, with its route or without.
fn on_bridge(frames: &mut Frames, last: u8, with_route: bool) -> IpAddr {
    let (port, address) = (format!("azv{last}"), IpAddr::from([10, 0, 0, last]));
    let attachment = Attachment { container: format!("c{last}").parse().unwrap(), if_name: "eth0".parse().unwrap() };
    run("ip", &["link", "add", &port, "type", "veth", "peer", "name", &format!("pod{last}")]);
    run("ip", &["link", "set", &port, "master", "azure2", "alias", &format!("azure-vnet:{attachment} {address}")]);
    let rules =
        PodRule::desire(FramesGo::Direct, &port.parse().unwrap(), &"eth0".parse().unwrap(), pod_mac(&attachment), [address].into_iter());
    frames.apply(&RulePlan::of_pod(&attachment, &rules, &[])).unwrap();
    if with_route {
        run("ip", &["route", "add", &format!("{address}/32"), "dev", "azure2"]);
    }
    run("ip", &["neighbour", "add", &address.to_string(), "lladdr", "02:61:00:00:00:09", "nud", "permanent", "dev", "azure2"]);
    address
}
