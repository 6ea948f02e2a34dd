//! Creates the pair of links of a pod, its far end inside the pod's namespace at once.

use std::os::fd::AsFd as _;

use azure_vnet_plugin_core::wiring::{self, HOST_MAC, Owner, Step, Wiring};

use super::{Made, Sides, WireError, delete, owner, steps::make_error};
use crate::netlink::{Change, Errno, LinkBy, Netlink, NetlinkError, Peer, Reply, Request, Veth};

/// Creates the pair, its far end inside the pod at once. `None` if a link of the host's name is there. On failure none is left.
pub(super) fn create_pair(sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Option<Made>, WireError> {
    send_pair(sides, wiring).inspect_err(|_| remove_unseen(sides.host, wiring))
}

fn send_pair(sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Option<Made>, WireError> {
    let (name, if_name) = (wiring.host_link.as_str(), wiring.attachment.if_name.as_str());
    let veth = Veth {
        name,
        mac: HOST_MAC,
        mtu: wiring.mtu,
        group: wiring::link_mark(&wiring.attachment),
        peer: Peer { name: if_name, mac: wiring.mac, netns: sides.netns.as_fd() },
    };
    let failed = |source| WireError::Observe { link: name.to_owned(), source };
    let requests = [Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name(name))];
    let mut replies = sides.host.exchange(&requests).map_err(failed)?.into_iter();
    match (replies.next(), replies.next()) {
        (Some(Reply::Done), Some(Reply::Link(link))) => {
            let pod = link.peer.unwrap_or_default();
            Ok(Some(Made { steps: vec![Step::Pair], host: link.index, pod }))
        }
        (Some(Reply::Refused(Errno::EXIST)), Some(Reply::Link(_))) => Ok(None),
        (Some(Reply::Refused(Errno::EXIST)), _) => Err(WireError::PodLinkExists { name: if_name.to_owned() }),
        // The second: made, and gone at once, for the pod's namespace went away.
        (Some(Reply::Refused(errno)), _) | (_, Some(Reply::Refused(errno))) => Err(make_error(Step::Pair, wiring, errno)),
        (_, _) => Err(failed(NetlinkError::Malformed("no link in the answer"))),
    }
}

/// Removes a pair that was made while the kernel's answer was lost: one of this attachment's that was never labelled.
fn remove_unseen(host: &mut Netlink, wiring: &Wiring) {
    if let Ok(Some(link)) = host.link(LinkBy::Name(wiring.host_link.as_str()))
        && link.alias.is_none()
        && owner(&link, &wiring.attachment) == Owner::This
    {
        // What cannot be removed now, DEL removes by its mark.
        let _ = delete(host, link.index);
    }
}
