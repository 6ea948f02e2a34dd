//! What each failure means to a runtime: the code it acts on, and what a person is to do.

use azure_vnet_plugin_core::{
    attachment::Attachment,
    bridge::NetworkError,
    error::{CniError, Code, chain},
    ipam::Source,
    pool::SealOwner,
    source::Wanted,
};

use super::subject;
use crate::{
    bridge::BridgeError,
    netlink::NetlinkError,
    netns::NetnsError,
    source::SourceError,
    store::{FileError, HoldError, KeeperError, LeaseError, PoolError},
    wire::WireError,
};

const AGENT: &str = "the azure-vnet agent of this node adopts its pool and seals the store; see its log";
const ANY: &str = "run the azure-vnet agent or `azure-vnet-operator standalone` on this machine: it provides the pool";

/// What makes a store whole again that lost its leases: who sealed it.
const AGENT_ANEW: &str = "the azure-vnet agent of this node (`azure-vnet-operator standalone` where there is none) makes it whole within seconds, \
                          by what the kernel shows of pods; start it where it does not run";
const PLUGIN_ANEW: &str = "the next ADD makes it whole, by what the kernel shows of pods";

const MACHINE: &str = "add secondary IP configurations to this machine's network interface";

pub(super) fn lease(error: &LeaseError, source: Source) -> CniError {
    let answer = |code| CniError::because(code, error);
    match error {
        LeaseError::Pool(pool @ PoolError::NoSubnet { wanted, .. }) => no_subnet(pool, wanted),
        LeaseError::Pool(pool) => CniError::because(Code::TryAgain, pool).with_details(remedy(pool, source)),
        LeaseError::Exhausted { .. } => answer(Code::TryAgain).with_details(match source {
            Source::Pool => "the pool grows with demand: see `kubectl get azurevnetnode`",
            Source::Azure(_) => MACHINE,
            Source::File => "add addresses to the file of interfaces",
        }),
        LeaseError::RequestedForeign { .. } | LeaseError::RequestedOther { .. } => {
            answer(Code::InvalidConfig).with_details("change ipam.ipAddress, or leave it out")
        }
        LeaseError::Kernel { .. }
        | LeaseError::RequestedTaken { .. }
        | LeaseError::Lost { .. }
        | LeaseError::Busy { .. }
        | LeaseError::Outrun { .. }
        | LeaseError::File(_) => answer(Code::TryAgain),
        LeaseError::Full(_) => answer(Code::TryAgain).with_details("make room on the file system of the node store"),
    }
}

pub(super) fn status(error: &PoolError, source: Source) -> CniError {
    match error {
        PoolError::NoSubnet { wanted, .. } => no_subnet(error, wanted).with_code(Code::Unavailable),
        PoolError::NotSealed { .. }
        | PoolError::OtherBoot { .. }
        | PoolError::Incomplete { .. }
        | PoolError::NoPool { .. }
        | PoolError::Unreadable { .. }
        | PoolError::File(_) => CniError::because(Code::Unavailable, error).with_details(remedy(error, source)),
    }
}

fn remedy(error: &PoolError, source: Source) -> &'static str {
    match (error, source) {
        (PoolError::Incomplete { owner: SealOwner::Agent, .. }, _) => AGENT_ANEW,
        (PoolError::Incomplete { owner: SealOwner::Plugin, .. }, _) => PLUGIN_ANEW,
        (_, Source::Pool) => AGENT,
        (_, Source::Azure(_) | Source::File) => ANY,
    }
}

/// What the configuration asks for is for its writer to mend; that there is nothing at all may pass.
fn no_subnet(error: &PoolError, wanted: &Wanted) -> CniError {
    if *wanted == Wanted::default() {
        return CniError::because(Code::TryAgain, error).with_details(MACHINE);
    }
    CniError::because(Code::InvalidConfig, error).with_details("change ipam.subnet or master, or leave them out")
}

pub(super) fn source(error: &SourceError) -> CniError {
    match error {
        SourceError::Silent { .. } => CniError::because(Code::TryAgain, error)
            .with_details("the machine's own services are asked as root, from the host's network namespace and primary address"),
        SourceError::Busy | SourceError::SetAside { .. } | SourceError::Namespaces(_) | SourceError::Original { .. } => {
            CniError::because(Code::TryAgain, error)
        }
        SourceError::Endpoint { .. } => CniError::because(Code::InvalidEnvironment, error),
        SourceError::File { .. } => CniError::because(Code::Io, error).with_details("Azure Stack's tools write this file"),
        SourceError::Seal(_) => CniError::because(Code::TryAgain, error).with_details(ANY),
        SourceError::Links(_) => CniError::because(Code::Failed, error),
        SourceError::Sealing(KeeperError::Hold(hold_error)) | SourceError::Store(hold_error) => hold(hold_error),
        SourceError::Sealing(_) => CniError::because(Code::Io, error),
    }
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
        NetnsError::Enter { .. } | NetnsError::Astray { .. } | NetnsError::Ipv6 { .. } | NetnsError::Socket { .. } => {
            CniError::because(Code::Failed, error)
        }
    }
}

pub(super) fn netlink(error: &NetlinkError) -> CniError {
    CniError::because(Code::Failed, error)
}

pub(super) fn bridge(error: &BridgeError) -> CniError {
    let details = match error {
        BridgeError::Network(NetworkError::NoMaster(_) | NetworkError::NoSuchLink(_) | NetworkError::Controlled(_)) => {
            "write the name of the host's uplink as \"master\""
        }
        BridgeError::Network(NetworkError::NoBridge(_) | NetworkError::Name(_)) => "write another name as \"bridge\", or leave it out",
        BridgeError::Network(NetworkError::NoUplink(_) | NetworkError::NoMac(_)) => {
            "write the name of an Ethernet link that is the host's uplink as \"master\""
        }
        BridgeError::NoNetfilter { .. } => {
            "modprobe br_netfilter, and at each boot: a line br_netfilter in /etc/modules-load.d/azure-vnet.conf"
        }
        BridgeError::Observe(_)
        | BridgeError::Stays(_)
        | BridgeError::Step { .. }
        | BridgeError::Stuck { .. }
        | BridgeError::Rules { .. }
        | BridgeError::Unruled(_)
        | BridgeError::Switch(_)
        | BridgeError::Lock(_)
        | BridgeError::Busy
        | BridgeError::Unsettled { .. } => "",
    };
    let code = match error {
        BridgeError::Network(_) => Code::InvalidConfig,
        BridgeError::Busy | BridgeError::Unsettled { .. } => Code::TryAgain,
        BridgeError::Observe(_)
        | BridgeError::Stays(_)
        | BridgeError::Step { .. }
        | BridgeError::Stuck { .. }
        | BridgeError::Rules { .. }
        | BridgeError::Unruled(_)
        | BridgeError::Switch(_)
        | BridgeError::NoNetfilter { .. }
        | BridgeError::Lock(_) => Code::Failed,
    };
    CniError::because(code, error).with_details(details)
}

pub(super) fn wire(attachment: &Attachment, error: &WireError) -> CniError {
    let code = match error {
        WireError::AddressInUse { .. } => Code::TryAgain,
        WireError::Observe { .. }
        | WireError::Make { .. }
        | WireError::PodLinkExists { .. }
        | WireError::Refused(_)
        | WireError::Rules { .. }
        | WireError::Ipv6(_)
        | WireError::Undo { .. } => Code::Failed,
    };
    CniError::new(code, format!("cannot wire {}: {}", subject(attachment), chain(error)))
}
