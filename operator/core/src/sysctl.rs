//! The kernel settings that the agent keeps, as a plan over what the files under `/proc/sys/net` hold.

use std::collections::BTreeMap;

use azure_vnet_crds::config::{Enforcement, HostSpec, RpFilter};

/// Values by path below `/proc/sys/net`.
pub type Settings = BTreeMap<String, String>;

/// Paths that [`plan`] wants to know of.
#[must_use]
pub fn watched(nic: &str) -> [String; 3] {
    ["ipv4/ip_forward".into(), "ipv4/conf/all/rp_filter".into(), rp_filter(nic)]
}

/// What is to be written. The kernel takes the larger of a link's `rp_filter` and that of `all`: strict (1) holds only while `all` is not loose (2).
#[must_use]
pub fn plan(observed: &Settings, host: &HostSpec, nic: Option<&str>) -> Settings {
    let HostSpec { ip_forward, rp_filter: filter, forward_accept: _ } = host;
    let mut desired = Settings::new();
    match ip_forward {
        Enforcement::Enforce => drop(desired.insert("ipv4/ip_forward".into(), "1".into())),
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
    fn what_is_to_be_ignored_is_left_alone() {
        let host = HostSpec { ip_forward: Enforcement::Ignore, rp_filter: RpFilter::Ignore, ..HostSpec::default() };
        assert_eq!(plan(&settings(&[("ipv4/ip_forward", "0")]), &host, Some("eth0")), Settings::new());
    }
}
