//! Which nodes get a probe.

use azure_vnet_crds::EXHAUSTED_TAINT;

use super::super::{Cluster, Machine};

/// The nodes that were chosen, and what to say of the others; by name where names were given, else of those that are served.
///
/// # Errors
/// Of a name that no node has, or when there is none to choose.
pub fn choose_nodes(cluster: &Cluster, wanted: &[String], at_most: usize) -> Result<(Vec<String>, Vec<String>), String> {
    if let Some(unknown) = wanted.iter().find(|name| cluster.machine(name).is_none()) {
        return Err(format!("there is no node {unknown}"));
    }
    let is_meant = |name: &String| if wanted.is_empty() { cluster.pool(name).is_some() } else { wanted.contains(name) };
    let meant: Vec<_> = cluster.machines.iter().filter(|machine| machine.os != "windows" && is_meant(&machine.name)).collect();
    let (mut ready, mut notes) = (vec![], vec![]);
    for machine in meant {
        match obstacle(machine) {
            Some(why) => notes.push(format!("{} {why} and was left out", machine.name)),
            None => ready.push(machine.name.clone()),
        }
    }
    ready.sort();
    let all = ready.len();
    if all == 0 {
        return Err("no node is Ready, served and with addresses left: `kubectl azure-vnet status` says what stands in the way".into());
    }
    if wanted.is_empty() && all > at_most {
        // Evenly over the names, so that every node pool has its share.
        ready = (0..at_most).filter_map(|index| ready.get(index * all / at_most).cloned()).collect();
        notes.push(format!("{at_most} of {all} nodes were asked: --node names others, --at-most raises their number"));
    }
    Ok((ready, notes))
}

/// Probes tolerate every taint, since they are put on their nodes and not scheduled: what they respect is asked for here.
fn obstacle(machine: &Machine) -> Option<&'static str> {
    if machine.ready != "True" {
        Some("is not Ready")
    } else if machine.taints.iter().any(|taint| taint == EXHAUSTED_TAINT) {
        Some("has no addresses left")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::{AzureVnetNode, AzureVnetNodeSpec};

    use super::*;

    fn cluster(ready: impl Fn(usize) -> bool) -> Cluster {
        let name = |number: usize| format!("n{number}");
        let machine = |number| Machine {
            name: name(number),
            os: "linux".into(),
            ready: if ready(number) { "True" } else { "Unknown" }.into(),
            ..Machine::default()
        };
        let pools = (0..9).map(|number| AzureVnetNode::new(&name(number), AzureVnetNodeSpec::default())).collect();
        Cluster { machines: (0..10).map(machine).collect(), pools, ..Cluster::default() }
    }

    #[test]
    fn nodes_are_chosen_evenly_among_those_that_are_served_and_ready() {
        let (chosen, notes) = choose_nodes(&cluster(|number| number != 4), &[], 4).unwrap();
        assert_eq!(chosen, ["n0", "n2", "n5", "n7"]);
        assert!(notes[0].contains("n4 is not Ready") && notes[1].contains("4 of 8"), "{notes:?}");
    }

    #[test]
    fn a_node_that_is_out_of_addresses_is_left_to_the_pods_that_wait_for_one() {
        let mut cluster = cluster(|_| true);
        cluster.machines[2].taints = vec!["x".into(), "azure-vnet.dev/no-addresses".into()];
        let (chosen, notes) = choose_nodes(&cluster, &["n1".into(), "n2".into()], 4).unwrap();
        assert_eq!((chosen, notes), (vec!["n1".to_owned()], vec!["n2 has no addresses left and was left out".to_owned()]));
        assert!(choose_nodes(&cluster, &["n2".into()], 4).unwrap_err().contains("with addresses left"));
    }

    #[test]
    fn a_named_node_is_taken_even_if_it_is_not_served() {
        let cluster = cluster(|_| true);
        assert_eq!(choose_nodes(&cluster, &["n9".into()], 4).unwrap().0, ["n9"]);
        assert!(choose_nodes(&cluster, &["n10".into()], 4).unwrap_err().contains("no node n10"));
        assert!(choose_nodes(&Cluster::default(), &[], 4).is_err());
    }
}
