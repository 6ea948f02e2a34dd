//! Which boot, which store, and how long since the boot: the values that keep a record of one life from acting in another.

use std::{fmt, str::FromStr, time::Duration};

use crate::{attachment::NameError, hex};

/// The kernel's random id of a boot, as `/proc/sys/kernel/random/boot_id` prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(String);

/// The random id of a node's durable folder (safety rule ST9).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(String);

macro_rules! id {
    ($name:ident, $what:literal) => {
        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let text = text.trim_end_matches('\n');
                if (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError::of($what, text, "it has 1 to 64 letters, digits and '-'"))
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
id!(BootId, "boot id");
id!(StoreId, "store id");

impl StoreId {
    /// Makes an id of random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(hex::of(&bytes))
    }
}

/// Milliseconds of `CLOCK_BOOTTIME`: counts through suspension, starts anew at each boot, and no one can set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime {
    milliseconds: u64,
}

impl BootTime {
    /// A time by its milliseconds since the boot.
    #[must_use]
    pub fn from_millis(milliseconds: u64) -> Self {
        Self { milliseconds }
    }

    /// Milliseconds since the boot.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.milliseconds
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.milliseconds.saturating_sub(earlier.milliseconds))
    }
}
