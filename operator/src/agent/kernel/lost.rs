//! Cutting off pods whose address the NIC has lost (safety rule RE7). What the kernel refuses of one pod keeps no other from being cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_plugin::{
    bridge,
    netlink::{Change, Route},
};

use super::super::problems::chain;
use super::{Kernel, KernelError, PodLink, View, failed, v4};

/// So many refusals are told in full.
const TOLD: usize = 3;

/// What became of pods of lost addresses.
#[derive(Debug, Default)]
pub struct Cut {
    /// To which nothing leads any more that led to them, or less than before.
    pub off: BTreeSet<Ipv4Addr>,
    /// What the kernel refused, by address.
    pub refused: BTreeMap<Ipv4Addr, KernelError>,
}

impl Cut {
    fn note(&mut self, address: Ipv4Addr, outcome: Result<(), KernelError>) {
        match outcome {
            Ok(()) => _ = self.off.insert(address),
            Err(error) => _ = self.refused.entry(address).or_insert(error),
        }
    }

    /// What the kernel refused, in words; nothing where it refused nothing.
    #[must_use]
    pub fn refusals(&self) -> Option<String> {
        let told: Vec<String> = self.refused.iter().take(TOLD).map(|(address, error)| format!("{address}: {}", chain(error))).collect();
        let more = self.refused.len().saturating_sub(TOLD);
        let more = if more > 0 { format!("; and of {more} more addresses") } else { String::new() };
        (!told.is_empty()).then(|| format!("{}{more}", told.join("; ")))
    }
}

impl Kernel {
    /// Cuts off the pods whose address the NIC has lost: their host routes go, whoever made them. A bridged pod also loses the bridge's entry, the rules
    /// for its frames, and then its place on the bridge, where others reach it without the host.
    pub fn cut_off(&mut self, view: &View, lost: &BTreeSet<Ipv4Addr>) -> Cut {
        let mut cut = Cut::default();
        for pod in view.pods.iter().filter(|pod| pod.controller.is_some()) {
            let Some(address) = v4(pod.alias.address).filter(|address| lost.contains(address)) else { continue };
            cut.note(address, self.cut_off_bridged(pod, address));
        }
        for route in view.routes_of_lost(lost) {
            let Some(address) = v4(route.destination.addr()) else { continue };
            cut.note(address, self.changes("remove the route of a lost address", &[Change::DeleteRoute(route)]));
        }
        cut
    }

    fn cut_off_bridged(&mut self, pod: &PodLink, address: Ipv4Addr) -> Result<(), KernelError> {
        bridge::forget_pod(&mut self.0, &pod.alias.attachment, &[address.into()])
            .map_err(failed("remove what leads to a bridged pod of a lost address"))?;
        self.changes("take a pod of a lost address off its bridge", &[Change::SetController { link: pod.index, controller: 0 }])
    }
}

impl View {
    /// The host routes to pods of these addresses: through the pod's link, or the bridge of which that is a port.
    fn routes_of_lost(&self, lost: &BTreeSet<Ipv4Addr>) -> Vec<Route> {
        let leads = |pod: &PodLink, link| pod.index == link || pod.controller == Some(link);
        let to_pod = |address, link| self.pods.iter().any(|pod| pod.alias.address == address && leads(pod, link));
        let of_lost = |route: &&Route| {
            let address = route.destination.addr();
            route.destination.prefix_len() == 32
                && v4(address).is_some_and(|address| lost.contains(&address))
                && route.link.is_some_and(|link| to_pod(address, link))
        };
        self.routes.iter().filter(of_lost).cloned().collect()
    }
}
