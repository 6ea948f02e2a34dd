//! A machine without Kubernetes: what its own configuration and its metadata make of the pool, in the words that a cluster's controller uses.
//!
//! Nobody gives addresses back here: whoever takes one off the NIC in Azure has to know that no container has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    config::{CniSpec, HostSpec, MasqueradeSpec},
    node::SlotAddress,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{adoption, policy};

/// How many answers in a row must lack an address before it leaves the pool: one may be a slip.
const ABSENT: u8 = 3;
/// Stands for the object that a cluster has.
pub const UID: &str = "standalone";

/// The configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// MAC address of the NIC whose addresses containers get; the primary one if empty.
    pub nic: String,
    /// Address spaces of the VNET and its peers: the machine's metadata does not tell them. Without any, nothing is masqueraded.
    #[serde(rename = "vnetCIDRs")]
    pub vnet_cidrs: Vec<String>,
    /// As `spec.masquerade` of an `AzureVnetConfig`.
    pub masquerade: MasqueradeSpec,
    /// As `spec.host`.
    pub host: HostSpec,
    /// As `spec.cni`.
    pub cni: CniSpec,
    /// How long a freed address rests.
    pub cool_down: String,
    /// Prefixes that containers never get.
    pub reserved: Vec<String>,
    /// Plugins to install before anything else.
    pub plugins: Plugins,
}

/// Where the plugins come from and go to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plugins {
    /// A folder with them; empty installs nothing.
    pub from: PathBuf,
    /// The folder that the runtime runs them from.
    pub to: PathBuf,
}

impl Default for Plugins {
    fn default() -> Self {
        Self { from: PathBuf::new(), to: "/opt/cni/bin".into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nic: String::new(),
            vnet_cidrs: vec![],
            masquerade: MasqueradeSpec::default(),
            host: HostSpec::default(),
            cni: CniSpec::default(),
            cool_down: "45s".into(),
            reserved: vec![],
            plugins: Plugins::default(),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field that there is not.
    #[error("there is no field {0}: look for a slip of the pen")]
    Unknown(String),
    /// A value of the wrong type.
    #[error("a value is not usable")]
    Value(#[source] serde_json::Error),
    /// A prefix that is none.
    #[error("{0:?} is no IPv4 prefix such as 10.0.0.0/8")]
    Prefix(String),
    /// A period that is none.
    #[error("coolDown is {0:?}: use a period of 10s to 1h, such as 45s")]
    Period(String),
}

impl Config {
    /// Reads a configuration that was parsed.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(value: &Value) -> Result<Self, ConfigError> {
        let config: Self =
            if value.is_null() { Self::default() } else { serde_json::from_value(value.clone()).map_err(ConfigError::Value)? };
        let known = serde_json::to_value(&config).map_err(ConfigError::Value)?;
        if let Some(field) = unknown(value, &known) {
            return Err(ConfigError::Unknown(field));
        }
        let MasqueradeSpec { non_masquerade_cidrs, masquerade_cidrs, .. } = &config.masquerade;
        let prefixes = [&config.vnet_cidrs, &config.reserved, non_masquerade_cidrs, masquerade_cidrs];
        if let Some(wrong) = prefixes.into_iter().flatten().find(|text| text.parse::<Ipv4Net>().is_err()) {
            return Err(ConfigError::Prefix(wrong.clone()));
        }
        config.cool_down_seconds()?;
        Ok(config)
    }

    fn cool_down_seconds(&self) -> Result<u64, ConfigError> {
        let seconds = policy::duration(&self.cool_down).map(|period| period.as_secs());
        seconds.filter(|seconds| (10..=3600).contains(seconds)).ok_or_else(|| ConfigError::Period(self.cool_down.clone()))
    }
}

/// The first field of `given` that `known` has not. Lists are left alone: they hold no fields of ours.
fn unknown(given: &Value, known: &Value) -> Option<String> {
    let (given, known) = (given.as_object()?, known.as_object()?);
    given.iter().find_map(|(key, value)| match known.get(key) {
        // What is left out of the printed form when it is empty.
        None if value.as_str().is_some_and(str::is_empty) => None,
        None => Some(key.clone()),
        Some(inner) => unknown(value, inner).map(|field| format!("{key}.{field}")),
    })
}

/// A NIC as the machine's metadata shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Lower case with colons; unknown where the source does not tell.
    pub mac: Option<String>,
    /// The subnet's prefix.
    pub prefix: Option<Ipv4Net>,
    /// The machine's own address.
    pub primary: Option<Ipv4Addr>,
    /// All others.
    pub secondary: BTreeSet<Ipv4Addr>,
}

/// The NIC that the configuration means: the one it names, else the first.
#[must_use]
pub fn choose<'a>(config: &Config, nics: &'a [Nic]) -> Option<&'a Nic> {
    if config.nic.is_empty() {
        return nics.first();
    }
    nics.iter().find(|nic| nic.mac.as_ref().is_some_and(|mac| mac.eq_ignore_ascii_case(&config.nic)))
}

/// Addresses that recent answers lacked, and how many of these in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absences(BTreeMap<Ipv4Addr, u8>);

/// What the machine should do, from what it did before and one answer of its metadata.
#[must_use]
pub fn spec(config: &Config, previous: &AzureVnetNodeSpec, nic: &Nic, absences: &mut Absences) -> AzureVnetNodeSpec {
    let mut spec = settings(config, previous);
    if let Some(mac) = &nic.mac {
        spec.node.mac.clone_from(mac);
    }
    if let Some(prefix) = nic.prefix {
        spec.node.subnet_prefix = prefix.trunc().to_string();
    }
    if let Some(primary) = nic.primary {
        spec.node.primary_address = primary.to_string();
    }
    spec.addresses = addresses(&previous.addresses, &nic.secondary, absences);
    let changed = previous.revision == 0 || adoption::content(&spec) != adoption::content(previous);
    spec.revision = previous.revision + u64::from(changed);
    spec
}

/// The previous addresses by the configuration of today.
#[must_use]
pub fn settings(config: &Config, previous: &AzureVnetNodeSpec) -> AzureVnetNodeSpec {
    let mut spec = previous.clone();
    spec.node.vnet_cidrs.clone_from(&config.vnet_cidrs);
    spec.config.name = UID.into();
    spec.effective.masquerade = config.masquerade.clone();
    spec.effective.host = config.host.clone();
    spec.effective.cni = config.cni.clone();
    spec.effective.reserved.clone_from(&config.reserved);
    spec.effective.cool_down_seconds = config.cool_down_seconds().unwrap_or(45);
    spec
}

/// Who was there keeps its slot; who comes gets the lowest free one; who is missing stays until enough answers lacked it.
fn addresses(previous: &[SlotAddress], shown: &BTreeSet<Ipv4Addr>, absences: &mut Absences) -> Vec<SlotAddress> {
    absences.0.retain(|address, _| !shown.contains(address) && previous.iter().any(|at| at.address == *address));
    let mut kept: Vec<SlotAddress> = vec![];
    for at in previous {
        if shown.contains(&at.address) {
            kept.push(*at);
            continue;
        }
        let absent = absences.0.entry(at.address).or_default();
        *absent = absent.saturating_add(1);
        if *absent < ABSENT {
            kept.push(*at);
        }
    }
    let taken: BTreeSet<u8> = kept.iter().map(|at| at.slot).collect();
    let new = shown.iter().filter(|address| !kept.iter().any(|at| at.address == **address)).copied();
    let slots = (1..=u8::MAX).filter(|slot| !taken.contains(slot));
    let new: Vec<SlotAddress> = slots.zip(new).map(|(slot, address)| SlotAddress::single(slot, address)).collect();
    kept.extend(new);
    kept.sort();
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nic(last: &[u8]) -> Nic {
        Nic {
            mac: Some("00:0d:3a:00:00:01".into()),
            prefix: Some("10.0.0.4/24".parse().unwrap()),
            primary: Some(Ipv4Addr::new(10, 0, 0, 4)),
            secondary: last.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect(),
        }
    }

    fn slots(spec: &AzureVnetNodeSpec) -> Vec<String> {
        spec.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_keeps_its_slot_and_a_change_raises_the_revision() {
        let (config, mut absences) = (Config::default(), Absences::default());
        let first = spec(&config, &AzureVnetNodeSpec::default(), &nic(&[5, 9]), &mut absences);
        assert_eq!((first.revision, slots(&first)), (1, vec!["1/10.0.0.5".into(), "2/10.0.0.9".into()]));
        assert_eq!((first.node.subnet_prefix.as_str(), first.node.primary_address.as_str()), ("10.0.0.0/24", "10.0.0.4"));
        let same = spec(&config, &first, &nic(&[5, 9]), &mut absences);
        assert_eq!(same, first);
        let more = spec(&config, &first, &nic(&[5, 7, 9]), &mut absences);
        assert_eq!((more.revision, slots(&more)), (2, vec!["1/10.0.0.5".into(), "2/10.0.0.9".into(), "3/10.0.0.7".into()]));
    }

    #[test]
    fn an_address_leaves_only_after_several_answers_without_it() {
        let (config, mut absences) = (Config::default(), Absences::default());
        let mut now = spec(&config, &AzureVnetNodeSpec::default(), &nic(&[5, 9]), &mut absences);
        for (answer, left) in [(&[5][..], 2), (&[5], 2), (&[5, 9], 2), (&[5], 2), (&[5], 2), (&[5], 1)] {
            now = spec(&config, &now, &nic(answer), &mut absences);
            assert_eq!(now.addresses.len(), left);
        }
        assert_eq!((now.revision, slots(&now)), (2, vec!["1/10.0.0.5".into()]));
    }

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        assert_eq!(Config::read(&Value::Null).unwrap(), Config::default());
        let whole = json!({"nic": "00:0d:3a:00:00:01", "vnetCIDRs": ["10.0.0.0/8"], "masquerade": {"mode": "Disabled"}, "coolDown": "1m",
            "cni": {"master": "eth0", "chain": [{"type": "portmap"}]}, "plugins": {"from": "/opt/azure-vnet/bin"}});
        assert_eq!(Config::read(&whole).unwrap().cni.master, "eth0");
        for (wrong, words) in [
            (json!({"masqerade": {}}), "masqerade"),
            (json!({"masquerade": {"modes": "VNet"}}), "masquerade.modes"),
            (json!({"vnetCIDRs": ["10.0.0.0"]}), "10.0.0.0"),
            (json!({"coolDown": "1s"}), "coolDown"),
            (json!({"masquerade": {"mode": "vnet"}}), "not usable"),
        ] {
            let said = Config::read(&wrong).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn the_named_nic_counts_else_the_first() {
        let other = Nic { mac: Some("00:0d:3a:00:00:02".into()), ..Nic::default() };
        let nics = [nic(&[5]), other.clone()];
        assert_eq!(choose(&Config::default(), &nics), Some(&nics[0]));
        let named = Config { nic: "00:0D:3A:00:00:02".into(), ..Config::default() };
        assert_eq!(choose(&named, &nics), Some(&other));
        assert_eq!(choose(&named, &nics[..1]), None);
    }
}
