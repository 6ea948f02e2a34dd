//! Messages of `nf_tables`: transactions, and rules as the expressions that `ebtables` writes for them, so that it can read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use azure_vnet_plugin_core::{
    frames::{Chain, NewRule, Rule, RulePlan},
    wiring::{FABRIC_MAC, HOST_LINK_PREFIX, Mac},
};

use super::Table;
use crate::netlink::NetlinkError;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
pub(super) const GOT_RULE: u16 = SUBSYSTEM << 8 | 6;
const NEW_RULE: u16 = GOT_RULE;
const ASK_RULES: u16 = SUBSYSTEM << 8 | 7;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;

const NESTED: u16 = 0x8000;
/// Hooks of bridges and of IPv4, and the priorities that `ebtables` and `iptables` give their chains of address translation.
const ARRIVING: (u32, i32) = (0, -300);
const LEAVING: (u32, i32) = (4, 300);
const LEAVING_IP: (u32, i32) = (4, 100);

/// Verdicts of the kernel's `ebtables` targets.
const EBT_ACCEPT: i32 = -1;
const EBT_DROP: i32 = -2;
/// Of the source translation: with the bit away, it is done within ARP too.
const NO_ARP_BIT: i32 = 0x10;

/// Messages that the kernel carries out together or not at all.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) bytes: Vec<u8>,
    /// Number of the first message.
    pub(super) first: u32,
    /// Number of the message that is acknowledged: the last.
    pub(super) last: u32,
}

/// What a transaction does about tables and chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chains {
    /// They are there. The kernel takes a chain that is named again for changed, and lets the end of the socket wait for a grace period.
    There,
    /// Makes those that are missing.
    Made,
}

/// The messages of a plan.
pub(super) fn transaction(plan: &RulePlan, chains: Chains, first: u32) -> Result<Transaction, NetlinkError> {
    let mut out = Messages { bytes: Vec::with_capacity(4096), next: first };
    out.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {})?;
    for table in [Table::Bridge, Table::Services] {
        if chains == Chains::Made && plan.add.iter().any(|new| Table::of(new.chain) == table) {
            out.chains(table)?;
        }
    }
    let count = plan.delete.len() + plan.add.len();
    let ack = |at: usize| if at + 1 == count { ACK } else { 0 };
    let mut last = first;
    for (at, (chain, handle)) in plan.delete.iter().enumerate() {
        last = out.next;
        out.message(DELETE_RULE, ack(at), Table::of(*chain).family(), 0, |body| {
            rule_place(body, *chain);
            body.bytes(3, &handle.to_be_bytes());
        })?;
    }
    let (before, after): (Vec<&NewRule>, Vec<&NewRule>) = plan.add.iter().partition(|new| new.chain.newest_first());
    // Each goes before all others: the first is sent last.
    let adds = before.into_iter().rev().map(|new| (new, 0)).chain(after.into_iter().map(|new| (new, APPEND)));
    for (at, (new, place)) in adds.enumerate() {
        last = out.next;
        let flags = CREATE | place | ack(plan.delete.len() + at);
        out.message(NEW_RULE, flags, Table::of(new.chain).family(), 0, |body| new_rule(body, new))?;
    }
    out.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {})?;
    Ok(Transaction { bytes: out.bytes, first, last })
}

/// Removes a chain of ours that has no rules; with the chain of a table of ours, the table.
pub(super) fn removal(chain: Chain, first: u32) -> Result<Transaction, NetlinkError> {
    let table = Table::of(chain);
    let mut out = Messages { bytes: Vec::new(), next: first };
    out.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| {})?;
    let last = out.next;
    match table {
        Table::Bridge => out.message(DELETE_CHAIN, ACK, table.family(), 0, |body| {
            body.text(1, table.name());
            body.text(3, chain.as_str());
        })?,
        Table::Services => out.message(DELETE_TABLE, ACK, table.family(), 0, |body| body.text(1, table.name()))?,
    }
    out.message(BATCH_END, 0, 0, SUBSYSTEM, |_| {})?;
    Ok(Transaction { bytes: out.bytes, first, last })
}

/// Asks for the rules of a table, or of one of its chains.
pub(super) fn dump_request(table: Table, chain: Option<Chain>, number: u32) -> Result<Vec<u8>, NetlinkError> {
    let mut out = Messages { bytes: Vec::new(), next: number };
    out.message(ASK_RULES, DUMP, table.family(), 0, |body| {
        body.text(1, table.name());
        if let Some(chain) = chain {
            body.text(2, chain.as_str());
        }
    })?;
    Ok(out.bytes)
}

struct Messages {
    bytes: Vec<u8>,
    next: u32,
}

impl Messages {
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Body)) -> Result<(), NetlinkError> {
        let mut body = Body(vec![family, 0]);
        body.0.extend_from_slice(&resource.to_be_bytes());
        fill(&mut body);
        let len = u32::try_from(16 + body.0.len()).map_err(|_| NetlinkError::Malformed("rule too long"))?;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.next.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&body.0);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// The table and its chains; those that are there stay as they are.
    fn chains(&mut self, table: Table) -> Result<(), NetlinkError> {
        self.message(NEW_TABLE, CREATE, table.family(), 0, |body| body.text(1, table.name()))?;
        for chain in Chain::ALL.into_iter().filter(|chain| Table::of(*chain) == table) {
            self.message(NEW_CHAIN, CREATE, table.family(), 0, |body| {
                body.text(1, table.name());
                body.text(3, chain.as_str());
                let Some(((hook, priority), kind)) = hook(chain) else { return };
                body.nested(4, |at| {
                    at.number(1, hook);
                    at.bytes(2, &priority.to_be_bytes());
                });
                body.number(5, 1);
                body.text(7, kind);
            })?;
        }
        Ok(())
    }
}

/// Where the kernel enters a chain; none for one that others jump to.
fn hook(chain: Chain) -> Option<((u32, i32), &'static str)> {
    match chain {
        Chain::Arriving => Some((ARRIVING, "filter")),
        Chain::Leaving => Some((LEAVING, "filter")),
        Chain::Services | Chain::PodServices => Some((LEAVING_IP, "nat")),
        Chain::Network | Chain::Pods | Chain::Out => None,
    }
}

fn rule_place(body: &mut Body, chain: Chain) {
    body.text(1, Table::of(chain).name());
    body.text(2, chain.as_str());
}

fn new_rule(body: &mut Body, new: &NewRule) {
    rule_place(body, new.chain);
    let mut expressions = Expressions { list: Body(Vec::new()), protocol: None };
    expressions.rule(&new.rule);
    let Expressions { list, protocol } = expressions;
    body.bytes(4 | NESTED, &list.0);
    if let Some(protocol) = protocol {
        // The number as the kernel's matches compare it: in the order of the wire.
        body.nested(5, |compat| {
            compat.number(1, u32::from(protocol.to_be()));
            compat.number(2, 0);
        });
    }
    let comment = new.comment.to_string();
    let len = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut user_data = vec![0, len];
    user_data.extend(comment.bytes().take(usize::from(len) - 1));
    user_data.push(0);
    body.bytes(7, &user_data);
}

/// A list of attributes.
struct Body(Vec<u8>);

impl Body {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        // Nothing here comes near the limit.
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value);
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }
}

/// The expressions of one rule.
struct Expressions {
    list: Body,
    /// The frame's protocol, where a match of it is looked at.
    protocol: Option<u16>,
}

const META_IN: u32 = 6;
const META_OUT: u32 = 7;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ALL_PORTS_OF_PODS: &[u8] = b"az";
/// Where the hardware addresses are in the header.
const DESTINATION: u32 = 0;
const SOURCE: u32 = 6;
const BROADCAST: Mac = Mac([0xff; 6]);

impl Expressions {
    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Jump(chain) => {
                self.counter();
                self.expression("immediate", |data| {
                    data.number(1, 0);
                    data.nested(2, |value| {
                        value.nested(2, |verdict| {
                            verdict.bytes(1, &(-3_i32).to_be_bytes());
                            verdict.text(2, chain.as_str());
                        });
                    });
                });
            }
            Rule::AnswerArp { pods_only, address, mac } => {
                if *pods_only {
                    self.link(META_IN, ALL_PORTS_OF_PODS);
                }
                self.protocol(ARP);
                self.matching("arp", &arp_info(1, Some(*address)));
                self.counter();
                self.target("arpreply", &mac_info(*mac, EBT_DROP));
            }
            Rule::SpreadArpReplies { uplink } => {
                self.link(META_IN, &exact(uplink.as_str()));
                self.protocol(ARP);
                self.matching("arp", &arp_info(2, None));
                self.counter();
                self.target("dnat", &mac_info(BROADCAST, EBT_ACCEPT));
            }
            Rule::ToHost { address } => {
                self.link(META_IN, ALL_PORTS_OF_PODS);
                self.destination(*address);
                self.counter();
                self.target("redirect", &EBT_ACCEPT.to_ne_bytes());
            }
            Rule::ToPod { uplink, address, mac } => {
                self.link(META_IN, &exact(uplink.as_str()));
                self.destination(*address);
                self.counter();
                self.target("dnat", &mac_info(*mac, EBT_ACCEPT));
            }
            Rule::ToFabric { port } => {
                self.link(META_IN, &exact(port.as_str()));
                self.unicast(DESTINATION);
                self.counter();
                self.target("dnat", &mac_info(FABRIC_MAC, EBT_ACCEPT));
            }
            Rule::FromUplink { uplink, mac } => {
                self.link(META_OUT, &exact(uplink.as_str()));
                self.unicast(SOURCE);
                self.counter();
                self.target("snat", &mac_info(*mac, EBT_ACCEPT & !NO_ARP_BIT));
            }
            Rule::MasqueradeServices => {
                self.translated();
                self.matching("physdev", &physdev_info());
                self.counter();
                self.expression("masq", |_| {});
            }
            Rule::MasqueradeRouted { address } => {
                self.translated();
                self.link(META_IN, HOST_LINK_PREFIX.as_bytes());
                self.routed_to(*address);
                self.counter();
                self.expression("masq", |_| {});
            }
        }
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Body)) {
        self.list.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }

    fn counter(&mut self) {
        self.expression("counter", |data| {
            data.bytes(1, &[0; 8]);
            data.bytes(2, &[0; 8]);
        });
    }

    /// The port that a frame came by or leaves by. Without its final NUL a name stands for all that begin so.
    fn link(&mut self, which: u32, name: &[u8]) {
        self.expression("meta", |data| {
            data.number(2, which);
            data.number(1, 1);
        });
        self.compare(EQUAL, name);
    }

    fn compare(&mut self, how: u32, with: &[u8]) {
        self.expression("cmp", |data| {
            data.number(1, 1);
            data.number(2, how);
            data.nested(3, |value| value.bytes(1, with));
        });
    }

    fn mask(&mut self, mask: &[u8], len: u32) {
        self.expression("bitwise", |data| {
            data.number(1, 1);
            data.number(2, 1);
            data.number(3, len);
            data.nested(4, |value| value.bytes(1, mask));
            data.nested(5, |value| value.bytes(1, &vec![0; mask.len()]));
        });
    }

    /// Loads a part of the frame's header.
    fn header(&mut self, offset: u32, len: u32) {
        self.payload(0, offset, len);
    }

    /// `ip daddr`.
    fn routed_to(&mut self, address: Ipv4Addr) {
        self.payload(1, 16, 4);
        self.compare(EQUAL, &address.octets());
    }

    /// Loads a part of a header: the frame's (0) or the packet's (1).
    fn payload(&mut self, base: u32, offset: u32, len: u32) {
        self.expression("payload", |data| {
            data.number(1, 1);
            data.number(2, base);
            data.number(3, offset);
            data.number(4, len);
        });
    }

    fn protocol(&mut self, protocol: u16) {
        self.protocol = Some(protocol);
        self.header(12, 2);
        self.compare(EQUAL, &protocol.to_be_bytes());
    }

    fn destination(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.protocol(IPV4);
                self.matching("ip", &ip_info(address));
            }
            IpAddr::V6(address) => {
                self.protocol(IPV6);
                self.matching("ip6", &ip6_info(address));
            }
        }
    }

    /// Whether the hardware address at this place of the header is that of one link.
    fn unicast(&mut self, offset: u32) {
        self.header(offset, 6);
        self.mask(&[1, 0, 0, 0, 0, 0], 6);
        self.compare(EQUAL, &[0; 6]);
    }

    /// `ct status dnat`.
    fn translated(&mut self) {
        const STATUS: u32 = 2;
        const DESTINATION: u32 = 0x20;
        self.expression("ct", |data| {
            data.number(2, STATUS);
            data.number(1, 1);
        });
        self.mask(&DESTINATION.to_ne_bytes(), 4);
        self.compare(UNEQUAL, &[0; 4]);
    }

    fn matching(&mut self, name: &str, info: &[u8]) {
        self.extension("match", name, info);
    }

    fn target(&mut self, name: &str, info: &[u8]) {
        self.extension("target", name, info);
    }

    /// A match or target of the older rules; the kernel wants what it is told to be filled up to eight bytes.
    fn extension(&mut self, kind: &str, name: &str, info: &[u8]) {
        let mut info = info.to_vec();
        info.resize(info.len().next_multiple_of(8), 0);
        self.expression(kind, |data| {
            data.text(1, name);
            data.number(2, 0);
            data.bytes(3, &info);
        });
    }
}

fn exact(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `struct ebt_arp_info`: the operation, and the address that is asked for.
fn arp_info(operation: u16, target: Option<Ipv4Addr>) -> Vec<u8> {
    const OPERATION: u8 = 0x01;
    const TARGET: u8 = 0x10;
    let mut info = vec![0_u8; 4];
    info.extend_from_slice(&operation.to_be_bytes());
    info.extend_from_slice(&[0; 10]);
    let (address, mask) = target.map_or(([0; 4], [0; 4]), |address| (address.octets(), [0xff; 4]));
    info.extend_from_slice(&address);
    info.extend_from_slice(&mask);
    info.extend_from_slice(&[0; 24]);
    info.extend_from_slice(&[if target.is_some() { OPERATION | TARGET } else { OPERATION }, 0, 0, 0]);
    info
}

/// `struct ebt_ip_info`: the destination.
fn ip_info(destination: Ipv4Addr) -> Vec<u8> {
    const DESTINATION: u8 = 0x02;
    let mut info = vec![0_u8; 4];
    info.extend_from_slice(&destination.octets());
    info.extend_from_slice(&[0; 4]);
    info.extend_from_slice(&[0xff; 4]);
    info.extend_from_slice(&[0, 0, DESTINATION, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    info
}

/// `struct ebt_ip6_info`: the destination.
fn ip6_info(destination: Ipv6Addr) -> Vec<u8> {
    const DESTINATION: u8 = 0x02;
    let mut info = vec![0_u8; 16];
    info.extend_from_slice(&destination.octets());
    info.extend_from_slice(&[0; 16]);
    info.extend_from_slice(&[0xff; 16]);
    info.extend_from_slice(&[0, 0, DESTINATION, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    info
}

/// `struct ebt_arpreply_info` and `struct ebt_nat_info`.
fn mac_info(mac: Mac, verdict: i32) -> Vec<u8> {
    let mut info = mac.0.to_vec();
    info.extend_from_slice(&[0, 0]);
    info.extend_from_slice(&verdict.to_ne_bytes());
    info
}

/// `struct xt_physdev_info`: bridged, from a pod's port to a pod's port.
fn physdev_info() -> Vec<u8> {
    const IN_OUT_BRIDGED: u8 = 0x01 | 0x02 | 0x04;
    let mut name = ALL_PORTS_OF_PODS.to_vec();
    name.resize(16, 0);
    let mut mask = vec![0xff_u8; ALL_PORTS_OF_PODS.len()];
    mask.resize(16, 0);
    let mut info = [name.clone(), mask.clone(), name, mask].concat();
    info.extend_from_slice(&[0, IN_OUT_BRIDGED]);
    info
}
