//! The generation number of the kernel's `nf_tables` rules: while it stays, nobody has changed a rule, and none needs to be read.

use std::{io, mem::MaybeUninit};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
};

const HEADER: usize = 16;
/// Subsystem nftables (10) in the high byte, `NFT_MSG_GETGEN` (16) in the low one.
const GETGEN: u16 = (10 << 8) | 16;
const REQUEST: u16 = 1;
/// `NFTA_GEN_ID`, in network byte order.
const GEN_ID: u16 = 1;
/// Family, version and resource id that follow the header in every message of nfnetlink.
const GENERIC: usize = 4;

/// Asks the kernel. `None` when it answers something else, as without the right to.
///
/// # Errors
/// When there is no such socket.
pub fn current() -> io::Result<Option<u32>> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    rustix::net::sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
    let ((answer, _), _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty())?;
    Ok(parse(answer))
}

fn request() -> Vec<u8> {
    let length = u32::try_from(HEADER + GENERIC).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GETGEN.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; GENERIC]);
    message
}

fn parse(answer: &[u8]) -> Option<u32> {
    // NFT_MSG_NEWGEN is 15.
    if answer.get(4..6)? != ((10_u16 << 8) | 15).to_ne_bytes() {
        return None;
    }
    let attribute = answer.get(HEADER + GENERIC..)?;
    let kind = u16::from_ne_bytes(attribute.get(2..4)?.try_into().ok()?);
    let value: [u8; 4] = attribute.get(4..8)?.try_into().ok()?;
    (kind == GEN_ID).then(|| u32::from_be_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_generation_is_read() {
        let mut answer = request();
        answer[4..6].copy_from_slice(&((10_u16 << 8) | 15).to_ne_bytes());
        answer.extend(8_u16.to_ne_bytes());
        answer.extend(1_u16.to_ne_bytes());
        answer.extend(77_u32.to_be_bytes());
        assert_eq!(parse(&answer), Some(77));
        answer[4] = 2;
        assert_eq!(parse(&answer), None);
        assert_eq!(parse(&[]), None);
    }
}
