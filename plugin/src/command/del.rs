//! DEL: the kernel's part, then the lease; only by the lease of this attachment or a link's alias that names it (safety rule CM2).

use std::net::IpAddr;

use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    conf::Role,
    error::{CniError, Code},
    request::Del,
    wiring::{Alias, Owner},
};

use super::{Done, Run, errors, subject};
use crate::{
    bridge, kernel_use,
    netlink::{Link, LinkBy, Netlink, NetlinkError},
    store::{Freed, Held},
    wire,
};

impl Run<'_> {
    pub(super) fn del(&self, del: &Del) -> Result<Done, CniError> {
        let attachment = &del.attachment;
        let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
        if let Some(held) = self.store.find(attachment).map_err(|error| errors::hold(&error))? {
            return self.give_back(held, attachment, &mut host);
        }
        let removed = match self.role {
            Role::Network => {
                let failed = |error| kernel_failed(attachment, &error);
                let links = by_alias(&mut host, attachment).map_err(failed)?;
                let addresses: Vec<IpAddr> = links.iter().filter_map(alias).map(|alias| alias.address).collect();
                let forgotten = bridge::forget_pod(&mut host, attachment, &addresses).map_err(failed)?;
                links.iter().try_for_each(|link| wire::delete(&mut host, link.index)).map_err(failed)?;
                links.len() + forgotten.rules
            }
            Role::Ipam => 0,
        };
        if let (Role::Network, Some(delegate)) = (self.role, &del.conf.delegate) {
            self.delegate(delegate).tell("DEL")?;
        }
        Ok(Done::that(if removed > 0 { "link removed; there was no lease" } else { "nothing to do" }))
    }

    fn give_back(&self, held: Held<'_>, attachment: &Attachment, host: &mut Netlink) -> Result<Done, CniError> {
        let (address, host_link, mode) = (held.lease().address, held.lease().host_link.clone(), held.lease().mode);
        let failed = |error| kernel_failed(attachment, &error);
        // Before the links, so that both wait for the same grace period; it ends with this.
        let _forgotten = match (self.role, mode) {
            (Role::Network, Mode::Bridge | Mode::Tunnel) => Some(bridge::forget_pod(host, attachment, &[address.into()]).map_err(failed)?),
            (Role::Network, Mode::Transparent) | (Role::Ipam, _) => None,
        };
        if self.role == Role::Network {
            remove_by_name(host, host_link.as_str(), attachment).map_err(failed)?;
        }
        // Whatever the link is called now: no route of this attachment's may be left when the address rests.
        if let Some(index) = kernel_use::link_of(host, address.into()).map_err(failed)? {
            let link = host.link(LinkBy::Index(index)).map_err(failed)?;
            if let Some(link) = link.filter(|link| wire::owner(link, attachment) == Owner::This) {
                match self.role {
                    Role::Network => wire::delete(host, link.index).map_err(failed)?,
                    Role::Ipam => {
                        return Err(CniError::new(Code::TryAgain, format!("{address} is still routed through {}", link.name))
                            .with_details("azure-vnet removes the link first"));
                    }
                }
            }
        }
        match held.cool().map_err(|error| errors::hold(&error))? {
            Freed::Cooling => Ok(Done::with(address, "given back")),
            Freed::Changed => Ok(Done::with(address, "was given back by another process")),
        }
    }
}

fn remove_by_name(host: &mut Netlink, name: &str, attachment: &Attachment) -> Result<(), NetlinkError> {
    match host.link(LinkBy::Name(name))? {
        Some(link) if wire::owner(&link, attachment) == Owner::This => wire::delete(host, link.index),
        // Gone, or taken over by a newer container of the pod (safety rule CM3).
        Some(_) | None => Ok(()),
    }
}

/// The links of an attachment, whatever they are called.
pub(super) fn by_alias(host: &mut Netlink, attachment: &Attachment) -> Result<Vec<Link>, NetlinkError> {
    Ok(host.links()?.into_iter().filter(|link| wire::owner(link, attachment) == Owner::This).collect())
}

fn alias(link: &Link) -> Option<Alias> {
    link.alias.as_deref()?.parse().ok()
}

fn kernel_failed(attachment: &Attachment, error: &NetlinkError) -> CniError {
    CniError::new(
        Code::TryAgain,
        format!("cannot remove the link of {}: {}", subject(attachment), azure_vnet_plugin_core::error::chain(error)),
    )
}
