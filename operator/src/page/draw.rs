//! Pictures: bars, tiles, maps of slots. Each says in text what it shows.

use azure_vnet_operator_core::look::{Counts, NodeRow};
use maud::{Markup, html};

/// A share of a bar. Its name is also what the style colours it by.
pub struct Part {
    pub name: &'static str,
    pub count: u32,
}

impl Part {
    /// The class of its colour.
    fn class(&self) -> &'static str {
        match self.name {
            "used" | "ours" | "spent" => "used",
            "resting" | "of others" => "resting",
            "leaving" => "leaving",
            "free" | "left" => "free",
            _ => "none",
        }
    }
}

/// The states of a pool's addresses.
pub fn parts(counts: &Counts) -> [Part; 4] {
    [
        Part { name: "used", count: counts.used },
        Part { name: "resting", count: counts.cooling },
        Part { name: "leaving", count: counts.leaving },
        Part { name: "free", count: counts.free },
    ]
}

/// Parts of a whole beside one another.
pub fn bar(parts: &[Part], of: &str) -> Markup {
    let whole = parts.iter().map(|part| part.count).sum::<u32>().max(1);
    let said: Vec<String> = parts.iter().filter(|part| part.count > 0).map(|part| format!("{} {}", part.count, part.name)).collect();
    let said = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
    let widths = parts.iter().scan(0, |at, part| {
        let from = *at;
        *at += part.count;
        Some((part, from))
    });
    html! {
        svg.bar role="img" viewBox={ "0 0 " (whole) " 1" } preserveAspectRatio="none" aria-label={ (of) ": " (said) } {
            title { (of) ": " (said) }
            @for (part, from) in widths {
                @if part.count > 0 { rect class=(part.class()) x=(from) y="0" width=(part.count) height="1" {} }
            }
        }
    }
}

/// What the colours mean, with the numbers.
pub fn legend(parts: &[Part]) -> Markup {
    html! {
        ul.legend {
            @for part in parts.iter().filter(|part| part.count > 0) {
                li { span.swatch.(part.class()) aria-hidden="true" {} (part.count) " " (part.name) }
            }
        }
    }
}

/// A node as a tile that fills up.
pub fn tile(row: &NodeRow) -> Markup {
    let Counts { attached, used, cooling, leaving, .. } = row.counts;
    let taken = (used + cooling + leaving).min(attached);
    let percent = (taken * 100).checked_div(attached).unwrap_or(0);
    let state = if row.ready { "ready" } else { row.reason.as_str() };
    let said = format!("{}: {used} of {attached} used, {state}", row.name);
    let level = match percent {
        0..=24 => "a",
        25..=49 => "b",
        50..=74 => "c",
        75..=94 => "d",
        _ => "e",
    };
    html! { a.tile.(level).unready[!row.ready && row.config.is_some()].absent[row.config.is_none()] href={ "/nodes/" (row.name) } title=(said) aria-label=(said) {} }
}

/// What a slot of a NIC is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// No address of ours.
    Empty,
    /// Pods may have it.
    Published,
    /// On its way to the NIC.
    Coming,
    /// On its way back to the subnet.
    Leaving,
    /// Vanished from the NIC.
    Lost,
}

impl Slot {
    fn class(self) -> &'static str {
        match self {
            Self::Empty => "none",
            Self::Published => "used",
            Self::Coming => "coming",
            Self::Leaving => "leaving",
            Self::Lost => "lost",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Published => "published",
            Self::Coming => "coming",
            Self::Leaving => "leaving",
            Self::Lost => "lost",
        }
    }
}

/// Slots in rows of 16, each with its number and its address.
pub fn slots(slots: &[(u8, Slot, String)]) -> Markup {
    html! {
        ol.slots {
            @for (number, slot, address) in slots {
                li class=(slot.class()) title={ "avn-" (number) " " (address) " " (slot.name()) } {
                    span.hidden { "avn-" (number) " " (address) " " (slot.name()) }
                }
            }
        }
        ul.legend {
            @for kind in [Slot::Published, Slot::Coming, Slot::Leaving, Slot::Lost, Slot::Empty] {
                @let count = slots.iter().filter(|(_, slot, _)| *slot == kind).count();
                @if count > 0 { li { span.swatch.(kind.class()) aria-hidden="true" {} (count) " " (kind.name()) } }
            }
        }
    }
}
