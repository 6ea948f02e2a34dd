//! ADD: an address, then the wiring, then the answer; on failure none of them. The same ADD again completes what is half made.

use std::{collections::BTreeSet, net::Ipv4Addr};

use azure_vnet_plugin_core::{
    answer::{Answer, Interface},
    attachment::{Attachment, IfName},
    conf::{Ipam, Role},
    error::{CniError, Code, chain},
    ipam::OwnIpam,
    lease::{Entry, Lease},
    request::Add,
    wiring::{self, HOST_MAC, Owner, Wiring},
};
use ipnet::Ipv4Net;

use super::{Done, Run, errors, write_json};
use crate::{
    kernel_use,
    netlink::{LinkBy, Lookup, Netlink},
    netns::Netns,
    source,
    store::{Granted, Held, LeaseRequest, Origin},
    wire::{self, Holder, Made, Sides, WireError},
};

/// What a link has where nothing says otherwise.
const DEFAULT_MTU: u32 = 1500;

impl Run<'_> {
    pub(super) fn add(&self, add: &Add) -> Result<Done, CniError> {
        let host_link = wiring::host_link(&add.conf.name, &add.attachment, add.pod.as_ref())
            .map_err(|error| CniError::because(Code::InvalidEnvironment, &error))?;
        let netns = Netns::open(add.netns.as_str()).map_err(|error| errors::netns(&error))?;
        let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
        let (mut pod, cookie) = netns.netlink_and_cookie().map_err(|error| errors::netns(&error))?;
        match (self.role, &add.conf.ipam) {
            (Role::Ipam, Ipam::Own(own)) => self.lease_only(add, own, host_link, cookie, &mut host),
            (Role::Network, Ipam::Own(own)) => {
                let mut sides = Sides { host: &mut host, pod: &mut pod, netns: &netns };
                self.add_own(add, own, host_link, cookie, &mut sides)
            }
            (Role::Network | Role::Ipam, Ipam::Delegated(name)) => {
                let mut sides = Sides { host: &mut host, pod: &mut pod, netns: &netns };
                self.add_delegated(add, name, host_link, &mut sides)
            }
        }
    }

    /// `azure-vnet-ipam`: the address alone.
    fn lease_only(&self, add: &Add, own: &OwnIpam, host_link: IfName, cookie: Option<u64>, host: &mut Netlink) -> Result<Done, CniError> {
        let granted = self.lease(add, own, &request(add, own, host_link, cookie), host)?;
        let answer = answer_of(&granted).and_then(|answer| {
            granted.held.confirm().map_err(|error| errors::lease(&error, own.source))?;
            Ok(answer.answer)
        });
        let address = granted.held.lease().address;
        match answer {
            Ok(answer) => reply(add, &answer, address),
            Err(error) => Err(rolled_back(granted.held, error)),
        }
    }

    fn add_own(&self, add: &Add, own: &OwnIpam, host_link: IfName, cookie: Option<u64>, sides: &mut Sides<'_>) -> Result<Done, CniError> {
        let mut request = request(add, own, host_link, cookie);
        loop {
            let granted = self.lease(add, own, &request, sides.host)?;
            match self.attempt(add, own, granted, sides)? {
                Attempt::Done(done) => return Ok(done),
                Attempt::InUse(address) => request.avoid.insert(address),
            };
        }
    }

    /// Wires the pod with one address, and answers. On failure the address and the wiring are taken back.
    fn attempt(&self, add: &Add, own: &OwnIpam, granted: Granted<'_>, sides: &mut Sides<'_>) -> Result<Attempt, CniError> {
        let answer = match answer_of(&granted) {
            Ok(answer) => answer,
            Err(error) => return Err(rolled_back(granted.held, error)),
        };
        let wiring = Wiring {
            attachment: add.attachment.clone(),
            host_link: granted.held.lease().host_link.clone(),
            address: answer.address,
            mtu: granted.pool.mtu.unwrap_or_else(|| uplink_mtu(sides.host, add, granted.pool.gateway)),
        };
        let made = match self.wire(add, sides, &wiring) {
            Ok(made) => made,
            // Safety rule ST4: another address, where this one was not given before.
            Err(WireError::AddressInUse { address, .. }) if granted.held.origin() == Origin::Created && own.requested.is_none() => {
                granted.held.rollback().map_err(|error| errors::hold(&error))?;
                return Ok(Attempt::InUse(address));
            }
            Err(error) => return Err(rolled_back(granted.held, errors::wire(&add.attachment, &error))),
        };
        let text = answer.answer.on(interfaces(add, &wiring));
        match granted.held.confirm() {
            // The lease is held until the answer is out (safety rule CM1).
            Ok(()) => reply(add, &text, answer.address.addr()).map(Attempt::Done),
            Err(error) => {
                let error = errors::lease(&error, own.source);
                let undone = wire::undo(sides, &wiring, &made, WireError::Refused(error.msg.clone()));
                Err(rolled_back(granted.held, CniError { msg: chain(&undone), ..error }))
            }
        }
    }

    fn add_delegated(&self, add: &Add, name: &str, host_link: IfName, sides: &mut Sides<'_>) -> Result<Done, CniError> {
        let delegate = self.delegate(name);
        let given = delegate.add()?;
        let result = match given.ips.as_slice() {
            [ip] => {
                let (host, gateway) = (&mut *sides.host, ip.gateway.unwrap_or(ip.address.addr()));
                let mtu = uplink_mtu(host, add, gateway);
                let wiring = Wiring { attachment: add.attachment.clone(), host_link, address: ip.address, mtu };
                self.wire(add, sides, &wiring).map_err(|error| errors::wire(&add.attachment, &error)).and_then(|_| {
                    let address = ip.address.addr();
                    reply(add, &given.clone().on(interfaces(add, &wiring)), address)
                })
            }
            ips => Err(CniError::new(Code::Failed, format!("IPAM plugin {name} gave {} IPv4 addresses, and one is needed", ips.len()))),
        };
        result.map_err(|error| match delegate.tell("DEL") {
            Ok(()) => error,
            Err(left) => CniError { msg: format!("{}; and the address was not given back: {}", error.msg, left.msg), ..error },
        })
    }

    fn lease(&self, add: &Add, own: &OwnIpam, request: &LeaseRequest, host: &mut Netlink) -> Result<Granted<'_>, CniError> {
        let machine = self.machine(own);
        if let Some(machine) = &machine {
            machine.prepare(host, &add.conf.name, add.conf.mode).map_err(|error| errors::source(&error))?;
        }
        let mut granted = self.store.lease(request, &mut |address| kernel_use::observe(host, address));
        if let (Err(error), Some(machine)) = (&granted, &machine)
            && error.may_be_news()
            && machine.renew(host).map_err(|error| errors::source(&error))?
        {
            granted = self.store.lease(request, &mut |address| kernel_use::observe(host, address));
        }
        granted.map_err(|error| {
            if let (true, Some(uid)) = (error.is_demand(), add.pod.as_ref().and_then(|pod| pod.uid.as_ref())) {
                // Demand that no lease shows (safety rule UP5); a node that cannot note it has worse trouble, which the answer names.
                let _ = self.store.want(uid);
            }
            errors::lease(&error, own.source)
        })
    }

    fn wire(&self, add: &Add, sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Made, WireError> {
        wire::make(sides, wiring, add.pod.as_ref(), |owner| self.holder(owner, wiring))
    }

    /// The lease of a link that is in the way.
    fn holder(&self, owner: &Owner, wiring: &Wiring) -> Option<Holder> {
        let leases = || self.store.list().unwrap_or_default().into_iter().filter_map(|(_, entry)| leased(entry));
        let lease = match owner {
            Owner::Other(attachment) => leases().find(|lease| lease.attachment == *attachment),
            Owner::Unlabelled => leases().find(|lease| lease.host_link == wiring.host_link && lease.attachment != wiring.attachment),
            Owner::This | Owner::Foreign => None,
        };
        lease.map(|lease| (lease.attachment, lease.pod))
    }
}

fn reply(add: &Add, answer: &Answer, address: Ipv4Addr) -> Result<Done, CniError> {
    write_json(&answer.print(add.conf.version)).map_err(|error| CniError::new(Code::Io, format!("cannot write the answer: {error}")))?;
    let pod = add.pod.as_ref().map_or_else(|| " a container".to_owned(), |pod| format!(" pod {pod}"));
    Ok(Done::with(address, format!("leased to{pod} in network {}", add.conf.name)))
}

fn request(add: &Add, own: &OwnIpam, host_link: IfName, netns_cookie: Option<u64>) -> LeaseRequest {
    LeaseRequest {
        attachment: add.attachment.clone(),
        pod: add.pod.clone(),
        network: add.conf.name.clone(),
        mode: add.conf.mode,
        host_link,
        netns: add.netns.clone(),
        netns_cookie,
        requested: own.requested,
        supply: source::supply(own),
        avoid: BTreeSet::new(),
    }
}

/// How one try with one address ended.
enum Attempt {
    Done(Done),
    InUse(Ipv4Addr),
}

/// The answer that an address from the pool makes.
struct Given {
    address: Ipv4Net,
    answer: Answer,
}

fn answer_of(granted: &Granted<'_>) -> Result<Given, CniError> {
    let (pool, address) = (&granted.pool, granted.held.lease().address);
    let address = Ipv4Net::new(address, pool.prefix.prefix_len()).map_err(|error| CniError::because(Code::Failed, &error))?;
    Ok(Given { address, answer: Answer::of_pool(address, pool.gateway) })
}

fn interfaces(add: &Add, wiring: &Wiring) -> Vec<Interface> {
    let Attachment { if_name, .. } = &add.attachment;
    let mtu = Some(wiring.mtu);
    vec![
        Interface {
            name: if_name.to_string(),
            mac: Some(wiring::pod_mac(&add.attachment).to_string()),
            mtu,
            sandbox: Some(add.netns.to_string()),
        },
        Interface { name: wiring.host_link.to_string(), mac: Some(HOST_MAC.to_string()), mtu, sandbox: None },
    ]
}

/// MTU of the named uplink, else of the link through which the gateway is reached.
fn uplink_mtu(host: &mut Netlink, add: &Add, gateway: Ipv4Addr) -> u32 {
    let link = match &add.conf.master {
        Some(master) => host.link(LinkBy::Name(master.as_str())).ok().flatten(),
        None => match host.route_to(gateway) {
            Ok(Lookup::Route(route)) => route.link.and_then(|link| host.link(LinkBy::Index(link)).ok().flatten()),
            Ok(Lookup::Nowhere) | Err(_) => None,
        },
    };
    link.map_or(DEFAULT_MTU, |link| link.mtu)
}

fn rolled_back(held: Held<'_>, error: CniError) -> CniError {
    match held.rollback() {
        Ok(()) => error,
        Err(left) => CniError { msg: format!("{}; and the lease stays: {}", error.msg, errors::hold(&left).msg), ..error },
    }
}

fn leased(entry: Entry) -> Option<Lease> {
    match entry {
        Entry::Leased(lease) => Some(lease),
        Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
    }
}
