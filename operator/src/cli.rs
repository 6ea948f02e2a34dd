//! The command line: flags, the variables that set the same, and what each subcommand is given.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use azure_vnet_operator_core::arm::ApiVersions;
use clap::{Args, Parser, Subcommand};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    Shutdown, World,
    agent::{
        self,
        restore::{Extent, Places, Plugins, restore},
    },
    azure::{ArmClient, ArmOptions, Credential, CredentialOptions, EndpointOptions, Endpoints, Secret, imds::Imds},
    controller, install,
    kubernetes::{self, KubeOptions},
    probe, standalone,
    telemetry::{LogOptions, Telemetry, serve},
    tool, uninstall,
};

/// Gives pods real addresses of the Azure VNET.
#[derive(Debug, Parser)]
#[command(name = "azure-vnet-operator", version, about, max_term_width = 120)]
pub struct Cli {
    /// Logs.
    #[command(flatten)]
    pub log: LogOptions,
    /// What to be.
    #[command(subcommand)]
    pub command: Command,
}

/// The parts of the operator.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Puts addresses on the nodes' NICs; one replica leads, the others wait.
    Controller(Box<ControllerCommand>),
    /// Serves one node: pool, rules, and the CNI configuration, last.
    Agent(Box<AgentCommand>),
    /// Does on a machine without Kubernetes what installer and agent do on a node.
    Standalone(Box<StandaloneCommand>),
    /// Copies the plugins to the node and ends.
    Install(install::Options),
    /// Takes everything of ours off this node: what the agent keeps there, the plugins, and what both wrote down. No agent may run.
    Restore(RestoreCommand),
    /// Takes the product out of the cluster: nodes, NICs and objects; what the chart's hook runs before it is uninstalled.
    Uninstall(Box<UninstallCommand>),
    /// Looks at this node's own store and kernel, without the API server.
    #[command(subcommand)]
    Node(tool::node::Command),
    /// Looks at the cluster: what `kubectl azure-vnet` does.
    #[command(subcommand)]
    Cluster(tool::Command),
    /// Asks and answers in a pod, for `kubectl azure-vnet connectivity`.
    #[command(subcommand, hide = true)]
    Probe(probe::Command),
    /// Prints the version.
    Version,
}

/// Flags of `controller`.
#[derive(Debug, Args)]
pub struct ControllerCommand {
    /// Leadership and pace.
    #[command(flatten)]
    pub options: controller::Options,
    /// The Kubernetes API.
    #[command(flatten)]
    pub kube: KubeOptions,
    /// Resource Manager.
    #[command(flatten)]
    pub arm: ArmFlags,
    /// Who we are to Azure.
    #[command(flatten)]
    pub identity: IdentityFlags,
    /// The machine's own services.
    #[command(flatten)]
    pub local: LocalFlags,
    /// Address of /metrics, /healthz and /readyz. A busy port is reported and tried again.
    #[arg(long, env = "AZURE_VNET_METRICS_BIND", default_value = "0.0.0.0:9402", help_heading = "Metrics and health")]
    pub metrics_bind: SocketAddr,
}

/// Flags of `agent`.
#[derive(Debug, Args)]
pub struct AgentCommand {
    /// The node.
    #[command(flatten)]
    pub options: agent::Options,
    /// The Kubernetes API.
    #[command(flatten)]
    pub kube: KubeOptions,
    /// The machine's own services.
    #[command(flatten)]
    pub local: LocalFlags,
    /// Address of /metrics, /healthz and /readyz. A busy port is reported and tried again.
    #[arg(long, env = "AZURE_VNET_METRICS_BIND", default_value = "0.0.0.0:9403", help_heading = "Metrics and health")]
    pub metrics_bind: SocketAddr,
}

/// Flags of `standalone`.
#[derive(Debug, Args)]
pub struct StandaloneCommand {
    /// The machine.
    #[command(flatten)]
    pub options: standalone::Options,
    /// The machine's own services.
    #[command(flatten)]
    pub local: LocalFlags,
    /// Address of /metrics, /healthz and /readyz. A busy port is reported and tried again.
    #[arg(long, env = "AZURE_VNET_METRICS_BIND", default_value = "127.0.0.1:9403", help_heading = "Metrics and health")]
    pub metrics_bind: SocketAddr,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub struct RestoreCommand {
    /// The node.
    #[command(flatten)]
    pub places: Places,
    /// What becomes of this machine's addresses afterwards
    #[arg(long, value_enum, default_value_t = uninstall::AddressesFlag::GiveBack)]
    pub addresses: uninstall::AddressesFlag,
    /// Stay afterwards, and be ready: for a workload that is to be seen to have done it
    #[arg(long)]
    pub stay: bool,
    /// Address of /readyz, with --stay.
    #[arg(long, env = "AZURE_VNET_METRICS_BIND", default_value = "127.0.0.1:9403", help_heading = "Metrics and health")]
    pub metrics_bind: SocketAddr,
}

/// Flags of `uninstall`.
#[derive(Debug, Args)]
pub struct UninstallCommand {
    /// What is to become of it.
    #[command(flatten)]
    pub options: uninstall::Options,
    /// The Kubernetes API.
    #[command(flatten)]
    pub kube: KubeOptions,
    /// Resource Manager.
    #[command(flatten)]
    pub arm: ArmFlags,
    /// Who we are to Azure.
    #[command(flatten)]
    pub identity: IdentityFlags,
    /// The machine's own services.
    #[command(flatten)]
    pub local: LocalFlags,
}

/// Where Resource Manager is. Proxies: `HTTPS_PROXY`, `NO_PROXY`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Azure Resource Manager (through HTTPS_PROXY and NO_PROXY where these are set)")]
pub struct ArmFlags {
    /// Resource Manager; default: that of the cloud which the authority, or the machine, names. http:// only to a loopback address.
    #[arg(long, env = "AZURE_RESOURCE_MANAGER_ENDPOINT", value_name = "URL")]
    pub arm_endpoint: Option<String>,
    /// Whom tokens are asked for; default: the endpoint. Azure Stack has an audience of its own.
    #[arg(long, env = "AZURE_RESOURCE_MANAGER_AUDIENCE", value_name = "URL")]
    pub arm_audience: Option<String>,
    /// Share of Azure's request budgets that is left to others, in percent.
    #[arg(long, env = "AZURE_VNET_ARM_RESERVE_PERCENT", default_value_t = 40, value_parser = clap::value_parser!(u8).range(0..=90))]
    pub arm_reserve_percent: u8,
    /// Seconds between polls of an operation where Azure names none.
    #[arg(long, env = "AZURE_VNET_ARM_POLL_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60), hide = true)]
    pub arm_poll_seconds: u64,
    /// Version of the Network provider's API, where Resource Manager is too old for the usual one, as that of an Azure Stack.
    #[arg(long, env = "AZURE_NETWORK_API_VERSION", value_name = "YYYY-MM-DD", value_parser = api_version)]
    pub arm_network_api_version: Option<String>,
    /// The same of the Compute provider.
    #[arg(long, env = "AZURE_COMPUTE_API_VERSION", value_name = "YYYY-MM-DD", value_parser = api_version)]
    pub arm_compute_api_version: Option<String>,
    /// Accept http:// beyond this machine: tokens can be read on the way. For tests.
    #[arg(long, env = "AZURE_VNET_INSECURE_ARM")]
    pub insecure_arm: bool,
    /// PEM file of certificates to trust instead of the system's.
    #[arg(long, env = "SSL_CERT_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Who we are to Azure: a client secret if given, else a federated token if given, else the machine's managed identity.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Azure identity (client secret, else federated token, else managed identity)")]
pub struct IdentityFlags {
    /// Microsoft Entra ID; of an Azure Stack with AD FS its URL, which ends in /adfs.
    #[arg(long, env = "AZURE_AUTHORITY_HOST", value_name = "URL")]
    pub authority_host: Option<String>,
    /// Client id of the application, or of the user-assigned managed identity.
    #[arg(long, env = "AZURE_CLIENT_ID", value_name = "ID")]
    pub client_id: Option<String>,
    /// The application's tenant.
    #[arg(long, env = "AZURE_TENANT_ID", value_name = "ID")]
    pub tenant_id: Option<String>,
    /// Token of the service account, for workload identity; read again for every token.
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE", value_name = "FILE")]
    pub federated_token_file: Option<PathBuf>,
    /// The application's secret; give it by the variable, arguments can be seen by others.
    #[arg(long, env = "AZURE_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = secret)]
    pub client_secret: Option<Secret>,
    /// File of the application's secret; read again for every token.
    #[arg(long, env = "AZURE_CLIENT_SECRET_FILE", value_name = "FILE")]
    pub client_secret_file: Option<PathBuf>,
}

/// The services that Azure gives to the machine itself. Never reached through a proxy.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The machine's services (never through a proxy)")]
pub struct LocalFlags {
    /// Instance metadata service; default: Azure's, at 169.254.169.254.
    #[arg(long, env = "AZURE_IMDS_ENDPOINT", value_name = "URL")]
    pub imds_endpoint: Option<String>,
    /// Host agent; default: Azure's, at 168.63.129.16.
    #[arg(long, env = "AZURE_WIRESERVER_ENDPOINT", value_name = "URL")]
    pub wireserver_endpoint: Option<String>,
}

/// A variable that is set and empty is not set: charts write such.
fn given(value: Option<&String>) -> Option<String> {
    value.filter(|text| !text.is_empty()).cloned()
}

fn given_file(value: Option<&PathBuf>) -> Option<PathBuf> {
    value.filter(|path| !path.as_os_str().is_empty()).cloned()
}

/// A date, with `-preview` or not; or nothing, as an empty variable has it.
fn api_version(text: &str) -> Result<String, &'static str> {
    let date = text.strip_suffix("-preview").unwrap_or(text);
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    if text.is_empty() || is_date { Ok(text.to_owned()) } else { Err("a version of an API is a date, as in 2018-11-01") }
}

#[expect(clippy::unnecessary_wraps, reason = "the form that clap's value parsers have")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

impl IdentityFlags {
    fn credential(&self) -> anyhow::Result<Credential> {
        let options = CredentialOptions {
            client_id: given(self.client_id.as_ref()),
            tenant_id: given(self.tenant_id.as_ref()),
            federated_token_file: given_file(self.federated_token_file.as_ref()),
            client_secret: self.client_secret.clone().filter(|secret| !secret.expose().is_empty()),
            client_secret_file: given_file(self.client_secret_file.as_ref()),
        };
        options.credential().context("the identity is incomplete")
    }
}

impl LocalFlags {
    fn endpoints(&self) -> EndpointOptions {
        let (imds, wireserver) = (given(self.imds_endpoint.as_ref()), given(self.wireserver_endpoint.as_ref()));
        EndpointOptions { imds, wireserver, ..EndpointOptions::default() }
    }
}

/// Runs a subcommand to its end.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Controller(command) => run_controller(*command),
        Command::Agent(command) => run_agent(*command),
        Command::Standalone(command) => run_standalone(*command),
        Command::Install(options) => install::run(&options),
        Command::Restore(command) => run_restore(command),
        Command::Uninstall(command) => run_uninstall(*command),
        Command::Node(command) => tool::node::run(command),
        Command::Cluster(command) => tool::run(command),
        Command::Probe(command) => probe::run(command),
        Command::Version => print_version(),
    }
}

#[expect(clippy::print_stdout, reason = "what the user asked for")]
#[expect(clippy::unnecessary_wraps, reason = "as the other subcommands")]
fn print_version() -> anyhow::Result<()> {
    println!("azure-vnet-operator {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

fn run_controller(command: ControllerCommand) -> anyhow::Result<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build().context("cannot start the runtime")?;
    let ControllerCommand { options, kube, arm, identity, local, metrics_bind } = command;
    run_to_end(&runtime, metrics_bind, &kube, async move |base| {
        let (endpoints, client) = arm_client(&arm, &identity, &local).await?;
        base.telemetry.register(|registry| client.register(registry));
        controller::run(options, base.with(endpoints), Arc::new(client)).await
    })
}

fn run_agent(command: AgentCommand) -> anyhow::Result<()> {
    // One thread: the agent has little to do, and each thread costs memory on every node.
    let runtime = Builder::new_current_thread().max_blocking_threads(4).enable_all().build().context("cannot start the runtime")?;
    let AgentCommand { options, kube, local, metrics_bind } = command;
    run_to_end(&runtime, metrics_bind, &kube, async move |base| {
        let endpoints = local.endpoints().resolve(None)?;
        Box::pin(agent::run(options, base.with(endpoints))).await
    })
}

fn run_standalone(command: StandaloneCommand) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().max_blocking_threads(4).enable_all().build().context("cannot start the runtime")?;
    let StandaloneCommand { options, local, metrics_bind } = command;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let shutdown = Shutdown::on_signals(&mut tasks).context("cannot follow signals")?;
        let telemetry = Telemetry::default();
        tasks.spawn(serve(telemetry.clone(), metrics_bind, shutdown.clone()));
        let endpoints = local.endpoints().resolve(None)?;
        let result = standalone::run(options, endpoints, telemetry, shutdown).await;
        tasks.shutdown().await;
        result
    })
}

fn run_restore(command: RestoreCommand) -> anyhow::Result<()> {
    let RestoreCommand { places, addresses, stay, metrics_bind } = command;
    restore(&places, Extent { plugins: Plugins::Remove, addresses: addresses.into() })?;
    if !stay {
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let shutdown = Shutdown::on_signals(&mut tasks).context("cannot follow signals")?;
        let telemetry = Telemetry::default();
        telemetry.set_ready(true);
        tasks.spawn(serve(telemetry, metrics_bind, shutdown.clone()));
        shutdown.wait().await;
        tasks.shutdown().await;
        Ok(())
    })
}

fn run_uninstall(command: UninstallCommand) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().max_blocking_threads(4).enable_all().build().context("cannot start the runtime")?;
    let UninstallCommand { options, kube, arm, identity, local } = command;
    runtime.block_on(async {
        let kube = kubernetes::client(&kube).await?;
        let client = arm_client(&arm, &identity, &local).await?.1;
        uninstall::run(&options, &kube, Arc::new(client)).await
    })
}

/// The client of Resource Manager, and where Azure is.
async fn arm_client(arm: &ArmFlags, identity: &IdentityFlags, local: &LocalFlags) -> anyhow::Result<(Endpoints, ArmClient)> {
    let endpoints = cloud_endpoints(arm, identity, local).await?;
    let credential = identity.credential()?;
    info!(arm = %endpoints.arm, identity = credential.kind(), "using Azure");
    let versions =
        ApiVersions { network: given(arm.arm_network_api_version.as_ref()), compute: given(arm.arm_compute_api_version.as_ref()) };
    let settings = ArmOptions { reserve_percent: arm.arm_reserve_percent, poll: Duration::from_secs(arm.arm_poll_seconds), versions };
    let client = ArmClient::new(&endpoints, credential, &settings).context("cannot set up the client of Resource Manager")?;
    Ok((endpoints, client))
}

/// A world that does not yet know where Azure is.
struct Base {
    kube: kube::Client,
    telemetry: Telemetry,
    shutdown: Shutdown,
}

impl Base {
    fn with(self, endpoints: Endpoints) -> World {
        let Self { kube, telemetry, shutdown } = self;
        World { kube, endpoints, telemetry, shutdown }
    }
}

/// Runs one part beside signals and health, and ends them all.
fn run_to_end(
    runtime: &Runtime,
    bind: SocketAddr,
    kube: &KubeOptions,
    part: impl AsyncFnOnce(Base) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let shutdown = Shutdown::on_signals(&mut tasks).context("cannot follow signals")?;
        let telemetry = Telemetry::default();
        tasks.spawn(serve(telemetry.clone(), bind, shutdown.clone()));
        let kube = kubernetes::client(kube).await?;
        let result = part(Base { kube, telemetry, shutdown }).await;
        tasks.shutdown().await;
        result
    })
}

/// Asks the machine for its cloud only if nothing was said: a controller may run anywhere.
async fn cloud_endpoints(arm: &ArmFlags, identity: &IdentityFlags, local: &LocalFlags) -> anyhow::Result<Endpoints> {
    let options = EndpointOptions {
        arm: given(arm.arm_endpoint.as_ref()),
        audience: given(arm.arm_audience.as_ref()),
        authority: given(identity.authority_host.as_ref()),
        insecure_arm: arm.insecure_arm,
        ca_file: given_file(arm.ca_file.as_ref()),
        ..local.endpoints()
    };
    let endpoints = options.resolve(None)?;
    if !options.needs_environment() {
        return Ok(endpoints);
    }
    let imds = Imds::new(&endpoints).context("cannot set up the client of IMDS")?;
    for _ in 0..IMDS_TRIES {
        match imds.instance().await {
            Ok(instance) => return Ok(options.resolve(Some(&instance.compute.az_environment))?),
            Err(error) => info!("cannot ask the machine for its cloud yet ({error})"),
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    warn!("the machine does not name its cloud; taking Azure's public cloud: --arm-endpoint names another");
    Ok(endpoints)
}

/// How often the machine is asked for its cloud before it counts as none of Azure's.
const IMDS_TRIES: u32 = 4;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_variable_is_in_the_help() {
        let help = |name: &str| Cli::command().find_subcommand_mut(name).unwrap().render_long_help().to_string();
        let controller = help("controller");
        for variable in [
            "AZURE_RESOURCE_MANAGER_ENDPOINT",
            "AZURE_AUTHORITY_HOST",
            "AZURE_IMDS_ENDPOINT",
            "AZURE_WIRESERVER_ENDPOINT",
            "SSL_CERT_FILE",
            "HTTPS_PROXY",
            "NO_PROXY",
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_CLIENT_SECRET",
            "AZURE_CLIENT_SECRET_FILE",
            "KUBECONFIG",
            "AZURE_VNET_METRICS_BIND",
        ] {
            assert!(controller.contains(variable), "{variable}");
        }
        assert!(help("agent").contains("AZURE_WIRESERVER_ENDPOINT"));
    }

    #[test]
    fn a_secret_on_the_command_line_is_not_in_the_debug_output() {
        let cli = Cli::parse_from(["azure-vnet-operator", "controller", "--client-secret", "s3cr3t", "--log-level", "debug"]);
        let text = format!("{cli:?}");
        assert!(!text.contains("s3cr3t") && text.contains("[redacted]"), "{text}");
    }

    #[test]
    fn an_incomplete_identity_names_what_is_missing() {
        let flags = IdentityFlags { client_secret: Some(Secret::new("x")), client_id: Some("c".into()), ..IdentityFlags::default() };
        assert!(format!("{:#}", flags.credential().unwrap_err()).contains("AZURE_TENANT_ID"));
        let empty = IdentityFlags { client_id: Some(String::new()), client_secret: Some(Secret::new("")), ..IdentityFlags::default() };
        assert!(matches!(empty.credential().unwrap(), Credential::ManagedIdentity { client_id: None }));
    }
}
