//! The control plane: etcd and the API server at once, the rest when it is ready.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::api::Api;
use super::pki::Pki;
use super::plan::{API_SERVER, SERVICES};
use super::run::{start, write};

/// What the API server tells of the product's accounts: one event a line.
pub const AUDIT_LOG: &str = "log/audit";

/// Where the driver reaches the API server over plain HTTP, whatever network it is in.
pub const API_SOCKET: &str = "api.sock";

/// A user of its own, as the kernel counts inotify instances by user and those of root are the nodes'; it reads and writes what root made.
const AS_ITS_USER: [&str; 5] =
    ["--reuid=65501", "--regid=65501", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"];

/// Starts the control plane and waits until its API server is ready.
///
/// # Errors
/// If a part cannot be started, ends early, or is not ready in time.
pub async fn start_control_plane(state: &Path) -> Result<Vec<Child>> {
    let mut children = start_api_server(state).await?;
    let pki = Pki::at(&state.join("pki"));
    children.push(launch(state, "kube-controller-manager", &controller_manager(&pki))?);
    children.push(launch(state, "kube-scheduler", &scheduler(&pki))?);
    Ok(children)
}

/// Starts etcd, the API server and the driver's proxy to it, and waits until it is ready.
///
/// # Errors
/// As [`start_control_plane`].
pub async fn start_api_server(state: &Path) -> Result<Vec<Child>> {
    let pki = Pki::at(&state.join("pki"));
    let policy = state.join("audit-policy.yaml");
    write(&policy, AUDIT)?;
    let api_server = api_server(&pki, &policy, &state.join(AUDIT_LOG));
    let socket = state.join(API_SOCKET);
    let proxy = proxy(&pki, &socket);
    let mut children =
        vec![launch(state, "etcd", &etcd())?, launch(state, "kube-apiserver", &api_server)?, launch(state, "kubectl", &proxy)?];
    await_ready(&Api::at(&socket)?, &mut children).await?;
    Ok(children)
}

fn launch(state: &Path, name: &str, arguments: &[String]) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(AS_ITS_USER).arg(state.join("bin").join(name)).args(arguments).env("GOMAXPROCS", "2");
    start(&mut command, &state.join("log").join(name))
}

async fn await_ready(api: &Api, children: &mut [Child]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match api.ready().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => bail!("the API server is not ready after 60 s: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        for child in children.iter_mut() {
            if let Some(status) = child.try_wait()? {
                bail!("a part of the control plane ended early ({status}); see the lab's log folder");
            }
        }
    }
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd() -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379".to_owned(), "http://127.0.0.1:2380".to_owned());
    let mut flags = flags(&[
        ("name", "lab".into()),
        ("data-dir", "/run/etcd".into()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("lab={peer}")),
    ]);
    flags.push("--unsafe-no-fsync".into());
    flags
}

fn api_server(pki: &Pki, policy: &Path, log: &Path) -> Vec<String> {
    let file = |name: &str| pki.file(name).to_string_lossy().into_owned();
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".into()),
        ("advertise-address", API_SERVER.into()),
        ("bind-address", "0.0.0.0".into()),
        ("secure-port", "6443".into()),
        ("tls-cert-file", file("apiserver.crt")),
        ("tls-private-key-file", file("apiserver.key")),
        ("client-ca-file", file("ca.crt")),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
        ("service-account-key-file", file("sa.pub")),
        ("service-account-signing-key-file", file("sa.key")),
        ("service-cluster-ip-range", SERVICES.into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("allow-privileged", "true".into()),
        ("kubelet-client-certificate", file("kubelet-client.crt")),
        ("kubelet-client-key", file("kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("requestheader-client-ca-file", file("ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("proxy-client-cert-file", file("front-proxy.crt")),
        ("proxy-client-key-file", file("front-proxy.key")),
        ("profiling", "false".into()),
        ("audit-policy-file", policy.to_string_lossy().into_owned()),
        ("audit-log-path", log.to_string_lossy().into_owned()),
        ("audit-log-mode", "batch".into()),
    ])
}

/// What the product's accounts ask the API server for, and what it says to that; of nobody else.
const AUDIT: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [system:serviceaccount:kube-system:azure-vnet-controller, system:serviceaccount:kube-system:azure-vnet-agent]
- level: None
";

fn as_client(pki: &Pki, name: &str) -> Vec<String> {
    let kubeconfig = pki.file(&format!("{name}.kubeconfig")).to_string_lossy().into_owned();
    flags(&[
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("leader-elect", "false".into()),
        ("kube-api-qps", "500".into()),
        ("kube-api-burst", "1000".into()),
        ("bind-address", "127.0.0.1".into()),
        ("profiling", "false".into()),
    ])
}

fn controller_manager(pki: &Pki) -> Vec<String> {
    let file = |name: &str| pki.file(name).to_string_lossy().into_owned();
    let own = flags(&[
        ("root-ca-file", file("ca.crt")),
        ("service-account-private-key-file", file("sa.key")),
        ("use-service-account-credentials", "true".into()),
        ("cluster-signing-cert-file", file("ca.crt")),
        ("cluster-signing-key-file", file("ca.key")),
        ("allocate-node-cidrs", "false".into()),
        ("node-monitor-period", "1s".into()),
        ("node-monitor-grace-period", "20s".into()),
    ]);
    [as_client(pki, "kcm"), own].concat()
}

fn proxy(pki: &Pki, socket: &Path) -> Vec<String> {
    let own = flags(&[
        ("kubeconfig", pki.file("admin.kubeconfig").to_string_lossy().into_owned()),
        ("unix-socket", socket.to_string_lossy().into_owned()),
    ]);
    [vec!["proxy".to_owned()], own].concat()
}

fn scheduler(pki: &Pki) -> Vec<String> {
    as_client(pki, "scheduler")
}
