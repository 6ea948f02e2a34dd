//! The client of the Kubernetes API: inside a cluster, at an address of the user's choice, or by a kubeconfig.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where the Kubernetes API is.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeOptions {
    /// Host or address of the API server; default: the cluster's own service (`KUBERNETES_SERVICE_HOST`). For clusters without kube-proxy.
    #[arg(long, env = "AZURE_VNET_KUBE_API_HOST")]
    pub kube_api_host: Option<String>,
    /// Port of the API server, with --kube-api-host.
    #[arg(long, env = "AZURE_VNET_KUBE_API_PORT", default_value_t = 443)]
    pub kube_api_port: u16,
    /// A kubeconfig file, to run outside a cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

/// Makes a client; nothing is asked yet.
///
/// # Errors
/// Neither a kubeconfig nor a service account is usable.
pub async fn client(options: &KubeOptions) -> anyhow::Result<Client> {
    let mut config = match (&options.kubeconfig, &options.kube_api_host) {
        (Some(path), _) => from_file(path).await?,
        // The address comes below: only credentials are taken from the pod, and no variable need be set.
        (None, Some(_)) => Config::incluster_dns().context("cannot read the pod's service account")?,
        (None, None) => {
            Config::incluster_env().context("not in a cluster: give --kubeconfig, or --kube-api-host with a service account")?
        }
    };
    if let Some(host) = &options.kube_api_host {
        config.cluster_url = url(host, options.kube_api_port).parse().with_context(|| format!("--kube-api-host {host:?} is no host"))?;
    }
    // The API server is never behind the proxy that leads to Azure.
    config.proxy_url = None;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).context("cannot set up the Kubernetes client")
}

async fn from_file(path: &std::path::Path) -> anyhow::Result<Config> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(|| format!("{} is not usable", path.display()))
}

/// An IPv6 address needs brackets.
fn url(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("https://[{address}]:{port}"),
        Err(_) => format!("https://{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn hosts_and_addresses_make_urls() {
        assert_eq!(super::url("10.250.0.10", 6443), "https://10.250.0.10:6443");
        assert_eq!(super::url("fd00::1", 443), "https://[fd00::1]:443");
        assert_eq!(super::url("x.hcp.westeurope.azmk8s.io", 443), "https://x.hcp.westeurope.azmk8s.io:443");
    }
}
