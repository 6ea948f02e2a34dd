//! Upgrades of the product and of nodes, and controllers that die, while pods come and go: one round of `cargo xtask soak`.

use azure_vnet_e2e::scenario::rolling;

#[test]
fn pods_start_and_stop_through_upgrade_rollback_reboots_and_dead_controllers() {
    rolling::run(1, &mut |line| println!("{line}")).unwrap();
}
