//! Requests to Azure Resource Manager as values, and what its answers mean. Nothing here sends anything.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::Duration};

use serde_json::Value;

/// Version of the Network provider's API that NICs and networks are read and written with.
pub const NETWORK_API: &str = "2025-05-01";
/// Version of the Compute provider's API.
pub const COMPUTE_API: &str = "2025-04-01";
/// Version under which NICs of Uniform scale sets are listed; the service pins it and answers with current types.
pub const INSTANCE_NICS_API: &str = "2018-10-01";
/// Version of the Authorization provider's API for permissions and deny assignments.
pub const AUTHORIZATION_API: &str = "2022-04-01";
/// Version of the Authorization provider's API for locks.
pub const LOCKS_API: &str = "2020-05-01";

/// An Azure resource id. Equality ignores case, as Azure's casing varies.
#[derive(Clone, Debug)]
pub struct ResourceId(Arc<str>);

/// Why a text is no [`ResourceId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Azure resource id (/subscriptions/…/providers/…)")]
pub struct ResourceIdError(String);

impl FromStr for ResourceId {
    type Err = ResourceIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ResourceIdError(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(error)?;
        let first = rest.split('/').next().unwrap_or_default();
        // The text becomes part of a URL's path: nothing that would end or escape it, no empty or dot segment.
        let clean = rest.split('/').all(|s| !s.is_empty() && s != "." && s != "..")
            && text.len() <= 1024
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.()".contains(c));
        if !first.eq_ignore_ascii_case("subscriptions") || !clean {
            return Err(error());
        }
        Ok(Self(text.into()))
    }
}

impl ResourceId {
    /// The id as Azure wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The id in one casing, for keys of maps.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
    /// The segment after `name`, as in `segment("virtualNetworks")`.
    #[must_use]
    pub fn segment(&self, name: &str) -> Option<&str> {
        let mut parts = self.0.split('/');
        parts.by_ref().find(|part| part.eq_ignore_ascii_case(name))?;
        parts.next()
    }
    /// The last segment: the resource's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
    /// The id without its last two segments (type and name), as a subnet's network.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (rest, _) = self.0.rsplit_once('/')?;
        let (rest, _) = rest.rsplit_once('/')?;
        rest.parse().ok()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for ResourceId {}

/// Which budget a request draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// Microsoft.Network, GET.
    NetworkRead,
    /// Microsoft.Network, PUT.
    NetworkWrite,
    /// Microsoft.Compute, GET; also limited per machine.
    ComputeRead,
    /// Microsoft.Compute, PUT; also limited per machine.
    ComputeWrite,
    /// GET of what Resource Manager keeps itself.
    Rights,
}

/// Order in which waiting requests are served: starving nodes before ordinary work before what can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Verification and discovery.
    Background,
    /// Giving addresses back.
    Release,
    /// Reading back what was written.
    ReadBack,
    /// Filling a pool.
    Fill,
    /// Filling the pool of a node without a free address.
    Starving,
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A stand-alone or Flexible NIC.
    Nic(ResourceId),
    /// A virtual machine.
    Machine(ResourceId),
    /// A scale set.
    ScaleSet(ResourceId),
    /// An instance of a Uniform scale set.
    Instance(ResourceId),
    /// All NICs of an instance of a Uniform scale set (of the instance's id); pages are joined into one `value`.
    InstanceNics(ResourceId),
    /// A virtual network.
    Network(ResourceId),
    /// A subnet alone, for those who may not read its network.
    Subnet(ResourceId),
    /// A virtual network's address usage by subnet; pages are joined into one `value`.
    Usages(ResourceId),
    /// What the caller may do with a resource; pages are joined into one `value`.
    Permissions(ResourceId),
    /// Locks that hold for a resource; pages are joined into one `value`.
    Locks(ResourceId),
    /// Deny assignments that hold for a resource; pages are joined into one `value`.
    Denials(ResourceId),
}

impl Read {
    /// Path and query of the request.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Nic(id) | Self::Network(id) | Self::Subnet(id) => format!("{id}?api-version={NETWORK_API}"),
            Self::Machine(id) | Self::ScaleSet(id) | Self::Instance(id) => format!("{id}?api-version={COMPUTE_API}"),
            Self::InstanceNics(id) => format!("{id}/networkInterfaces?api-version={INSTANCE_NICS_API}"),
            Self::Usages(id) => format!("{id}/usages?api-version={NETWORK_API}"),
            Self::Permissions(id) => format!("{id}/providers/Microsoft.Authorization/permissions?api-version={AUTHORIZATION_API}"),
            Self::Locks(id) => format!("{id}/providers/Microsoft.Authorization/locks?api-version={LOCKS_API}&$filter=atScope()"),
            Self::Denials(id) => {
                format!("{id}/providers/Microsoft.Authorization/denyAssignments?api-version={AUTHORIZATION_API}&$filter=atScope()")
            }
        }
    }
    /// The resource asked for.
    #[must_use]
    pub fn subject(&self) -> &ResourceId {
        match self {
            Self::Nic(id)
            | Self::Machine(id)
            | Self::ScaleSet(id)
            | Self::Instance(id)
            | Self::InstanceNics(id)
            | Self::Network(id)
            | Self::Subnet(id)
            | Self::Usages(id)
            | Self::Permissions(id)
            | Self::Locks(id)
            | Self::Denials(id) => id,
        }
    }
    /// The budget it draws on.
    #[must_use]
    pub fn budget(&self) -> Budget {
        match self {
            Self::Nic(_) | Self::InstanceNics(_) | Self::Network(_) | Self::Subnet(_) | Self::Usages(_) => Budget::NetworkRead,
            Self::Machine(_) | Self::ScaleSet(_) | Self::Instance(_) => Budget::ComputeRead,
            Self::Permissions(_) | Self::Locks(_) | Self::Denials(_) => Budget::Rights,
        }
    }
    /// Short name for metrics and logs.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Nic(_) => "get_nic",
            Self::Machine(_) => "get_machine",
            Self::ScaleSet(_) => "get_scale_set",
            Self::Instance(_) => "get_instance",
            Self::InstanceNics(_) => "list_instance_nics",
            Self::Network(_) => "get_network",
            Self::Subnet(_) => "get_subnet",
            Self::Usages(_) => "get_usages",
            Self::Permissions(_) => "list_permissions",
            Self::Locks(_) => "list_locks",
            Self::Denials(_) => "list_deny_assignments",
        }
    }
}

/// A PUT. `etag` goes into `If-Match` verbatim.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The whole of a stand-alone or Flexible NIC.
    Nic {
        /// The NIC.
        id: ResourceId,
        /// As read.
        etag: Option<String>,
        /// What is sent.
        body: Value,
    },
    /// The network profile of an instance of a Uniform scale set.
    Instance {
        /// The instance.
        id: ResourceId,
        /// As read.
        etag: Option<String>,
        /// What is sent.
        body: Value,
    },
}

impl Write {
    /// Path and query of the request.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Nic { id, .. } => format!("{id}?api-version={NETWORK_API}"),
            Self::Instance { id, .. } => format!("{id}?api-version={COMPUTE_API}"),
        }
    }
    /// The resource written.
    #[must_use]
    pub fn subject(&self) -> &ResourceId {
        match self {
            Self::Nic { id, .. } | Self::Instance { id, .. } => id,
        }
    }
    /// Value of `If-Match`.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        match self {
            Self::Nic { etag, .. } | Self::Instance { etag, .. } => etag.as_deref(),
        }
    }
    /// What is sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        match self {
            Self::Nic { body, .. } | Self::Instance { body, .. } => body,
        }
    }
    /// The budget it draws on.
    #[must_use]
    pub fn budget(&self) -> Budget {
        match self {
            Self::Nic { .. } => Budget::NetworkWrite,
            Self::Instance { .. } => Budget::ComputeWrite,
        }
    }
    /// Short name for metrics and logs.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Nic { .. } => "put_nic",
            Self::Instance { .. } => "put_instance",
        }
    }
}

/// An answer to a [`Read`].
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The body.
    pub body: Value,
    /// The `ETag` header.
    pub etag: Option<String>,
}

/// What an error says about who must do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// A budget is exhausted; the whole class of requests waits.
    Throttled {
        /// As Azure asks.
        retry_after: Option<Duration>,
    },
    /// This resource is locked by another operation or still being provisioned; only this one waits.
    Busy {
        /// As Azure asks.
        retry_after: Option<Duration>,
    },
    /// The etag does not match: read again, at once.
    Stale,
    /// A newer operation replaced ours: read again.
    Superseded,
    /// The resource, or its group, is not there or on its way out.
    Gone,
    /// A role is missing.
    Forbidden {
        /// The action, as `Microsoft.Network/networkInterfaces/write`.
        action: Option<String>,
        /// What it was asked for.
        scope: Option<String>,
    },
    /// A lock, a deny assignment or a policy stands in the way.
    Locked,
    /// The credentials are refused.
    Unauthenticated,
    /// The subnet has no address left.
    SubnetFull,
    /// Azure refuses the content: our mistake, or the network changed.
    Rejected,
    /// Azure could not answer, or the answer did not arrive.
    Unavailable,
    /// The operation was accepted and failed.
    Failed,
    /// The request was not sent: leadership or the intent's time ended before its turn came.
    NotSent,
}

/// Whether the request may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Certainly not.
    None,
    /// Its operation has ended; a read tells what it left.
    Ended,
    /// It may still land.
    Unknown,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who must do what.
    pub class: Class,
    /// Whether it may have changed something.
    pub trace: Trace,
    /// HTTP status, if there was one.
    pub status: Option<u16>,
    /// Azure's innermost telling code.
    pub code: String,
    /// Azure's message.
    pub message: String,
    /// `x-ms-request-id`.
    pub request_id: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}
impl std::error::Error for Error {}

impl Error {
    /// A request that was not sent because its time or its sender's leadership ended.
    #[must_use]
    pub fn not_sent(why: &str) -> Self {
        Self { class: Class::NotSent, trace: Trace::None, status: None, code: "NotSent".into(), message: why.into(), request_id: None }
    }
    /// A gate of ours is closed until Azure accepts requests of this class again.
    #[must_use]
    pub fn gated(retry_after: Duration) -> Self {
        Self {
            class: Class::Throttled { retry_after: Some(retry_after) },
            trace: Trace::None,
            status: None,
            code: "Throttled".into(),
            message: "waiting as Azure asked".into(),
            request_id: None,
        }
    }
    /// The connection failed, timed out or answered nonsense.
    #[must_use]
    pub fn transport(trace: Trace, message: String) -> Self {
        Self { class: Class::Unavailable, trace, status: None, code: "Unreachable".into(), message, request_id: None }
    }
    /// No token could be had.
    #[must_use]
    pub fn credentials(message: String) -> Self {
        Self { class: Class::Unauthenticated, trace: Trace::None, status: None, code: "NoToken".into(), message, request_id: None }
    }
    /// Reads an answer that is not a success.
    #[must_use]
    pub fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let envelope = Envelope::parse(body);
        let class = class_of_answer(status, retry_after, &envelope);
        let trace = match status {
            408 | 500..=599 => Trace::Unknown,
            _ => Trace::None,
        };
        let (code, message) = envelope.telling(status);
        Self { class, trace, status: Some(status), code, message, request_id: None }
    }
    /// Adds Azure's id of the request.
    #[must_use]
    pub fn with_request_id(mut self, id: Option<String>) -> Self {
        self.request_id = id;
        self
    }
    /// A time that Azure asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.class {
            Class::Throttled { retry_after } | Class::Busy { retry_after } => *retry_after,
            Class::Stale
            | Class::Superseded
            | Class::Gone
            | Class::Forbidden { .. }
            | Class::Locked
            | Class::Unauthenticated
            | Class::SubnetFull
            | Class::Rejected
            | Class::Unavailable
            | Class::Failed
            | Class::NotSent => None,
        }
    }
    /// A reason for a condition: one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match &self.class {
            Class::Throttled { .. } => "Throttled",
            Class::Busy { .. } => "NicBusy",
            Class::Stale | Class::Superseded => "ForeignWriter",
            Class::Gone => "MachineGone",
            Class::Forbidden { .. } => "PermissionMissing",
            Class::Locked if self.code.eq_ignore_ascii_case("ScopeLocked") => "ScopeLocked",
            Class::Locked if self.code.eq_ignore_ascii_case("DenyAssignmentAuthorizationFailed") => "NodeResourceGroupLockdown",
            Class::Locked if self.code.eq_ignore_ascii_case("RequestDisallowedByPolicy") => "DisallowedByPolicy",
            Class::Locked => "WriteForbidden",
            Class::Unauthenticated => "CredentialsRefused",
            Class::SubnetFull => "SubnetExhausted",
            Class::Rejected => "RequestRefused",
            Class::Unavailable => "AzureUnavailable",
            Class::Failed => "OperationFailed",
            Class::NotSent => "NotSent",
        }
    }
    /// What to do about it, in the imperative.
    #[must_use]
    pub fn remedy(&self) -> Cow<'static, str> {
        match &self.class {
            Class::Throttled { .. } => "Nothing: it is retried when Azure allows. If it lasts, find who else uses the subscription's budget, or raise arm.reservePercent's complement.".into(),
            Class::Busy { .. } | Class::Stale | Class::Superseded | Class::NotSent => "Nothing: it is retried.".into(),
            Class::Gone => "Nothing if the machine is being deleted; else check the Node's spec.providerID.".into(),
            Class::Forbidden { action, scope } => format!(
                "Grant the controller's identity a role with {} on {} (Network Contributor on the node resource group, Virtual Machine Contributor for scale sets); a new role takes some minutes to act.",
                action.as_deref().unwrap_or("the missing action"),
                scope.as_deref().unwrap_or("the resource"),
            )
            .into(),
            Class::Locked => locked_remedy(self.reason()).into(),
            Class::Unauthenticated => "Check the controller's identity: AZURE_CLIENT_ID, the federated credential or the client secret, and the tenant.".into(),
            Class::SubnetFull => "Enlarge the subnet (add a prefix), remove unused NICs from it, or lower pool.max and pool.minFree.".into(),
            Class::Rejected => "Check that the subnet and what the NIC refers to still exist; if so, report this message.".into(),
            Class::Unavailable => "Check the way to Azure Resource Manager (DNS, proxy, firewall); it is retried.".into(),
            Class::Failed => "Look at the machine's network interface in Azure; it is retried.".into(),
        }
    }
}

fn locked_remedy(reason: &str) -> &'static str {
    match reason {
        "ScopeLocked" => "Remove the lock on the scope that the message names; nothing can be written while it stands.",
        "NodeResourceGroupLockdown" => {
            "Set the cluster's --nrg-lockdown-restriction-level to Unrestricted (AKS Automatic does not allow that), or remove the deny assignment that \
             the message names; nothing can be written while it stands."
        }
        "DisallowedByPolicy" => {
            "Exempt the node resource group from the policy that the message names; nothing can be written while it stands."
        }
        _ => "Find what forbids the write in the message; nothing can be written while it stands.",
    }
}

/// State of an asynchronous operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Still going.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise.
    Ended(Error),
}

impl Operation {
    /// Reads the body of a poll, whose HTTP status is 200 even when the operation failed.
    pub fn parse(body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let status = value.get("status").and_then(Value::as_str).unwrap_or_default();
        if status.eq_ignore_ascii_case("Succeeded") {
            return Self::Succeeded;
        }
        let canceled = status.eq_ignore_ascii_case("Canceled") || status.eq_ignore_ascii_case("Cancelled");
        if !canceled && !status.eq_ignore_ascii_case("Failed") {
            return Self::Running;
        }
        let envelope = Envelope::of(&value);
        let class = class_of_operation(canceled, &envelope);
        let (code, message) = envelope.telling(200);
        Self::Ended(Error { class, trace: Trace::Ended, status: None, code, message, request_id: None })
    }
}

/// Azure's error: codes from the outermost to the innermost, with their messages.
struct Envelope(Vec<(String, String)>);

impl Envelope {
    fn parse(body: &[u8]) -> Self {
        Self::of(&serde_json::from_slice(body).unwrap_or(Value::Null))
    }
    fn of(value: &Value) -> Self {
        // Published Compute throttle bodies lack the `error` wrapper.
        let error = value.get("error").filter(|e| e.is_object()).unwrap_or(value);
        let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
        let entries = std::iter::once(error).chain(details).filter_map(|entry| {
            let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some((text("code")?, text("message").unwrap_or_default()))
        });
        Self(entries.collect())
    }
    fn has(&self, code: &str) -> bool {
        self.0.iter().any(|(c, _)| c.eq_ignore_ascii_case(code))
    }
    fn says(&self, words: &str) -> bool {
        self.0.iter().any(|(_, message)| message.to_ascii_lowercase().contains(words))
    }
    fn quoted_after(&self, words: &str) -> Option<String> {
        self.0.iter().find_map(|(_, message)| {
            let (_, rest) = message.split_once(words)?;
            Some(rest.split_once('\'')?.0.to_owned())
        })
    }
    /// The code that says most, with its message: details are more telling than their generic heads.
    fn telling(&self, status: u16) -> (String, String) {
        let generic = ["RetryableError", "Canceled", "PreconditionFailed", "OperationNotAllowed"];
        let mut entries = self.0.iter();
        let head = entries.next();
        let detail = entries.next();
        let chosen = match (head, detail) {
            (Some(head), Some(detail)) if generic.iter().any(|g| head.0.eq_ignore_ascii_case(g)) => Some(detail),
            (head, _) => head,
        };
        chosen.map_or_else(|| (format!("Http{status}"), "no explanation in the answer".to_owned()), Clone::clone)
    }
}

fn class_of_answer(status: u16, retry_after: Option<Duration>, error: &Envelope) -> Class {
    match status {
        401 => Class::Unauthenticated,
        403 if error.has("AuthorizationFailed") || error.has("LinkedAuthorizationFailed") => Class::Forbidden {
            action: error.quoted_after("perform action(s) '").or_else(|| error.quoted_after("perform action '")),
            scope: error.quoted_after("over scope '").or_else(|| error.quoted_after("linked scope(s) '")),
        },
        403 => Class::Locked,
        404 => Class::Gone,
        409 if error.has("ScopeLocked") => Class::Locked,
        412 => Class::Stale,
        _ if is_subnet_full(error) => Class::SubnetFull,
        _ if error.says("marked for deletion") || error.says("not an active virtual machine scale set vm") => Class::Gone,
        429 if error.has("RetryableError") || error.has("ReferencedResourceNotProvisioned") => {
            Class::Busy { retry_after: retry_after.or_else(|| seconds_named(error)) }
        }
        429 => Class::Throttled { retry_after: retry_after.or_else(|| seconds_named(error)) },
        _ if error.has("ReferencedResourceNotProvisioned") || error.has("NicReservedForAnotherVm") => Class::Busy { retry_after },
        409 if is_superseded(error) => Class::Superseded,
        409 => Class::Busy { retry_after },
        408 | 500..=599 => Class::Unavailable,
        _ => Class::Rejected,
    }
}

fn class_of_operation(canceled: bool, error: &Envelope) -> Class {
    if is_subnet_full(error) {
        return Class::SubnetFull;
    }
    if canceled || is_superseded(error) {
        return Class::Superseded;
    }
    if error.says("marked for deletion") {
        return Class::Gone;
    }
    if error.has("RetryableError") || error.has("ReferencedResourceNotProvisioned") || error.has("AnotherOperationInProgress") {
        return Class::Busy { retry_after: seconds_named(error) };
    }
    Class::Failed
}

fn is_subnet_full(error: &Envelope) -> bool {
    error.has("SubnetIsFull") || error.says("does not have enough capacity for")
}

fn is_superseded(error: &Envelope) -> bool {
    error.has("OperationPreempted")
        || error.has("CanceledAndSupersededDueToAnotherOperation")
        || error.says("preempted by a more recent operation")
}

/// The wait that only the message names: "try again after '6' seconds", "can be retried in 12 seconds".
fn seconds_named(error: &Envelope) -> Option<Duration> {
    error.0.iter().find_map(|(_, message)| {
        let (_, rest) = message.split_once("again after ").or_else(|| message.split_once("retried in "))?;
        let digits: String = rest.trim_start_matches('\'').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(Duration::from_secs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_compares_without_case_and_never_escapes_its_path() {
        let one: ResourceId = "/subscriptions/A/resourceGroups/MC_lab/providers/Microsoft.Network/networkInterfaces/n".parse().unwrap();
        let two: ResourceId = "/subscriptions/a/resourcegroups/mc_lab/providers/microsoft.network/networkinterfaces/N".parse().unwrap();
        assert_eq!(one, two);
        assert_eq!(one.segment("RESOURCEGROUPS"), Some("MC_lab"));
        for bad in
            ["", "/x/y", "/subscriptions/a/../b", "/subscriptions/a?x=y", "/subscriptions//b", "/subscriptions/a b", "/subscriptions/a#"]
        {
            assert!(bad.parse::<ResourceId>().is_err(), "{bad}");
        }
    }

    /// Every published or recorded error, and what it means to us.
    #[test]
    fn every_recorded_error_has_its_class() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/azure-examples/errors");
        let seconds = |n| Some(Duration::from_secs(n));
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let error = recorded(&name, &std::fs::read_to_string(&path).unwrap());
            let (class, code) = match name.as_str() {
                "arm-404-resource-group-not-found.json" => (Class::Gone, "ResourceGroupNotFound"),
                "arm-404-resource-not-found.json" => (Class::Gone, "ResourceNotFound"),
                "arm-429-subscription-requests-throttled.txt" => {
                    (Class::Throttled { retry_after: seconds(6) }, "SubscriptionRequestsThrottled")
                }
                "compute-400-invalid-instance-id.json" => (Class::Rejected, "InvalidParameter"),
                "compute-412-precondition-failed.json" => (Class::Stale, "PreconditionFailed"),
                "compute-429-throttled.http" => (Class::Throttled { retry_after: seconds(1200) }, "TooManyRequests"),
                "compute-async-failed.json" => (Class::Failed, "PublicIpPrefixOutOfIpAddressesForVMScaleSet"),
                "network-400-ip-config-delete-not-supported.txt" => (Class::Rejected, "IpConfigDeleteNotSupported"),
                "network-404-subnet-not-found.json" => (Class::Gone, "NotFound"),
                "network-409-another-operation-in-progress.txt" => (Class::Busy { retry_after: None }, "AnotherOperationInProgress"),
                "network-412-precondition-failed.json" => (Class::Stale, "PreconditionFailedEtagMismatch"),
                "network-429-retryable-error.txt" => (Class::Busy { retry_after: seconds(12) }, "RetryableErrorDueToAnotherOperation"),
                "network-async-canceled-superseded.json" => (Class::Superseded, "CanceledAndSupersededDueToAnotherOperation"),
                "network-private-ip-address-is-allocated.txt" => (Class::Rejected, "PrivateIPAddressIsAllocated"),
                "network-referenced-resource-not-provisioned.txt" => {
                    (Class::Busy { retry_after: None }, "ReferencedResourceNotProvisioned")
                }
                "network-subnet-is-full.json" => (Class::SubnetFull, "SubnetIsFull"),
                other => panic!("{other} has no expectation here"),
            };
            assert_eq!((&error.class, error.code.as_str()), (&class, code), "{name}");
            assert!(!error.reason().is_empty() && !error.remedy().is_empty());
        }
    }

    /// Turns an example into an error as the client would: texts first become the JSON that they were printed from.
    fn recorded(name: &str, text: &str) -> Error {
        let status = name.split('-').find_map(|part| part.parse().ok()).unwrap_or(400);
        if name.contains("-async-") {
            let Operation::Ended(error) = Operation::parse(text.as_bytes()) else { panic!("{name} has not ended") };
            return error;
        }
        let kind = name.rsplit('.').next();
        if let Some((head, body)) = text.split_once("\n{").filter(|_| kind == Some("http")) {
            let retry = head.lines().find_map(|l| l.strip_prefix("Retry-After: ")).and_then(|s| s.trim().parse().ok());
            return Error::from_answer(status, retry.map(Duration::from_secs), format!("{{{body}").as_bytes());
        }
        if kind == Some("json") {
            return Error::from_answer(status, None, text.as_bytes());
        }
        let field = |key: &str| {
            let (_, rest) = text.split_once(key)?;
            let rest = rest.trim_start_matches(['=', ':', ' ', '"']);
            Some(rest.split(['"', '\n']).next().unwrap_or_default().to_owned())
        };
        let detail = text.split_once("Details=[{").map(|(_, rest)| {
            let code = rest.split_once(r#""code":""#).unwrap().1.split('"').next().unwrap();
            let message = rest.split_once(r#""message":""#).unwrap().1;
            serde_json::json!({"code": code, "message": message})
        });
        let body = serde_json::json!({"error": {"code": field("Code=\"").or_else(|| field("Code")), "message": field("Message"), "details": Vec::from_iter(detail)}});
        Error::from_answer(status, None, body.to_string().as_bytes())
    }

    #[test]
    fn a_missing_role_is_named() {
        let body = br#"{"error":{"code":"AuthorizationFailed","message":"The client 'c' with object id 'o' does not have authorization to perform action 'Microsoft.Network/networkInterfaces/write' over scope '/subscriptions/s/resourceGroups/g' or the scope is invalid."}}"#;
        let error = Error::from_answer(403, None, body);
        assert!(
            error.remedy().contains("Microsoft.Network/networkInterfaces/write on /subscriptions/s/resourceGroups/g"),
            "{}",
            error.remedy()
        );
        let linked = br#"{"error":{"code":"LinkedAuthorizationFailed","message":"The client has permission to perform action 'Microsoft.Network/networkInterfaces/write' on scope 'x'; however, it does not have permission to perform action(s) 'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked scope(s) '/subscriptions/s/y'"}}"#;
        assert!(Error::from_answer(403, None, linked).remedy().contains("subnets/join/action on /subscriptions/s/y"));
    }

    #[test]
    fn what_forbids_a_write_is_known_by_name() {
        let cases = [
            (409, "ScopeLocked", "ScopeLocked", "Remove the lock"),
            (403, "DenyAssignmentAuthorizationFailed", "NodeResourceGroupLockdown", "--nrg-lockdown-restriction-level"),
            (403, "RequestDisallowedByPolicy", "DisallowedByPolicy", "policy"),
            (403, "Forbidden", "WriteForbidden", "message"),
        ];
        for (status, code, reason, remedy) in cases {
            let error = Error::from_answer(status, None, format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#).as_bytes());
            assert_eq!((&error.class, error.reason()), (&Class::Locked, reason), "{code}");
            assert!(error.remedy().contains(remedy), "{}", error.remedy());
        }
    }

    #[test]
    fn an_answer_that_may_have_acted_says_so() {
        assert_eq!(Error::from_answer(502, None, b"<html>").trace, Trace::Unknown);
        assert_eq!(Error::from_answer(429, None, b"").trace, Trace::None);
        assert_eq!(Operation::parse(br#"{"status":"InProgress"}"#), Operation::Running);
        assert_eq!(Operation::parse(br#"{"status":"Succeeded"}"#), Operation::Succeeded);
    }
}
