//! What counts for a node whose config is invalid, or gone: what was in force last.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetConfigSpec, AzureVnetNodeSpec, config::Mode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Policy, Pool};
use crate::first_fill::First;

/// The longest that a config may allow for a write, and for a late one to land.
const LONGEST: Duration = Duration::from_hours(1);

/// The last valid generation of each config that is there, as far as this process saw one (fault K6).
#[derive(Clone, Debug, Default)]
pub struct LastValid(BTreeMap<(String, String), Arc<AzureVnetConfig>>);

impl LastValid {
    /// Notes all configs as they are, and of which nothing but that they are there can be read. To be called at each change, so that no generation is missed.
    pub fn note(&mut self, configs: &[Arc<AzureVnetConfig>], unread: &[&ObjectMeta]) {
        let there =
            |of: &(String, String)| configs.iter().map(|config| &config.metadata).chain(unread.iter().copied()).any(|one| key(one) == *of);
        self.0.retain(|of, _| there(of));
        let valid = configs.iter().filter(|config| Policy::of(config).is_ok());
        self.0.extend(valid.map(|config| (key(&config.metadata), Arc::clone(config))));
    }

    /// A config as it is in force: its last valid generation. Itself where none was seen: then [`Policy::of`] says what is wrong.
    #[must_use]
    pub fn in_force(&self, config: &Arc<AzureVnetConfig>) -> Arc<AzureVnetConfig> {
        Policy::of(config).err().and_then(|_| self.last(&config.metadata)).unwrap_or_else(|| Arc::clone(config))
    }

    /// The last valid generation of a config, if one was seen.
    #[must_use]
    pub fn last(&self, of: &ObjectMeta) -> Option<Arc<AzureVnetConfig>> {
        self.0.get(&key(of)).map(Arc::clone)
    }
}

/// One that is deleted and made anew is another.
fn key(config: &ObjectMeta) -> (String, String) {
    (config.name.clone().unwrap_or_default(), config.uid.clone().unwrap_or_default())
}

impl Policy {
    /// What a node's object was last written by, as far as it says so: for a node that no config selects any more, or whose config was invalid before
    /// this process began (faults K6, K8). Its pool follows demand as before. Nothing is given back, since the object does not say when. Where it does
    /// not say the rest either, as under the CRDs of an earlier version, Azure is not written to, an open write has all the time that a config may give it
    /// (safety rule I6), and the node's mark stays as it is. None where the object is of no config.
    #[must_use]
    pub fn kept(stored: &AzureVnetNodeSpec) -> Option<Self> {
        if stored.config.name.is_empty() {
            return None;
        }
        let mut defaults = AzureVnetConfigSpec::default();
        defaults.pool.release.enabled = false;
        let policy = Self::of(&AzureVnetConfig::new("", defaults)).ok()?;
        let said = stored.effective.controller.clone().unwrap_or_default();
        let numbers = &stored.effective.pool;
        let floating = Pool::Floating { min: numbers.min, min_free: numbers.min_free, batch: numbers.batch.max(1), max: numbers.max };
        Some(Self {
            config: stored.config.clone(),
            effective: stored.effective.clone(),
            mode: stored.effective.mode.unwrap_or(Mode::Paused),
            pool: numbers.fixed.map_or(floating, Pool::Fixed),
            first: First::Count(0),
            intent_ttl: said.intent_ttl_seconds.map_or(LONGEST, Duration::from_secs),
            grace: said.grace_seconds.map_or(LONGEST, Duration::from_secs),
            exhaustion: said.exhaustion,
            ..policy
        })
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::{config::Exhaustion, node::Effective};

    use super::*;

    fn config(grace: &str) -> Arc<AzureVnetConfig> {
        let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec::default());
        config.metadata.uid = Some("first".into());
        config.spec.arm.grace = grace.into();
        Arc::new(config)
    }

    #[test]
    fn k6_the_last_valid_generation_of_a_config_stays_in_force_as_long_as_the_config_is_there() {
        let (good, bad) = (config("7m"), config("soon"));
        let mut last = LastValid::default();
        last.note(&[Arc::clone(&good)], &[]);
        last.note(&[Arc::clone(&bad)], &[]);
        assert_eq!(last.in_force(&bad).spec.arm.grace, "7m");
        assert_eq!(last.in_force(&config("8m")).spec.arm.grace, "8m", "a valid one counts at once");
        let mut other = AzureVnetConfig::clone(&bad);
        other.metadata.uid = Some("second".into());
        assert_eq!(last.in_force(&Arc::new(other)).spec.arm.grace, "soon", "one of the same name is another");
        last.note(&[], &[&bad.metadata]);
        assert_eq!(last.last(&bad.metadata).unwrap().spec.arm.grace, "7m", "one that cannot be read is there as well");
        last.note(&[], &[]);
        assert_eq!(last.in_force(&bad).spec.arm.grace, "soon");
    }

    #[test]
    fn k8_an_object_says_by_what_its_node_was_served_but_for_when_addresses_go_back() {
        let mut config = AzureVnetConfig::clone(&config("7m"));
        config.metadata.generation = Some(3);
        config.spec.mode = Mode::Paused;
        (config.spec.pool.min, config.spec.pool.max) = (Some(3), Some(40));
        let policy = Policy::of(&config).unwrap();
        let stored =
            AzureVnetNodeSpec { config: policy.config.clone(), effective: policy.effective.clone(), ..AzureVnetNodeSpec::default() };
        let kept = Policy::kept(&stored).unwrap();
        assert_eq!((&kept.config, &kept.effective, kept.pool), (&policy.config, &policy.effective, policy.pool));
        assert_eq!((kept.mode, kept.release.enabled), (Mode::Paused, false));
        config.spec.pool = azure_vnet_crds::config::PoolSpec { ip_address_count: Some(31), ..Default::default() };
        let effective = Policy::of(&config).unwrap().effective;
        assert_eq!(Policy::kept(&AzureVnetNodeSpec { effective, ..stored }).unwrap().pool, Pool::Fixed(30));
        assert_eq!(Policy::kept(&AzureVnetNodeSpec::default()), None);
    }

    /// What is kept of a config, where this is taken out of the object.
    fn kept(config: &AzureVnetConfig, strip: impl Fn(&mut Effective)) -> Policy {
        let Policy { config, mut effective, .. } = Policy::of(config).unwrap();
        strip(&mut effective);
        Policy::kept(&AzureVnetNodeSpec { config, effective, ..AzureVnetNodeSpec::default() }).unwrap()
    }

    #[test]
    fn k8_azure_is_written_to_only_where_the_object_says_so() {
        for mode in [Mode::Enforce, Mode::Plan, Mode::Paused] {
            let mut config = AzureVnetConfig::clone(&config("7m"));
            config.spec.mode = mode;
            assert_eq!(kept(&config, |_| ()).mode, mode);
            assert_eq!(kept(&config, |effective| effective.mode = None).mode, Mode::Paused, "{mode:?}");
        }
    }

    #[test]
    fn i6_an_open_write_has_the_time_that_its_config_gave_it_or_the_longest_that_one_may() {
        let mut config = AzureVnetConfig::clone(&config("30m"));
        config.spec.arm.intent_ttl = "20m".into();
        config.spec.readiness.exhaustion = Exhaustion::ConditionOnly;
        let of = |policy: Policy| (policy.intent_ttl, policy.grace, policy.exhaustion);
        let said = (Duration::from_mins(20), Duration::from_mins(30), Some(Exhaustion::ConditionOnly));
        assert_eq!(of(kept(&config, |_| ())), said);
        assert_eq!(of(kept(&config, |effective| effective.controller = None)), (LONGEST, LONGEST, None));
    }
}
