//! Keeps the host as pods need it: sysctls, rules, routes, and last the CNI configuration. Each step reports for itself; one that fails does
//! not keep the next from being tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    config::{Backend, HostSpec},
};
use azure_vnet_operator_core::{
    conflist as plan,
    contest::Contests,
    rules::{Forward, Masquerade, Policy, parse_nets},
};
use tracing::{info, warn};

use super::{
    Options,
    clocks::since_boot,
    conflist::{self, Found, Versions},
    firewall::Firewall,
    kernel::{Kernel, View},
    logs,
    plugins::Plugins,
    problems::{News, Problems, Topic},
    sysctl,
};

/// What the agent keeps on the host.
#[derive(Debug, Default)]
pub struct Host {
    firewall: Firewall,
    versions: Versions,
    /// What the rules were last brought to, and by which back end.
    policy: Option<(Policy, Backend)>,
    /// Of which settings, and of which link, the kernel's were last brought to what they should be.
    settings: Option<(HostSpec, Option<String>)>,
    /// Whether the host was once as it should be: what differs later was changed by somebody else.
    settled: bool,
    /// The CNI configuration that is in place.
    placed: Option<String>,
    plugins: Plugins,
    contests: Contests,
    /// Whether there is a link with the MAC that the node's NIC should have.
    nic_missing: Option<String>,
    /// How often each was set back since the start.
    pub repairs: BTreeMap<Kept, u64>,
    /// What is to be told once.
    pub news: Vec<News>,
}

/// What of the host is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Chains of iptables and the jumps to them.
    Rules,
    /// Settings of the kernel.
    Sysctl,
    /// The uplinks of bridges.
    Bridges,
    /// The CNI configuration.
    Conflist,
    /// The plugins' files.
    Plugins,
}

impl Kept {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Rules, Self::Sysctl, Self::Bridges, Self::Conflist, Self::Plugins];

    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Sysctl => "sysctl",
            Self::Bridges => "bridges",
            Self::Conflist => "conflist",
            Self::Plugins => "plugins",
        }
    }
}

/// Whether to look for what others changed, or only to follow our own changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Compare everything.
    ForDrift,
    /// Only what our own policy changes.
    ForChanges,
}

impl Host {
    /// Brings sysctls, rules and routes to what the spec asks for. `held` are addresses that pods have.
    pub fn converge(
        &mut self,
        options: &Options,
        (kernel, view): (&mut Kernel, &View),
        spec: &AzureVnetNodeSpec,
        (addresses, held): (&BTreeSet<Ipv4Addr>, &BTreeSet<Ipv4Addr>),
        (look, problems): (Look, &mut Problems),
    ) {
        let nic = view.nic(&spec.node.mac);
        self.nic_missing = nic.is_none().then(|| spec.node.mac.clone());
        let mended =
            problems.check(Topic::RulesInSync, "BridgeFailed", kernel.mend_bridges(view, &options.proc_sys_net)).unwrap_or_default();
        let bridges = mended.into_iter().filter_map(|bridge| problems.check(Topic::RulesInSync, "BridgeFailed", bridge));
        let bridges: Vec<String> = bridges.map(|bridge| format!("the uplink of bridge {bridge}")).collect();
        let mut differed = BTreeMap::from([(Kept::Bridges, bridges)]);
        let set = sysctl::converge(&options.proc_sys_net, &options.run_dir, &spec.effective.host, nic);
        if let Some(set) = problems.check(Topic::RulesInSync, "SysctlFailed", set) {
            let settings = Some((spec.effective.host.clone(), nic.map(str::to_owned)));
            if self.settings == settings {
                differed.insert(Kept::Sysctl, set);
            } else if !set.is_empty() {
                info!(set = set.join(", "), "set what this node is asked for");
            }
            self.settings = settings;
        }
        let backend = spec.effective.masquerade.backend;
        let policy = (policy(spec, addresses.union(held).copied().collect(), problems), backend);
        if look == Look::ForDrift || self.policy.as_ref() != Some(&policy) {
            let ours = self.policy.as_ref() != Some(&policy);
            let done = self.firewall.converge(backend, &policy.0);
            if let Some(rules) = problems.check(Topic::RulesInSync, "IptablesFailed", done) {
                self.policy = Some(policy);
                if !ours {
                    differed.insert(Kept::Rules, rules);
                }
            }
        }
        let routes = kernel.converge_unreachable(view, addresses);
        problems.check(Topic::RulesInSync, "RoutesFailed", routes);
        for (kept, differed) in differed.iter().filter(|(_, differed)| !differed.is_empty()) {
            if self.settled {
                self.mended(*kept, differed);
            } else {
                info!(set = differed.join(", "), "prepared the host");
            }
        }
        self.settled |= problems.none(Topic::RulesInSync);
    }

    /// What another program keeps changing.
    pub fn contested(&mut self) -> Vec<String> {
        self.contests.contested(since_boot())
    }

    /// Rules of others that decide about pods before ours.
    #[must_use]
    pub fn foreign_rules(&self) -> usize {
        self.firewall.foreign.len()
    }

    fn mended(&mut self, kept: Kept, things: &[String]) {
        *self.repairs.entry(kept).or_default() += 1;
        let things = self.contests.mended(since_boot(), things).join(", ");
        if !things.is_empty() {
            warn!(things, "mended what another program changed");
            self.news.push(News { reason: "Mended", note: format!("another program changed {things}; set back") });
        }
    }

    /// Says what is in order, and yet worth knowing.
    pub fn remark(&mut self, problems: &mut Problems) {
        if let Some(mac) = &self.nic_missing {
            let message = format!("no link of this node has the MAC {mac} of its NIC in Azure: its settings cannot be kept");
            problems.remark(Topic::RulesInSync, "NicMissing", message);
        }
        let contested = self.contested();
        if !contested.is_empty() {
            let message =
                format!("another program keeps changing {}; it is set back each time: find that program and stop it", contested.join(", "));
            problems.remark(Topic::RulesInSync, "Contested", message);
        }
        if !self.firewall.foreign.is_empty() {
            let rules = self.firewall.foreign.join("; ");
            let message = format!("rules of other programs decide about pods before ours do, and were left: {rules}");
            problems.remark(Topic::RulesInSync, "ForeignRules", message);
        }
    }

    /// Writes the CNI configuration: for the first time only on a host that is ready for pods, later whenever it drifts.
    pub fn place_conflist(&mut self, options: &Options, spec: &AzureVnetNodeSpec, problems: &mut Problems) {
        if self.placed.is_none() && !problems.none(Topic::RulesInSync) {
            problems.note(Topic::ConflistInPlace, "HostNotReady", "the CNI configuration waits for the host's rules".into());
            return;
        }
        let Some(desired) = problems.check(Topic::ConflistInPlace, "ConfigInvalid", plan::desire(&spec.effective.cni)) else { return };
        self.keep_plugins(options, problems);
        let folders = (options.cni_bin_dir.as_path(), options.cni_conf_dir.as_path());
        if desired.is_bridged && !options.proc_sys_net.join(plan::BRIDGE_NETFILTER).exists() {
            // An agent before this one may have placed it.
            self.placed = self.placed.take().or_else(|| conflist::unbridged(&desired.file, folders, &mut self.versions));
            let message = format!(
                "mode {:?} needs the kernel module br_netfilter, which the node has not loaded: run modprobe br_netfilter there, and name it in a file of \
                 /etc/modules-load.d for later boots; until then the CNI configuration stays as it is",
                spec.effective.cni.mode
            );
            return problems.note(Topic::ConflistInPlace, "BridgeNetfilterMissing", message);
        }
        let converged = conflist::converge(&desired, folders, &mut self.versions, self.placed.as_deref());
        let Some((found, text)) = problems.check(Topic::ConflistInPlace, "PluginMissing", converged) else { return };
        match (found, &self.placed) {
            (Found::Same, _) => {}
            (Found::Missing | Found::Other, Some(_)) => self.mended(Kept::Conflist, &[desired.file.as_str().to_owned()]),
            (Found::Missing | Found::Other, None) | (Found::Former, _) => info!(file = desired.file.as_str(), "CNI configuration written"),
        }
        self.placed = Some(text);
        let Ok(others) = conflist::shadowing(&desired.file, &options.cni_conf_dir) else { return };
        if !others.is_empty() {
            let message = format!(
                "the runtime reads {} instead of {}: remove what is not meant, or set spec.cni.confName to a name that sorts before",
                others.join(", "),
                desired.file.as_str()
            );
            problems.note(Topic::ConflistInPlace, "Shadowed", message);
        }
    }

    /// A plugin that cannot be put back, and still answers, does not keep pods from starting.
    fn keep_plugins(&mut self, options: &Options, problems: &mut Problems) {
        let Some(from) = &options.install_from else { return };
        let differed = self.plugins.converge(from, &options.cni_bin_dir);
        match problems.check(Topic::ConflistInPlace, "PluginBroken", differed) {
            Some(differed) if !differed.is_empty() => self.mended(Kept::Plugins, &differed),
            Some(_) | None => {}
        }
    }

    /// Whether the CNI configuration is in place.
    #[must_use]
    pub fn placed(&self) -> bool {
        self.placed.is_some()
    }

    /// What is to be done now and then.
    pub fn tidy(options: &Options) {
        if let Err(error) = logs::rotate(&options.log_dir) {
            warn!(%error, "cannot rotate the plugins' logs");
        }
    }
}

fn policy(spec: &AzureVnetNodeSpec, pool: BTreeSet<Ipv4Addr>, problems: &mut Problems) -> Policy {
    // A dual-stack VNET also has IPv6 prefixes, which are no business of these rules.
    let (mut vnet, _ipv6) = parse_nets(&spec.node.vnet_cidrs);
    if !vnet.is_empty() {
        vnet.extend(spec.node.subnet_prefix.parse::<ipnet::Ipv4Net>());
    }
    let (masquerade, refused) = Masquerade::parse(&spec.effective.masquerade);
    if !refused.is_empty() {
        let message =
            format!("no IPv4 prefixes, and left out of the masquerading rules: {}; correct the AzureVnetConfig", refused.join(", "));
        problems.note(Topic::RulesInSync, "PrefixInvalid", message);
    }
    let forward = match spec.effective.host.forward_accept {
        azure_vnet_crds::config::Enforcement::Enforce => Forward::Accept,
        azure_vnet_crds::config::Enforcement::Ignore => Forward::Leave,
    };
    Policy { pool, vnet, masquerade, forward }
}
