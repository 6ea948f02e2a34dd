//! The command line for people: what a cluster does, from the API server's objects alone; and what a node holds, from its own files and kernel.
//!
//! It decides nothing: the views are the core crate's.

mod connectivity;
mod exec;
mod fsck;
pub mod node;
mod observe;
mod output;
mod undo;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use azure_vnet_crds::AzureVnetConfig;
use azure_vnet_operator_core::look::{self, Cluster, Redaction, Target};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use observe::Scope;
pub use output::Format;

/// The name under which kubectl finds it.
pub const PLUGIN: &str = "kubectl-azure_vnet";

/// Looks at pods' VNET addresses in the cluster that kubectl talks to.
#[derive(Debug, Parser)]
#[command(name = "kubectl azure-vnet", bin_name = "kubectl azure-vnet", version, about, max_term_width = 120, after_help = EXAMPLES)]
pub struct Cli {
    /// What to show.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  kubectl azure-vnet status
  kubectl azure-vnet why web-0 --namespace shop
  kubectl azure-vnet explain shop/web-0 8.8.8.8
  kubectl azure-vnet plan --file config.yaml
  kubectl azure-vnet connectivity --to example.com:443
  kubectl azure-vnet fsck --output json
  kubectl azure-vnet bundle --to bundle.yaml

It talks to the API server alone and needs no rights in Azure. Only connectivity makes something, and takes it back,
and fsck --repair mends what its report found.";

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The cluster at a glance: configs, nodes, addresses, subnets, and what stands in the way.
    Status(Shown),
    /// Every node's pool, one a line.
    Nodes(Shown),
    /// One node's pool in full: addresses and who has them, the write under way, conditions, events.
    #[command(after_help = "Example:\n  kubectl azure-vnet node aks-pool1-12345678-vmss000000")]
    Node {
        /// The node.
        name: String,
        /// How to show it.
        #[command(flatten)]
        shown: Shown,
    },
    /// How a pod came to its address, or what it waits for.
    #[command(after_help = "Examples:\n  kubectl azure-vnet why web-0\n  kubectl azure-vnet why shop/web-0 -o yaml")]
    Why {
        /// The pod: NAME or NAMESPACE/NAME.
        pod: String,
        /// Where.
        #[command(flatten)]
        namespace: Namespace,
        /// How to show it.
        #[command(flatten)]
        shown: Shown,
    },
    /// Whose address a destination sees when a pod talks to it, by which rule and which line of the config.
    #[command(
        after_help = "Examples:\n  kubectl azure-vnet explain web-0 8.8.8.8\n  kubectl azure-vnet explain shop/web-0 svc/kube-system/kube-dns"
    )]
    Explain {
        /// The pod: NAME or NAMESPACE/NAME.
        pod: String,
        /// An IPv4 address, pod/[NAMESPACE/]NAME or svc/[NAMESPACE/]NAME.
        destination: Target,
        /// Where.
        #[command(flatten)]
        namespace: Namespace,
        /// How to show it.
        #[command(flatten)]
        shown: Shown,
    },
    /// What the controller would do with each node: by the configs that are there, or by another one.
    #[command(after_help = "Examples:\n  kubectl azure-vnet plan\n  kubectl azure-vnet plan --file config.yaml   # before applying it")]
    Plan {
        /// A file with an `AzureVnetConfig`, which stands for the one of its name.
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
        /// How to show it.
        #[command(flatten)]
        shown: Shown,
    },
    /// Whether the cluster can be served, and what stands in the way. Fails if pods cannot start.
    Preflight(Shown),
    /// Who reaches whom, by which address: starts a small pod on each node, asks each from each, and takes everything back. Fails if something
    /// is not reached.
    #[command(
        after_help = "Examples:\n  kubectl azure-vnet connectivity\n  kubectl azure-vnet connectivity --to example.com:443 -o json\n  \
                             kubectl azure-vnet connectivity --namespace shop --pods app=web   # from pods that are there\n\n\
                             Pods see each other, a Service, the API server and the cluster's DNS. Ctrl-C takes everything back too."
    )]
    Connectivity(Box<connectivity::Flags>),
    /// Compares what Azure, the controller, the agents, the nodes' stores and kernels and the API server say of every address.
    #[command(after_help = "Examples:\n  kubectl azure-vnet fsck\n  kubectl azure-vnet fsck aks-pool1-12345678-vmss000000\n  \
                             kubectl azure-vnet fsck --output json > report.json\n  \
                             kubectl azure-vnet fsck --repair report.json\n\n\
                             Exits with 0 where all was seen and agrees, 1 where something differs, 2 where nothing does and not all could be\n\
                             looked at. What differs is looked at twice, five seconds apart: pods come and go. Nodes are asked through their agents'\n\
                             pods (pods/exec), Azure is as the controller last read it.\n\n\
                             --repair mends only what the report has and a fresh look finds again: routes of pods that are there, and leases of such\n\
                             pods, for which it restarts the node's agent. It frees no address and writes nothing to Azure.")]
    Fsck(Box<fsck::Flags>),
    /// Writes what support needs to a file, without secrets: look into it before you send it.
    Bundle {
        /// The file; standard output if none is given.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// The cluster.
        #[command(flatten)]
        access: Access,
    },
    /// Prints a completion script.
    #[command(after_help = "Example:\n  source <(kubectl azure-vnet completion bash)")]
    Completion {
        /// Of this shell.
        shell: Shell,
    },
}

/// How to show it.
#[derive(Clone, Debug, Args)]
pub struct Shown {
    /// Form of the output.
    #[arg(long, short, default_value = "table", value_name = "FORM")]
    pub output: Format,
    /// The cluster.
    #[command(flatten)]
    pub access: Access,
}

/// Which cluster.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "The cluster, as kubectl chooses it")]
pub struct Access {
    /// A kubeconfig file; default: KUBECONFIG, else ~/.kube/config, else the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of it.
    #[arg(long)]
    pub context: Option<String>,
}

/// A pod's namespace.
#[derive(Clone, Debug, Args)]
pub struct Namespace {
    /// The pod's namespace; default: the context's.
    #[arg(long, short)]
    pub namespace: Option<String>,
}

/// An end of the program with a code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
pub struct Exit {
    /// For scripts.
    pub code: u8,
    /// For people.
    pub said: String,
}

/// The code that an error ends the program with.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Exit>().map_or(1, |exit| exit.code)
}

/// Runs one command.
///
/// # Errors
/// What could not be read or shown.
pub fn run(command: Command) -> anyhow::Result<()> {
    let Command::Completion { shell } = command else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
        return runtime.block_on(look_at_cluster(command));
    };
    // The file's own name: shells complete kubectl's plugins by it.
    clap_complete::generate(shell, &mut Cli::command(), PLUGIN, &mut std::io::stdout());
    Ok(())
}

async fn look_at_cluster(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status(Shown { output, access }) => {
            let (cluster, _) = read(&access, &Scope::pools()).await?;
            output.print(&look::overview(&cluster))
        }
        Command::Nodes(Shown { output, access }) => {
            let (cluster, _) = read(&access, &Scope::pools()).await?;
            output.print(&look::Rows(look::nodes(&cluster)))
        }
        Command::Node { name, shown: Shown { output, access } } => {
            let (cluster, _) = read(&access, &Scope::node(&name)).await?;
            let view = look::node(&cluster, &name).with_context(|| format!("there is no node {name}"))?;
            output.print(&view)
        }
        Command::Why { pod, namespace, shown: Shown { output, access } } => {
            let (client, own) = connect(&access).await?;
            let (space, name) = split(&pod, namespace, own);
            let cluster = observe::cluster(&client, &Scope::pod(&space, &name)).await?;
            output.print(&look::why(&cluster, &space, &name)?)
        }
        Command::Explain { pod, destination, namespace, shown: Shown { output, access } } => {
            let (client, own) = connect(&access).await?;
            let (space, name) = split(&pod, namespace, own);
            let cluster = observe::cluster(&client, &Scope::way(&space, &name, &destination)).await?;
            output.print(&look::explain(&cluster, &space, &name, &destination)?)
        }
        Command::Plan { file, shown: Shown { output, access } } => {
            let (mut cluster, _) = read(&access, &Scope::pools()).await?;
            if let Some(file) = file {
                replace(&mut cluster, thought_of(&file)?);
            }
            output.print(&look::plan(&cluster))
        }
        Command::Preflight(Shown { output, access }) => {
            let (cluster, _) = read(&access, &Scope::parts()).await?;
            let found = look::preflight(&cluster);
            output.print(&found)?;
            anyhow::ensure!(found.passed(), "pods cannot start: see what is marked ✗");
            Ok(())
        }
        Command::Connectivity(flags) => connectivity::run(*flags).await,
        Command::Fsck(flags) => fsck::run(*flags).await,
        Command::Bundle { to, access } => {
            let (cluster, _) = read(&access, &Scope::everything()).await?;
            let text = bundle(&cluster)?;
            match to {
                Some(path) => std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display())),
                None => std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output"),
            }
        }
        Command::Completion { .. } => Ok(()),
    }
}

/// To whoever watches; the result goes to standard output.
fn tell(what: &str) {
    let _nobody_reads = writeln!(std::io::stderr(), "… {what}");
}

async fn read(access: &Access, scope: &Scope) -> anyhow::Result<(Cluster, String)> {
    let (client, own) = connect(access).await?;
    Ok((observe::cluster(&client, scope).await?, own))
}

/// The client, and the namespace that the context names.
async fn connect(access: &Access) -> anyhow::Result<(Client, String)> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let config = match &access.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options).await
        }
        None if access.context.is_none() => return inferred().await,
        None => Config::from_kubeconfig(&options).await,
    };
    let config = config.context("the kubeconfig is not usable")?;
    client(config)
}

async fn inferred() -> anyhow::Result<(Client, String)> {
    client(Config::infer().await.context("no cluster: set KUBECONFIG, or give --kubeconfig")?)
}

/// For an API server that says nothing any more: longer than a probe takes for all its answers.
const SILENCE: Duration = Duration::from_mins(2);

fn client(mut config: Config) -> anyhow::Result<(Client, String)> {
    config.read_timeout = Some(SILENCE);
    let own = config.default_namespace.clone();
    Ok((Client::try_from(config).context("cannot set up the Kubernetes client")?, own))
}

/// `NAMESPACE/NAME`, or a name in the namespace that was given, or in the context's.
fn split(pod: &str, given: Namespace, own: String) -> (String, String) {
    match pod.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (given.namespace.unwrap_or(own), pod.to_owned()),
    }
}

fn thought_of(path: &std::path::Path) -> anyhow::Result<AzureVnetConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{} holds no AzureVnetConfig", path.display()))
}

fn replace(cluster: &mut Cluster, config: AzureVnetConfig) {
    let old = cluster.configs.iter().position(|old| old.metadata.name == config.metadata.name);
    match old.and_then(|at| cluster.configs.get_mut(at)) {
        Some(old) => old.spec = config.spec,
        None => cluster.configs.push(config),
    }
}

/// One YAML document a kind, which people can read before they send it.
fn bundle(cluster: &Cluster) -> anyhow::Result<String> {
    let Cluster { at, version, configs, pools, subnets, machines, pods, services: _, events } = cluster;
    let parts = [
        ("about", json!({"at": at.to_string(), "kubernetes": version, "tool": env!("CARGO_PKG_VERSION")})),
        ("preflight", serde_json::to_value(look::preflight(cluster))?),
        ("plan", serde_json::to_value(look::plan(cluster))?),
        ("configs", serde_json::to_value(configs)?),
        ("pools", serde_json::to_value(pools)?),
        ("subnets", serde_json::to_value(subnets)?),
        ("nodes", serde_json::to_value(machines)?),
        ("pods", serde_json::to_value(pods)?),
        ("events", serde_json::to_value(events)?),
    ];
    let mut redaction = Redaction::default();
    let documents = parts.into_iter().map(|(name, value)| {
        let value = look::redact(json!({ name: value }), &mut redaction);
        Ok(serde_saphyr::to_string(&value)?)
    });
    Ok(documents.collect::<anyhow::Result<Vec<_>>>()?.join("---\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example_or_needs_none() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for command in ["status", "nodes", "node", "why", "explain", "plan", "preflight", "connectivity", "fsck", "bundle", "completion"] {
            assert!(help.contains(&format!("\n  {command}")), "{command} in {help}");
        }
    }

    #[test]
    fn an_end_with_a_code_of_its_own_is_seen_by_scripts() {
        let incomplete = anyhow::Error::from(Exit { code: 2, said: "not everything could be looked at".into() });
        assert_eq!((exit_code(&incomplete), incomplete.to_string().as_str()), (2, "not everything could be looked at"));
        assert_eq!((exit_code(&incomplete.context("outer")), exit_code(&anyhow::anyhow!("other"))), (2, 1));
    }

    #[test]
    fn every_shell_has_a_completion() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), PLUGIN, &mut script);
            assert!(String::from_utf8(script).unwrap().contains("preflight"), "{shell}");
        }
    }

    #[test]
    fn a_pod_is_named_with_or_without_its_namespace() {
        let in_context = |pod: &str, given: Option<&str>| split(pod, Namespace { namespace: given.map(str::to_owned) }, "own".into());
        assert_eq!(in_context("web", None), ("own".into(), "web".into()));
        assert_eq!(in_context("web", Some("shop")), ("shop".into(), "web".into()));
        assert_eq!(in_context("shop/web", Some("other")), ("shop".into(), "web".into()));
    }

    #[test]
    fn a_bundle_holds_no_secret_and_is_yaml() {
        let mut cluster = Cluster { version: "v1.33.2".into(), ..Cluster::default() };
        let mut config = AzureVnetConfig::new("default", azure_vnet_crds::AzureVnetConfigSpec::default());
        config.metadata.annotations = Some([("kubectl.kubernetes.io/last-applied-configuration".into(), "password=hunter2".into())].into());
        cluster.configs.push(config);
        cluster.events.push(look::Event {
            message: "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.sig was refused".into(),
            ..look::Event::default()
        });
        let text = bundle(&cluster).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("eyJ"), "{text}");
        for document in text.split("---\n") {
            serde_saphyr::from_str::<serde_json::Value>(document).unwrap();
        }
    }

    #[test]
    fn a_config_that_is_thought_of_stands_for_the_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let text = "apiVersion: azure-vnet.dev/v1alpha1\nkind: AzureVnetConfig\nmetadata: {name: default}\nspec: {pool: {min: 40}}\n";
        std::fs::write(&path, text).unwrap();
        let mut cluster = Cluster::default();
        replace(&mut cluster, thought_of(&path).unwrap());
        replace(&mut cluster, thought_of(&path).unwrap());
        assert_eq!(cluster.configs.iter().map(|config| config.spec.pool.min).collect::<Vec<_>>(), [Some(40)]);
        assert!(thought_of(folder.path()).is_err());
    }
}
