//! A small fleet of objects on a real API server: what holds of addresses in a large one holds here.

use azure_vnet_e2e::build::Operator;
use azure_vnet_e2e::scale::{Size, measure};

#[test]
fn twenty_nodes_are_filled_grow_and_outlive_an_upgrade_two_leaders_and_one_that_is_cut_off_and_no_address_is_lost_or_given_twice() {
    for figure in measure(Size { nodes: 20, subscriptions: 2, churn: 5, failovers: 3 }, Operator::Quick).unwrap() {
        println!("{figure}");
    }
}
