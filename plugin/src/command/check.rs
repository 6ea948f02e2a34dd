//! CHECK: the kernel against the lease and the result of ADD, never against the configuration of the day (safety rule CM5).

use std::net::Ipv4Addr;

use azure_vnet_plugin_core::{
    attachment::IfName,
    conf::{Ipam, Role},
    error::{CniError, Code},
    request::Add,
    wiring::{self, Step, Wiring},
};
use ipnet::Ipv4Net;

use super::{Done, Run, errors, subject};
use crate::{netlink::Netlink, netns::Netns, wire};

impl Run<'_> {
    pub(super) fn check(&self, check: &Add) -> Result<Done, CniError> {
        let lease = match &check.conf.ipam {
            Ipam::Own(_) => self.leased(check)?,
            Ipam::Delegated(name) => {
                self.delegate(name).tell("CHECK")?;
                None
            }
        };
        match self.role {
            Role::Ipam => Ok(Done::that("the address is leased")),
            Role::Network => check_wiring(check, lease),
        }
    }

    /// Address and host link by the lease; none with the store lost, when the kernel alone is to agree with the result.
    fn leased(&self, check: &Add) -> Result<Option<(Ipv4Addr, IfName)>, CniError> {
        if let Some(held) = self.store.find(&check.attachment).map_err(|error| errors::hold(&error))? {
            return Ok(Some((held.lease().address, held.lease().host_link.clone())));
        }
        if self.store.seal().is_err() && self.role == Role::Network {
            return Ok(None);
        }
        Err(CniError::new(Code::UnknownContainer, format!("{} has no lease", subject(&check.attachment))))
    }
}

fn check_wiring(check: &Add, lease: Option<(Ipv4Addr, IfName)>) -> Result<Done, CniError> {
    let previous = check.conf.prev_result.as_ref().ok_or_else(|| {
        CniError::new(Code::InvalidConfig, "required prevResult missing").with_details("CHECK gets the result of ADD as prevResult")
    })?;
    let Some(network) = previous.ips.iter().map(|ip| ip.address).find(|ip| lease.as_ref().is_none_or(|(address, _)| ip.addr() == *address))
    else {
        let address = lease.map_or_else(|| "an address".to_owned(), |(address, _)| address.to_string());
        return Err(CniError::new(Code::InvalidConfig, format!("prevResult lacks {address}, which the lease has")));
    };
    let host_link = match lease {
        Some((_, host_link)) => host_link,
        None => wiring::host_link(&check.conf.name, &check.attachment, check.pod.as_ref())
            .map_err(|error| CniError::because(Code::InvalidEnvironment, &error))?,
    };
    let missing = missing(check, host_link, network)?;
    if missing.is_empty() {
        return Ok(Done::with(network.addr(), "is wired"));
    }
    let what = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(CniError::new(Code::Failed, format!("{} with {} lacks {what}", subject(&check.attachment), network.addr())))
}

fn missing(check: &Add, host_link: IfName, network: Ipv4Net) -> Result<Vec<Step>, CniError> {
    let wiring = Wiring { attachment: check.attachment.clone(), host_link, address: network, mtu: 0 };
    let netns = Netns::open(check.netns.as_str()).map_err(|error| errors::netns(&error))?;
    let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
    let mut pod = netns.netlink().map_err(|error| errors::netns(&error))?;
    let observed = wire::observe(&mut host, Some(&mut pod), &wiring).map_err(|error| errors::wire(&check.attachment, &error))?;
    Ok(wiring.plan(&observed))
}
