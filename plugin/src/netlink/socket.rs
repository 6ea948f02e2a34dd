//! The transport: several requests in one send, answers sorted back to them, dumps to their end.

use std::os::fd::OwnedFd;

use azure_vnet_plugin_core::bridge::Movable;
use rustix::{
    buffer::spare_capacity,
    io::{Errno, retry_on_intr},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
};

use super::{
    Address, Change, Family, Link, LinkBy, Lookup, Neighbour, Route, change,
    encode::{HEAD_LEN, Messages, NESTED},
    observe,
};

const ERROR: u16 = 2;
const DONE: u16 = 3;
const ACK: u16 = 0x4;
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
/// The kernel fills dumps into pieces of at most this size.
const DUMP_LEN: usize = 32 * 1024;
/// More than the kernel tells of one link.
const ANSWER_LEN: usize = 16 * 1024;

/// Why the kernel could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] Errno),
    /// Not sent.
    #[error("cannot send to the kernel")]
    Send(#[source] Errno),
    /// No answer.
    #[error("cannot read the kernel's answer")]
    Receive(#[source] Errno),
    /// An answer that is none.
    #[error("cannot understand the kernel's answer: {0}")]
    Malformed(&'static str),
    /// The kernel said no.
    #[error("cannot {what}")]
    Refused {
        /// The change or question.
        what: String,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
}

impl NetlinkError {
    /// The kernel's reason, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(errno) | Self::Send(errno) | Self::Receive(errno) | Self::Refused { errno, .. } => Some(*errno),
            Self::Malformed(_) => None,
        }
    }
}

/// One message of a batch.
#[derive(Debug)]
pub enum Request<'a> {
    /// Change something.
    Change(Change<'a>),
    /// Show a link.
    Link(LinkBy<'a>),
    /// Look a route up.
    RouteTo(std::net::IpAddr),
}

/// The answer to one [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// The change was made.
    Done,
    /// The link.
    Link(Box<Link>),
    /// The route.
    Lookup(Lookup),
    /// The kernel's no.
    Refused(Errno),
}

impl std::os::fd::AsFd for Netlink {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket of the namespace that the calling thread was in when it was opened; it stays there.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel gives none.
    pub fn open() -> Result<Self, NetlinkError> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(NetlinkError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Sends all requests in one system call; the kernel handles each, also after one that fails. One reply each, in their order.
    ///
    /// # Errors
    /// The exchange itself fails; refusals are replies.
    pub fn exchange(&mut self, requests: &[Request<'_>]) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut out = Messages::after(self.sequence);
        for (at, request) in requests.iter().enumerate() {
            match request {
                // Only the last is acknowledged: the kernel answers in order, and questions and refusals always.
                Request::Change(change) => change::write(&mut out, change, if at + 1 == requests.len() { ACK } else { 0 })?,
                Request::Link(by) => observe::ask_link(&mut out, *by)?,
                Request::RouteTo(address) => observe::ask_route_to(&mut out, *address)?,
            }
        }
        self.sequence = out.number;
        self.send(&out.bytes)?;
        let mut replies: Vec<Reply> = requests.iter().map(|_| Reply::Done).collect();
        let last = self.sequence;
        self.receive(ANSWER_LEN, |message| {
            let Some(at) = usize::try_from(message.sequence.wrapping_sub(first)).ok().filter(|at| *at < replies.len()) else {
                return Ok(Next::More);
            };
            let reply = replies.get_mut(at).ok_or(NetlinkError::Malformed("sequence"))?;
            if message.kind == ERROR {
                if let Some(errno) = message.errno()? {
                    *reply = match requests.get(at) {
                        Some(Request::RouteTo(_)) if is_nowhere(errno) => Reply::Lookup(Lookup::Nowhere),
                        Some(Request::RouteTo(_) | Request::Change(_) | Request::Link(_)) | None => Reply::Refused(errno),
                    };
                }
                return Ok(if message.sequence == last { Next::Stop } else { Next::More });
            }
            match requests.get(at) {
                Some(Request::Link(_)) => *reply = Reply::Link(Box::new(observe::link(message.body)?)),
                Some(Request::RouteTo(_)) => *reply = Reply::Lookup(Lookup::Route(observe::route(message.body)?)),
                Some(Request::Change(_)) | None => return Ok(Next::More),
            }
            Ok(if message.sequence == last { Next::Stop } else { Next::More })
        })?;
        Ok(replies)
    }

    /// Makes one change.
    ///
    /// # Errors
    /// The kernel refuses it, or the exchange fails.
    pub fn change(&mut self, change: Change<'_>) -> Result<(), NetlinkError> {
        let what = change.to_string();
        match self.exchange(&[Request::Change(change)])?.pop() {
            Some(Reply::Refused(errno)) => Err(NetlinkError::Refused { what, errno }),
            Some(Reply::Done | Reply::Link(_) | Reply::Lookup(_)) | None => Ok(()),
        }
    }

    /// Makes changes in one send, and reports the first that was refused with all that were.
    ///
    /// # Errors
    /// The exchange fails; refusals are in the list, with the index of their change.
    pub fn changes<'a>(&mut self, changes: impl IntoIterator<Item = Change<'a>>) -> Result<Vec<(usize, Errno)>, NetlinkError> {
        let requests: Vec<_> = changes.into_iter().map(Request::Change).collect();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let refused = |(at, reply)| match reply {
            Reply::Refused(errno) => Some((at, errno)),
            Reply::Done | Reply::Link(_) | Reply::Lookup(_) => None,
        };
        Ok(self.exchange(&requests)?.into_iter().enumerate().filter_map(refused).collect())
    }

    /// Shows a link; none if there is none.
    ///
    /// # Errors
    /// The kernel refuses for another reason than that, or the exchange fails.
    pub fn link(&mut self, by: LinkBy<'_>) -> Result<Option<Link>, NetlinkError> {
        match self.exchange(&[Request::Link(by)])?.pop() {
            Some(Reply::Link(link)) => Ok(Some(*link)),
            Some(Reply::Refused(Errno::NODEV | Errno::NXIO)) => Ok(None),
            Some(Reply::Refused(errno)) => Err(NetlinkError::Refused { what: format!("show link {by:?}"), errno }),
            Some(Reply::Done | Reply::Lookup(_)) | None => Err(NetlinkError::Malformed("no link in the answer")),
        }
    }

    /// Looks up where a packet to `address` would go.
    ///
    /// # Errors
    /// The kernel refuses for another reason than there being no way, or the exchange fails.
    pub fn route_to(&mut self, address: impl Into<std::net::IpAddr>) -> Result<Lookup, NetlinkError> {
        let address = address.into();
        match self.exchange(&[Request::RouteTo(address)])?.pop() {
            Some(Reply::Lookup(lookup)) => Ok(lookup),
            Some(Reply::Refused(errno)) => Err(NetlinkError::Refused { what: format!("look up the route to {address}"), errno }),
            Some(Reply::Done | Reply::Link(_)) | None => Err(NetlinkError::Malformed("no route in the answer")),
        }
    }

    /// All links.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump(observe::ask_links, |body| observe::link(body).map(Some))
    }

    /// All routes of one family and table.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn routes(&mut self, family: Family, table: u32) -> Result<Vec<Route>, NetlinkError> {
        let all = self.dump(|out, how| observe::ask_routes(out, how, family), |body| observe::route(body).map(Some))?;
        Ok(all.into_iter().filter(|route| route.table == table).collect())
    }

    /// All addresses of one family.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn addresses(&mut self, family: Family) -> Result<Vec<Address>, NetlinkError> {
        self.dump(|out, how| observe::ask_addresses(out, how, family), observe::address)
    }

    /// All neighbours of one family.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn neighbours(&mut self, family: Family) -> Result<Vec<Neighbour>, NetlinkError> {
        self.dump(|out, how| observe::ask_neighbours(out, how, family), observe::neighbour)
    }

    /// Addresses of both families that others can reach.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn movable_addresses(&mut self) -> Result<Vec<Movable>, NetlinkError> {
        let mut all = self.dump(|out, how| observe::ask_addresses(out, how, Family::V4), observe::movable_address)?;
        all.extend(self.dump(|out, how| observe::ask_addresses(out, how, Family::V6), observe::movable_address)?);
        Ok(all)
    }

    /// Routes of both families and all tables through a link, but for those that its addresses brought.
    ///
    /// # Errors
    /// The exchange fails.
    pub fn movable_routes(&mut self, link: super::LinkIndex) -> Result<Vec<Movable>, NetlinkError> {
        let mut all = self.dump(|out, how| observe::ask_routes(out, how, Family::V4), observe::movable_route)?;
        all.extend(self.dump(|out, how| observe::ask_routes(out, how, Family::V6), observe::movable_route)?);
        Ok(all.into_iter().filter(|route| route.link == link).collect())
    }

    /// Reads a whole table, again when it changed meanwhile.
    fn dump<T>(
        &mut self,
        ask: impl Fn(&mut Messages, u16) -> Result<(), NetlinkError>,
        read: impl Fn(&[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        untorn(|| {
            let mut out = Messages::after(self.sequence);
            ask(&mut out, DUMP)?;
            let sequence = out.number;
            self.sequence = sequence;
            self.send(&out.bytes)?;
            let (mut all, mut torn) = (Vec::new(), false);
            self.receive(DUMP_LEN, |message| {
                if message.sequence != sequence {
                    return Ok(Next::More);
                }
                torn |= message.flags & DUMP_INTERRUPTED != 0;
                let refused = |errno| NetlinkError::Refused { what: "read a table of the kernel".to_owned(), errno };
                match message.kind {
                    // A table of which the kernel could not tell the rest ends with its reason.
                    DONE => return message.errno()?.map_or(Ok(Next::Stop), |errno| Err(refused(errno))),
                    ERROR => return Err(refused(message.errno()?.unwrap_or(Errno::PROTO))),
                    _ => all.extend(read(message.body)?),
                }
                Ok(Next::More)
            })?;
            Ok((!torn).then_some(all))
        })
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        send(&self.socket, bytes)
    }

    fn receive(&mut self, most: usize, each: impl FnMut(&Message<'_>) -> Result<Next, NetlinkError>) -> Result<(), NetlinkError> {
        self.buffer.clear();
        // Not zeroed: of its pages only those are touched that the kernel writes to.
        self.buffer.reserve(most);
        receive(&self.socket, &mut self.buffer, each)
    }
}

/// Reads a table until it did not change meanwhile. What is missing in half a table would pass for gone: a living pod's link, a rule.
pub(crate) fn untorn<T>(mut read: impl FnMut() -> Result<Option<Vec<T>>, NetlinkError>) -> Result<Vec<T>, NetlinkError> {
    const ATTEMPTS: u32 = 100;
    for _ in 0..ATTEMPTS {
        if let Some(all) = read()? {
            return Ok(all);
        }
    }
    Err(NetlinkError::Malformed("the table changes as fast as it is read"))
}

/// Sends messages in one call.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<(), NetlinkError> {
    retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::empty())).map(drop).map_err(NetlinkError::Send)
}

/// Receives messages until one is the last. The buffer's capacity is the most that the kernel may send at once.
pub(crate) fn receive(
    socket: &OwnedFd,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&Message<'_>) -> Result<Next, NetlinkError>,
) -> Result<(), NetlinkError> {
    loop {
        buffer.clear();
        let (read, whole) =
            retry_on_intr(|| rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::TRUNC)).map_err(NetlinkError::Receive)?;
        if whole > read {
            return Err(NetlinkError::Malformed("longer than the buffer"));
        }
        let mut rest = buffer.as_slice();
        while let Some((message, after)) = split_message(rest)? {
            rest = after;
            match each(&message)? {
                Next::More => {}
                Next::Stop => return Ok(()),
            }
        }
    }
}

/// Whether the answer goes on.
pub(crate) enum Next {
    More,
    Stop,
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// The kernel's reason in an error message or at a table's end; none in an acknowledgement, and where all went well.
    pub(crate) fn errno(&self) -> Result<Option<Errno>, NetlinkError> {
        let code = self.body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or(NetlinkError::Malformed("short error"))?;
        Ok(match code.saturating_neg() {
            0 => None,
            // <https://github.com/torvalds/linux/blob/v6.18/include/linux/err.h#L18>
            errno @ 1..=4095 => Some(Errno::from_raw_os_error(errno)),
            _ => Some(Errno::PROTO),
        })
    }
}

/// Route look-ups answer a refusing route, or none, with the error that a sender would get.
fn is_nowhere(errno: Errno) -> bool {
    matches!(errno, Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::ACCESS | Errno::INVAL | Errno::SRCH)
}

/// The attributes of a message, as pairs of kind and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    whole_attributes(bytes).filter_map(|(kind, whole)| Some((kind, whole.get(4..)?)))
}

/// The attributes of a message, each with its kind and as it stands there.
pub(super) fn whole_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let whole = bytes.get(..len).filter(|whole| whole.len() >= 4)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !NESTED, whole))
    })
}

/// Whether the attributes fill their place. What is cut short would pass for absent.
pub(super) fn are_whole(attributes: &[u8]) -> bool {
    whole_attributes(attributes).map(|(_, whole)| whole.len().next_multiple_of(4)).sum::<usize>() >= attributes.len()
}

pub(crate) fn split_message(bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, NetlinkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let short = NetlinkError::Malformed("short message");
    let Some((&[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, _, _, _, _], _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(short);
    };
    let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let Some(body) = bytes.get(HEAD_LEN..len) else { return Err(short) };
    let message = Message {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        body,
    };
    Ok(Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_table_is_never_taken_for_the_whole() {
        let mut left = 50;
        let calm = untorn(|| {
            left -= 1;
            Ok((left == 0).then_some(vec!["azv1", "azv2"]))
        });
        assert_eq!(calm.unwrap(), ["azv1", "azv2"]);
        let restless: Result<Vec<&str>, _> = untorn(|| Ok(None));
        assert!(matches!(restless, Err(NetlinkError::Malformed(_))));
    }
}
