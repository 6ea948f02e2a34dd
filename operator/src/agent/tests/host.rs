//! What the agent keeps of the host: sysctls, rules, plugins and the CNI configuration, and what it says of those who change them.

use azure_vnet_crds::config::{MasqueradeMode, RpFilter, WiringMode};

use std::time::Duration;

use azure_vnet_operator_core::rules::{Chains, Program, Table};

use super::{
    super::{
        iptables::{self, Iptables, IptablesError},
        problems::Topic,
    },
    *,
};
use crate::child::{ChildError, Limit};

#[test]
fn rules_are_mended_when_flushed_and_foreign_ones_stay_in_either_back_end() {
    for (backend, program) in [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")] {
        apart(move || {
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
            object.spec.effective.masquerade.backend = backend;
            run(program, &["-t", "nat", "-A", "POSTROUTING", "-d", "192.0.2.1", "-j", "ACCEPT"]);
            run(program, &["-A", "FORWARD", "-d", "192.0.2.1", "-j", "ACCEPT"]);
            let mut node = machine.start();
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!(condition(&outcome, Topic::RulesInSync), None);
            let dump = || ["mangle", "nat", "filter"].map(|table| run(program, &["-t", table, "-S"])).concat();
            let first = dump();
            assert!(first.contains("-A AZURE-VNET-FORWARD -s 10.0.0.6/32 -j ACCEPT"), "{first}");
            assert!(first.contains("-A POSTROUTING -d 192.0.2.1/32 -j ACCEPT\n-A POSTROUTING -j AZURE-VNET-MASQ"), "{first}");
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!(repairs(&node), 0, "nothing differs the second time");
            run(program, &["-F", "AZURE-VNET-FORWARD"]);
            run(program, &["-t", "nat", "-D", "POSTROUTING", "-j", "AZURE-VNET-MASQ"]);
            run(program, &["-t", "mangle", "-F"]);
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!(dump(), first);
            assert_eq!(repairs(&node), 1);
        });
    }
}

fn repairs(node: &Node) -> u64 {
    node.host.repairs.values().sum()
}

/// In this thread's mounts, a script stands for the program behind both of a back end's names.
fn stand_in(program: &str, script: &str) {
    let (real, fake) = (fs::canonicalize(format!("/usr/sbin/{program}")).unwrap(), Path::new("/run").join(program));
    fs::write(&fake, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    mount(Some(&fake), &real, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn an_iptables_that_hangs_is_ended_and_named() {
    apart(|| {
        let machine = Machine::new();
        stand_in("iptables-nft", "exec sleep 1000");
        let mut node = machine.start();
        let outcome = node.reconcile(&seen(Some(&object(1, &["1/10.0.0.5"])), vec![])).unwrap();
        let report = outcome.report.unwrap();
        let (_, problem) = report.problems.iter().find(|(topic, _)| *topic == Topic::RulesInSync).unwrap();
        assert_eq!(problem.message, "cannot run iptables-nft: its time of 10 s was over before it ended, and it was killed");
        assert_eq!(offered(&node).map(|pool| pool.len()), Some(0), "the pool was taken over all the same");
    });
}

#[test]
fn all_programs_of_one_look_share_one_limit() {
    apart(|| {
        stand_in("iptables-nft", "echo x >> /run/calls; exec sleep 1");
        let iptables = Iptables::new(Program::Nft);
        let error = iptables::converge(&iptables, &Chains::default(), Limit::of(Duration::from_secs(2))).unwrap_err();
        assert!(matches!(error, IptablesError::Run { source: ChildError::Deadline(_), .. }), "{error}");
        let calls = fs::read_to_string("/run/calls").unwrap().lines().count();
        assert!(calls <= 2, "{calls} programs of a second each were started within two seconds");
    });
}

#[test]
fn sc2_no_rule_is_read_while_none_changed_and_then_only_what_is_ours() {
    for (backend, program, read) in [(Backend::Nft, "iptables-nft", "-S"), (Backend::Legacy, "iptables-legacy", "-t")] {
        apart(move || {
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5"]);
            object.spec.effective.masquerade.backend = backend;
            fs::copy(fs::canonicalize(format!("/usr/sbin/{program}")).unwrap(), "/run/real").unwrap();
            stand_in(program, "echo \"${0##*/} $*\" >> /run/calls; exec /run/real \"${0##*/}\" \"$@\"");
            let calls = || fs::read_to_string("/run/calls").unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
            let mut node = machine.start();
            for _ in 0..3 {
                node.reconcile(&seen(Some(&object), vec![])).unwrap();
            }
            let settled = calls().len();
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            let again = calls().split_off(settled);
            assert_eq!(again.len(), if backend == Backend::Nft { 0 } else { Table::ALL.len() }, "{again:?}");
            run(program, &["-N", "FOREIGN"]);
            let before = calls().len();
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            let reads = calls().split_off(before);
            assert!(!reads.is_empty() && reads.iter().all(|call| call.contains(read) && call.contains("-t ")), "{reads:?}");
            assert_eq!(repairs(&node), 0, "another's chain is no drift");
        });
    }
}

#[test]
fn the_back_end_is_the_one_that_others_use() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5"]);
        object.spec.effective.masquerade.backend = Backend::Auto;
        let mut node = machine.start();
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert!(run("iptables-nft", &["-t", "nat", "-S"]).contains("AZURE-VNET-MASQ"), "nft while nothing tells");
        run("iptables-legacy", &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert!(run("iptables-legacy", &["-t", "nat", "-S"]).contains("AZURE-VNET-MASQ"));
        assert!(!run("iptables-nft", &["-t", "nat", "-S"]).contains("AZURE-VNET"), "no rules are left in the other");
    });
}

#[test]
fn the_rules_of_every_mode_read_back_as_they_were_written_in_either_back_end() {
    for backend in [Backend::Nft, Backend::Legacy] {
        apart(move || {
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
            let mut node = machine.start();
            let nets = ["10.9.0.0/16", "192.0.2.7/32", "0.0.0.0/0"].map(str::to_owned).to_vec();
            for mode in [MasqueradeMode::VNet, MasqueradeMode::Custom, MasqueradeMode::Disabled] {
                for (random, lists) in [(true, nets.clone()), (false, vec![])] {
                    let spec = &mut object.spec.effective.masquerade;
                    (spec.backend, spec.mode, spec.random_fully) = (backend, mode, random);
                    (spec.masquerade_cidrs, spec.non_masquerade_cidrs) = (lists.clone(), lists.clone());
                    for look in ["first", "second"] {
                        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
                        assert_eq!(told(&outcome, "RulesInSync").1, "InSync", "{mode:?} {lists:?}, {look} look");
                    }
                    let program = if backend == Backend::Nft { "iptables-nft" } else { "iptables-legacy" };
                    let egress = run(program, &["-t", "nat", "-S", "AZURE-VNET-EGRESS"]);
                    assert_eq!(egress.contains("--random-fully"), random && mode != MasqueradeMode::Disabled, "{egress}");
                    assert_eq!(egress.contains("-j MASQUERADE"), mode != MasqueradeMode::Disabled, "{egress}");
                }
            }
            assert_eq!(repairs(&node), 0, "our own changes are no drift");
        });
    }
}

#[test]
fn pk2_settings_of_the_kernel_are_set_back_in_one_look_and_who_keeps_changing_them_is_told_of() {
    apart(|| {
        let sys = |name: &str| format!("/proc/sys/net/ipv4/{name}");
        let read = |name: &str| fs::read_to_string(sys(name)).unwrap().trim().to_owned();
        let object = object(1, &[]);
        let machine = Machine::new();
        let mut node = machine.start_with(|options| options.proc_sys_net = "/proc/sys/net".into());
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        for round in 1..=3 {
            for (name, value) in [("ip_forward", "0"), ("conf/all/rp_filter", "2"), ("conf/eth0/rp_filter", "0")] {
                fs::write(sys(name), value).unwrap();
            }
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!(["ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter"].map(read), ["1", "1", "1"]);
            assert_eq!(outcome.news.iter().filter(|news| news.reason == "Mended").count(), 1);
            let (status, reason, message) = told(&outcome, "RulesInSync");
            assert_eq!((status.as_str(), reason.as_str()), ("True", if round < 3 { "InSync" } else { "Contested" }), "{message}");
        }
        fs::write(sys("ip_forward"), "0").unwrap();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!((read("ip_forward").as_str(), outcome.news.len()), ("1", 0), "set back, and told no more");
    });
}

#[test]
fn the_nic_is_known_by_its_mac_whatever_its_name_and_others_are_left_alone() {
    apart(|| {
        let rp_filter = |link: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter")).unwrap().trim().to_owned();
        run("ip", &["link", "add", "eth1", "address", "00:0d:3a:00:00:02", "type", "veth", "peer", "name", "fabric1"]);
        // The second path of an accelerated NIC has its MAC, and belongs to it.
        run("ip", &["link", "add", "team0", "address", "02:00:00:00:00:01", "type", "bridge"]);
        run("ip", &["link", "add", "enP1", "address", MAC, "type", "veth", "peer", "name", "fabric2"]);
        run("ip", &["link", "set", "enP1", "master", "team0"]);
        run("ip", &["link", "set", "eth0", "down"]);
        run("ip", &["link", "set", "eth0", "name", "ens5"]);
        for link in ["eth1", "enP1", "ens5"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "2").unwrap();
        }
        let object = object(1, &[]);
        let machine = Machine::new();
        let mut node = machine.start_with(|options| options.proc_sys_net = "/proc/sys/net".into());
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!(["eth1", "enP1", "ens5"].map(rp_filter), ["2", "2", "1"]);
        assert_eq!(told(&outcome, "RulesInSync").1, "InSync");
        run("ip", &["link", "set", "ens5", "address", "00:0d:3a:00:00:09"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let (status, reason, message) = told(&outcome, "RulesInSync");
        assert_eq!((status.as_str(), reason.as_str()), ("True", "NicMissing"));
        assert!(message.contains(MAC) && outcome.news.iter().any(|news| news.reason == "NicMissing"), "{message}");
    });
}

#[test]
fn rules_of_others_that_decide_before_ours_are_told_of_and_stay() {
    for (backend, program) in [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")] {
        apart(move || {
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5"]);
            object.spec.effective.masquerade.backend = backend;
            let mut node = filled(&machine, &object);
            run(program, &["-t", "nat", "-I", "POSTROUTING", "!", "-d", "10.0.0.0/8", "-j", "MASQUERADE"]);
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            let (status, reason, message) = told(&outcome, "RulesInSync");
            assert_eq!((status.as_str(), reason.as_str()), ("True", "ForeignRules"));
            assert!(message.ends_with("nat/POSTROUTING: ! -d 10.0.0.0/8 -j MASQUERADE"), "{message}");
            assert_eq!(outcome.news.iter().map(|news| news.reason).collect::<Vec<_>>(), ["ForeignRules"]);
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!((told(&outcome, "RulesInSync").1, outcome.news), (reason, vec![]), "told once");
            assert!(run(program, &["-t", "nat", "-S", "POSTROUTING"]).contains("! -d 10.0.0.0/8 -j MASQUERADE"));
        });
    }
}

#[test]
fn the_conflist_is_mended_when_edited_or_removed_and_one_that_is_read_before_it_is_named() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &[]);
        let mut node = machine.start();
        let path = machine.path("conf/10-azure-vnet.conflist");
        until(&mut node, &seen(Some(&object), vec![]), |_, _| path.exists());
        let right = fs::read_to_string(&path).unwrap();
        for (times, damage) in [(1, Some("{}")), (2, None)] {
            match damage {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap(), repairs(&node), outcome.ready), (right.clone(), times, true));
        }
        fs::write(machine.path("conf/05-other.conflist"), "{}").unwrap();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let (status, reason, message) = told(&outcome, "ConflistInPlace");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Shadowed"));
        assert!(message.contains("05-other.conflist") && message.contains("spec.cni.confName"), "{message}");
        assert!(machine.path("conf/05-other.conflist").exists());
    });
}

#[test]
fn what_the_config_changes_is_not_told_as_another_programs_doing() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5"]);
        let mut node = machine.start_with(|options| options.proc_sys_net = "/proc/sys/net".into());
        let path = machine.path("conf/10-azure-vnet.conflist");
        until(&mut node, &seen(Some(&object), vec![]), |_, _| path.exists());
        // What the first bridged pod does: the bridge has the NIC's hardware address.
        run("ip", &["link", "add", "azure2", "address", MAC, "type", "bridge"]);
        run("ip", &["link", "set", "eth0", "master", "azure2"]);
        for filter in [RpFilter::Strict, RpFilter::Loose] {
            for mode in [WiringMode::Bridge, WiringMode::Tunnel, WiringMode::Transparent] {
                (object.spec.effective.cni.mode, object.spec.effective.host.rp_filter) = (mode, filter);
                let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
                assert!(fs::read_to_string(&path).unwrap().contains(&format!("{mode:?}").to_lowercase()));
                assert_eq!((repairs(&node), outcome.news.clone()), (0, vec![]), "{mode:?}, {filter:?}");
                assert_eq!(told(&outcome, "RulesInSync").1, "InSync");
            }
        }
        fs::write(&path, "{}").unwrap();
        object.spec.effective.cni.mode = WiringMode::Bridge;
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!((repairs(&node), outcome.news.len()), (1, 1), "another program's doing, though the config changed too");
    });
}

#[test]
fn pk3_a_bridged_mode_waits_for_a_kernel_whose_bridges_call_iptables() {
    apart(|| {
        let machine = Machine::new();
        let (path, switch) = (machine.path("conf/10-azure-vnet.conflist"), machine.path("sys/bridge/bridge-nf-call-iptables"));
        fs::remove_file(&switch).unwrap();
        let mut object = object(1, &[]);
        let mut node = machine.start();
        assert!(node.reconcile(&seen(Some(&object), vec![])).unwrap().ready, "transparent pods need none");
        let before = fs::read_to_string(&path).unwrap();
        object.spec.effective.cni.mode = WiringMode::Bridge;
        let lacks = |node: &mut Node, is_ready: bool| {
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            let (status, reason, message) = told(&outcome, "ConflistInPlace");
            assert_eq!((status.as_str(), reason.as_str(), outcome.ready), ("False", "BridgeNetfilterMissing", is_ready));
            assert!(message.contains("modprobe br_netfilter"), "{message}");
        };
        lacks(&mut node, true);
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "pods go on starting as they did");
        drop(node);
        node = machine.start();
        lacks(&mut node, true);
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "and an agent's next start stops none of them");
        // By another program's file, or one of bridged pods after a reboot, none would start, nor on a new node.
        for text in [Some("{}"), Some(&before.replace("transparent", "bridge")), None] {
            drop(node);
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            node = machine.start();
            lacks(&mut node, false);
        }
        assert!(!machine.conflist());
        fs::write(&switch, "0\n").unwrap();
        assert!(node.reconcile(&seen(Some(&object), vec![])).unwrap().ready);
        assert!(fs::read_to_string(&path).unwrap().contains(r#""mode": "bridge""#));
    });
}

#[test]
fn plugins_that_were_replaced_removed_or_broken_are_put_back_and_a_folder_that_runs_nothing_is_named() {
    apart(|| {
        let machine = Machine::new();
        fs::create_dir(machine.path("image")).unwrap();
        for plugin in ["azure-vnet", "azure-vnet-ipam"] {
            fs::copy(machine.path("bin").join(plugin), machine.path("image").join(plugin)).unwrap();
        }
        let object = object(1, &[]);
        let mut node = machine.start();
        let path = machine.path("bin/azure-vnet");
        let right = fs::read(&path).unwrap();
        until(&mut node, &seen(Some(&object), vec![]), |_, outcome| outcome.ready);
        let is_right =
            || fs::read(&path).is_ok_and(|now| now == right) && fs::metadata(&path).unwrap().permissions().mode() & 0o777 == 0o755;
        let damages: [&dyn Fn(); 4] = [
            &|| fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap(),
            &|| fs::write(&path, "\u{7f}ELF for elsewhere").unwrap(),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
        ];
        for damage in damages {
            damage();
            assert!(!is_right());
            until(&mut node, &seen(Some(&object), vec![]), |_, _| is_right());
        }
        mount(Some("bin"), &machine.path("bin"), Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let (status, reason, message) = told(&outcome, "ConflistInPlace");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "PluginBroken"));
        assert!(message.contains("noexec"), "{message}");
        assert!(machine.conflist(), "the configuration stays");
    });
}
