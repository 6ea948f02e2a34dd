use std::collections::BTreeSet;

use azure_vnet_crds::config::MasqueradeSpec;
use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn policy(pool: &[&str]) -> Policy {
    Policy {
        pool: pool.iter().map(|address| address.parse().unwrap()).collect(),
        vnet: vec![net("10.240.0.0/16"), net("10.50.0.0/16")],
        masquerade: Masquerade::OutsideVnet { to: vec![net("10.50.9.0/24")], not_to: vec![net("192.168.0.0/16")], ports: Ports::Random },
        forward: Forward::Accept,
    }
}

/// What the kernel holds after a transaction, as far as our plans go.
fn apply(before: &Chains, plan: &Plan) -> Chains {
    let mut after = before.clone();
    let mut table = Table::Nat;
    for line in plan.restore.lines() {
        let mut words = line.splitn(3, ' ');
        match (words.next().unwrap(), words.next(), words.next()) {
            ("*mangle", ..) => table = Table::Mangle,
            ("*nat", ..) => table = Table::Nat,
            ("*filter", ..) => table = Table::Filter,
            ("COMMIT", ..) => {}
            ("-A", Some(chain), Some(rule)) => after.0.get_mut(&(table, chain.into())).unwrap().push(rule.into()),
            ("-I", Some(chain), Some(rule)) => {
                after.0.get_mut(&(table, chain.into())).unwrap().insert(0, rule.strip_prefix("1 ").unwrap().into());
            }
            ("-D", Some(chain), Some(rule)) => {
                let rules = after.0.get_mut(&(table, chain.into())).unwrap();
                let at = rules.iter().position(|present| present == rule).unwrap();
                rules.remove(at);
            }
            ("-X", Some(chain), None) => assert_eq!(after.0.remove(&(table, chain.into())), Some(vec![])),
            (declared, ..) => after.set(table, declared.strip_prefix(':').unwrap(), vec![]),
        }
    }
    after
}

fn kernel(rules: &[String]) -> Chains {
    let mut chains = Chains::default();
    for table in Table::ALL {
        chains.set(table, table.base(), rules.to_vec());
    }
    chains
}

#[test]
fn only_rules_that_stand_in_the_kernels_own_chain_hide_what_others_forward() {
    let mut observed = Chains::default();
    let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n:KUBE-POSTROUTING - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING\n\
                 -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n-A POSTROUTING -o eth1 -j SNAT --to-source 192.0.2.1\n\
                 -A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n";
    observed.record_table(Table::Nat, saved);
    assert_eq!(
        hidden_by_others(&observed),
        ["POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "POSTROUTING -o eth1 -j SNAT --to-source 192.0.2.1"]
    );
}

#[test]
fn the_first_transaction_reads_like_this() {
    let plan = plan(&kernel(&["-j KUBE-X".into()]), &desire(&policy(&["10.240.0.8", "10.240.0.9", "10.240.0.12"])));
    let expected = "*mangle
:AZURE-VNET-GUARD - [0:0]
-A AZURE-VNET-GUARD -d 168.63.129.16/32 -p tcp -m multiport --dports 80,32526 -j DROP
-I FORWARD 1 -j AZURE-VNET-GUARD
COMMIT
*nat
:AZURE-VNET-MASQ - [0:0]
:AZURE-VNET-EGRESS - [0:0]
-A AZURE-VNET-MASQ -s 10.240.0.8/31 -j AZURE-VNET-EGRESS
-A AZURE-VNET-MASQ -s 10.240.0.12/32 -j AZURE-VNET-EGRESS
-A AZURE-VNET-EGRESS -d 168.63.129.16/32 -j RETURN
-A AZURE-VNET-EGRESS -d 169.254.169.254/32 -j MASQUERADE --random-fully
-A AZURE-VNET-EGRESS -d 10.50.9.0/24 -j MASQUERADE --random-fully
-A AZURE-VNET-EGRESS -d 10.50.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -d 10.240.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -d 192.168.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -j MASQUERADE --random-fully
-A POSTROUTING -j AZURE-VNET-MASQ
COMMIT
*filter
:AZURE-VNET-FORWARD - [0:0]
-A AZURE-VNET-FORWARD -i azv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A AZURE-VNET-FORWARD -o azv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A AZURE-VNET-FORWARD -s 10.240.0.8/31 -j ACCEPT
-A AZURE-VNET-FORWARD -s 10.240.0.12/32 -j ACCEPT
-A AZURE-VNET-FORWARD -d 10.240.0.8/31 -j ACCEPT
-A AZURE-VNET-FORWARD -d 10.240.0.12/32 -j ACCEPT
-A FORWARD -j AZURE-VNET-FORWARD
COMMIT
";
    assert_eq!(plan.restore, expected);
}

#[test]
fn pk4_the_guard_stands_first_in_a_table_of_its_own_and_the_accepting_jump_last() {
    let desired = desire(&policy(&["10.240.0.8"]));
    let before = kernel(&["-j KUBE-FORWARD".into()]);
    let after = apply(&before, &plan(&before, &desired));
    assert_eq!(after.get(Table::Mangle, "FORWARD").unwrap(), ["-j AZURE-VNET-GUARD", "-j KUBE-FORWARD"]);
    assert_eq!(after.get(Table::Filter, "FORWARD").unwrap(), ["-j KUBE-FORWARD", "-j AZURE-VNET-FORWARD"]);
}

#[test]
fn pk4_the_guard_of_earlier_versions_goes_once_the_one_of_mangle_stands() {
    let desired = desire(&policy(&["10.240.0.8"]));
    let mut before = kernel(&["-j KUBE-FORWARD".into()]);
    before.set(Table::Filter, "FORWARD", vec!["-j AZURE-VNET-GUARD".into(), "-j KUBE-FORWARD".into()]);
    before.set(Table::Filter, GUARD, vec!["-d 168.63.129.16/32 -p tcp -m multiport --dports 80,32526 -j DROP".into()]);
    let change = plan(&before, &desired);
    assert!(change.restore.starts_with("*mangle\n"), "{}", change.restore);
    assert!(change.differs.contains(&"filter/AZURE-VNET-GUARD".to_owned()), "{:?}", change.differs);
    let after = apply(&before, &change);
    assert_eq!(after.get(Table::Filter, GUARD), None);
    assert_eq!(after.get(Table::Filter, "FORWARD").unwrap(), ["-j KUBE-FORWARD", "-j AZURE-VNET-FORWARD"]);
    assert!(plan(&after, &desired).is_empty());
    let mut nothing = before.clone();
    nothing.set(Table::Filter, "FORWARD", vec!["-j KUBE-FORWARD".into()]);
    nothing.0.remove(&(Table::Filter, GUARD.into()));
    assert_eq!(apply(&before, &withdraw(&before)), nothing);
}

#[test]
fn pk4_rules_of_others_that_let_pods_pass_before_the_guard_are_named() {
    let mut chains = Chains::default();
    let mangle = [
        "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "-d 192.0.2.1/32 -j ACCEPT",
        "-d 168.63.129.16/32 -p udp -m udp --dport 53 -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-s 10.9.0.0/16 -j ACCEPT",
        "-d 168.63.129.16/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-s 10.240.0.0/16 -j RETURN",
        "-j AZURE-VNET-GUARD",
        "-j ACCEPT",
    ];
    chains.set(Table::Mangle, "FORWARD", mangle.map(str::to_owned).to_vec());
    let expected = [5, 6].map(|at| format!("mangle/FORWARD: {}", mangle[at]));
    assert_eq!(foreign(&chains, &policy(&["10.240.0.8"]).pool), expected);
}

#[test]
fn sc2_of_a_table_only_our_chains_and_those_that_jump_to_them_are_kept() {
    let mut chains = Chains::default();
    let saved = "*nat\n:POSTROUTING ACCEPT [9:7]\n:KUBE-SVC - [0:0]\n:AZURE-VNET-EGRESS - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -j AZURE-VNET-MASQ\n-A KUBE-SVC -j RETURN\nCOMMIT\n";
    chains.record_table(Table::Nat, saved);
    assert_eq!(chains.get(Table::Nat, "POSTROUTING").unwrap(), ["-j KUBE-POSTROUTING", "-j AZURE-VNET-MASQ"]);
    assert_eq!((chains.get(Table::Nat, EGRESS), chains.get(Table::Nat, MASQ)), (Some(&[][..]), None));
    assert_eq!(chains.0.len(), 2);
}

#[test]
fn a_doubled_jump_is_made_single() {
    let desired = desire(&policy(&["10.240.0.8"]));
    let before = kernel(&["-j AZURE-VNET-MASQ".into(), "-j AZURE-VNET-MASQ".into()]);
    let after = apply(&before, &plan(&before, &desired));
    assert_eq!(after.get(Table::Nat, "POSTROUTING").unwrap(), ["-j AZURE-VNET-MASQ"]);
}

#[test]
fn without_a_known_address_space_nothing_but_what_is_listed_is_masqueraded() {
    let policy = Policy { vnet: vec![], ..policy(&["10.240.0.8"]) };
    let chains = desire(&policy);
    let rules = chains.get(Table::Nat, EGRESS).unwrap();
    assert!(rules.iter().all(|rule| rule.starts_with("-d ")), "{rules:?}");
}

#[test]
fn others_rules_that_decide_about_pods_before_ours_are_named() {
    let mut chains = Chains::default();
    let nat = [
        "-m comment --comment x -j KUBE-POSTROUTING",
        "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "! -d 10.0.0.0/8 -m comment --comment kubenet -j MASQUERADE",
        "-m mark --mark 0x4000/0x4000 -j MASQUERADE",
        "-d 192.0.2.1/32 -j ACCEPT",
        "-s 10.240.0.0/16 -j SNAT --to-source 10.0.0.4",
        "-j AZURE-VNET-MASQ",
        "-j MASQUERADE",
    ];
    chains.set(Table::Nat, "POSTROUTING", nat.map(str::to_owned).to_vec());
    chains.set(Table::Filter, "FORWARD", vec!["-d 168.63.129.16/32 -j DROP".into(), "-j REJECT".into(), "-j AZURE-VNET-FORWARD".into()]);
    let expected = [
        "nat/POSTROUTING: ! -d 10.0.0.0/8 -m comment --comment kubenet -j MASQUERADE",
        "nat/POSTROUTING: -s 10.240.0.0/16 -j SNAT --to-source 10.0.0.4",
        "filter/FORWARD: -j REJECT",
    ];
    assert_eq!(foreign(&chains, &policy(&["10.240.0.8"]).pool), expected);
    assert_eq!(foreign(&chains, &BTreeSet::new()), [expected[0], expected[2]]);
}

#[test]
fn disabled_masquerading_leaves_empty_chains() {
    let chains = desire(&Policy { masquerade: Masquerade::Disabled, ..policy(&["10.240.0.8"]) });
    assert_eq!((chains.get(Table::Nat, MASQ), chains.get(Table::Nat, EGRESS)), (Some(&[][..]), Some(&[][..])));
}

#[test]
fn the_users_prefixes_are_read_and_what_is_none_is_named() {
    let spec = MasqueradeSpec { non_masquerade_cidrs: vec!["10.1.2.3/8".into(), "fd00::/8".into()], ..MasqueradeSpec::default() };
    let (parsed, refused) = Masquerade::parse(&spec);
    assert_eq!(parsed, Masquerade::OutsideVnet { to: vec![], not_to: vec![net("10.0.0.0/8")], ports: Ports::Random });
    assert_eq!(refused, ["fd00::/8"]);
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let address = any::<u8>().prop_map(|low| Ipv4Addr::new(10, 240, 0, low));
    let nets = || proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..3);
    let nets =
        move || nets().prop_map(|nets| nets.into_iter().map(|(bits, len)| Ipv4Net::new(bits.into(), len).unwrap().trunc()).collect());
    let ports = prop_oneof![Just(Ports::Kept), Just(Ports::Random)];
    let masquerade = (nets(), nets(), ports, 0..3).prop_map(|(to, not_to, ports, kind)| match kind {
        0 => Masquerade::Disabled,
        1 => Masquerade::Only { to, ports },
        _ => Masquerade::OutsideVnet { to, not_to, ports },
    });
    let forward = prop_oneof![Just(Forward::Accept), Just(Forward::Leave)];
    (proptest::collection::btree_set(address, 0..40), nets(), masquerade, forward).prop_map(|(pool, vnet, masquerade, forward)| Policy {
        pool,
        vnet,
        masquerade,
        forward,
    })
}

proptest! {
    #[test]
    fn applying_reaches_the_desired_state_and_planning_again_is_empty(
        first in any_policy(), second in any_policy(), foreign in proptest::collection::vec("-j [A-Z]{3,8}", 0..4)
    ) {
        let (first, second) = (desire(&first), desire(&second));
        let start = kernel(&foreign);
        let middle = apply(&start, &plan(&start, &first));
        let end = apply(&middle, &plan(&middle, &second));
        prop_assert!(plan(&end, &second).is_empty());
        for table in Table::ALL {
            let kept: Vec<_> = end.get(table, table.base()).unwrap().iter().filter(|rule| !rule.contains("AZURE-VNET")).cloned().collect();
            prop_assert_eq!(&kept, &foreign);
        }
        prop_assert_eq!(apply(&end, &withdraw(&end)), start);
    }

    #[test]
    fn pk5_the_nat_chains_only_return_or_masquerade_and_only_for_the_pool(policy in any_policy()) {
        let chains = desire(&policy);
        for rule in chains.get(Table::Nat, EGRESS).unwrap() {
            let target = rule.rsplit("-j ").next().unwrap();
            prop_assert!(target == "RETURN" || target.starts_with("MASQUERADE"), "{}", rule);
        }
        for rule in chains.get(Table::Nat, MASQ).unwrap() {
            let source: Ipv4Net = rule.strip_prefix("-s ").unwrap().split(' ').next().unwrap().parse().unwrap();
            prop_assert!(source.hosts().all(|address| policy.pool.contains(&address)));
        }
    }

    #[test]
    fn prefixes_hold_exactly_the_pool(pool in proptest::collection::btree_set(any::<u8>().prop_map(|low| Ipv4Addr::new(10, 0, 0, low)), 0..256)) {
        let held: BTreeSet<Ipv4Addr> = aggregate(&pool).into_iter().flat_map(|net| {
            (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
        }).collect();
        prop_assert_eq!(held, pool);
    }
}
