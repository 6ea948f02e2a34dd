//! A client of the admin API, over TCP or a unix socket: one connection a command, nothing kept.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::command::{Call, Command, Condition, Counters, Fault, NicState, Tenure, Write};
use super::seed::MachineSeed;
use super::settings::Settings;

/// Talks to the admin API of a running cloud.
#[derive(Debug, Clone)]
pub struct AdminClient {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl AdminClient {
    /// Returns a client of the API at a TCP address.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self { place: Place::Tcp(address) }
    }

    /// Returns a client of the API at a unix socket, which works across network namespaces.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Unix(path.into()) }
    }

    /// Carries out a command and returns its answer.
    ///
    /// # Errors
    /// The cloud cannot be reached, or refuses.
    pub async fn command(&self, command: &Command) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(command)?;
        match &self.place {
            Place::Tcp(address) => exchange(TcpStream::connect(address).await?, &body).await,
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.with_context(|| format!("connecting to {}", path.display()))?;
                exchange(stream, &body).await
            }
        }
    }

    /// Returns all NICs.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn nics(&self) -> anyhow::Result<Vec<NicState>> {
        self.ask(&Command::Nics).await
    }

    /// Returns the addresses of a node's NIC, the primary one included.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn addresses(&self, node: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
        let nics = self.nics().await?;
        let own = nics.into_iter().filter(|nic| nic.node.as_deref() == Some(node));
        Ok(own.flat_map(|nic| nic.configurations).filter_map(|config| config.address).collect())
    }

    /// Returns the counters.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn counters(&self) -> anyhow::Result<Counters> {
        self.ask(&Command::Counters).await
    }

    /// Returns the accepted writes to NICs.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn writes(&self) -> anyhow::Result<Vec<Write>> {
        self.ask(&Command::Writes).await
    }

    /// Returns the calls since a sequence number.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn calls(&self, since: u64) -> anyhow::Result<Vec<Call>> {
        self.ask(&Command::Calls { since }).await
    }

    /// Returns which NIC held which address when.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn history(&self) -> anyhow::Result<Vec<Tenure>> {
        self.ask(&Command::History).await
    }

    /// Returns broken invariants; empty as long as all is well.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn violations(&self) -> anyhow::Result<Vec<String>> {
        self.ask(&Command::Violations).await
    }

    /// Returns changes of what was not the writer's.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn disturbances(&self) -> anyhow::Result<Vec<String>> {
        self.ask(&Command::Disturbances).await
    }

    /// Returns the settings.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn settings(&self) -> anyhow::Result<Settings> {
        self.ask(&Command::Settings).await
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn configure(&self, settings: Settings) -> anyhow::Result<()> {
        self.ask(&Command::Configure { settings: Box::new(settings) }).await
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn inject(&self, fault: Fault) -> anyhow::Result<()> {
        self.ask(&Command::Inject { fault }).await
    }

    /// Returns the faults that still wait.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn faults(&self) -> anyhow::Result<Vec<Fault>> {
        self.ask(&Command::Faults).await
    }

    /// Drops all faults.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn clear_faults(&self) -> anyhow::Result<()> {
        self.ask(&Command::ClearFaults).await
    }

    /// Has a foreign writer drop a configuration from a node's NIC.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn foreign_drop(&self, node: &str, config: &str) -> anyhow::Result<()> {
        self.ask(&Command::ForeignDrop { node: node.into(), config: config.into() }).await
    }

    /// Has a foreign writer add a configuration to a node's NIC.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn foreign_add(&self, node: &str, config: &str) -> anyhow::Result<()> {
        self.ask(&Command::ForeignAdd { node: node.into(), config: config.into() }).await
    }

    /// Adds a machine.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn add_machine(&self, machine: MachineSeed) -> anyhow::Result<()> {
        self.ask(&Command::AddMachine { machine: Box::new(machine) }).await
    }

    /// Removes a machine and its NIC.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn remove_machine(&self, node: &str) -> anyhow::Result<()> {
        self.ask(&Command::RemoveMachine { node: node.into() }).await
    }

    /// Sets what a machine is doing.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn set_machine(&self, node: &str, condition: Condition) -> anyhow::Result<()> {
        self.ask(&Command::SetMachine { node: node.into(), condition }).await
    }

    /// Adds a prefix to a subnet.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn grow_subnet(&self, subnet: &str, prefix: &str) -> anyhow::Result<()> {
        self.ask(&Command::GrowSubnet { subnet: subnet.into(), prefix: prefix.into() }).await
    }

    /// Revokes all tokens.
    ///
    /// # Errors
    /// See [`Self::command`].
    pub async fn revoke_tokens(&self) -> anyhow::Result<()> {
        self.ask(&Command::RevokeTokens).await
    }

    async fn ask<T: DeserializeOwned>(&self, command: &Command) -> anyhow::Result<T> {
        Ok(serde_json::from_value(self.command(command).await?)?)
    }
}

/// One request and its answer; the server closes the connection.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, body: &[u8]) -> anyhow::Result<Value> {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: admin\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let value: Value = serde_json::from_str(body).with_context(|| format!("reading the answer to a command: {head}"))?;
    if head.starts_with("HTTP/1.1 200") {
        return Ok(value);
    }
    bail!("the emulated cloud refused: {}", value.get("error").and_then(Value::as_str).unwrap_or(head))
}
