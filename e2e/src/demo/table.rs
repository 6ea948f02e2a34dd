//! The demo's tables, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::scenario::{Burst, Handshake, Matrix, Pod};

/// Pods with their addresses and where in Azure these are.
pub fn addresses(rows: &BTreeMap<(String, Ipv4Addr), (String, String)>) -> String {
    let mut text = format!("{:<6} {:<14} {:<24} IP configuration in Azure\n", "node", "address", "pod");
    for ((node, address), (pod, config)) in rows {
        let short = config.rsplit_once("/providers/").map_or(config.as_str(), |(_, short)| short);
        let _ = writeln!(text, "{node:<6} {:<14} {pod:<24} {short}", address.to_string());
    }
    text
}

/// One row a pod: a mark for each other pod, then the places outside with the address that they saw.
pub fn reachability(pods: &[Pod], matrix: &Matrix) -> String {
    let mut text = format!("{:<24} {:<6} {:<14}", "from", "node", "pods (. reached)");
    let places: Vec<&str> = matrix.places.values().next().map(|row| row.keys().copied().collect()).unwrap_or_default();
    for place in &places {
        let _ = write!(text, "  {:<18}", format!("{place} saw"));
    }
    text.push('\n');
    for pod in pods {
        let marks: String = matrix
            .pods
            .get(&pod.name)
            .map(|row| row.values().map(|answer| if answer.is_ok() { '.' } else { 'X' }).collect())
            .unwrap_or_default();
        let _ = write!(text, "{:<24} {:<6} {marks:<16}", pod.name, pod.node);
        for place in &places {
            let seen = match matrix.places.get(&pod.name).and_then(|row| row.get(place)) {
                Some(Ok(answer)) => answer.seen.clone(),
                Some(Err(_)) | None => "unreached".to_owned(),
            };
            let _ = write!(text, "  {seen:<18}");
        }
        text.push('\n');
    }
    text
}

/// What a burst cost in Azure.
pub fn burst(burst: &Burst) -> String {
    let mut text = format!(
        "{} pods ran after {:.1} s; {} writes to the NIC, which now carries {} addresses of ours\n",
        burst.pods,
        burst.took.as_secs_f64(),
        burst.writes.len(),
        burst.attached
    );
    for write in &burst.writes {
        let _ = writeln!(
            text,
            "  write at {:.1} s: {} added, {} removed",
            f64::from(u32::try_from(write.at_millis).unwrap_or(u32::MAX)) / 1000.0,
            write.added.len(),
            write.removed.len()
        );
    }
    text
}

/// A release from the request to Azure's confirmation.
pub fn handshake(handshake: &Handshake) -> String {
    let mut text = String::new();
    for (after, event) in &handshake.seen {
        let _ = writeln!(text, "{:>6.1} s  {event}", after.as_secs_f64());
    }
    let (most, now) = handshake.attached;
    let _ = writeln!(text, "addresses of ours on the NIC: {most} at most, as used ones rest before pods get them again; {now} now");
    text
}
