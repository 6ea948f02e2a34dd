//! What the agent takes over from its `AzureVnetNode`, and which of its addresses pods may have: pure rules over what the object says,
//! what the node's own metadata shows, and what time it is (since boot).

#[cfg(test)]
mod fixture;
mod offer;
mod releases;
mod sightings;

use azure_vnet_crds::{AzureVnetNodeSpec, node::SlotAddress};

pub use offer::{Offer, listed, offer};
pub use releases::{Held, Pass, Probation, ReleasePlan, acks, releases};
pub use sightings::{Before, Listed, SETTLE, SILENCE, Sightings, Source, ToldRead};

/// What has been taken over, as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The highest revision.
    pub revision: u64,
    /// Its [`content`].
    pub content: u64,
}

/// Hash of the part of a spec that a revision number stands for: the same in every version of this program (FNV-1a over a text).
#[must_use]
pub fn content(spec: &AzureVnetNodeSpec) -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    hash.take("addresses ");
    hash.take_all(&spec.addresses);
    hash.take("\nlost ");
    hash.take_all(&spec.lost);
    for release in &spec.release {
        for part in ["\nrelease ", &release.id.to_string(), " ", &release.nonce, " "] {
            hash.take(part);
        }
        hash.take_all(&release.addresses);
    }
    hash.0
}

/// Of a text that is never put together.
struct Hash(u64);

impl Hash {
    fn take(&mut self, text: &str) {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// In the order of their texts, each once.
    fn take_all(&mut self, addresses: &[SlotAddress]) {
        let mut texts: Vec<Text> = addresses.iter().copied().map(Text::of).collect();
        texts.sort_unstable();
        texts.dedup();
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                self.take(",");
            }
            self.take(text.as_str());
        }
    }
}

/// An address with its slot as a text, without an allocation of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Text([u8; Self::LONGEST]);

impl Text {
    /// `255/255.255.255.240/28`, and the rest is 0, which is less than any character.
    const LONGEST: usize = 22;

    fn of(at: SlotAddress) -> Self {
        let mut text = [0; Self::LONGEST];
        let octets = at.address.octets();
        let numbers = [at.slot].into_iter().chain(octets).zip([b'/', b'.', b'.', b'.', 0]);
        let suffix: &[u8] = if at.unit.is_address() { &[] } else { b"/28" };
        let digits = numbers.flat_map(|(number, end)| {
            let (hundreds, tens) = (number / 100, number / 10 % 10);
            let shown = [(hundreds > 0, hundreds), (number >= 10, tens), (true, number % 10)];
            shown.into_iter().filter(|(shown, _)| *shown).map(|(_, digit)| b'0' + digit).chain([end])
        });
        for (place, digit) in text.iter_mut().zip(digits.filter(|digit| *digit != 0).chain(suffix.iter().copied())) {
            *place = digit;
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::LONGEST);
        self.0.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl Adopted {
    /// What a spec offers to be taken over.
    #[must_use]
    pub fn of(spec: &AzureVnetNodeSpec) -> Self {
        Self { revision: spec.revision, content: content(spec) }
    }
}

/// Whether a spec may be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is newer.
    Adopt,
    /// It is what was taken over.
    Unchanged,
    /// It is not to be believed (safety rule RE3).
    Regressed(Regression),
}

/// How a spec fell behind what was taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Regression {
    /// Its revision is lower.
    #[error("the object is at revision {offered}, this node has adopted {adopted}: the API server's data is older than the node")]
    Lower {
        /// What was taken over.
        adopted: u64,
        /// What the object says.
        offered: u64,
    },
    /// Its revision is the same, its content is not.
    #[error("the object's revision {revision} lists other addresses than the revision {revision} that this node has adopted")]
    OtherContent {
        /// The number.
        revision: u64,
    },
}

/// Judges what a spec offers against what was taken over, whatever object either came from (safety rule RE3).
#[must_use]
pub fn judge(adopted: Option<&Adopted>, offered: &Adopted) -> Judgement {
    let Some(adopted) = adopted else { return Judgement::Adopt };
    match offered.revision.cmp(&adopted.revision) {
        std::cmp::Ordering::Greater => Judgement::Adopt,
        std::cmp::Ordering::Less => Judgement::Regressed(Regression::Lower { adopted: adopted.revision, offered: offered.revision }),
        std::cmp::Ordering::Equal if offered.content == adopted.content => Judgement::Unchanged,
        std::cmp::Ordering::Equal => Judgement::Regressed(Regression::OtherContent { revision: offered.revision }),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixture::{all, release, spec},
        *,
    };

    #[test]
    fn re3_neither_a_lower_revision_nor_other_content_of_the_same_is_adopted() {
        let of = |revision, texts: &[&str]| Adopted::of(&spec(revision, texts));
        let adopted = of(7, &["1/10.0.0.1"]);
        assert_eq!(judge(None, &of(0, &[])), Judgement::Adopt);
        assert_eq!(judge(Some(&adopted), &of(8, &[])), Judgement::Adopt);
        assert_eq!(judge(Some(&adopted), &of(7, &["1/10.0.0.1"])), Judgement::Unchanged);
        assert_eq!(judge(Some(&adopted), &of(7, &["1/10.0.0.2"])), Judgement::Regressed(Regression::OtherContent { revision: 7 }));
        let lower = Judgement::Regressed(Regression::Lower { adopted: 7, offered: 6 });
        assert_eq!(judge(Some(&adopted), &of(6, &["1/10.0.0.1"])), lower);
    }

    #[test]
    fn re3_content_is_the_same_number_in_every_version() {
        let numbers = ["10/10.0.0.10", "2/255.255.255.255", "2/10.0.0.2", "2/10.0.0.2", "255/255.255.255.255"];
        let full = AzureVnetNodeSpec { lost: all(&["7/10.0.0.7"]), release: vec![release(3, &["2/10.0.0.2"])], ..spec(1, &numbers) };
        let text = "addresses 10/10.0.0.10,2/10.0.0.2,2/255.255.255.255,255/255.255.255.255\nlost 7/10.0.0.7\nrelease 3 n3 2/10.0.0.2";
        let fnv = |text: &str| {
            text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        };
        assert_eq!(content(&full), fnv(text));
        assert_eq!(content(&AzureVnetNodeSpec::default()), fnv("addresses \nlost "));
        assert_eq!(content(&spec(1, &["255/255.255.255.240/28", "2/10.0.0.2"])), fnv("addresses 2/10.0.0.2,255/255.255.255.240/28\nlost "));
    }

    #[test]
    fn re3_content_is_addresses_releases_and_losses_and_not_their_order() {
        let one = AzureVnetNodeSpec { release: vec![release(3, &["2/10.0.0.2"])], ..spec(1, &["1/10.0.0.1", "2/10.0.0.2"]) };
        let other = AzureVnetNodeSpec { revision: 9, addresses: all(&["2/10.0.0.2", "1/10.0.0.1"]), ..one.clone() };
        assert_eq!(content(&one), content(&other));
        assert_ne!(content(&one), content(&AzureVnetNodeSpec { release: vec![release(4, &["2/10.0.0.2"])], ..one.clone() }));
        assert_ne!(content(&one), content(&AzureVnetNodeSpec { lost: all(&["1/10.0.0.1"]), ..one.clone() }));
    }
}
