//! The status page: a cluster as pictures, from what the controller knows already. A function from a [`Look`] to a document: no script, nothing
//! from elsewhere, every picture with its numbers as text.

mod draw;
mod node;
#[cfg(test)]
mod tests;

use axum::http::{HeaderName, header};
use azure_vnet_operator_core::look::{self, Cluster, ConfigRow, Counts, Event, NodeRow, Overview, Problem, SubnetRow, ago};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::azure::Level;
use draw::{Part, bar, legend, tile};
pub use node::node;

/// What a page is served with: nothing counts but its own style.
pub const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What a page shows.
#[derive(Debug, Default)]
pub struct Look {
    /// The cluster; without pods and Services.
    pub cluster: Cluster,
    /// Azure's budgets, if this replica spends them.
    pub budgets: Vec<Level>,
    /// Whether this replica leads.
    pub leads: bool,
    /// This replica.
    pub replica: String,
}

/// Lines of a list of which there may be thousands.
const SHOWN: usize = 40;

/// The cluster at a glance.
#[must_use]
pub fn overview(look: &Look) -> String {
    let Look { cluster, budgets, leads, replica } = look;
    let seen = look::overview(cluster);
    let rows = look::nodes(cluster);
    let body = html! {
        header {
            h1 { "azure-vnet" }
            p { (summary(&seen)) }
            p.quiet { (moment(seen.at)) " · " (replica) @if *leads { " leads" } @else { " does not lead" } " · " a href="/" { "read again" } }
        }
        main {
            (problems(&seen))
            section aria-labelledby="addresses" {
                h2 id="addresses" { "Addresses" }
                (counts(&seen.addresses, "of all nodes"))
            }
            section aria-labelledby="subnets" {
                h2 id="subnets" { "Subnets" }
                @if seen.subnets.is_empty() { p.quiet { "No node has told its subnet yet." } }
                div.cards { @for row in &seen.subnets { (subnet(cluster, row, seen.at)) } }
            }
            section aria-labelledby="nodes" {
                h2 id="nodes" { "Nodes" }
                p.quiet { "A tile turns from green to blue as its node's addresses are used, and orange where none is left; a red frame: pods cannot start." }
                @for config in &seen.configs { (config_nodes(config, &rows)) }
                (others(&rows))
                (tightest(&seen.tightest))
            }
            section aria-labelledby="budgets" {
                h2 id="budgets" { "Azure's budgets" }
                (gauges(budgets, *leads))
            }
            section aria-labelledby="events" {
                h2 id="events" { "Events" }
                (events(cluster.events.iter().rev().take(SHOWN), cluster.at, *leads))
            }
        }
    };
    document("azure-vnet", &body)
}

/// What is answered for a node that is not there.
#[must_use]
pub fn no_node(name: &str) -> String {
    let body = html! { header { h1 { "There is no node " (name) } p { a href="/" { "all nodes" } } } };
    document("azure-vnet", &body)
}

fn document(title: &str, body: &Markup) -> String {
    let style = PreEscaped(include_str!("page/style.css"));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (style) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

fn moment(at: Timestamp) -> Markup {
    let text = at.to_string();
    html! { time datetime=(text) { (text.replace('T', " ")) } }
}

fn summary(seen: &Overview) -> String {
    let nodes = seen.nodes;
    let short = if nodes.short == 0 { String::new() } else { format!(", {} short of addresses", nodes.short) };
    let full = if nodes.at_capacity == 0 { String::new() } else { format!(", {} at capacity", nodes.at_capacity) };
    let rest = if nodes.not_served == 0 { String::new() } else { format!(", {} not served", nodes.not_served) };
    format!("{} of {} nodes ready{short}{full}{rest}", nodes.ready, nodes.all)
}

fn problems(seen: &Overview) -> Markup {
    let line = |problem: &Problem| {
        html! {
            li {
                strong { (problem.of) ": " (problem.what) }
                @if let Some(since) = problem.since { span.quiet { " for " (ago(since, seen.at)) } }
                p { (problem.message) }
            }
        }
    };
    html! {
        section aria-label="What stands in the way" {
            @if seen.problems.is_empty() && !seen.configs.is_empty() {
                p.good { "✓ Nothing stands in the way." }
            } @else if seen.configs.is_empty() {
                p.bad { "✗ There is no AzureVnetConfig: no node is served until there is one." }
            }
            @if !seen.problems.is_empty() {
                ul.problems { @for problem in seen.problems.iter().take(SHOWN) { (line(problem)) } }
                (more(seen.problems.len()))
            }
        }
    }
}

fn more(all: usize) -> Markup {
    html! { @if all > SHOWN { p.quiet { "… and " (all - SHOWN) " more" } } }
}

/// The addresses of a node, or of several, as one bar with its legend.
fn counts(counts: &Counts, of: &str) -> Markup {
    let Counts { attached, target, used, free, cooling, leaving, lost } = *counts;
    let other = attached.saturating_sub(used + free + cooling + leaving);
    let parts = [
        Part { name: "used", count: used },
        Part { name: "resting", count: cooling },
        Part { name: "leaving", count: leaving },
        Part { name: "free", count: free },
        Part { name: "on their way to the node", count: other },
    ];
    html! {
        (bar(&parts, &format!("{attached} addresses {of}")))
        (legend(&parts))
        p { (attached) " attached, " (target) " wanted" @if lost > 0 { ", " strong.bad { (lost) " lost" } } }
    }
}

fn subnet(cluster: &Cluster, row: &SubnetRow, now: Timestamp) -> Markup {
    let status = cluster.subnet(&row.id).and_then(|subnet| subnet.status.clone()).unwrap_or_default();
    let used = row.left.zip(row.size).map_or(row.ours, |(left, size)| size.saturating_sub(left)).max(row.ours);
    let left = row.left.unwrap_or_else(|| row.size.unwrap_or(used).saturating_sub(used));
    let parts = [
        Part { name: "ours", count: row.ours },
        Part { name: "of others", count: used - row.ours },
        Part { name: if row.left.is_some() { "left" } else { "not ours" }, count: left },
    ];
    let until = status.exhausted_at.as_ref().map(|at| ago(now, at.0));
    html! {
        article.card {
            h3 title=(row.id) { (row.name) }
            p.quiet { (row.prefix) }
            (bar(&parts, &format!("subnet {}", row.name)))
            (legend(&parts))
            p {
                (row.nodes) @if row.nodes == 1 { " node" } @else { " nodes" }
                @if let Some(room) = row.room_for_nodes { ", room for " (room) " more" }
                @if let Some(burn) = status.burn_per_hour.filter(|burn| *burn > 0) { ", " (burn) " more an hour" }
                @if let Some(until) = until { ", empty in " (until) }
            }
            @if row.needs > 0 { p.bad { "✗ needs " (row.needs) " addresses more than it has: add a prefix to the subnet" } }
        }
    }
}

fn config_nodes(config: &ConfigRow, rows: &[NodeRow]) -> Markup {
    let own: Vec<&NodeRow> = rows.iter().filter(|row| row.config.as_ref() == Some(&config.name)).collect();
    html! {
        h3 { (config.name) " " span.badge { (config.mode) } }
        @if own.is_empty() { p.quiet { "It counts for no node." } }
        div.tiles { @for row in own { (tile(row)) } }
    }
}

fn others(rows: &[NodeRow]) -> Markup {
    let others: Vec<&NodeRow> = rows.iter().filter(|row| row.config.is_none()).collect();
    html! {
        @if !others.is_empty() {
            h3 { "not served" }
            div.tiles { @for row in others { (tile(row)) } }
        }
    }
}

fn tightest(rows: &[NodeRow]) -> Markup {
    html! {
        @if !rows.is_empty() {
            table {
                caption { "The least free first" }
                thead { tr { th scope="col" { "Node" } th scope="col" { "Kind" } th scope="col" { "Addresses" } th.number scope="col" { "Used" } th.number scope="col" { "Free" } th scope="col" { "State" } } }
                tbody {
                    @for row in rows.iter().take(SHOWN) {
                        tr {
                            th scope="row" { a href={ "/nodes/" (row.name) } { (row.name) } }
                            td { (row.kind) }
                            td { (bar(&draw::parts(&row.counts), &row.name)) }
                            td.number { (row.counts.used) }
                            td.number { (row.counts.free) }
                            td { @if row.ready { span.good { "✓ " (row.reason) } } @else { span.bad { "✗ " (row.reason) } } }
                        }
                    }
                }
            }
            (more(rows.len()))
        }
    }
}

fn gauges(budgets: &[Level], leads: bool) -> Markup {
    let several = budgets.iter().any(|level| Some(&level.subscription) != budgets.first().map(|first| &first.subscription));
    html! {
        @if budgets.is_empty() || !leads {
            p.quiet { "The replica that leads spends them; this one does not." }
        } @else {
            p.quiet { "Requests that may be sent at once; beside them a share is left to others." }
            div.cards {
                @for level in budgets {
                    article.card {
                        h3 { (level.class.replace('_', " ")) }
                        @if several { p.quiet { (level.subscription) } }
                        (bar(&[Part { name: "left", count: level.left }, Part { name: "spent", count: level.burst.saturating_sub(level.left) }], level.class))
                        p { (level.left) " of " (level.burst) @if let Some(closed) = level.closed { ", " strong.bad { "closed for " (closed.as_secs()) " s, as Azure asks" } } }
                    }
                }
            }
        }
    }
}

fn events<'a>(events: impl Iterator<Item = &'a Event>, now: Timestamp, leads: bool) -> Markup {
    let events: Vec<&Event> = events.collect();
    html! {
        @if events.is_empty() {
            p.quiet { @if leads { "None since this replica began." } @else { "The replica that leads tells of them; this one does not." } }
        }
        @else {
            table {
                thead { tr { th scope="col" { "When" } th scope="col" { "Of" } th scope="col" { "What" } th scope="col" { "Message" } } }
                tbody {
                    @for event in events {
                        tr {
                            td { @if let Some(at) = event.at { (ago(at, now)) " ago" } }
                            td { (event.name) }
                            td { @if event.warning { span.bad { "⚠ " (event.reason) } } @else { (event.reason) } @if event.count > 1 { " ×" (event.count) } }
                            td { (event.message) }
                        }
                    }
                }
            }
        }
    }
}
