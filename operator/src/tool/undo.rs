//! `node undo-network`: takes the network of bridged pods back, when the plugins are to go or the mode has changed.

use std::fmt;

use anyhow::Context as _;
use azure_vnet_plugin::{
    netlink::Netlink,
    unbridge::{self, Planned, Undone},
};
use azure_vnet_plugin_core::attachment::IfName;
use clap::Args;
use serde::Serialize;

use super::Format;

/// Flags of `node undo-network`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Form of the output.
    #[arg(long, short, default_value = "table", value_name = "FORM")]
    output: Format,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// The bridge; default: each that these plugins made. One of another program's (the original plugins' azure0) is taken away only by its name.
    #[arg(long, value_name = "LINK")]
    bridge: Option<IfName>,
}

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether it was only planned.
    dry_run: bool,
    /// The steps, each with its bridge.
    steps: Vec<String>,
    /// Bridges that stay, and why.
    stay: Vec<String>,
    /// Rules that were removed.
    rules: usize,
}

/// Runs the command.
///
/// # Errors
/// The kernel refuses, or a bridge has to stay.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let mut host = Netlink::open().context("cannot talk to the kernel")?;
    let report = if flags.dry_run {
        Report::planned(unbridge::plan(&mut host, flags.bridge.as_ref())?)
    } else {
        Report::done(unbridge::undo(&mut host, flags.bridge.as_ref())?)
    };
    flags.output.print(&report)?;
    anyhow::ensure!(report.stay.is_empty(), "not all is taken back");
    Ok(())
}

impl Report {
    fn planned(planned: Vec<Planned>) -> Self {
        let mut report = Self { dry_run: true, steps: Vec::new(), stay: Vec::new(), rules: 0 };
        for Planned { bridge, way } in planned {
            match way {
                Ok(way) => report.steps.extend(way.steps.iter().map(|step| format!("{}: {step}", bridge.name))),
                Err(stays) => report.stay.push(stays.to_string()),
            }
        }
        report
    }

    fn done(undone: Undone) -> Self {
        let Undone { steps, stay, rules } = undone;
        let steps = steps.into_iter().map(|(bridge, step)| format!("{bridge}: {step}")).collect();
        Self { dry_run: false, steps, stay: stay.iter().map(ToString::to_string).collect(), rules }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.dry_run { "would" } else { "✓" };
        self.steps.iter().try_for_each(|step| writeln!(f, "{mark} {step}"))?;
        self.stay.iter().try_for_each(|why| writeln!(f, "✗ {why}"))?;
        match (self.dry_run, self.rules) {
            (false, 0) if self.steps.is_empty() && self.stay.is_empty() => writeln!(f, "there is no network of bridged pods"),
            (true, _) | (false, 0) => Ok(()),
            (false, rules) => writeln!(f, "{mark} removed {rules} rules"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::tests::{apart, run as shell};

    fn flags(dry_run: bool, bridge: Option<&str>) -> Flags {
        Flags { output: Format::Json, dry_run, bridge: bridge.map(|name| name.parse().unwrap()) }
    }

    #[test]
    fn a_named_bridge_goes_and_one_of_others_stays() {
        apart(|| {
            run(&flags(false, None)).unwrap();
            shell("ip", &["link", "add", "eth9", "type", "veth", "peer", "name", "eth9p"]);
            shell("ip", &["link", "add", "azure0", "type", "bridge"]);
            shell("ip", &["link", "set", "azure0", "alias", "azure-vnet:bridge eth9"]);
            shell("ip", &["link", "set", "azure0", "up"]);
            shell("ip", &["link", "set", "eth9", "up", "master", "azure0"]);
            shell("ip", &["address", "add", "10.240.0.4/16", "dev", "azure0"]);
            assert!(run(&flags(false, None)).is_err(), "nobody says that it is ours");
            run(&flags(true, Some("azure0"))).unwrap();
            assert!(shell("ip", &["address", "show", "dev", "azure0"]).contains("10.240.0.4/16"), "it was only planned");
            run(&flags(false, Some("azure0"))).unwrap();
            assert!(shell("ip", &["address", "show", "dev", "eth9"]).contains("10.240.0.4/16"));
            assert!(!shell("ip", &["link", "show"]).contains("azure0"));
        });
    }
}
