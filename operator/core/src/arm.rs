//! Requests to Azure Resource Manager as values, and what its answers mean. Nothing here sends anything.

mod answer;
mod error;
mod request;

use std::{fmt, str::FromStr, sync::Arc};

pub use error::{Class, Error, Operation, Trace};
pub use request::{ApiVersions, Document, NETWORK_API, Read, Write};

/// An Azure resource id. Equality ignores case, as Azure's casing varies.
#[derive(Clone, Debug)]
pub struct ResourceId(Arc<str>);

/// Why a text is no [`ResourceId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Azure resource id (/subscriptions/…/providers/…)")]
pub struct ResourceIdError(String);

impl FromStr for ResourceId {
    type Err = ResourceIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ResourceIdError(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(error)?;
        let first = rest.split('/').next().unwrap_or_default();
        // The text becomes part of a URL's path: nothing that would end or escape it, no empty or dot segment.
        let clean = rest.split('/').all(|s| !s.is_empty() && s != "." && s != "..")
            && text.len() <= 1024
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.()".contains(c));
        if !first.eq_ignore_ascii_case("subscriptions") || !clean {
            return Err(error());
        }
        Ok(Self(text.into()))
    }
}

impl ResourceId {
    /// The id as Azure wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The id in one casing, for keys of maps.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
    /// The segment after `name`, as in `segment("virtualNetworks")`.
    #[must_use]
    pub fn segment(&self, name: &str) -> Option<&str> {
        let mut parts = self.0.split('/');
        parts.by_ref().find(|part| part.eq_ignore_ascii_case(name))?;
        parts.next()
    }
    /// The last segment: the resource's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
    /// The id without its last two segments (type and name), as a subnet's network.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (rest, _) = self.0.rsplit_once('/')?;
        let (rest, _) = rest.rsplit_once('/')?;
        rest.parse().ok()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for ResourceId {}

/// Which budget a request draws on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Budget {
    /// Microsoft.Network, GET.
    NetworkRead,
    /// Microsoft.Network, PUT.
    NetworkWrite,
    /// Microsoft.Compute, GET; also limited per machine.
    ComputeRead,
    /// Microsoft.Compute, PUT; also limited per machine.
    ComputeWrite,
    /// GET of what Resource Manager keeps itself.
    Rights,
}

/// Order in which waiting requests are served: starving nodes before ordinary work before what can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Verification and discovery.
    Background,
    /// Giving addresses back.
    Release,
    /// Reading back what was written.
    ReadBack,
    /// Filling a pool.
    Fill,
    /// Filling the pool of a node without a free address.
    Starving,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_compares_without_case_and_never_escapes_its_path() {
        let one: ResourceId = "/subscriptions/A/resourceGroups/MC_lab/providers/Microsoft.Network/networkInterfaces/n".parse().unwrap();
        let two: ResourceId = "/subscriptions/a/resourcegroups/mc_lab/providers/microsoft.network/networkinterfaces/N".parse().unwrap();
        assert_eq!(one, two);
        assert_eq!(one.segment("RESOURCEGROUPS"), Some("MC_lab"));
        for bad in
            ["", "/x/y", "/subscriptions/a/../b", "/subscriptions/a?x=y", "/subscriptions//b", "/subscriptions/a b", "/subscriptions/a#"]
        {
            assert!(bad.parse::<ResourceId>().is_err(), "{bad}");
        }
    }
}
