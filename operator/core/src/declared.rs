//! Fields that the CRDs of an earlier version do not declare: server-side apply refuses whatever names one, as a whole. Those that a controller can do
//! without are left out; of the others, people are told.

use std::collections::BTreeSet;

use azure_vnet_crds::GROUP;
use serde_json::Value;

use crate::network::Finding;

/// What the API server says of a field that it does not know.
pub(crate) const WORDS: &str = ": field not declared in schema";
/// What makes the cluster know all that the controller names.
pub(crate) const REMEDY: &str =
    "apply those of the controller's version: `kubectl apply --server-side --force-conflicts -f charts/azure-vnet/crds`";
/// What the finding about it is called.
pub const OUTDATED: &str = "CrdsOutdated";
/// Fields that are remembered.
const MOST: usize = 16;

/// A field without which all goes on, but for what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// What a new node's pods needed.
    FirstNeed,
    /// What was learned of new nodes.
    Learned,
    /// What a node's metadata says of its NIC.
    Imds,
    /// In which mode a node was served last.
    Mode,
    /// What else of its config only the controller goes by.
    ForController,
}

impl Field {
    const ALL: [Self; 5] = [Self::FirstNeed, Self::Learned, Self::Imds, Self::Mode, Self::ForController];

    /// Of which kind, and where.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::FirstNeed => ("AzureVnetNode", ".status.cloud.firstNeed"),
            Self::Learned => ("AzureVnetConfig", ".status.learned"),
            Self::Imds => ("AzureVnetNode", ".status.agent.imds"),
            Self::Mode => ("AzureVnetNode", ".spec.effective.mode"),
            Self::ForController => ("AzureVnetNode", ".spec.effective.controller"),
        }
    }

    /// Whether a refusal of the API server names it as one that it does not know.
    #[must_use]
    pub fn is_refused(self, message: &str) -> bool {
        message.contains(&format!("{}{WORDS}", self.place().1))
    }
}

/// What is known not to be declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undeclared {
    left_out: BTreeSet<Field>,
    /// What was refused, by kind and path.
    refused: BTreeSet<(String, String)>,
}

impl Undeclared {
    /// Where the API server describes its kinds.
    #[must_use]
    pub fn path() -> String {
        format!("/openapi/v3/apis/{GROUP}/{}", azure_vnet_crds::VERSION)
    }

    /// The same by the API server's description. Of a kind that it does not describe nothing is known.
    #[must_use]
    pub fn by(&self, description: &Value) -> Self {
        let lacks = |kind: &str, path: &str| is_lacking(description, kind, path);
        let left_out = Field::ALL.into_iter().filter(|field| lacks(field.place().0, field.place().1)).collect();
        Self { left_out, refused: self.refused.iter().filter(|(kind, path)| lacks(kind, path)).cloned().collect() }
    }

    /// Whether a field is to be left out.
    #[must_use]
    pub fn lacks(&self, field: Field) -> bool {
        self.left_out.contains(&field)
    }

    /// Notes what a refusal says; whether it is about such fields.
    pub fn refused(&mut self, message: &str) -> bool {
        let kind = message.split("Kind=").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
        let paths = message.match_indices(WORDS).filter_map(|(at, _)| message.get(..at)?.rsplit(char::is_whitespace).next());
        let found: Vec<(String, String)> = paths.map(|path| (kind.to_owned(), path.to_owned())).collect();
        let is_about = !found.is_empty();
        self.refused.extend(found);
        while self.refused.len() > MOST {
            self.refused.pop_last();
        }
        is_about
    }

    /// For people; nothing if all is declared.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let left_out: BTreeSet<String> = self.left_out.iter().map(|field| format!("{}{}", field.place().0, field.place().1)).collect();
        let refused: BTreeSet<String> = self.refused.iter().map(|(kind, path)| format!("{kind}{path}")).collect();
        let refused: Vec<&str> = refused.difference(&left_out).map(String::as_str).collect();
        let left_out: Vec<&str> = left_out.iter().map(String::as_str).collect();
        let what = match (left_out.as_slice(), refused.as_slice()) {
            ([], []) => return None,
            (left_out, []) => format!("they lack {}, which is left out", left_out.join(", ")),
            ([], refused) => format!("they lack {}, and refuse what names it", refused.join(", ")),
            (left_out, refused) => {
                format!("they lack {}, which is left out, and {}, and refuse what names it", left_out.join(", "), refused.join(", "))
            }
        };
        Some(Finding { reason: OUTDATED, message: format!("the CRDs in the cluster are older than the controller: {what}; {REMEDY}") })
    }
}

fn is_lacking(description: &Value, kind: &str, path: &str) -> bool {
    let kinds = description.pointer("/components/schemas").and_then(Value::as_object).into_iter().flatten();
    let Some(whole) = kinds.filter(|(name, _)| name.rsplit('.').next() == Some(kind)).map(|(_, schema)| schema).next() else {
        return false;
    };
    let mut schema = Some(whole);
    for name in path.split('.').filter(|name| !name.is_empty()) {
        // An item of a list is named by its place or its key.
        let (name, in_list) = name.split_once('[').map_or((name, false), |(name, _)| (name, true));
        schema = schema.and_then(|schema| schema.get("properties")?.get(name));
        if in_list {
            schema = schema.and_then(|schema| schema.get("items"));
        }
    }
    schema.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the API server describes our kinds, with these fields of a node's `status.cloud` and of a config's status.
    fn description(cloud: &[&str], status: &[&str]) -> Value {
        let fields = |names: &[&str]| -> Value { names.iter().map(|name| ((*name).to_owned(), json!({"type": "integer"}))).collect() };
        let object = |of: Value| json!({"type": "object", "properties": of});
        json!({"components": {"schemas": {
            "dev.azure-vnet.v1alpha1.AzureVnetNode": object(json!({
                "spec": object(json!({"effective": object(fields(&["mode", "controller"]))})),
                "status": object(json!({"cloud": object(fields(cloud)), "agent": object(fields(&["imds"]))})),
            })),
            "dev.azure-vnet.v1alpha1.AzureVnetNodeList": {"type": "object"},
            "dev.azure-vnet.v1alpha1.AzureVnetConfig": object(json!({"status": object(fields(status))})),
        }}})
    }

    #[test]
    fn fields_of_which_the_crds_know_nothing_are_left_out_with_a_word_until_they_do() {
        let old = Undeclared::default().by(&description(&["attached"], &["learned"]));
        assert_eq!((old.lacks(Field::FirstNeed), old.lacks(Field::Learned)), (true, false));
        let said = old.finding().unwrap();
        assert!(said.message.contains("lack AzureVnetNode.status.cloud.firstNeed, which is left out; apply"), "{}", said.message);
        let new = old.by(&description(&["attached", "firstNeed"], &["learned"]));
        assert_eq!((new.lacks(Field::FirstNeed), new.finding()), (false, None));
    }

    #[test]
    fn a_server_that_does_not_describe_our_kinds_is_believed_to_know_them() {
        assert_eq!(Undeclared::default().by(&json!({})), Undeclared::default());
    }

    #[test]
    fn an_agent_knows_from_a_refusal_what_the_crds_of_an_earlier_version_lack() {
        let refusal = "failed to create typed patch object (/n1; azure-vnet.dev/v1alpha1, Kind=AzureVnetNode): .status.agent.imds: field not \
                       declared in schema";
        assert!(Field::Imds.is_refused(refusal) && !Field::FirstNeed.is_refused(refusal) && !Field::Imds.is_refused("no"));
        let known = Undeclared::default().by(&json!({"components": {"schemas": {"AzureVnetNode": {}}}}));
        assert!(known.lacks(Field::Imds) && known.finding().unwrap().message.contains("AzureVnetNode.status.agent.imds"));
    }

    #[test]
    fn a_refusal_names_what_is_not_declared_until_it_is() {
        let mut known = Undeclared::default();
        assert!(!known.refused("the object has been modified"));
        let refusal = "failed to create typed patch object (/n1; azure-vnet.dev/v1alpha1, Kind=AzureVnetNode): errors:\n  \
                       .status.cloud.tomorrow: field not declared in schema\n  .status.cloud.firstNeed: field not declared in schema";
        assert!(known.refused(refusal));
        let known = known.by(&description(&["attached"], &["learned"]));
        let said = known.finding().unwrap().message;
        assert!(
            said.contains("firstNeed, which is left out, and AzureVnetNode.status.cloud.tomorrow, and refuse")
                && said.contains("kubectl apply"),
            "{said}"
        );
        assert_eq!(known.by(&description(&["firstNeed", "tomorrow"], &["learned"])).finding(), None);
    }
}
