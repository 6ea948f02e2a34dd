//! The kernel settings that the agent keeps, as a plan over what the files under `/proc/sys/net` hold; and what they go back to.

use std::collections::BTreeMap;

use azure_vnet_crds::config::{Enforcement, HostSpec, RpFilter};
use serde::{Deserialize, Serialize};

/// Whether packets are forwarded at all.
const IP_FORWARD: &str = "ipv4/ip_forward";

/// Values by path below `/proc/sys/net`.
pub type Settings = BTreeMap<String, String>;

/// What was set in this boot, by path.
pub type Record = BTreeMap<String, Setting>;

/// One setting that the agent changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Setting {
    /// What it was before the first change.
    pub before: String,
    /// What it was last set to.
    pub set: String,
}

/// Paths that [`plan`] wants to know of.
#[must_use]
pub fn watched(nic: &str) -> [String; 3] {
    [IP_FORWARD.into(), "ipv4/conf/all/rp_filter".into(), rp_filter(nic)]
}

/// What is to be written. The kernel takes the larger of a link's `rp_filter` and that of `all`: strict (1) holds only while `all` is not loose (2).
#[must_use]
pub fn plan(observed: &Settings, host: &HostSpec, nic: Option<&str>) -> Settings {
    let HostSpec { ip_forward, rp_filter: filter, forward_accept: _ } = host;
    let mut desired = Settings::new();
    match ip_forward {
        Enforcement::Enforce => drop(desired.insert(IP_FORWARD.into(), "1".into())),
        Enforcement::Ignore => {}
    }
    let all = "ipv4/conf/all/rp_filter";
    match (filter, nic) {
        (RpFilter::Strict, Some(nic)) => {
            desired.insert(rp_filter(nic), "1".into());
            if observed.get(all).is_some_and(|value| value == "2") {
                desired.insert(all.into(), "1".into());
            }
        }
        (RpFilter::Loose, Some(nic)) => drop(desired.insert(rp_filter(nic), "2".into())),
        (RpFilter::Ignore, _) | (_, None) => {}
    }
    desired.retain(|path, value| observed.get(path) != Some(value));
    desired
}

/// Adds what is about to be set to the record. What a setting was before the first change stays.
#[must_use]
pub fn record(mut record: Record, observed: &Settings, plan: &Settings) -> Record {
    for (path, set) in plan {
        let Some(found) = observed.get(path) else { continue };
        let before = record.get(path).map_or_else(|| found.clone(), |known| known.before.clone());
        record.insert(path.clone(), Setting { before, set: set.clone() });
    }
    record
}

/// Who needs packets forwarded once nothing of ours is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Nobody that shows.
    Unneeded,
    /// Others: they found it switched on, and would be cut off.
    NeededByOthers,
}

/// What goes back to what it was: settings that still are as they were set. Those that others changed since are theirs, and so is forwarding
/// where they need it.
#[must_use]
pub fn restore(record: &Record, observed: &Settings, forwarding: Forwarding) -> Settings {
    let is_ours = |(path, Setting { before, set }): &(&String, &Setting)| observed.get(*path) == Some(set) && before != set;
    let mut back: Settings = record.iter().filter(is_ours).map(|(path, setting)| (path.clone(), setting.before.clone())).collect();
    match forwarding {
        Forwarding::Unneeded => {}
        Forwarding::NeededByOthers => _ = back.remove(IP_FORWARD),
    }
    back
}

fn rp_filter(nic: &str) -> String {
    format!("ipv4/conf/{nic}/rp_filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn pk2_strict_stays_and_a_loose_all_is_taken_back() {
        let observed = settings(&[("ipv4/ip_forward", "0"), ("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/eth0/rp_filter", "1")]);
        let planned = plan(&observed, &HostSpec::default(), Some("eth0"));
        assert_eq!(planned, settings(&[("ipv4/conf/all/rp_filter", "1"), ("ipv4/ip_forward", "1")]));
    }

    #[test]
    fn planning_after_applying_is_empty_for_every_choice() {
        for ip_forward in [Enforcement::Enforce, Enforcement::Ignore] {
            for filter in [RpFilter::Strict, RpFilter::Loose, RpFilter::Ignore] {
                for all in ["0", "1", "2"] {
                    let host = HostSpec { ip_forward, rp_filter: filter, ..HostSpec::default() };
                    let mut observed =
                        settings(&[("ipv4/ip_forward", "0"), ("ipv4/conf/all/rp_filter", all), ("ipv4/conf/eth0/rp_filter", "0")]);
                    let first = plan(&observed, &host, Some("eth0"));
                    observed.extend(first);
                    assert_eq!(plan(&observed, &host, Some("eth0")), Settings::new());
                }
            }
        }
    }

    #[test]
    fn settings_go_back_to_what_they_were_before_the_first_change_unless_others_changed_them_since() {
        let observed = settings(&[("ipv4/ip_forward", "0"), ("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/eth0/rp_filter", "0")]);
        let planned = plan(&observed, &HostSpec::default(), Some("eth0"));
        let first = record(Record::new(), &observed, &planned);
        let drifted = settings(&[("ipv4/ip_forward", "1"), ("ipv4/conf/eth0/rp_filter", "2")]);
        let second = record(first.clone(), &drifted, &settings(&[("ipv4/conf/eth0/rp_filter", "1")]));
        assert_eq!(first, second, "the first value counts");
        let present = settings(&[("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/eth0/rp_filter", "1")]);
        let expected = settings(&[("ipv4/conf/eth0/rp_filter", "0"), ("ipv4/ip_forward", "0")]);
        assert_eq!(restore(&second, &present, Forwarding::Unneeded), expected);
        let filter = settings(&[("ipv4/conf/eth0/rp_filter", "0")]);
        assert_eq!(restore(&second, &present, Forwarding::NeededByOthers), filter, "others would be cut off");
        let after = present.into_iter().chain(expected).collect();
        assert_eq!(restore(&second, &after, Forwarding::Unneeded), Settings::new(), "restoring again changes nothing");
    }

    #[test]
    fn what_is_to_be_ignored_is_left_alone() {
        let host = HostSpec { ip_forward: Enforcement::Ignore, rp_filter: RpFilter::Ignore, ..HostSpec::default() };
        assert_eq!(plan(&settings(&[("ipv4/ip_forward", "0")]), &host, Some("eth0")), Settings::new());
    }
}
