//! Upgrades of the product and of nodes, and controllers that die, while pods come and go: a short pass of `cargo xtask soak`.

use azure_vnet_e2e::scenario::rolling::{self, Extent};

#[test]
fn pods_start_and_stop_through_upgrade_rollback_reboots_and_dead_controllers() {
    let counts = rolling::run(Extent::Short, &mut |line| println!("{line}")).unwrap();
    println!("{counts}");
}
