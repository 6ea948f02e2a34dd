//! Slots in words that stay short however many there are, as the note of an event must be; and how such words are read.

use super::{name_of, slot_of};

/// The names of slots, in ascending order: of more than two in a row the first and the last.
#[must_use]
pub fn runs(slots: &[u8]) -> String {
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots.dedup();
    let runs = slots.chunk_by(|one, next| one.saturating_add(1) == *next);
    let told = runs.map(|run| match run {
        [first, _, .., last] => format!("{} to {}", name_of(*first), name_of(*last)),
        few => few.iter().map(|slot| name_of(*slot)).collect::<Vec<_>>().join(", "),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Whether a text names a slot, by itself or in a run.
#[must_use]
pub fn tells_of(text: &str, slot: u8) -> bool {
    let words: Vec<&str> = text.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let in_run = |words: &[&str]| match words {
        [first, "to", last] => slot_of(first).zip(slot_of(last)).is_some_and(|(first, last)| (first..=last).contains(&slot)),
        _ => false,
    };
    words.iter().any(|word| slot_of(word) == Some(slot)) || words.windows(3).any(in_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_slots_is_told_by_its_ends() {
        assert_eq!(runs(&[3]), "avn-3");
        assert_eq!(runs(&[4, 3]), "avn-3, avn-4");
        assert_eq!(runs(&[9, 1, 2, 3, 7]), "avn-1 to avn-3, avn-7, avn-9");
        assert_eq!(runs(&[254, 255, 253]), "avn-253 to avn-255");
        assert_eq!(runs(&[]), "");
    }

    #[test]
    fn every_slot_that_is_told_is_found_and_no_other() {
        for slots in [vec![1, 2, 3, 7, 9], (1..=255).collect(), (1..=255).step_by(2).collect(), vec![1, 2, 11]] {
            let text = format!("attached {} addresses: {} (write 7 of 2026-11-21T07:01:09Z)", slots.len(), runs(&slots));
            let found: Vec<u8> = (0..=255).filter(|slot| tells_of(&text, *slot)).collect();
            assert_eq!(found, slots, "{text}");
        }
    }
}
