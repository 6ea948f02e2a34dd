//! What of the emulated cloud can be turned: latencies, lags, limits, permissions. Changed while it runs by the admin API.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::rights::{Lock, Lockdown, Role};

/// Every adjustable property of the emulated cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Shortest and longest time an asynchronous operation takes, in milliseconds.
    pub operation_millis: (u64, u64),
    /// From the end of an operation until the fabric lets the address through (or stops it), in milliseconds.
    pub fabric_lag_millis: u64,
    /// From the end of an operation until IMDS and the wireserver show (or hide) the address, in milliseconds.
    pub guest_lag_millis: u64,
    /// From the creation of an instance until its NIC is listed, in milliseconds.
    pub nic_list_lag_millis: u64,
    /// `Retry-After` of accepted and running operations, in seconds.
    pub retry_after_seconds: u64,
    /// Items of one page of a list.
    pub page_size: usize,
    /// Percentage of every documented limit that is granted; absent: nothing is throttled, the headers are sent all the same.
    pub limit_percent: Option<u64>,
    /// Life of the tokens that are issued from now on, in seconds.
    pub token_seconds: u64,
    /// Whether ARM asks for a bearer token.
    pub authentication: bool,
    /// Actions refused with 403, as in role definitions (`Microsoft.Network/networkInterfaces/write`).
    pub denied_actions: BTreeSet<String>,
    /// What everybody who signs in may do.
    pub roles: Vec<Role>,
    /// Locks.
    pub locks: Vec<Lock>,
    /// Deny assignments.
    pub lockdowns: Vec<Lockdown>,
    /// Whether IMDS and the wireserver close the connection of a caller with a secondary address at once; otherwise it hangs, as in Azure.
    pub refuse_secondary_callers: bool,
    /// Whether the subscription is registered for blocks of addresses (`privateIPAddressPrefixLength`), a preview in Azure.
    pub prefix_blocks: bool,
    /// Requests a second that one machine may send to IMDS; absent: any number.
    pub imds_per_second: Option<u32>,
}

impl Default for Settings {
    /// The lab's values: asynchronous, quick, unthrottled.
    fn default() -> Self {
        Self {
            operation_millis: (300, 1000),
            fabric_lag_millis: 200,
            guest_lag_millis: 400,
            nic_list_lag_millis: 0,
            retry_after_seconds: 1,
            page_size: 100,
            limit_percent: None,
            token_seconds: 3600,
            authentication: true,
            denied_actions: BTreeSet::new(),
            roles: vec![Role::owner()],
            locks: Vec::new(),
            lockdowns: Vec::new(),
            refuse_secondary_callers: false,
            prefix_blocks: false,
            imds_per_second: None,
        }
    }
}

impl Settings {
    /// Returns settings under which every operation ends at once and nothing lags.
    #[must_use]
    pub fn instant() -> Self {
        Self { operation_millis: (0, 0), fabric_lag_millis: 0, guest_lag_millis: 0, retry_after_seconds: 0, ..Self::default() }
    }
}
