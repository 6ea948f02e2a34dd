//! What can be chosen of a lab. The choice lies in the lab's folder, where all of its processes read it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::run::write;

/// Which CNI plugins the nodes start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
pub enum Cni {
    /// None: nodes are not ready, as on AKS with `--network-plugin none`.
    #[default]
    None,
    /// The reference plugins `bridge` and `host-local`.
    Bridge,
    /// A stand-in for the original azure-vnet, in transparent mode.
    Original,
}

/// How kube-proxy programs the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// With nftables.
    #[default]
    Nftables,
    /// With iptables, as AKS does.
    Iptables,
}

/// What can be chosen of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct LabOptions {
    /// The plugins that nodes start with.
    #[arg(long, value_enum, default_value_t)]
    pub cni: Cni,
    /// How many nodes: of a Uniform scale set, a Flexible one and stand-alone in turn.
    #[arg(long, default_value_t = NODES, value_parser = clap::value_parser!(u8).range(1..=30))]
    pub nodes: u8,
    /// How kube-proxy programs the kernel.
    #[arg(long, value_enum, default_value_t)]
    pub kube_proxy: KubeProxy,
    /// What kube-proxy takes for pods; AKS says 10.244.0.0/16 unless told otherwise.
    #[arg(long, default_value_t = vnet())]
    pub cluster_cidr: Ipv4Net,
    /// The nodes' subnet, which begins as the virtual network does.
    #[arg(long, default_value_t = vnet())]
    pub subnet: Ipv4Net,
    /// Runs the operator as it ships, whose build takes minutes, instead of one that is built quickly.
    #[arg(long)]
    pub shipped: bool,
    /// Also brings the image of the version before this one: `lab.test/azure-vnet:earlier`.
    #[arg(long)]
    pub earlier: bool,
    /// Whether the lab outlives the process that made it.
    #[arg(skip)]
    pub detached: bool,
}

const NODES: u8 = 3;
const FILE: &str = "options";

/// The lab's virtual network.
fn vnet() -> Ipv4Net {
    super::plan::VNET.parse().unwrap_or_default()
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            cni: Cni::None,
            nodes: NODES,
            kube_proxy: KubeProxy::Nftables,
            cluster_cidr: vnet(),
            subnet: vnet(),
            shipped: false,
            earlier: false,
            detached: false,
        }
    }
}

impl LabOptions {
    /// Writes the choice into a lab's folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, state: &Path) -> Result<()> {
        write(state.join(FILE), &serde_json::to_string(self)?)
    }

    /// Reads the choice from a lab's folder.
    ///
    /// # Errors
    /// If it is not there.
    pub fn load(state: &Path) -> Result<Self> {
        let file = state.join(FILE);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl KubeProxy {
    /// As kube-proxy's configuration spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}
