//! Where a fleet of objects lives: etcd, an API server, the emulated Azure and two real controllers, in namespaces of their own and without nodes.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, mount},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tokio::net::TcpListener;

use super::measure::total;
use crate::{
    azure::{
        Azure, NoFabric, Seed, Settings,
        seed::{CLIENT_SECRET, OPERATOR_CLIENT_ID, TENANT},
    },
    build::checkout,
    lab::{
        api::{Api, LEASE},
        control, finish, ip, link_tools,
        pki::Pki,
        plan::API_SERVER,
        start,
    },
};

/// Times of operations on running machines, in milliseconds.
const OPERATION: (u64, u64) = (2000, 10_000);
/// For one answer of a controller.
const ANSWER: Duration = Duration::from_secs(10);
/// The table of rules that cuts a controller off.
const CUT: &str = "cut";
/// The account that the API server's audit log tells of.
const ACCOUNT: &str = "system:serviceaccount:kube-system:azure-vnet-controller";

/// A running place; its processes end with the namespace that this process is the first of.
pub struct Place {
    folder: PathBuf,
    /// The API server, with all rights.
    pub api: Arc<Api>,
    /// The emulated Azure.
    pub azure: Azure,
    /// When its clock began, to within a millisecond or so.
    pub azure_began: Instant,
    arm: String,
    controllers: Vec<Controller>,
    /// How many were started.
    started: u16,
    http: reqwest::Client,
    _control_plane: Vec<Child>,
}

/// A process of a controller.
struct Controller {
    name: String,
    /// Of its metrics.
    port: u16,
    /// Where it, and nobody else, finds the API server.
    api: Ipv4Addr,
    child: Child,
}

impl Place {
    /// Starts all but the controllers.
    ///
    /// # Errors
    /// If a part cannot be started.
    pub async fn start(folder: &Path, seed: &Seed) -> Result<Self> {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).context("cannot mount /run")?;
        ip("link set lo up")?;
        ip(&format!("address add {API_SERVER}/32 dev lo"))?;
        for below in ["bin", "log", "pki"] {
            fs::create_dir_all(folder.join(below))?;
        }
        link_tools(&folder.join("bin"))?;
        Pki::at(&folder.join("pki")).issue_with(&[], &[("controller", ACCOUNT, Some("system:masters"))])?;
        let control_plane = control::start_api_server(folder).await?;
        let settings = Settings { operation_millis: OPERATION, retry_after_seconds: 5, limit_percent: Some(100), ..Settings::default() };
        let azure_began = Instant::now();
        let azure = Azure::new(seed, settings, Arc::new(NoFabric))?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let arm = format!("http://{}", listener.local_addr()?);
        azure.serve_arm(listener);
        let api = Arc::new(Api::at(&folder.join(control::API_SOCKET))?);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let (folder, controllers, started) = (folder.to_owned(), vec![], 0);
        let place = Self { folder, api, azure, azure_began, arm, controllers, started, http, _control_plane: control_plane };
        place.define()?;
        Ok(place)
    }

    fn define(&self) -> Result<()> {
        let definitions = checkout().join("charts/azure-vnet/crds").to_string_lossy().into_owned();
        self.kubectl(&["apply", "--server-side", "-f", &definitions])?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &definitions]).map(drop)
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.folder.join("bin/kubectl"));
        finish(command.args(arguments).env("KUBECONFIG", self.folder.join("pki/admin.kubeconfig")).env("HOME", &self.folder))
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let file = self.folder.join("manifest.yaml");
        fs::write(&file, manifest)?;
        self.kubectl(&["apply", "--server-side", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Starts a controller, as the chart does.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_controller(&mut self, operator: &Path, name: &str, port: u16) -> Result<()> {
        let mut command = Command::new(operator);
        command.args(["controller", "--namespace", "kube-system", "--identity", name, "--metrics-bind", &format!("127.0.0.1:{port}")]);
        self.started += 1;
        let [high, low] = self.started.to_be_bytes();
        let api = Ipv4Addr::new(127, 1, high, low);
        command.env("KUBECONFIG", self.kubeconfig(name, api)?);
        command.env("AZURE_RESOURCE_MANAGER_ENDPOINT", &self.arm).env("AZURE_AUTHORITY_HOST", &self.arm);
        command.env("AZURE_CLIENT_ID", OPERATOR_CLIENT_ID).env("AZURE_TENANT_ID", TENANT).env("AZURE_CLIENT_SECRET", CLIENT_SECRET);
        command.env("SSL_CERT_FILE", self.folder.join("pki/ca.crt"));
        let child = start(&mut command, &self.folder.join("log").join(name))?;
        self.controllers.push(Controller { name: name.to_owned(), port, api, child });
        Ok(())
    }

    /// One by which a controller finds the API server at an address of its own.
    fn kubeconfig(&self, name: &str, api: Ipv4Addr) -> Result<PathBuf> {
        let common = fs::read_to_string(self.folder.join("pki/controller.kubeconfig"))?;
        let own = common.replace(
            &format!("server: \"https://{API_SERVER}:6443\""),
            &format!("server: \"https://{api}:6443\", tls-server-name: kubernetes"),
        );
        let file = self.folder.join("pki").join(format!("controller-{name}.kubeconfig"));
        fs::write(&file, own)?;
        Ok(file)
    }

    /// Drops all packets between a controller and the API server, as a network does that is cut: neither end hears of it. Azure it still reaches.
    ///
    /// # Errors
    /// If the rule cannot be made.
    pub fn cut(&self, name: &str) -> Result<()> {
        let api = self.controller(name)?.api;
        let chain = format!("type filter hook output priority 0; ip daddr {api} drop; ip saddr {api} drop;");
        finish(Command::new("nft").arg(format!("table ip {CUT} {{ chain packets {{ {chain} }}; }}"))).map(drop)
    }

    /// Lets them through again.
    ///
    /// # Errors
    /// If there was no cut.
    pub fn heal() -> Result<()> {
        finish(Command::new("nft").args(["delete", "table", "ip", CUT])).map(drop)
    }

    /// How many writes to NICs a controller has sent.
    ///
    /// # Errors
    /// As [`Self::metric`].
    pub async fn sent(&self, name: &str) -> Result<u64> {
        let mut all = 0;
        for op in ["put_nic", "put_instance"] {
            all += self.metric(name, &format!("azure_vnet_arm_request_duration_seconds_count{{op=\"{op}\"")).await?;
        }
        Ok(all)
    }

    /// What a controller says of one of its metrics, over all labels that are not named.
    ///
    /// # Errors
    /// If it is not ours, or does not answer.
    pub async fn metric(&self, name: &str, metric: &str) -> Result<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.controller(name)?.port);
        let answer = self.http.get(&url).timeout(ANSWER).send().await?.error_for_status()?;
        Ok(total(&answer.text().await?, metric))
    }

    fn controller(&self, name: &str) -> Result<&Controller> {
        self.controllers.iter().find(|other| other.name == name).with_context(|| format!("{name} is no controller of ours"))
    }

    /// The controller that holds the lease: its name and its process.
    ///
    /// # Errors
    /// If there is none.
    pub async fn leader(&self) -> Result<(String, u32)> {
        let lease = self.api.read(LEASE).await?;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
        let (name, _) = holder.rsplit_once('_').with_context(|| format!("the lease's holder is {holder:?}"))?;
        Ok((name.to_owned(), self.controller(name)?.child.id()))
    }

    /// Kills a controller, which has no time to say anything.
    ///
    /// # Errors
    /// If it is not ours, or does not end.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.end(name, Signal::KILL)
    }

    /// Tells a controller to end, as a Deployment's upgrade does, and waits until it did.
    ///
    /// # Errors
    /// As [`Self::kill`].
    pub fn stop(&mut self, name: &str) -> Result<()> {
        self.end(name, Signal::TERM)
    }

    fn end(&mut self, name: &str, signal: Signal) -> Result<()> {
        let at = self.controllers.iter().position(|other| other.name == name).context("the controller is ours")?;
        let Controller { mut child, name: _, port: _, api: _ } = self.controllers.swap_remove(at);
        kill_process(Pid::from_child(&child), signal)?;
        child.wait().map(drop).context("cannot wait for the controller's end")
    }

    /// How often the controllers wrote to the API server.
    ///
    /// # Errors
    /// If the audit log cannot be read.
    pub fn controller_writes(&self) -> Result<u64> {
        let log = fs::read_to_string(self.folder.join(control::AUDIT_LOG)).unwrap_or_default();
        let writes =
            |line: &&str| ["create", "update", "patch", "delete"].iter().any(|verb| line.contains(&format!("\"verb\":\"{verb}\"")));
        // The lease is renewed every few seconds whatever happens.
        Ok(u64::try_from(log.lines().filter(writes).filter(|line| !line.contains("\"resource\":\"leases\"")).count())?)
    }

    /// The last lines that a controller wrote.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let log = fs::read_to_string(self.folder.join("log").join(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().rev().take(20).rev().copied().collect::<Vec<_>>().join("\n")
    }
}
