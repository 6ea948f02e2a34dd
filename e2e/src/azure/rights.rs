//! What a caller may do: roles with wildcards, locks, and deny assignments; and the questions that Resource Manager answers about them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::{Answer, Context, Request};
use super::cloud::Cloud;
use super::command::Class;
use super::error::ArmError;
use super::path::key;

/// A role that everybody who signs in has at a scope and below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// The id that the scope begins with; `/` for everything.
    pub scope: String,
    /// What it allows; `*` stands for any text.
    pub actions: Vec<String>,
    /// What of that it excepts.
    #[serde(default)]
    pub not_actions: Vec<String>,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lock {
    /// What is locked, and all below.
    pub scope: String,
    /// Its name.
    pub name: String,
    /// `ReadOnly` or `CanNotDelete`.
    pub level: String,
}

/// A deny assignment against all writes, as the lockdown of a node resource group is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lockdown {
    /// Where.
    pub scope: String,
    /// Its name.
    pub name: String,
}

impl Role {
    /// All that there is.
    #[must_use]
    pub fn owner() -> Self {
        Self { scope: "/".into(), actions: vec!["*".into()], not_actions: vec![] }
    }

    fn allows(&self, action: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(&pattern.to_lowercase(), &action.to_lowercase()));
        any(&self.actions) && !any(&self.not_actions)
    }
}

/// Whether a scope is at another or below.
fn is_within(id: &str, scope: &str) -> bool {
    let (id, scope) = (key(id), key(scope));
    scope.is_empty() || id == scope || id.strip_prefix(&scope).is_some_and(|rest| rest.starts_with('/'))
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => {
            text.strip_prefix(head).is_some_and(|text| (0..=text.len()).any(|at| text.get(at..).is_some_and(|tail| matches(rest, tail))))
        }
    }
}

impl Cloud {
    /// Whether an action is allowed at a scope.
    pub fn is_allowed(&self, action: &str, scope: &str) -> bool {
        let denied = self.settings.denied_actions.iter().any(|denied| denied.eq_ignore_ascii_case(action));
        !denied && self.settings.roles.iter().any(|role| is_within(scope, &role.scope) && role.allows(action))
    }

    /// Roles, then deny assignments, then locks, as Azure looks at them.
    pub fn check_rights(&self, method: &str, action: &str, id: &str, by: &str) -> Result<(), ArmError> {
        if !self.is_allowed(action, id) {
            return Err(ArmError::forbidden(by, action, id));
        }
        if method == "GET" {
            return Ok(());
        }
        if let Some(down) = self.settings.lockdowns.iter().find(|down| is_within(id, &down.scope)) {
            return Err(denied(by, action, id, down));
        }
        let refuses = |lock: &&Lock| is_within(id, &lock.scope) && (lock.level == "ReadOnly" || method == "DELETE");
        match self.settings.locks.iter().find(refuses) {
            Some(lock) => Err(locked(method, id, lock)),
            None => Ok(()),
        }
    }

    /// `GET {scope}/providers/Microsoft.Authorization/…`; none if the path is another.
    pub fn authorization(&mut self, request: &Request) -> Option<Answer> {
        let at = request.path.to_lowercase().find("/providers/microsoft.authorization/")?;
        let (scope, rest) = request.path.split_at_checked(at)?;
        let kind = rest.rsplit('/').next().unwrap_or_default().to_owned();
        let (by, answer) = match self.authenticate(request) {
            Ok(by) => {
                let result = self.answer_about_rights(scope, &kind, &by, request);
                (by, self.render(result, Vec::new()))
            }
            Err(error) => ("nobody".to_owned(), self.render(Err(error), Vec::new())),
        };
        self.journal.called(self.now, Class::Resources, request, by, answer.status, answer.code.clone());
        Some(answer)
    }

    fn answer_about_rights(&self, scope: &str, kind: &str, by: &str, request: &Request) -> Result<Answer, ArmError> {
        let context = Context { by: by.to_owned(), ..Context::default() };
        let action = format!("Microsoft.Authorization/{kind}/read");
        if request.method != "GET" || !["permissions", "locks", "denyAssignments"].contains(&kind) {
            return Err(ArmError::gateway(404, "InvalidResourceType", format!("The resource type {kind} could not be found.")));
        }
        if !self.is_allowed(&action, scope) {
            return Err(ArmError::forbidden(&context.by, &action, scope));
        }
        let value: Vec<Value> = match kind {
            "permissions" => self.permissions(scope),
            "locks" => self.settings.locks.iter().filter(|lock| is_within(scope, &lock.scope)).map(lock_view).collect(),
            _ => self.settings.lockdowns.iter().filter(|down| is_within(scope, &down.scope)).map(lockdown_view).collect(),
        };
        Ok(Answer::json(200, json!({ "value": value })))
    }

    fn permissions(&self, scope: &str) -> Vec<Value> {
        let roles = self.settings.roles.iter().filter(|role| is_within(scope, &role.scope));
        let view = |role: &Role| {
            let not_actions: Vec<&String> = role.not_actions.iter().chain(&self.settings.denied_actions).collect();
            json!({ "actions": role.actions, "notActions": not_actions, "dataActions": [], "notDataActions": [] })
        };
        roles.map(view).collect()
    }
}

fn lock_view(lock: &Lock) -> Value {
    let id = format!("{}/providers/Microsoft.Authorization/locks/{}", lock.scope, lock.name);
    json!({ "properties": { "level": lock.level }, "id": id, "type": "Microsoft.Authorization/locks", "name": lock.name })
}

fn lockdown_view(down: &Lockdown) -> Value {
    let permissions = json!([{ "actions": ["*"], "notActions": ["*/read"], "dataActions": [], "notDataActions": [] }]);
    json!({ "properties": {
        "denyAssignmentName": down.name, "permissions": permissions, "scope": down.scope, "doNotApplyToChildScopes": false,
        "principals": [{ "id": "00000000-0000-0000-0000-000000000000", "type": "SystemDefined" }], "isSystemProtected": true,
    }, "type": "Microsoft.Authorization/denyAssignments" })
}

fn denied(by: &str, action: &str, id: &str, down: &Lockdown) -> ArmError {
    let message = format!(
        "The client '{by}' with object id '{by}' has permission to perform action '{action}' on scope '{id}'; however, the access is denied because of \
         the deny assignment with name '{}' and Id '00000000000000000000000000000000' at scope '{}'.",
        down.name, down.scope
    );
    ArmError::compute(403, "DenyAssignmentAuthorizationFailed", message)
}

fn locked(method: &str, id: &str, lock: &Lock) -> ArmError {
    let operation = if method == "DELETE" { "delete" } else { "write" };
    let message = format!(
        "The scope '{id}' cannot perform {operation} operation because following scope(s) are locked: '{}'. Please remove the lock and try again.",
        lock.scope
    );
    ArmError::gateway(409, "ScopeLocked", message)
}
