//! What of a node can be counted from outside.

use azure_vnet_plugin_core::attachment::PodUid;

use super::{
    super::{
        metrics::{Ended, Kind, Metrics, State, Type},
        orphans::Listed,
    },
    *,
};

#[test]
fn what_is_wrong_with_a_node_is_counted_and_what_is_mended_no_more() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let (mut node, metrics) = (filled(&machine, &object), Metrics::default());
        lease(&node, "c1");
        node.keeper.store().want(&"waits".parse::<PodUid>().unwrap()).unwrap();
        run("iptables-nft", &["-t", "mangle", "-I", "FORWARD", "-j", "ACCEPT"]);
        for _ in 0..3 {
            run("iptables-nft", &["-F", "AZURE-VNET-FORWARD"]);
            fs::write(machine.path("conf/10-azure-vnet.conflist"), "{}").unwrap();
            let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
            metrics.look(&mut node, &outcome);
        }
        let repaired = |kind| metrics.repaired.get_or_create(&Kind { kind }).get();
        let condition = |condition| metrics.conditions.get_or_create(&Type { condition }).get();
        let addresses = |state| metrics.addresses.get_or_create(&State { state }).get();
        assert_eq!(["rules", "conflist", "sysctl", "plugins", "bridges"].map(repaired), [3, 3, 0, 0, 0]);
        assert_eq!(["assigned", "free", "cooling", "quarantined"].map(addresses), [1, 1, 0, 0]);
        assert_eq!((metrics.waiting.get(), metrics.contested.get(), metrics.foreign_rules.get()), (1, 2, 1));
        assert_eq!(["StoreHealthy", "ConflistInPlace"].map(condition), [1, 1]);
        fs::write(machine.path("conf/05-other.conflist"), "{}").unwrap();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        metrics.look(&mut node, &outcome);
        assert_eq!(["StoreHealthy", "ConflistInPlace"].map(condition), [1, 0]);
        let pod = Listed { uids: ["waits".to_owned()].into(), ..Listed::default() };
        assert_eq!(lease_for(&node, "c2", Some("waits")), address("10.0.0.6"));
        let outcome = node.reconcile(&Seen { watched: Some(pod), ..seen(Some(&object), vec![]) }).unwrap();
        metrics.look(&mut node, &outcome);
        assert_eq!((metrics.waiting.get(), addresses("free")), (0, 0));
    });
}

#[test]
fn commands_are_counted_by_how_they_ended() {
    let metrics = Metrics::default();
    let lines = ["command=ADD outcome=ok ms=1.0", "command=ADD outcome=failed code=11 ms=2.0", "command=ADD outcome=ok ms=1.0"];
    metrics.ran(&lines.iter().filter_map(|line| azure_vnet_operator_core::command_log::parse(line)).collect::<Vec<_>>());
    let count = |code| metrics.commands.get_or_create(&Ended { command: "ADD", code }).get();
    assert_eq!((count(0), count(11)), (2, 1));
}
