//! One node's pool.

use azure_vnet_crds::node::IntentOp;
use azure_vnet_operator_core::look::{self, NodeView, ago, carried};
use maud::{Markup, html};

use super::{
    Look, counts, document,
    draw::{Slot, slots},
    events, moment,
};

/// One node's pool in full; `None` where nothing has the name.
#[must_use]
pub fn node(look: &Look, name: &str) -> Option<String> {
    let view = look::node(&look.cluster, name)?;
    let max = look.cluster.pool(name).map_or(0, |pool| pool.spec.effective.pool.max);
    let body = html! {
        header {
            p { a href="/" { "← all nodes" } }
            h1 { (view.row.name) }
            p { @if view.row.ready { span.good { "✓ " (view.row.reason) } } @else { span.bad { "✗ " (view.row.reason) } } }
            p.quiet { (moment(view.at)) }
        }
        main {
            section aria-labelledby="addresses" {
                h2 id="addresses" { "Addresses" }
                (counts(&view.row.counts, "of this node"))
                p { "Its pods need " (view.row.demand) "." }
            }
            section aria-labelledby="slots" {
                h2 id="slots" { "IP configurations of the NIC" }
                (slots(&map(&view, max)))
            }
            (facts(&view))
            (conditions(&view))
            section aria-labelledby="events" {
                h2 id="events" { "Events" }
                (events(view.events.iter().rev(), view.at, look.leads))
            }
        }
    };
    Some(document(&format!("{name} · azure-vnet"), &body))
}

/// Every slot that the node may use, and each beyond that is used.
fn map(view: &NodeView, max: u16) -> Vec<(u8, Slot, String)> {
    let intent = view.intent.as_ref();
    let added = |slot: u8| intent.is_some_and(|intent| intent.op == IntentOp::Add && intent.add.contains(&slot));
    let removed = |slot: u8| intent.is_some_and(|intent| intent.remove.iter().any(|at| at.slot == slot));
    let released = |slot: u8| view.release.iter().any(|release| release.addresses.iter().any(|at| at.slot == slot));
    let of = |slot: u8| {
        let published = view.addresses.iter().find(|row| row.slot.slot == slot).map(|row| row.slot);
        let lost = view.lost.iter().find(|at| at.slot == slot).copied();
        let leaving = released(slot) || removed(slot);
        match (lost, published) {
            (Some(at), _) => (Slot::Lost, carried(at)),
            (None, at) if leaving => (Slot::Leaving, at.map(carried).unwrap_or_default()),
            (None, Some(at)) => (Slot::Published, carried(at)),
            (None, None) if added(slot) => (Slot::Coming, String::new()),
            (None, None) => (Slot::Empty, String::new()),
        }
    };
    let all = (1..=u8::MAX).map(|slot| (slot, of(slot)));
    all.filter(|(slot, (kind, _))| u16::from(*slot) <= max || *kind != Slot::Empty).map(|(slot, (kind, at))| (slot, kind, at)).collect()
}

fn facts(view: &NodeView) -> Markup {
    html! {
        section aria-labelledby="facts" {
            h2 id="facts" { "The machine" }
            dl {
                dt { "NIC" } dd { (view.nic_id) }
                dt { "Subnet" } dd { (view.subnet_id) }
                dt { "Own address" } dd { (view.primary) }
                dt { "Pool" } dd { "revision " (view.revision.0) ", the node has " (view.revision.1) }
                @if let Some(at) = view.last_read { dt { "NIC read" } dd { (ago(at, view.at)) " ago" } }
                @if let Some(intent) = &view.intent {
                    dt { "Under way" }
                    dd { "write " (intent.id) ": " (intent.add.len()) " added, " (intent.remove.len()) " removed" }
                }
                @if let Some(error) = &view.last_error {
                    dt { "Last failure" }
                    dd { strong { (error.code) } " " (error.message) " " em { (error.action) } }
                }
            }
        }
    }
}

fn conditions(view: &NodeView) -> Markup {
    html! {
        section aria-labelledby="conditions" {
            h2 id="conditions" { "Conditions" }
            table {
                thead { tr { th scope="col" { "Condition" } th scope="col" { "Status" } th scope="col" { "Reason" } th scope="col" { "Message" } th scope="col" { "Since" } } }
                tbody {
                    @for found in &view.conditions {
                        tr {
                            th scope="row" { (found.type_) }
                            td { (found.status) }
                            td { (found.reason) }
                            td { (found.message) }
                            td { (ago(found.last_transition_time.0, view.at)) }
                        }
                    }
                }
            }
        }
    }
}
