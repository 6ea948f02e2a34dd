//! One measured number.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// One measured number, beside the floor that it is held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The median.
    pub value: f64,
    /// Of what.
    pub unit: Cow<'static, str>,
    /// The median of what nothing can go below, measured in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// `value` by `floor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Figure {
    /// A number by itself.
    #[must_use]
    pub fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit: unit.into(), floor: None, ratio: None }
    }

    /// A number beside its floor.
    #[must_use]
    pub fn against(name: impl Into<String>, value: f64, floor: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit: unit.into(), floor: Some(floor), ratio: (floor > 0.0).then(|| value / floor) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<64} {:>9.3} {:<5}", self.name, self.value, self.unit)?;
        match (self.floor, self.ratio) {
            (Some(floor), Some(ratio)) => write!(f, " floor {floor:>9.3}  ratio {ratio:>6.2}"),
            _ => Ok(()),
        }
    }
}

/// The median.
#[must_use]
pub fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = samples.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
