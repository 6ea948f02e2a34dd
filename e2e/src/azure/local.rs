//! A cloud on loopback with ports that the kernel chooses, for tests of clients. It moves no packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;

use super::{AdminClient, Azure, Caller, Fabric, Seed, Settings};

/// A running cloud and where it listens.
pub struct Local {
    /// The cloud; it ends with this.
    pub azure: Azure,
    /// Base URL of ARM and of the authority, plain HTTP.
    pub arm: String,
    /// A client of the admin API.
    pub admin: AdminClient,
}

impl Local {
    /// Starts a cloud with ARM, the authority and the admin API.
    ///
    /// # Errors
    /// The seed contradicts itself, or nothing can be bound on loopback.
    pub async fn start(seed: &Seed, settings: Settings, fabric: Arc<dyn Fabric>) -> anyhow::Result<Self> {
        let azure = Azure::new(seed, settings, fabric)?;
        let (arm, address) = bind().await?;
        azure.serve_arm(arm);
        let (admin, admin_address) = bind().await?;
        azure.serve_admin(admin);
        Ok(Self { azure, arm: format!("http://{address}"), admin: AdminClient::tcp(admin_address) })
    }

    /// Serves IMDS as `node` sees it; returns its base URL.
    ///
    /// # Errors
    /// Nothing can be bound on loopback.
    pub async fn imds(&self, node: &str) -> anyhow::Result<String> {
        let (listener, address) = bind().await?;
        self.azure.serve_imds(listener, Caller::Node(node.into()));
        Ok(format!("http://{address}"))
    }

    /// Serves the wireserver as `node` sees it; returns its base URL.
    ///
    /// # Errors
    /// Nothing can be bound on loopback.
    pub async fn wireserver(&self, node: &str) -> anyhow::Result<String> {
        let (listener, address) = bind().await?;
        self.azure.serve_wireserver(listener, Caller::Node(node.into()));
        Ok(format!("http://{address}"))
    }
}

async fn bind() -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
