//! How full the nodes' subnets are, and for how long what is left will do.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use azure_vnet_crds::subnet::AzureVnetSubnetStatus;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use crate::{
    arm::{Error, ResourceId},
    declared,
};

/// Over how long growth is measured.
const WINDOW: Duration = Duration::from_hours(1);
/// Over less than this nothing is said about growth.
const SHORTEST: Duration = Duration::from_mins(10);
/// How exactly the time of exhaustion is told: it moves with every reading otherwise.
const STEP: i64 = 600;

/// Azure's count of one subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Addresses in use.
    pub used: u32,
    /// Addresses that there are.
    pub limit: u32,
}

/// Reads a network's usages, by subnet in the casing of keys. A count of -1 means that Azure does not know.
#[must_use]
pub fn usages(body: &Value) -> BTreeMap<String, Usage> {
    let number = |entry: &Value, name| entry.get(name).and_then(Value::as_i64).and_then(|count| u32::try_from(count).ok());
    let list = body.get("value").and_then(Value::as_array).into_iter().flatten();
    let read = |entry: &Value| {
        let id: ResourceId = entry.get("id")?.as_str()?.parse().ok()?;
        Some((id.key(), Usage { used: number(entry, "currentValue")?, limit: number(entry, "limit")? }))
    };
    list.filter_map(read).collect()
}

/// What the cluster's nodes have and want of one subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nodes.
    pub nodes: u32,
    /// Addresses for pods.
    pub attached: u32,
    /// Sum of targets.
    pub target: u32,
    /// Sum of what is missing to targets.
    pub missing: u32,
}

/// Azure's counts of one subnet in the last hour.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<(Timestamp, u32)>);

impl History {
    /// Takes note of a count.
    pub fn note(&mut self, at: Timestamp, used: u32) {
        self.0.push_back((at, used));
        while self.0.front().is_some_and(|(first, _)| age(*first, at) > WINDOW) {
            self.0.pop_front();
        }
    }

    /// Growth in an hour; none before there is enough to tell.
    #[must_use]
    pub fn burn_per_hour(&self) -> Option<i32> {
        let ((first, before), (last, after)) = (self.0.front()?, self.0.back()?);
        let age = age(*first, *last);
        if age < SHORTEST {
            return None;
        }
        let growth = i64::from(*after) - i64::from(*before);
        i32::try_from(growth * 3600 / i64::try_from(age.as_secs()).ok()?.max(1)).ok()
    }
}

/// All that a subnet's status rests on.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Its prefixes.
    pub prefixes: Vec<String>,
    /// The nodes'.
    pub tally: Tally,
    /// Azure's last count, or why there is none.
    pub usage: Result<Usage, &'a Error>,
    /// Azure's counts so far.
    pub history: &'a History,
    /// Whether Azure lately refused an address of it.
    pub refused: bool,
}

/// What to say of a subnet; `old` is what is said of it so far.
#[must_use]
pub fn status(seen: &Seen<'_>, old: &AzureVnetSubnetStatus, now: Timestamp) -> AzureVnetSubnetStatus {
    let Tally { nodes, attached, target, missing } = seen.tally;
    let usage = seen.usage.ok();
    let free = usage.map(|usage| usage.limit.saturating_sub(usage.used));
    let burn = seen.history.burn_per_hour();
    // A node takes its own address besides its pool.
    let size = target.div_ceil(nodes.max(1)) + 1;
    let mut status = AzureVnetSubnetStatus {
        prefixes: seen.prefixes.clone(),
        limit: usage.map(|usage| usage.limit),
        used: usage.map(|usage| usage.used),
        free,
        used_percent: usage.map(|usage| u32::try_from(u64::from(usage.used) * 100 / u64::from(usage.limit.max(1))).unwrap_or(100)),
        ours: attached,
        foreign: usage.map(|usage| usage.used.saturating_sub(attached).saturating_sub(nodes)),
        nodes,
        needs: missing.saturating_sub(free.unwrap_or(missing)),
        room_for_nodes: free.map(|free| free / size),
        burn_per_hour: burn,
        exhausted_at: free.zip(burn).and_then(|(free, burn)| empty_at(free, burn, now)),
        conditions: vec![],
    };
    let found = [("Exhausted", exhausted(seen, free)), ("Low", low(&status, size)), ("UsageKnown", known(seen))];
    status.conditions = found.map(|(kind, said)| condition(kind, said, &old.conditions, now)).into();
    status
}

fn exhausted(seen: &Seen<'_>, free: Option<u32>) -> (bool, &'static str, String) {
    match (seen.refused, free) {
        (false, Some(1..) | None) => (false, "AddressesLeft", String::new()),
        (true, Some(free @ 1..)) => {
            let words =
                format!("Azure refuses addresses of this subnet though it counts {free} as free: it is tried again from time to time.");
            (true, "SubnetAccountingMismatch", words)
        }
        (_, Some(0) | None) => (true, "SubnetExhausted", REMEDY.into()),
    }
}

const REMEDY: &str =
    "Add a prefix to the subnet, remove unused NICs from it, or lower pool.max, minFree and batch: nodes ask for single addresses now.";

fn low(status: &AzureVnetSubnetStatus, size: u32) -> (bool, &'static str, String) {
    let (Some(free), Some(limit)) = (status.free, status.limit) else { return (false, "Unknown", String::new()) };
    if status.needs > 0 {
        let words = format!("The nodes need {} more addresses than are left: add a prefix to the subnet, or lower pool.max.", status.needs);
        return (true, "TooSmall", words);
    }
    let tenth = free.saturating_mul(10) < limit;
    if tenth || free < size {
        let words = format!("{free} addresses are left, room for {} more nodes of {size}: add a prefix to the subnet.", free / size.max(1));
        return (true, "FewLeft", words);
    }
    (false, "Enough", String::new())
}

fn known(seen: &Seen<'_>) -> (bool, &'static str, String) {
    match seen.usage {
        Ok(_) => (true, "Read", String::new()),
        Err(error) => (false, error.reason(), error.remedy().into_owned()),
    }
}

fn condition(kind: &str, (status, reason, message): (bool, &str, String), old: &[Condition], now: Timestamp) -> Condition {
    let status = if status { "True" } else { "False" };
    let same = old.iter().find(|old| old.type_ == kind && old.status == status);
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: same.map_or_else(|| seconds(now, 1), |old| old.last_transition_time.clone()),
        observed_generation: None,
    }
}

fn empty_at(free: u32, burn: i32, now: Timestamp) -> Option<Time> {
    let burn = u64::try_from(burn).ok().filter(|burn| *burn > 0)?;
    let left = Duration::from_secs(u64::from(free) * 3600 / burn);
    // Beyond a month it is no forecast.
    (left < Duration::from_hours(30 * 24)).then(|| seconds(now.saturating_add(left).unwrap_or(Timestamp::MAX), STEP))
}

fn seconds(at: Timestamp, step: i64) -> Time {
    Time(Timestamp::from_second(at.as_second() / step * step).unwrap_or(at))
}

fn age(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap_or_default()
}

/// The name of a subnet's object: what people call it, and what makes it unique.
#[must_use]
pub fn name_of(subnet: &ResourceId) -> String {
    let key = subnet.key();
    let hash = key.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let network = subnet.segment("virtualNetworks").unwrap_or_default();
    let plain: String = format!("{network}-{}", subnet.name())
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(200)
        .collect();
    format!("{}-{hash:08x}", plain.trim_matches('-'))
}

/// What was last said of the API server's refusals to take subnets' objects; a new one where it took them.
#[derive(Debug, Default)]
pub struct Refusals(Option<String>);

impl Refusals {
    /// What to say of a refusal, with the remedy; nothing where it was said last, or where the refusal passes by itself.
    pub fn news(&mut self, code: u16, message: &str) -> Option<&str> {
        let remedy = match code {
            403 => {
                "give the controller the rights that the chart of its version gives, unless a policy of the cluster refuses it".to_owned()
            }
            400 | 404 | 422 => format!("the CRDs in the cluster may be of another version: {}", declared::REMEDY),
            _ if message.contains(declared::WORDS) => format!("the CRDs in the cluster are older: {}", declared::REMEDY),
            _ => return None,
        };
        let said = format!("what is left of the subnets is not reported, for the API server refuses AzureVnetSubnets: {message}; {remedy}");
        if self.0.as_ref() == Some(&said) {
            return None;
        }
        Some(self.0.insert(said).as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/Hub_1/subnets/nodes";

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_200_000 + minute * 60).unwrap()
    }

    fn seen<'a>(usage: Result<Usage, &'a Error>, history: &'a History) -> Seen<'a> {
        let tally = Tally { nodes: 3, attached: 30, target: 45, missing: 15 };
        Seen { prefixes: vec!["10.0.0.0/24".into()], tally, usage, history, refused: false }
    }

    fn reason(status: &AzureVnetSubnetStatus, kind: &str) -> (String, String) {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    }

    #[test]
    fn usages_are_read_by_subnet_and_an_unknown_count_is_left_out() {
        let body = json!({"value": [
            {"id": ID, "currentValue": 40, "limit": 251, "name": {"value": "SubnetSpace"}},
            {"id": format!("{ID}-gateway"), "currentValue": -1, "limit": -1},
        ]});
        assert_eq!(usages(&body), BTreeMap::from([(ID.to_ascii_lowercase(), Usage { used: 40, limit: 251 })]));
    }

    #[test]
    fn a_subnet_tells_what_is_left_for_how_long_and_for_how_many_nodes() {
        let mut history = History::default();
        for (minute, used) in [(0, 40), (5, 45), (30, 70)] {
            history.note(at(minute), used);
        }
        let status = status(&seen(Ok(Usage { used: 70, limit: 251 }), &history), &AzureVnetSubnetStatus::default(), at(30));
        assert_eq!((status.free, status.used_percent, status.foreign, status.needs), (Some(181), Some(27), Some(37), 0));
        assert_eq!((status.burn_per_hour, status.room_for_nodes), (Some(60), Some(11)), "15 and its own address each");
        assert_eq!(status.exhausted_at.clone().map(|at| at.0), Some(at(210)), "three hours, told in steps of ten minutes");
        assert_eq!(reason(&status, "Low"), ("False".into(), "Enough".into()));
        assert_eq!(super::status(&seen(Ok(Usage { used: 70, limit: 251 }), &history), &status, at(31)).conditions, status.conditions);
    }

    #[test]
    fn growth_is_told_only_after_a_while_and_of_the_last_hour() {
        let mut history = History::default();
        history.note(at(0), 1000);
        history.note(at(5), 10);
        assert_eq!(history.burn_per_hour(), None);
        history.note(at(64), 20);
        assert_eq!(history.burn_per_hour(), Some(10));
        history.note(at(65), 0);
        assert_eq!(history.burn_per_hour(), Some(-10));
    }

    #[test]
    fn a_subnet_that_is_too_small_says_by_how_much() {
        let history = History::default();
        let of = |used, refused| {
            let seen = Seen { refused, ..seen(Ok(Usage { used, limit: 100 }), &history) };
            status(&seen, &AzureVnetSubnetStatus::default(), at(0))
        };
        assert_eq!((of(95, false).needs, reason(&of(95, false), "Low").1.as_str()), (10, "TooSmall"));
        assert_eq!(reason(&of(84, false), "Low"), ("False".into(), "Enough".into()));
        assert_eq!(reason(&of(100, false), "Exhausted"), ("True".into(), "SubnetExhausted".into()));
        assert_eq!(reason(&of(100, true), "Exhausted").1, "SubnetExhausted");
        assert_eq!(reason(&of(50, true), "Exhausted").1, "SubnetAccountingMismatch", "a19");
        assert_eq!(reason(&of(50, false), "Exhausted"), ("False".into(), "AddressesLeft".into()));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_nothing_is_made_up() {
        let error = Error::from_answer(403, None, br#"{"error": {"code": "AuthorizationFailed", "message": "no"}}"#);
        let history = History::default();
        let status = status(&seen(Err(&error), &history), &AzureVnetSubnetStatus::default(), at(0));
        assert_eq!((status.free, status.needs, status.ours), (None, 0, 30));
        assert_eq!(reason(&status, "UsageKnown"), ("False".into(), "PermissionMissing".into()));
        assert_eq!(reason(&status, "Exhausted").0, "False");
    }

    #[test]
    fn names_are_readable_and_unique() {
        let name = name_of(&ID.parse().unwrap());
        assert!(name.starts_with("hub-1-nodes-") && name.len() == "hub-1-nodes-".len() + 8, "{name}");
        assert_ne!(name, name_of(&ID.replace("/G/", "/H/").parse().unwrap()));
        assert_eq!(name, name_of(&ID.to_ascii_lowercase().parse().unwrap()));
    }

    #[test]
    fn a_refusal_that_stays_is_told_once_with_its_remedy() {
        let mut refusals = Refusals::default();
        let forbidden = "azurevnetsubnets is forbidden: User \"controller\" cannot patch resource";
        let said = refusals.news(403, forbidden).unwrap().to_owned();
        assert!(said.contains(forbidden) && said.contains("rights"), "{said}");
        assert_eq!(refusals.news(403, forbidden), None, "it was said");
        for (code, message) in [(422, "needs: Invalid value"), (500, "errors:\n  .status.tomorrow: field not declared in schema")] {
            let said = refusals.news(code, message).unwrap();
            assert!(said.contains("kubectl apply") && said.contains(message), "{said}");
        }
        for (code, message) in [(409, "the object has been modified"), (429, "too many requests"), (500, "etcdserver: request timed out")] {
            assert_eq!(refusals.news(code, message), None, "{message}");
        }
        assert!(Refusals::default().news(403, forbidden).is_some(), "after it was taken, the next one is news");
    }
}
