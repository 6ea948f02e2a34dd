//! Messages as bytes, one after another in what is sent: their heads, the kernel's structures, attributes. What they mean is their writers' business.

use std::net::IpAddr;

use super::{Family, LinkIndex, NetlinkError, RouteKind, Scope};

/// Of every message: length, kind, flags, number, and the sender's port, which the kernel knows.
pub(super) const HEAD_LEN: usize = 16;
pub(super) const REQUEST: u16 = 0x1;
/// An attribute that is made of attributes, where the kernel asks that it says so.
pub(super) const NESTED: u16 = 0x8000;

/// Messages in the order in which the kernel handles them, numbered one after another.
#[derive(Debug)]
pub(super) struct Messages {
    /// What is to be sent.
    pub(super) bytes: Vec<u8>,
    /// The number of the last.
    pub(super) number: u32,
}

/// The attributes of a message, at the end of those that are written.
#[derive(Debug)]
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Messages {
    /// None yet, after one of this number.
    pub(super) fn after(number: u32) -> Self {
        Self { bytes: Vec::with_capacity(512), number }
    }

    /// Writes one: what is to be done, how, with the kernel's structure for it and its attributes.
    pub(super) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        structure: &[[u8; 4]],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<(), NetlinkError> {
        let Self { bytes, number } = self;
        *number = number.wrapping_add(1);
        let start = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice([kind.to_ne_bytes(), (flags | REQUEST).to_ne_bytes()].as_flattened());
        bytes.extend_from_slice([*number, 0].map(u32::to_ne_bytes).as_flattened());
        bytes.extend_from_slice(structure.as_flattened());
        attributes(&mut Attributes(bytes));
        let len = u32::try_from(bytes.len() - start).map_err(|_| NetlinkError::Malformed("request too long"))?;
        put(bytes, start, len.to_ne_bytes());
        Ok(())
    }
}

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.filled(kind, |out| out.extend_from_slice(value));
    }

    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_ne_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.filled(kind, |out| {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        });
    }

    pub(super) fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// An attribute of attributes, after a structure of the kernel's where it begins with one.
    pub(super) fn nested(&mut self, kind: u16, structure: &[[u8; 4]], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.filled(kind, |out| {
            out.extend_from_slice(structure.as_flattened());
            fill(&mut Attributes(out));
        });
    }

    /// Copies an attribute as the kernel told it.
    pub(super) fn copy(&mut self, attribute: &[u8]) {
        self.0.extend_from_slice(attribute);
        self.pad();
    }

    fn filled(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice([[0; 2], kind.to_ne_bytes()].as_flattened());
        fill(self.0);
        // Nothing here comes near the limit.
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        put(self.0, start, len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// `ifinfomsg` of a link; 0 stands for one that is to be made or that an attribute names.
pub(super) fn link(index: LinkIndex) -> [[u8; 4]; 4] {
    [0, index, 0, 0].map(u32::to_ne_bytes)
}

/// `ifinfomsg` of a link that is to be set up.
pub(super) fn link_up(index: LinkIndex) -> [[u8; 4]; 4] {
    const UP: u32 = 0x1;
    [0, index, UP, UP].map(u32::to_ne_bytes)
}

/// `ifaddrmsg` or `ndmsg` or `rtmsg` of a question for all of a family: what follows the family says nothing.
pub(super) fn all_of<const WORDS: usize>(family: Family) -> [[u8; 4]; WORDS] {
    let mut structure = [[0; 4]; WORDS];
    if let Some(first) = structure.first_mut() {
        *first = [number(family), 0, 0, 0];
    }
    structure
}

/// A family as the kernel numbers it.
pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// How far a destination is, as the kernel numbers it.
pub(super) fn scope(scope: Scope) -> u8 {
    match scope {
        Scope::Universe => 0,
        Scope::Link => 253,
        Scope::Host => 254,
    }
}

/// What a route does, as the kernel numbers it.
pub(super) fn route_kind(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Unicast => 1,
        RouteKind::Local => 2,
        RouteKind::Unreachable => 7,
        RouteKind::Other(kind) => kind,
    }
}

fn put<const N: usize>(out: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value;
    }
}
