//! What Azure counts by, and how much of each it grants.

use super::bucket::Rate;

/// A budget that requests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// GET of anything, counted by Resource Manager itself.
    ArmRead,
    /// PUT of anything, counted by Resource Manager itself.
    ArmWrite,
    /// GET of the Network provider.
    NetworkRead,
    /// PUT of the Network provider.
    NetworkWrite,
    /// GET of the Compute provider.
    ComputeRead,
    /// PUT of the Compute provider.
    ComputeWrite,
    /// GET of a Compute operation's state.
    ComputePoll,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::ArmRead, Self::ArmWrite, Self::NetworkRead, Self::NetworkWrite, Self::ComputeRead, Self::ComputeWrite, Self::ComputePoll];

    /// Name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ArmRead => "arm_read",
            Self::ArmWrite => "arm_write",
            Self::NetworkRead => "network_read",
            Self::NetworkWrite => "network_write",
            Self::ComputeRead => "compute_read",
            Self::ComputeWrite => "compute_write",
            Self::ComputePoll => "compute_poll",
        }
    }

    /// Azure's limit. The Network provider counts 1,000 writes and 10,000 reads in any 5 minutes: a burst of a tenth plus the
    /// refill of 5 minutes stays within that, wherever the window lies. The others are buckets at Azure as well.
    pub(super) fn rate(self) -> Rate {
        match self {
            Self::ArmRead => Rate { per_minute: 1500, burst: 250 },
            Self::ArmWrite => Rate { per_minute: 600, burst: 200 },
            Self::NetworkRead => Rate { per_minute: 1800, burst: 1000 },
            Self::NetworkWrite => Rate { per_minute: 180, burst: 100 },
            Self::ComputeRead => Rate { per_minute: 2000, burst: 6000 },
            Self::ComputeWrite => Rate { per_minute: 500, burst: 1500 },
            Self::ComputePoll => Rate { per_minute: 5000, burst: 15000 },
        }
    }
}

/// One machine's own limits at the Compute provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// Reads of the machine with this key.
    Read(String),
    /// Writes of the machine with this key.
    Write(String),
}

impl Machine {
    pub(super) fn rate(&self) -> Rate {
        match self {
            Self::Read(_) => Rate { per_minute: 12, burst: 36 },
            Self::Write(_) => Rate { per_minute: 4, burst: 12 },
        }
    }
}
