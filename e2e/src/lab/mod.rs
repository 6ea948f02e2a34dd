//! A real Kubernetes of a few nodes on one machine, in an emulated Azure, and how to drive it.
//!
//! A lab is a tree of processes below one, in namespaces of their own: when that one dies, nothing is left but a folder and empty cgroups,
//! which the next lab sweeps. The driver talks to it by entering those namespaces.

pub mod api;
mod bring;
mod cgroup;
pub(crate) mod control;
mod fabric;
mod init;
mod interrupt;
mod leftovers;
mod node;
mod node_config;
mod node_init;
mod node_up;
mod options;
pub(crate) mod pki;
pub mod plan;
mod run;
mod seat;
mod state;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub use init::lab_init;
pub use interrupt::{give_way, interrupted};
pub use leftovers::{labs_of, left_of};
pub use node::Node;
pub use node_init::node_init;
pub use node_up::node_up;
pub use options::{Cni, KubeProxy, LabOptions};
pub use run::{finish, ip, start};
pub use state::xtask;

use crate::azure::AdminClient;
use crate::build::{
    Cache, Operator, Product, Tools, earlier, image_of_probe, operator_image, pause_image, probe_binary, product, progress,
    require_packages,
};
use api::Api;
use pki::Pki;
use plan::Machine;
use seat::Seat;
use state::State;

/// A running lab; dropping it takes it down, unless it is detached.
#[derive(Debug)]
pub struct Lab {
    state: State,
    options: LabOptions,
    machines: Vec<Machine>,
    /// Processes that this one started: the lab's outermost, and one for each start of a node.
    children: Mutex<Vec<Child>>,
    is_down: bool,
    _seat: Option<Seat>,
}

impl Lab {
    /// Builds what is missing and brings up a lab: control plane, nodes registered, images imported. Waits while there are as many as a machine
    /// can have.
    ///
    /// # Errors
    /// If something cannot be built or started; nothing is left then.
    pub fn up(options: &LabOptions) -> Result<Self> {
        require_packages()?;
        interrupt::take_labs_down_on_signals()?;
        let cache = Cache::open()?;
        let tools = Tools::ensure(&cache)?;
        let product = product(&cache, if options.shipped { Operator::Shipped } else { Operator::Quick })?;
        let mut images = vec![pause_image(&cache)?, image_of_probe(&cache)?, operator_image(&cache, &product)?];
        if options.earlier {
            images.push(earlier(&cache)?.image);
        }
        let seat = Some(Seat::take(&cache)?);
        state::sweep(&cache)?;
        let state = State::create(&cache)?;
        gather(&cache, &state, &tools, &product, &images)?;
        options.save(state.folder())?;
        let machines = plan::machines(options.nodes);
        let lab = Self { state, options: *options, machines, children: Mutex::default(), is_down: false, _seat: seat };
        lab.start()?;
        Ok(lab)
    }

    /// The detached lab that is up, if there is one.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn find() -> Result<Option<Self>> {
        for state in state::all(&Cache::open()?)?.into_iter().rev().filter(State::is_alive) {
            // One that is just being made has none yet, and is somebody's own.
            let Ok(options) = LabOptions::load(state.folder()) else { continue };
            if options.detached {
                let machines = plan::machines(options.nodes);
                return Ok(Some(Self { state, options, machines, children: Mutex::default(), is_down: false, _seat: None }));
            }
        }
        Ok(None)
    }

    /// Takes the lab down and makes sure that nothing of it is left.
    ///
    /// # Errors
    /// Names what is left.
    pub fn down(mut self) -> Result<()> {
        self.take_down()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.machines.iter().map(|machine| Node::new(&self.state, machine)).collect()
    }

    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Node> {
        self.nodes().into_iter().find(|node| node.name() == name)
    }

    /// Powers a node off and on again: `/run` and its network are gone, `/var` and `/etc` are as they were, the boot id is another.
    ///
    /// # Errors
    /// If it cannot be stopped or started.
    pub fn reboot(&self, name: &str) -> Result<()> {
        let node = self.node(name).with_context(|| format!("no node is called {name}"))?;
        node.power_off()?;
        for folder in self.state.cgroups()? {
            cgroup::remove(&folder.join(name))?;
        }
        // The old namespace lives as long as the last of its processes: its cable goes at once, if it has not gone already.
        run::finish(self.inside().args(["ip", "netns", "del", name]))?;
        self.inside().args(["ip", "link", "del", &fabric::cable(name)]).output()?;
        self.start_node(name)
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error holds what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run::finish(self.client("kubectl").args(arguments))
    }

    /// Runs `helm` and returns what it printed.
    ///
    /// # Errors
    /// If it fails; the error holds what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run::finish(self.client("helm").args(arguments))
    }

    /// A command that reaches the API server: `kubectl` or `helm` in the fabric's network.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        self.client_at(&self.state.path("bin").join(program))
    }

    /// The same for a program that is not the lab's own.
    #[must_use]
    pub fn client_at(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.state.init_pid().to_string()).args(["-n", "--"]).arg(program);
        command.env("KUBECONFIG", self.state.path("pki/admin.kubeconfig")).env("HOME", self.state.path("home"));
        // Where kubectl looks for its plugins.
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.state.path("bin").display()));
        command
    }

    /// A command on a host outside the virtual network: `peer` or `internet`.
    #[must_use]
    pub fn outside(&self, host: &str) -> Command {
        let mut command = self.inside();
        command.args(["ip", "netns", "exec", host]);
        command
    }

    /// The emulated Azure's admin API.
    #[must_use]
    pub fn azure(&self) -> AdminClient {
        AdminClient::unix(self.state.path("admin.sock"))
    }

    /// The socket at which `kubectl proxy` serves the API server's clients.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.state.path(control::API_SOCKET)
    }

    /// The certificate that Azure's emulated endpoints are signed by.
    #[must_use]
    pub fn azure_ca_file(&self) -> PathBuf {
        self.state.path("azure-ca.crt")
    }

    /// Writes a file that `kubectl` or `helm` is to read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.state.path("home").join(name);
        run::write(&path, text)?;
        Ok(path)
    }

    /// The lab's folder, with the logs of its parts.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.state.folder()
    }

    /// What the API server tells of the product's accounts: one audit event a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.state.path(control::AUDIT_LOG)
    }

    fn start(&self) -> Result<()> {
        let begun = Instant::now();
        let names: Vec<&str> = self.machines.iter().map(|machine| machine.name.as_str()).collect();
        Pki::at(&self.state.path("pki")).issue(&names)?;
        self.start_init()?;
        self.await_file("azure-ca.crt", Duration::from_secs(30))?;
        for name in &names {
            self.start_node(name)?;
        }
        self.await_file("ready", Duration::from_secs(90))?;
        progress(&format!("control plane ready after {:.1} s", begun.elapsed().as_secs_f64()));
        self.await_nodes(&names)?;
        progress(&format!("{} nodes registered after {:.1} s", names.len(), begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The lab's outermost process dies with this one, and all below with it; a detached one goes on.
    fn start_init(&self) -> Result<()> {
        let (program, arguments): (&str, &[&str]) =
            if self.options.detached { ("setsid", &[]) } else { ("setpriv", &["--pdeathsig", "KILL"]) };
        let mut command = Command::new(program);
        command.args(arguments);
        command.args([
            "unshare",
            "--mount",
            "--net",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--propagation",
            "private",
        ]);
        command.arg(state::xtask()?).arg("lab-init").arg(self.state.folder()).process_group(0);
        self.adopt(run::start(&mut command, &self.state.path("log/init"))?);
        let outermost = self.last_child_pid()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(init) = state::only_child(outermost) {
                return self.state.record_init(init);
            }
            if Instant::now() >= deadline {
                bail!("the lab's first process did not start: {}", self.log("init"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn start_node(&self, name: &str) -> Result<()> {
        std::fs::create_dir_all(self.state.path("nodes").join(name))?;
        let mut command = self.inside();
        command.arg(state::xtask()?).arg("lab-node").arg(self.state.folder()).arg(name);
        command.process_group(0);
        self.adopt(run::start(&mut command, &self.state.path("log").join(name))?);
        Ok(())
    }

    /// A command in all of the lab's outer namespaces.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.state.init_pid().to_string()).args(["-m", "-n", "-u", "-i", "-p", "--"]).stdin(Stdio::null());
        command
    }

    fn await_file(&self, name: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.state.path(name).exists() {
            if let Ok(why) = std::fs::read_to_string(self.state.path("failed")) {
                bail!("the lab did not start: {why}");
            }
            if Instant::now() >= deadline {
                bail!("the lab has no {name} after {} s: {}", patience.as_secs(), self.log("init"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn await_nodes(&self, names: &[&str]) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let api = Api::at(&self.api_socket())?;
        let deadline = Instant::now() + Duration::from_mins(3);
        loop {
            let nodes = runtime.block_on(api.read(api::NODES))?;
            let seen = nodes.get("items").and_then(Value::as_array).map_or(0, Vec::len);
            if seen == names.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{seen} of {} nodes registered; {}", names.len(), names.iter().map(|name| self.log(name)).collect::<String>());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.state.path("log").join(name)).unwrap_or_default()
    }

    fn adopt(&self, child: Child) {
        self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(child);
    }

    fn last_child_pid(&self) -> Result<u32> {
        let children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        children.last().map(Child::id).context("nothing was started")
    }

    fn take_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_down, true) {
            return Ok(());
        }
        self.state.end()?;
        for child in self.children.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.state.clean()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.options.detached {
            let _ = self.take_down();
        }
    }
}

/// Links the tools into a folder, building those that are missing.
///
/// # Errors
/// If one cannot be built or linked.
pub fn link_tools(bin: &Path) -> Result<()> {
    link(&Tools::ensure(&Cache::open()?)?, bin)
}

fn link(tools: &Tools, bin: &Path) -> Result<()> {
    for (name, path) in &tools.executables {
        state::link(path, &bin.join(name))?;
    }
    for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"] {
        std::os::unix::fs::symlink("kubernetes", bin.join(name))?;
    }
    Ok(())
}

/// Puts what the lab runs into its folder, as links to the cache.
fn gather(cache: &Cache, state: &State, tools: &Tools, product: &Product, images: &[PathBuf]) -> Result<()> {
    let bin = state.path("bin");
    link(tools, &bin)?;
    state::link(&probe_binary(cache)?, &bin.join("probe"))?;
    state::link(&product.bin.join("azure-vnet-operator"), &bin.join("kubectl-azure_vnet"))?;
    for image in images {
        let name = image.file_name().context("an image is a file")?;
        state::link(image, &state.path("images").join(name))?;
    }
    Ok(())
}
