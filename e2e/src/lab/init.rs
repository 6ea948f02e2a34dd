//! The lab's first process: the fabric, the emulated Azure and the control plane, in namespaces that end with it.

use std::convert::Infallible;
use std::fs;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount};
use tokio::net::{TcpListener, UnixListener};

use super::fabric::{self, Router};
use super::options::LabOptions;
use super::plan::{ARM, IMDS, OUTSIDERS, WIRESERVER, machines};
use super::run::{reap_for_ever, start, write};
use crate::azure::{Azure, Caller, Seed, Settings};

/// Runs the lab until it is killed; `state` then holds `ready`, or `failed` with the reason.
///
/// # Errors
/// If a part cannot be started.
pub fn lab_init(state: &Path) -> Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let azure = set_up(state, &runtime).inspect_err(|error| {
        let _ = write(state.join("failed"), &format!("{error:#}"));
    })?;
    write(state.join("ready"), "")?;
    let _azure = azure;
    reap_for_ever()
}

fn set_up(state: &Path, runtime: &tokio::runtime::Runtime) -> Result<Azure> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None).context("cannot mount /proc")?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).context("cannot mount /run")?;
    rustix::system::sethostname(b"fabric")?;
    let options = LabOptions::load(state)?;
    fabric::set_up(&machines(options.nodes))?;
    let azure = runtime.block_on(serve_azure(state, &options))?;
    for outsider in OUTSIDERS {
        let mut server = Command::new("ip");
        server.args(["netns", "exec", outsider.name]).arg(state.join("bin/probe")).args(["serve", "8080"]).env("NODE_NAME", outsider.name);
        start(&mut server, &state.join("log").join(outsider.name))?;
    }
    runtime.block_on(super::control::start_control_plane(state))?;
    Ok(azure)
}

async fn serve_azure(state: &Path, options: &LabOptions) -> Result<Azure> {
    let azure = Azure::new(&Seed::lab_of(options.nodes).with_subnet(options.subnet), Settings::default(), Arc::new(Router::open()?))?;
    azure.serve_arm_tls(TcpListener::bind((ARM, 443)).await?, &[ARM])?;
    azure.serve_imds(TcpListener::bind((IMDS, 80)).await?, Caller::Source);
    azure.serve_wireserver(TcpListener::bind((WIRESERVER, 80)).await?, Caller::Source);
    let admin = StdUnixListener::bind(state.join("admin.sock"))?;
    admin.set_nonblocking(true)?;
    azure.serve_admin_unix(UnixListener::from_std(admin)?);
    fs::write(state.join("azure-ca.crt"), azure.ca_pem())?;
    Ok(azure)
}
