//! Errors of ARM in the shapes that were recorded. It decides no status; callers pick the constructor.

use serde_json::{Value, json};

use super::command::RetryAfter;

/// An error answer of ARM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArmError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub target: Option<String>,
    /// Network answers carry `details`, be it empty; others do not.
    pub details: Option<Vec<(String, String)>>,
    /// ARM itself answered, not a provider: `x-ms-failure-cause: gateway`.
    pub gateway: bool,
    /// Compute's throttling bodies lack the `error` around code and message.
    pub bare: bool,
    pub retry_after: RetryAfter,
}

impl ArmError {
    pub fn compute(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            target: None,
            details: None,
            gateway: false,
            bare: false,
            retry_after: RetryAfter::Absent,
        }
    }

    pub fn gateway(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { gateway: true, ..Self::compute(status, code, message) }
    }

    pub fn network(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { details: Some(Vec::new()), ..Self::compute(status, code, message) }
    }

    pub fn detail(mut self, code: &str, message: impl Into<String>) -> Self {
        self.details.get_or_insert_default().push((code.into(), message.into()));
        self
    }

    pub fn retry_after(self, retry_after: RetryAfter) -> Self {
        Self { retry_after, ..self }
    }

    pub fn resource_not_found(kind: &str, group: &str) -> Self {
        Self::gateway(
            404,
            "ResourceNotFound",
            format!(
                "The Resource '{kind}' under resource group '{group}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            ),
        )
    }

    pub fn group_not_found(group: &str) -> Self {
        Self::gateway(404, "ResourceGroupNotFound", format!("Resource group '{group}' could not be found."))
    }

    /// A child of a Network resource is missing: the provider answers, not ARM.
    pub fn child_not_found(id: &str) -> Self {
        Self::network(404, "NotFound", format!("Resource {id} not found."))
    }

    pub fn network_precondition(given: &str, etag: &str, id: &str) -> Self {
        let given = if given.starts_with("W/") { given.to_owned() } else { format!("W/\"{}\"", given.trim_matches('"')) };
        Self::network(412, "PreconditionFailed", "Precondition failed.").detail(
            "PreconditionFailedEtagMismatch",
            format!("Etag provided in if-match header {given} does not match etag {etag} of resource {id} in NRP data store."),
        )
    }

    pub fn compute_precondition(given: &str, etag: &str) -> Self {
        let given = given.trim_matches('"');
        Self::compute(
            412,
            "PreconditionFailed",
            format!("Etag provided in if-match header \"{given}\" does not match etag {etag} of resource."),
        )
    }

    pub fn another_operation(uri: &str) -> Self {
        Self::network(
            409,
            "AnotherOperationInProgress",
            format!("Another operation on this or dependent resource is in progress. To retrieve status of the operation use uri: {uri}."),
        )
    }

    pub fn lock(operation: &str, resource: &str) -> Self {
        let message =
            format!("Operation PutNicOperation ({operation}) is updating resource {resource}. The call can be retried in 12 seconds.");
        Self::network(429, "RetryableError", "A retryable error occurred.")
            .detail("RetryableErrorDueToAnotherOperation", message)
            .retry_after(RetryAfter::Seconds(12))
    }

    pub fn subnet_is_full(subnet: &str, prefix: &str, wanted: usize) -> Self {
        Self::network(
            400,
            "SubnetIsFull",
            format!("Subnet {subnet} with address prefix {prefix} does not have enough capacity for {wanted} IP addresses."),
        )
    }

    pub fn forbidden(client: &str, action: &str, scope: &str) -> Self {
        Self::compute(
            403,
            "AuthorizationFailed",
            format!(
                "The client '{client}' with object id '{client}' does not have authorization to perform action '{action}' over scope '{scope}' or \
                 the scope is invalid. If access was recently granted, please refresh your credentials."
            ),
        )
    }

    pub fn linked_forbidden(client: &str, action: &str, scope: &str, linked: &str) -> Self {
        Self::compute(
            403,
            "LinkedAuthorizationFailed",
            format!(
                "The client '{client}' with object id '{client}' has permission to perform action on scope '{scope}'; however, it does not have \
                 permission to perform action(s) '{action}' on the linked scope(s) '{linked}' (respectively) or the linked scope(s) are invalid."
            ),
        )
    }

    pub fn inner(&self) -> Value {
        let mut inner = json!({ "code": self.code, "message": self.message });
        if let Some(target) = &self.target {
            put(&mut inner, "target", json!(target));
        }
        if let Some(details) = &self.details {
            let details: Vec<Value> = details.iter().map(|(code, message)| json!({ "code": code, "message": message })).collect();
            put(&mut inner, "details", json!(details));
        }
        inner
    }

    pub fn body(&self) -> Value {
        if self.bare { self.inner() } else { json!({ "error": self.inner() }) }
    }
}

/// Sets a member of an object; anything else stays as it is.
pub(super) fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}
