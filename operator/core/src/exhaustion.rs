//! When a node is marked as out of addresses, so that the scheduler sends it no more pods (safety rule UP5).

use std::time::Duration;

use azure_vnet_crds::{AzureVnetNodeStatus, config::Exhaustion, node::Agent};
use jiff::Timestamp;

/// How long a node must be out of addresses before it is marked, and must have some again before the mark goes.
pub const HYSTERESIS: Duration = Duration::from_secs(30);

/// Whether a node has no address left and can get none: at its capacity, or in a subnet that is full. What is merely on its way is no reason.
#[must_use]
pub fn is_out(status: &AzureVnetNodeStatus, agent: &Agent, subnet_is_full: bool) -> bool {
    let says = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    let starved_by_subnet = says("InDeficit").is_some_and(|condition| subnet_is_full || condition.reason == "SubnetExhausted");
    agent.counts.free == 0 && (says("AtCapacity").is_some() || starved_by_subnet)
}

/// Whether a node is to bear the mark; as it does already where it is not known `by` what its config has nodes marked.
#[must_use]
pub fn is_to_bear(by: Option<Exhaustion>, out: bool, marked: bool) -> bool {
    match by {
        Some(Exhaustion::Taint) => out,
        // No pod is kept off for want of addresses.
        Some(Exhaustion::ConditionOnly) => false,
        None => marked,
    }
}

/// Whether a node that begins can serve pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It has addresses, or all that it should have.
    Supplied,
    /// It has none to give, and is not known to have all that it should: pods had better stay off until it has some, or is marked.
    Short,
}

impl Start {
    /// Judges by what is stored of a node. What is lacking lasts longer than what is known of why: not a leader's term, and no mark's delay.
    #[must_use]
    pub fn of(status: &AzureVnetNodeStatus, agent: &Agent) -> Self {
        let content = status.conditions.iter().any(|condition| condition.type_ == "InDeficit" && condition.status == "False");
        if agent.counts.free > 0 || content { Self::Supplied } else { Self::Short }
    }
}

/// What to do about the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// It is as it should be.
    Keep,
    /// It is not, but not for long enough; look again after this.
    Wait(Duration),
    /// Set it.
    Set,
    /// Take it off.
    Remove,
}

/// Decides about the mark. `since` keeps when it was first found to be wrong.
pub fn mark(out: bool, marked: bool, since: &mut Option<Timestamp>, now: Timestamp) -> Marking {
    if out == marked {
        *since = None;
        return Marking::Keep;
    }
    let age: Duration = now.duration_since(*since.get_or_insert(now)).try_into().unwrap_or_default();
    match HYSTERESIS.checked_sub(age) {
        Some(rest) if !rest.is_zero() => Marking::Wait(rest),
        Some(_) | None if out => Marking::Set,
        Some(_) | None => Marking::Remove,
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::node::StoreCounts;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(kind: &str, reason: &str) -> AzureVnetNodeStatus {
        let condition = Condition {
            type_: kind.into(),
            status: "True".into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        AzureVnetNodeStatus { conditions: vec![condition], ..AzureVnetNodeStatus::default() }
    }

    fn agent(free: u16) -> Agent {
        Agent { counts: StoreCounts { free, ..StoreCounts::default() }, ..Agent::default() }
    }

    #[test]
    fn up5_a_node_is_out_of_addresses_only_at_its_capacity_or_in_a_full_subnet() {
        assert!(is_out(&status("AtCapacity", "AtCapacity"), &agent(0), false));
        assert!(is_out(&status("InDeficit", "SubnetExhausted"), &agent(0), false));
        assert!(is_out(&status("InDeficit", "Filling"), &agent(0), true));
        for (kind, reason) in [("InDeficit", "Filling"), ("InDeficit", "Throttled"), ("NicWritable", "SubnetExhausted")] {
            assert!(!is_out(&status(kind, reason), &agent(0), false), "{kind} {reason}");
        }
        assert!(!is_out(&status("AtCapacity", "AtCapacity"), &agent(1), true), "the next pod still gets one");
    }

    #[test]
    fn up5_a_mark_stays_as_it_is_where_it_is_not_known_whether_its_node_is_to_be_marked() {
        for (out, marked) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(is_to_bear(Some(Exhaustion::Taint), out, marked), out);
            assert!(!is_to_bear(Some(Exhaustion::ConditionOnly), out, marked));
            assert_eq!(is_to_bear(None, out, marked), marked);
        }
    }

    #[test]
    fn up5_a_node_without_addresses_is_short_whatever_the_reason() {
        for reason in ["SubnetExhausted", "Filling", "Throttled"] {
            assert_eq!(Start::of(&status("InDeficit", reason), &agent(0)), Start::Short, "{reason}");
            assert_eq!(Start::of(&status("InDeficit", reason), &agent(1)), Start::Supplied, "{reason}");
        }
        assert_eq!(Start::of(&AzureVnetNodeStatus::default(), &agent(0)), Start::Short, "nothing was said of it yet");
        let mut filled = status("InDeficit", "Filled");
        filled.conditions[0].status = "False".into();
        assert_eq!(Start::of(&filled, &agent(0)), Start::Supplied, "none are wanted");
    }

    #[test]
    fn up5_the_mark_follows_after_thirty_seconds_either_way() {
        let at = |seconds: i64| Timestamp::from_second(1000 + seconds).unwrap();
        let mut since = None;
        assert_eq!(mark(true, false, &mut since, at(0)), Marking::Wait(HYSTERESIS));
        assert_eq!(mark(true, false, &mut since, at(29)), Marking::Wait(Duration::from_secs(1)));
        assert_eq!(mark(false, false, &mut since, at(29)), Marking::Keep, "a short shortage leaves no trace");
        assert_eq!(mark(true, false, &mut since, at(40)), Marking::Wait(HYSTERESIS));
        assert_eq!(mark(true, false, &mut since, at(70)), Marking::Set);
        assert_eq!(mark(true, true, &mut since, at(71)), Marking::Keep);
        assert_eq!(mark(false, true, &mut since, at(80)), Marking::Wait(HYSTERESIS));
        assert_eq!(mark(false, true, &mut since, at(110)), Marking::Remove);
    }
}
