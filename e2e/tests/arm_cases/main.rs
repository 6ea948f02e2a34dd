//! What Azure can do to a controller, by the numbers of the list of faults: each case against the emulated Resource Manager over HTTP, through the
//! product's client and the product's passes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that meets something else than it expects shall fail"
)]

mod answers;
mod blocks;
mod controller;
mod credentials;
mod limits;
mod stage;
mod subscriptions;
mod surroundings;
mod witness;

#[test]
fn every_case_has_a_test() {
    let sources = [include_str!("answers.rs"), include_str!("limits.rs"), include_str!("surroundings.rs")].concat();
    let missing: Vec<u32> = (1..=28).filter(|number| !sources.contains(&format!("async fn a{number}_"))).collect();
    assert_eq!(missing, Vec::<u32>::new());
}
