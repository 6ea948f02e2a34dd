//! Which config counts for a node, and what its words mean in numbers.

mod last;

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use azure_vnet_crds::{
    AzureVnetConfig,
    config::{Exhaustion, Mode, PoolOverride, PoolSpec, PoolUnit},
    node::{ConfigRef, Effective, ForController, MachineKind, PoolNumbers, PoolSource, Unit},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::first_fill::First;

pub use last::LastValid;

/// A config, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Where it comes from.
    pub config: ConfigRef,
    /// What the agent gets of it.
    pub effective: Effective,
    /// Whether Azure is written to.
    pub mode: Mode,
    /// How many addresses a node holds.
    pub pool: Pool,
    /// What additions consist of where the NIC takes it.
    pub unit: Unit,
    /// How many it holds while it is new.
    pub first: First,
    /// When addresses go back.
    pub release: ReleasePolicy,
    /// How long a write may take.
    pub intent_ttl: Duration,
    /// How long a late write may still land.
    pub grace: Duration,
    /// Key of the start-up taint.
    pub startup_taint: String,
    /// How a node without addresses is marked; none where that is not known.
    pub exhaustion: Option<Exhaustion>,
    /// Share of Azure's limits that is left to others.
    pub reserve_percent: u8,
}

/// How many addresses a node holds, its own not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Always so many.
    Fixed(u16),
    /// As demand asks.
    Floating {
        /// At least.
        min: u16,
        /// Free above demand.
        min_free: u16,
        /// In multiples of.
        batch: u16,
        /// At most.
        max: u16,
    },
}

/// When addresses go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleasePolicy {
    /// Whether at all.
    pub enabled: bool,
    /// How long a surplus must last.
    pub after: Duration,
    /// At most so many at once.
    pub batch: u16,
    /// Spread of `after`.
    pub jitter_percent: u8,
    /// Rest after a shortage.
    pub calm: Duration,
    /// How long the agent may take to answer.
    pub deadline: Duration,
}

/// Why a Node's own word about its pool does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Node's annotation {} does not count: {why}", azure_vnet_crds::POOL_OVERRIDE)]
pub struct Refused {
    why: String,
}

/// A config that the API server should have refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {text:?}, which is no duration such as 90s, 10m or 1h30m: correct it")]
pub struct Invalid {
    field: &'static str,
    text: String,
}

/// The config that counts for a node with these labels: the highest priority, then the oldest, then by name.
pub fn choose<'a>(
    configs: impl IntoIterator<Item = &'a AzureVnetConfig>,
    labels: &BTreeMap<String, String>,
) -> Option<&'a AzureVnetConfig> {
    let selects = |config: &&AzureVnetConfig| config.metadata.deletion_timestamp.is_none() && selects(&config.spec.node_selector, labels);
    configs.into_iter().filter(selects).min_by_key(|config| {
        let created = config.metadata.creation_timestamp.as_ref().map(|at| at.0);
        (Reverse(config.spec.priority), created.is_none(), created, config.metadata.name.clone())
    })
}

/// The configs that would count for a node just as much as the chosen one, were they not younger: their owners should know.
pub fn shadowed<'a>(
    configs: impl IntoIterator<Item = &'a AzureVnetConfig>,
    chosen: &AzureVnetConfig,
    labels: &BTreeMap<String, String>,
) -> Vec<&'a AzureVnetConfig> {
    let name = chosen.metadata.name.as_ref();
    let rivals = configs.into_iter().filter(|config| config.spec.priority == chosen.spec.priority && config.metadata.name.as_ref() != name);
    rivals.filter(|config| config.metadata.deletion_timestamp.is_none() && selects(&config.spec.node_selector, labels)).collect()
}

/// Whether a selector matches. An operator that is not known matches nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal && selector.match_expressions.iter().flatten().all(|expression| meets(expression, labels))
}

fn meets(expression: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let label = labels.get(&expression.key);
    let listed = label.is_some_and(|label| expression.values.iter().flatten().any(|value| value == label));
    match expression.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => false,
    }
}

/// Reads `1h30m`, `10m`, `45s`: hours, minutes and seconds, each at most once and in this order.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0_u64;
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let plain = !number.is_empty() && number.len() <= 6 && number.bytes().all(|b| b.is_ascii_digit());
            total += plain.then_some(number)?.parse::<u64>().ok()?.checked_mul(seconds)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then(|| Duration::from_secs(total))
}

impl Policy {
    /// Resolves a config.
    ///
    /// # Errors
    /// When a duration is none.
    pub fn of(config: &AzureVnetConfig) -> Result<Self, Invalid> {
        let spec = &config.spec;
        let read = |field, text: &str| duration(text).ok_or_else(|| Invalid { field, text: text.to_owned() });
        let release = &spec.pool.release;
        let (intent_ttl, grace) = (read("arm.intentTTL", &spec.arm.intent_ttl)?, read("arm.grace", &spec.arm.grace)?);
        let effective = Effective {
            pool: Pool::of(&spec.pool).numbers(PoolSource::Config),
            mode: Some(spec.mode),
            controller: Some(ForController {
                intent_ttl_seconds: Some(intent_ttl.as_secs()),
                grace_seconds: Some(grace.as_secs()),
                exhaustion: Some(spec.readiness.exhaustion),
            }),
            cool_down_seconds: read("pool.coolDown", spec.pool.cool_down.as_deref().unwrap_or("45s"))?.as_secs(),
            probation_seconds: read("pool.release.probation", &release.probation)?.as_secs(),
            masquerade: spec.masquerade.clone(),
            host: spec.host.clone(),
            cni: spec.cni.clone(),
            reserved: spec.pool.reserved.clone(),
        };
        Ok(Self {
            config: ConfigRef {
                name: config.metadata.name.clone().unwrap_or_default(),
                generation: config.metadata.generation.unwrap_or_default(),
            },
            effective,
            mode: spec.mode,
            pool: Pool::of(&spec.pool),
            unit: match spec.pool.unit {
                PoolUnit::Auto | PoolUnit::Address => Unit::Address,
                PoolUnit::Block28 => Unit::Block28,
            },
            first: First::of(spec.pool.initial),
            release: ReleasePolicy {
                enabled: release.enabled,
                after: read("pool.release.after", &release.after)?,
                batch: release.batch.clamp(1, 64),
                jitter_percent: release.jitter_percent.min(100),
                calm: read("pool.release.calm", &release.calm)?,
                deadline: read("pool.release.deadline", &release.deadline)?,
            },
            intent_ttl,
            grace,
            startup_taint: spec.readiness.startup_taint.clone(),
            exhaustion: Some(spec.readiness.exhaustion),
            reserve_percent: spec.arm.reserve_percent,
        })
    }
}

impl Policy {
    /// What additions to the NIC of such a machine consist of. The model of a Uniform scale set's instance has no field for the length of a prefix
    /// (azure-rest-api-specs#44144).
    #[must_use]
    pub fn unit_on(&self, kind: MachineKind) -> Unit {
        match kind {
            MachineKind::VmssFlex | MachineKind::Vm => self.unit,
            MachineKind::VmssUniform | MachineKind::Unknown => Unit::Address,
        }
    }

    /// The same with what was learned of nodes with these labels.
    #[must_use]
    pub fn for_kin(mut self, config: &AzureVnetConfig, labels: &BTreeMap<String, String>) -> Self {
        let learned = config.status.as_ref().map(|status| status.learned.as_slice()).unwrap_or_default();
        self.first = self.first.learned(learned, labels);
        self
    }

    /// The same with what a Node's annotation says of its pool.
    ///
    /// # Errors
    /// When it is not understood, or would give what no config may ask for.
    pub fn overridden(&self, config: &AzureVnetConfig, annotation: &str) -> Result<Self, Refused> {
        let refused = |why: &str| Refused { why: why.to_owned() };
        let with: PoolOverride = serde_json::from_str(annotation).map_err(|error| refused(&error.to_string()))?;
        let mut spec = config.spec.pool.clone();
        let floats = [with.min, with.min_free, with.batch, with.max].iter().any(Option::is_some);
        if with.ip_address_count.is_some() && floats {
            return Err(refused("ipAddressCount fixes the size of the pool: remove min, minFree, batch and max, or remove ipAddressCount"));
        }
        if with.ip_address_count.is_some() || floats {
            spec.ip_address_count = with.ip_address_count;
        }
        (spec.min, spec.min_free) = (with.min.or(spec.min), with.min_free.or(spec.min_free));
        (spec.batch, spec.max) = (with.batch.or(spec.batch), with.max.or(spec.max));
        let max = spec.max.unwrap_or(110);
        let fits = |value: Option<u16>, usual: u16, least: u16| (least..=max).contains(&value.unwrap_or(usual));
        if !spec.ip_address_count.is_none_or(|count| (1..=256).contains(&count)) {
            return Err(refused("ipAddressCount counts the node's own address and at most 255 more: use 1 to 256"));
        }
        if spec.ip_address_count.is_none() {
            if !(1..=255).contains(&max) {
                return Err(refused("a NIC carries its own address and at most 255 more: use a max of 1 to 255"));
            }
            if !(fits(spec.min, 0, 0) && fits(spec.min_free, 8, 1) && fits(spec.batch, 4, 1)) {
                return Err(refused("min must be at most max, minFree (8 when not set) and batch (4 when not set) from 1 to max"));
            }
        }
        let pool = Pool::of(&spec);
        let effective = Effective { pool: pool.numbers(PoolSource::Annotation), ..self.effective.clone() };
        Ok(Self { effective, pool, ..self.clone() })
    }
}

impl Pool {
    fn numbers(self, source: PoolSource) -> PoolNumbers {
        match self {
            Self::Fixed(count) => PoolNumbers { fixed: Some(count), source, ..PoolNumbers::default() },
            Self::Floating { min, min_free, batch, max } => PoolNumbers { fixed: None, min, min_free, batch, max, source },
        }
    }

    fn of(spec: &PoolSpec) -> Self {
        if let Some(count) = spec.ip_address_count {
            return Self::Fixed(count.saturating_sub(1).min(255));
        }
        let max = spec.max.unwrap_or(110).clamp(1, 255);
        Self::Floating {
            min: spec.min.unwrap_or(0).min(max),
            min_free: spec.min_free.unwrap_or(8).clamp(1, 255),
            batch: spec.batch.unwrap_or(4).clamp(1, 255),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::AzureVnetConfigSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn config(name: &str, priority: u16, created: i64) -> AzureVnetConfig {
        let mut config = AzureVnetConfig::new(name, AzureVnetConfigSpec { priority, ..AzureVnetConfigSpec::default() });
        config.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(created).unwrap()));
        config
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_highest_priority_counts_and_then_the_oldest() {
        let mut picky = config("picky", 900, 1);
        picky.spec.node_selector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"pool": "a"},
            "matchExpressions": [{"key": "os", "operator": "NotIn", "values": ["windows"]}, {"key": "zone", "operator": "Exists"}],
        }))
        .unwrap();
        let configs = [config("young", 5, 9), config("old", 5, 3), config("low", 0, 1), picky];
        let chosen = |pairs: &[(&str, &str)]| choose(&configs, &labels(pairs)).unwrap().metadata.name.clone().unwrap();
        assert_eq!(chosen(&[]), "old");
        assert_eq!(chosen(&[("pool", "a"), ("zone", "1")]), "picky");
        assert_eq!(chosen(&[("pool", "a"), ("zone", "1"), ("os", "windows")]), "old");
        assert_eq!(choose(&configs[3..], &labels(&[])), None);
    }

    #[test]
    fn blocks_are_asked_for_by_name_and_only_on_nics_that_take_them() {
        let unit = |text: &str, kind| {
            let mut config = config("default", 0, 1);
            config.spec.pool = serde_json::from_value(serde_json::json!({"unit": text})).unwrap();
            Policy::of(&config).unwrap().unit_on(kind)
        };
        assert_eq!(["Auto", "Address", "Block28"].map(|text| unit(text, MachineKind::Vm)), [Unit::Address, Unit::Address, Unit::Block28]);
        assert_eq!([MachineKind::VmssFlex, MachineKind::VmssUniform].map(|kind| unit("Block28", kind)), [Unit::Block28, Unit::Address]);
    }

    #[test]
    fn durations_are_hours_minutes_and_seconds() {
        for (text, seconds) in [("1h30m", 5400), ("45s", 45), ("0s", 0), ("1h1m1s", 3661), ("168h", 604_800)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "m", "1m1h", "-5s", "1.5h", "5 s", "9999999s", "10ms"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_config_resolves_to_numbers() {
        let mut config = config("default", 0, 1);
        let policy = Policy::of(&config).unwrap();
        assert_eq!(policy.pool, Pool::Floating { min: 0, min_free: 8, batch: 4, max: 110 });
        assert_eq!((policy.effective.cool_down_seconds, policy.grace), (45, Duration::from_mins(6)));
        config.spec.pool.ip_address_count = Some(31);
        assert_eq!(Policy::of(&config).unwrap().pool, Pool::Fixed(30));
        config.spec.arm.grace = "soon".into();
        assert!(Policy::of(&config).unwrap_err().to_string().contains("arm.grace"));
    }

    #[test]
    fn a_nodes_annotation_replaces_fields_of_the_pool_and_is_held_to_the_same_rules() {
        let config = config("default", 0, 1);
        let policy = Policy::of(&config).unwrap();
        let with = |text: &str| policy.overridden(&config, text).map(|policy| policy.pool);
        assert_eq!(with(r#"{"min": 20, "batch": 10}"#), Ok(Pool::Floating { min: 20, min_free: 8, batch: 10, max: 110 }));
        assert_eq!(with(r#"{"ipAddressCount": 31}"#), Ok(Pool::Fixed(30)));
        assert_eq!(policy.overridden(&config, r#"{"max": 30}"#).unwrap().effective.pool.source, PoolSource::Annotation);
        let wrong = [
            ("{", "EOF"),
            (r#"{"maxx": 3}"#, "unknown field"),
            (r#"{"max": 256}"#, "1 to 255"),
            (r#"{"max": 7}"#, "minFree (8 when not set)"),
            (r#"{"minFree": 0}"#, "minFree"),
            (r#"{"min": 111}"#, "min must be at most max"),
            (r#"{"batch": 0}"#, "batch"),
            (r#"{"ipAddressCount": 0}"#, "1 to 256"),
            (r#"{"ipAddressCount": 31, "min": 2}"#, "fixes the size"),
        ];
        for (text, expected) in wrong {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn k7_a_config_that_is_younger_than_another_of_its_priority_is_shadowed() {
        let configs = [config("young", 5, 9), config("old", 5, 3), config("low", 0, 1)];
        let chosen = choose(&configs, &labels(&[])).unwrap();
        let names: Vec<_> = shadowed(&configs, chosen, &labels(&[])).iter().map(|config| config.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["young"]);
    }
}
