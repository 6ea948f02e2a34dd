//! Values that tests are written with.

use std::{borrow::Cow, collections::BTreeSet, net::Ipv4Addr, time::Duration};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    node::{Release, SlotAddress},
};

use super::Before;

pub fn at(text: &str) -> SlotAddress {
    text.parse().unwrap()
}

pub fn all(texts: &[&str]) -> Vec<SlotAddress> {
    texts.iter().map(|text| at(text)).collect()
}

pub fn addresses(texts: &[&str]) -> BTreeSet<Ipv4Addr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub fn spec(revision: u64, texts: &[&str]) -> AzureVnetNodeSpec {
    AzureVnetNodeSpec { revision, addresses: all(texts), ..AzureVnetNodeSpec::default() }
}

pub fn release(id: u64, texts: &[&str]) -> Release {
    Release { id, nonce: format!("n{id}"), addresses: all(texts) }
}

pub fn offered(addresses: &BTreeSet<Ipv4Addr>) -> Before<'_> {
    Before { offered: Cow::Borrowed(addresses), ..Before::default() }
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
