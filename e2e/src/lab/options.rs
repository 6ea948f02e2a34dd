//! What can be chosen of a lab.

/// Which CNI plugins the nodes start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Cni {
    /// None: nodes are not ready, as on AKS with `--network-plugin none`.
    #[default]
    None,
    /// The reference plugins `bridge` and `host-local`.
    Bridge,
}

/// What can be chosen of a lab.
#[derive(Debug, Clone, Copy, Default)]
pub struct LabOptions {
    /// The nodes' plugins.
    pub cni: Cni,
    /// Whether the lab outlives the process that made it.
    pub detached: bool,
}

impl Cni {
    /// As it is written on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bridge => "bridge",
        }
    }
}
