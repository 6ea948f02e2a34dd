//! The admin protocol: what a test, the demo or a person may ask of the running cloud. Plain data, shared by server and client.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fabric::NicRef;
use super::resource::range_of;
use super::seed::MachineSeed;
use super::settings::Settings;

/// One request of the admin API: `POST /` with this as JSON. Those without fields also answer `GET /<name>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// All NICs: a list of [`NicState`].
    Nics,
    /// Counters: a [`Counters`].
    Counters,
    /// Accepted writes to NICs, oldest first: a list of [`Write`].
    Writes,
    /// Calls since a sequence number: a list of [`Call`].
    Calls {
        /// The first sequence number wanted.
        since: u64,
    },
    /// Which NIC held which address when: a list of [`Tenure`].
    History,
    /// Broken invariants: a list of texts, empty as long as all is well.
    Violations,
    /// Fields of others that a writer changed: a list of texts.
    Disturbances,
    /// The settings: a [`Settings`].
    Settings,
    /// Replaces the settings.
    Configure {
        /// The new settings.
        settings: Box<Settings>,
    },
    /// Adds a fault behind those that wait already.
    Inject {
        /// The fault.
        fault: Fault,
    },
    /// Faults that still wait: a list of [`Fault`].
    Faults,
    /// Drops all faults.
    ClearFaults,
    /// A foreign writer drops an IP configuration from a node's NIC.
    ForeignDrop {
        /// The node.
        node: String,
        /// The configuration's name.
        config: String,
    },
    /// A foreign writer adds an IP configuration to a node's NIC.
    ForeignAdd {
        /// The node.
        node: String,
        /// The configuration's name.
        config: String,
    },
    /// Adds a machine.
    AddMachine {
        /// The machine.
        machine: Box<MachineSeed>,
    },
    /// Removes a machine and its NIC at once.
    RemoveMachine {
        /// The node.
        node: String,
    },
    /// Sets what a machine is doing.
    SetMachine {
        /// The node.
        node: String,
        /// Its new condition.
        condition: Condition,
    },
    /// Adds a prefix to a subnet (a subnet grows).
    GrowSubnet {
        /// The subnet's resource id.
        subnet: String,
        /// The prefix, CIDR.
        prefix: String,
    },
    /// Revokes all tokens.
    RevokeTokens,
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// Runs.
    Running,
    /// Deallocated; private addresses stay.
    Deallocated,
    /// Marked for deletion: writes are refused with 409.
    Deleting,
}

/// The kinds of calls that are counted, throttled and made to fail apart from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// Reads of Microsoft.Network, NICs of scale set instances included.
    NetworkRead,
    /// Writes of Microsoft.Network.
    NetworkWrite,
    /// Reads of Microsoft.Compute.
    ComputeRead,
    /// Writes of Microsoft.Compute.
    ComputeWrite,
    /// Reads of asynchronous operations.
    Poll,
    /// Resource groups.
    Resources,
    /// Requests for a token of the authority.
    Authority,
    /// IMDS without its tokens.
    Imds,
    /// IMDS's tokens.
    ImdsToken,
    /// The wireserver.
    Wireserver,
}

/// A fault for some of the next calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Only calls of this class; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Only calls whose path contains this, ignoring case; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How many calls it strikes.
    #[serde(default = "once")]
    pub times: u32,
    /// What it does.
    pub effect: Effect,
}

/// What a fault does to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Effect {
    /// 429 in the shape of the call's provider.
    Throttle {
        /// `Retry-After`.
        retry_after: RetryAfter,
    },
    /// 503, before anything was done.
    Down {
        /// `Retry-After`.
        retry_after: RetryAfter,
    },
    /// 429 `RetryableError`: a lock of the network provider, no quota.
    Lock,
    /// 412.
    PreconditionFailed,
    /// 409 `AnotherOperationInProgress`.
    AnotherOperation,
    /// An error that the caller gives in full.
    Error {
        /// The HTTP status.
        status: u16,
        /// The code in the body.
        code: String,
        /// Whether the call acts nonetheless.
        when: When,
    },
    /// The connection is cut without an answer.
    Cut {
        /// Whether the call acts nonetheless.
        when: When,
    },
    /// The call is accepted; its operation ends `Failed` with this code.
    AsyncFailed {
        /// The code.
        code: String,
    },
    /// The call is accepted; its operation ends `Canceled` and nothing changed.
    AsyncCanceled,
    /// The call is accepted; this many of its new configurations fail, the others succeed.
    AsyncPartial {
        /// How many fail.
        fail: usize,
    },
    /// The call is accepted and has no effect.
    Ignored,
    /// A read answers with the state before the last write.
    Stale,
    /// The answer's body ends in the middle.
    Truncated,
    /// A list's `nextLink` points to the page itself.
    LoopedPage,
    /// The answer comes this many milliseconds later.
    Slow {
        /// Milliseconds.
        millis: u64,
    },
    /// The operation takes this many milliseconds.
    SlowOperation {
        /// Milliseconds.
        millis: u64,
    },
}

/// Whether a call that fails acts nonetheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// It fails before it did anything.
    Before,
    /// It fails although all was done.
    After,
}

/// The form of a `Retry-After` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RetryAfter {
    /// No header.
    Absent,
    /// A number of seconds.
    Seconds(u64),
    /// An HTTP date, this many seconds from now.
    Date(u64),
}

/// A NIC and all its configurations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NicState {
    /// The resource id.
    pub id: String,
    /// The node, if a machine has the NIC.
    pub node: Option<String>,
    /// `Succeeded`, `Updating`, `Failed`.
    pub provisioning_state: String,
    /// What a GET shows.
    pub configurations: Vec<ConfigState>,
    /// Addresses whose packets the fabric lets through.
    pub attached: Vec<Ipv4Addr>,
    /// Addresses that IMDS and the wireserver show.
    pub shown: Vec<Ipv4Addr>,
}

/// One IP configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigState {
    /// The name.
    pub name: String,
    /// The address, of a block the first; absent as long as none was allocated.
    pub address: Option<Ipv4Addr>,
    /// Whether it carries 16 addresses.
    pub block: bool,
    /// Whether it is the primary configuration.
    pub primary: bool,
    /// `Succeeded`, `Updating`, `Failed`.
    pub provisioning_state: String,
}

impl ConfigState {
    /// All addresses that it carries.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let block = self.block;
        self.address.into_iter().flat_map(move |first| range_of(first, block))
    }
}

/// Numbers since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Calls by class.
    pub calls: std::collections::BTreeMap<Class, u64>,
    /// Calls answered 429, by class.
    pub throttled: std::collections::BTreeMap<Class, u64>,
    /// Calls answered with another error, by class.
    pub errors: std::collections::BTreeMap<Class, u64>,
    /// Accepted writes by NIC id.
    pub writes: std::collections::BTreeMap<String, u64>,
    /// Bodies that carried a storage profile.
    pub storage_profiles_sent: u64,
}

/// An accepted write to a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// When, in milliseconds since the start.
    pub at_millis: u64,
    /// The NIC's resource id.
    pub nic: String,
    /// The node.
    pub node: Option<String>,
    /// Who.
    pub by: String,
    /// Names of the configurations it adds.
    pub added: Vec<String>,
    /// Names of the configurations it drops.
    pub removed: Vec<String>,
}

/// A call to any of the emulated services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Sequence number, from 0.
    pub seq: u64,
    /// When, in milliseconds since the start.
    pub at_millis: u64,
    /// Its class.
    pub class: Class,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The client id of the token, or the caller's address.
    pub by: String,
    /// `If-Match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
    /// The answer's status; 0: the connection was cut.
    pub status: u16,
    /// The code of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A time during which a NIC held an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tenure {
    /// The address.
    pub address: Ipv4Addr,
    /// The NIC's resource id.
    pub nic: String,
    /// The configuration's name.
    pub config: String,
    /// From when, in milliseconds since the start.
    pub from_millis: u64,
    /// Until when; absent: it holds it.
    pub to_millis: Option<u64>,
}

/// A change that the fabric is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FabricChange {
    /// Let the address through.
    Attach(NicRef, Ipv4Addr),
    /// Stop the address.
    Detach(NicRef, Ipv4Addr),
}

impl Fault {
    /// Returns a fault that strikes the next call of `class`.
    #[must_use]
    pub fn next(class: Class, effect: Effect) -> Self {
        Self { class: Some(class), path: None, times: 1, effect }
    }
}

/// What a query of the admin API answers.
pub type Reply = Result<Value, String>;

fn once() -> u32 {
    1
}
