//! The transport: transactions and dumps of rules over one `NETLINK_NETFILTER` socket.

use std::os::fd::OwnedFd;

use azure_vnet_plugin_core::frames::{Chain, ObservedRule, RulePlan};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink};

use super::{
    Table, chain_of, comment_of,
    encode::{self, Chains, GOT_RULE, Transaction},
};
use crate::netlink::{
    Errno, NetlinkError,
    socket::{self, Message, Next, attributes},
};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;
const RECEIVE_LEN: usize = 64 * 1024;

/// A socket to the rules of the namespace that the calling thread was in when it was opened.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Frames {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel gives none.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
            .map_err(NetlinkError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_LEN) })
    }

    /// Carries out the transaction of a plan. The kernel tells each refusal, or at the end that all is done.
    pub(super) fn transact(&mut self, plan: &RulePlan, chains: Chains) -> Result<(), NetlinkError> {
        self.run(&encode::transaction(plan, chains, self.sequence.wrapping_add(1))?)
    }

    /// Removes a chain of ours that has no rules; with the chain of a table of ours, the table. One that is gone is no error.
    ///
    /// # Errors
    /// The kernel refuses: others use it.
    pub fn remove_chain(&mut self, chain: Chain) -> Result<(), NetlinkError> {
        let removed = encode::removal(chain, self.sequence.wrapping_add(1)).and_then(|removal| self.run(&removal));
        match removed {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT)) => Ok(()),
            result => result,
        }
    }

    fn run(&mut self, transaction: &Transaction) -> Result<(), NetlinkError> {
        let Transaction { bytes, first, last } = transaction;
        // Refusals that are still to be read must not be taken for answers to the next question.
        self.sequence = last.wrapping_add(1);
        self.send(bytes)?;
        let mut refused = None;
        self.receive(|message| {
            if message.kind != ERROR || !(*first..=*last).contains(&message.sequence) {
                return Ok(Next::More);
            }
            refused = message.errno()?;
            Ok(if refused.is_some() || message.sequence == *last { Next::Stop } else { Next::More })
        })?;
        refused.map_or(Ok(()), |errno| Err(NetlinkError::Refused { what: "change the rules of the bridge".to_owned(), errno }))
    }

    /// The rules of ours in a table, or in one of its chains.
    pub(super) fn dump(&mut self, table: Table, chain: Option<Chain>) -> Result<Vec<ObservedRule>, NetlinkError> {
        socket::untorn(|| {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.send(&encode::dump_request(table, chain, sequence)?)?;
            let (mut all, mut torn) = (Vec::new(), false);
            self.receive(|message| {
                if message.sequence != sequence {
                    return Ok(Next::More);
                }
                torn |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    DONE => return Ok(Next::Stop),
                    ERROR => match message.errno()? {
                        // A table that is not there has no rules, nor has a kernel without such tables.
                        Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) | None => return Ok(Next::Stop),
                        Some(errno) => return Err(NetlinkError::Refused { what: "read the rules of the bridge".to_owned(), errno }),
                    },
                    GOT_RULE => all.extend(rule(table, message)),
                    _ => {}
                }
                Ok(Next::More)
            })?;
            Ok((!torn).then_some(all))
        })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        socket::send(&self.socket, bytes)
    }

    fn receive(&mut self, each: impl FnMut(&Message<'_>) -> Result<Next, NetlinkError>) -> Result<(), NetlinkError> {
        socket::receive(&self.socket, &mut self.buffer, each)
    }
}

/// A rule of ours; none if it is another's.
pub(super) fn rule(table: Table, message: &Message<'_>) -> Option<ObservedRule> {
    const CHAIN: u16 = 2;
    const HANDLE: u16 = 3;
    const USER_DATA: u16 = 7;
    let (mut chain, mut handle, mut comment) = (None, None, None);
    for (kind, value) in attributes(message.body.get(4..)?) {
        match kind {
            CHAIN => chain = chain_of(table, value),
            HANDLE => handle = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            USER_DATA => comment = comment_of(value),
            _ => {}
        }
    }
    Some(ObservedRule { chain: chain?, handle: handle?, comment: comment? })
}
