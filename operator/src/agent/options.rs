//! Where the agent finds the node.

use std::path::PathBuf;

/// Keeps one node: takes over the pool, and keeps rules, sysctls and the CNI configuration in place.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of this node's Node object
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The node's /proc/sys/net, writable
    #[arg(long, default_value = "/host/proc/sys/net", env = "AZURE_VNET_PROC_SYS_NET")]
    pub proc_sys_net: PathBuf,
    /// The node's boot id
    #[arg(long, default_value = "/host/boot_id", env = "AZURE_VNET_BOOT_ID_FILE")]
    pub boot_id_file: PathBuf,
    /// The node store
    #[arg(long, default_value = "/run/azure-vnet", env = "AZURE_VNET_RUN_DIR")]
    pub run_dir: PathBuf,
    /// What survives a reboot
    #[arg(long, default_value = "/var/lib/azure-vnet", env = "AZURE_VNET_STATE_DIR")]
    pub state_dir: PathBuf,
    /// The node's plugin folder
    #[arg(long, default_value = "/opt/cni/bin", env = "AZURE_VNET_CNI_BIN_DIR")]
    pub cni_bin_dir: PathBuf,
    /// Folder with the plugins of this image: what differs on the node is put back from it
    #[arg(long, env = "AZURE_VNET_INSTALL_FROM")]
    pub install_from: Option<PathBuf>,
    /// The folder that the container runtime reads its network configuration from
    #[arg(long, default_value = "/etc/cni/net.d", env = "AZURE_VNET_CNI_CONF_DIR")]
    pub cni_conf_dir: PathBuf,
    /// Folder of the plugins' logs, which the agent rotates
    #[arg(long, default_value = "/var/log", env = "AZURE_VNET_LOG_DIR")]
    pub log_dir: PathBuf,
}
