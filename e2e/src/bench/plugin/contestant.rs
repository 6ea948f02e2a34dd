//! What is measured: how each wires a pod and takes it away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::attachment::Mode;

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Someone who wires pods.
#[derive(Debug, Clone)]
pub(super) struct Contestant {
    /// In the figures.
    pub name: String,
    /// The contestant that nothing wiring pods alike can go below.
    pub floor: String,
    /// How.
    pub way: Way,
}

/// How a contestant wires a pod.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// An empty process, and the messages of the mode sent by a bare loop.
    Floor {
        /// The empty program.
        empty: PathBuf,
        /// The mode.
        mode: Mode,
    },
    /// A plugin, with the executables that take part.
    Plugin {
        /// The plugin, and those that it runs.
        executables: Vec<PathBuf>,
        /// The network's configuration.
        config: String,
    },
}

/// A container as a runtime sees it.
#[derive(Debug)]
pub(super) struct Pod {
    /// Name of container, pod and namespace.
    pub name: String,
    /// The namespace.
    pub netns: PathBuf,
    /// Told apart from others of its node.
    pub number: u32,
}

impl Contestant {
    /// All, each mode after its floor.
    pub(super) fn all(bin: &Path, empty: &Path) -> Vec<Self> {
        let modes = [Mode::Transparent, Mode::Bridge, Mode::Tunnel];
        let mut all: Vec<Self> = modes.into_iter().flat_map(|mode| [floor(empty, mode), ours(bin, mode)]).collect();
        all.extend([reference("bridge", r#""bridge":"cni0","isGateway":true"#), reference("ptp", r#""ipMasq":false"#)]);
        all
    }
}

fn floor(empty: &Path, mode: Mode) -> Contestant {
    let name = floor_of(mode);
    Contestant { floor: name.clone(), name, way: Way::Floor { empty: empty.to_owned(), mode } }
}

fn floor_of(mode: Mode) -> String {
    match mode {
        Mode::Transparent => "floor".to_owned(),
        Mode::Bridge | Mode::Tunnel => format!("floor of {mode}"),
    }
}

fn ours(bin: &Path, mode: Mode) -> Contestant {
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"azure-vnet","type":"azure-vnet","mode":"{mode}","ipam":{{"type":"azure-vnet-ipam","environment":"pool"}}}}"#
    );
    Contestant { name: mode.to_string(), floor: floor_of(mode), way: Way::Plugin { executables: vec![bin.join("azure-vnet")], config } }
}

fn reference(plugin: &str, fields: &str) -> Contestant {
    let ipam = r#"{"type":"host-local","subnet":"10.241.0.0/16","routes":[{"dst":"0.0.0.0/0"}]}"#;
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"bench","type":"{plugin}",{fields},"ipam":{ipam}}}"#);
    let executables = [plugin, "host-local"].map(|name| Path::new(REFERENCE).join(name)).to_vec();
    Contestant {
        name: format!("reference {plugin} + host-local"),
        floor: floor_of(Mode::Transparent),
        way: Way::Plugin { executables, config },
    }
}

/// Runs a command of a plugin to its end.
pub(super) fn run(program: &mut Command, config: &str, command: &str, pod: &Pod) -> Result<()> {
    let output = start(program, config, command, pod)?.wait_with_output()?;
    ensure!(output.status.success(), "{command} of {program:?} failed: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Starts a command of a plugin and gives it its configuration.
pub(super) fn start(program: &mut Command, config: &str, command: &str, pod: &Pod) -> Result<Child> {
    let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={0};K8S_POD_UID={0}", pod.name);
    program
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.name)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", REFERENCE)
        .env("CNI_ARGS", &arguments)
        .env("CNI_NETNS", &pod.netns);
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {program:?}"))?;
    std::io::Write::write_all(&mut child.stdin.take().context("a child with a piped input has one")?, config.as_bytes())?;
    Ok(child)
}
