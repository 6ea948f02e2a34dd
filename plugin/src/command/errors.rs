//! What each failure means to a runtime: the code it acts on, and what a person is to do.

use azure_vnet_plugin_core::{
    attachment::Attachment,
    conf::Source,
    error::{CniError, Code, chain},
};

use super::subject;
use crate::{
    netlink::NetlinkError,
    netns::NetnsError,
    store::{FileError, HoldError, LeaseError, PoolError},
    wire::WireError,
};

const AGENT: &str = "the azure-vnet agent of this node adopts its pool and seals the store; see its log";
const ANY: &str = "run the azure-vnet agent or `azure-vnet-operator standalone` on this machine: it provides the pool";

pub(super) fn lease(error: &LeaseError, source: Source) -> CniError {
    let answer = |code| CniError::because(code, error);
    match error {
        LeaseError::Pool(pool) => CniError::because(Code::TryAgain, pool).with_details(match source {
            Source::Pool => AGENT,
            Source::Azure => ANY,
        }),
        LeaseError::Exhausted { .. } => answer(Code::TryAgain).with_details("the pool grows with demand: see `kubectl get azurevnetnode`"),
        LeaseError::RequestedForeign { .. } | LeaseError::RequestedOther { .. } => {
            answer(Code::InvalidConfig).with_details("change ipam.ipAddress, or leave it out")
        }
        LeaseError::RequestedTaken { .. } | LeaseError::Lost { .. } | LeaseError::Busy { .. } => answer(Code::TryAgain),
        LeaseError::Full(_) => answer(Code::Io).with_details("make room on the file system of the node store"),
        LeaseError::File(_) => answer(Code::Io),
    }
}

pub(super) fn status(error: &PoolError) -> CniError {
    CniError::because(Code::Unavailable, error).with_details(AGENT)
}

pub(super) fn hold(error: &HoldError) -> CniError {
    match error {
        HoldError::Busy { .. } => CniError::because(Code::TryAgain, error),
        HoldError::File(_) => CniError::because(Code::Io, error),
    }
}

pub(super) fn file(error: &FileError) -> CniError {
    CniError::because(Code::Io, error)
}

pub(super) fn netns(error: &NetnsError) -> CniError {
    match error {
        NetnsError::Gone { .. } | NetnsError::Open { .. } | NetnsError::NotOne { .. } | NetnsError::Own { .. } => {
            CniError::because(Code::InvalidEnvironment, error)
        }
        NetnsError::Enter { .. } | NetnsError::Socket { .. } => CniError::because(Code::Failed, error),
    }
}

pub(super) fn netlink(error: &NetlinkError) -> CniError {
    CniError::because(Code::Failed, error)
}

pub(super) fn wire(attachment: &Attachment, error: &WireError) -> CniError {
    let code = match error {
        WireError::AddressInUse { .. } => Code::TryAgain,
        WireError::Observe { .. }
        | WireError::Make { .. }
        | WireError::PodLinkExists { .. }
        | WireError::Refused(_)
        | WireError::Undo { .. } => Code::Failed,
    };
    CniError::new(code, format!("cannot wire {}: {}", subject(attachment), chain(error)))
}
