//! Failed requests and operations: whether they changed something, who must do what, and in which words.

use std::{borrow::Cow, fmt, time::Duration};

use serde_json::Value;

use super::answer::{Envelope, class_of_answer, class_of_operation};

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
    Unavailable {
        /// As Azure asks.
        retry_after: Option<Duration>,
    },
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
    /// Nothing is sent until then, since nothing was answered lately.
    #[must_use]
    pub fn silent(retry_after: Duration) -> Self {
        let message = "Azure has not answered several times in a row".into();
        Self { class: Class::Unavailable { retry_after: Some(retry_after) }, ..Self::transport(Trace::None, message) }
    }
    /// The connection failed, timed out or answered nonsense.
    #[must_use]
    pub fn transport(trace: Trace, message: String) -> Self {
        Self { class: Class::Unavailable { retry_after: None }, trace, status: None, code: "Unreachable".into(), message, request_id: None }
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
            Class::Throttled { retry_after } | Class::Busy { retry_after } | Class::Unavailable { retry_after } => *retry_after,
            Class::Stale
            | Class::Superseded
            | Class::Gone
            | Class::Forbidden { .. }
            | Class::Locked
            | Class::Unauthenticated
            | Class::SubnetFull
            | Class::Rejected
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
            Class::Unavailable { .. } => "AzureUnavailable",
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
            Class::Unavailable { .. } => "Check the way to Azure Resource Manager (DNS, proxy, firewall); it is retried.".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

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
