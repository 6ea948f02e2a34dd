//! Switching a node on, inside the lab's namespaces: its network namespace and cable, its place in each cgroup hierarchy, its first process.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::options::{Cni, LabOptions};
use super::plan::{HIERARCHIES, Machine};
use super::run::{ip, write};
use super::{cgroup, fabric};
use crate::azure::AdminClient;

/// Switches a node on and stays until it is off.
///
/// # Errors
/// If the kernel refuses, or the node ends by itself.
pub fn node_up(state: &Path, machine: &Machine, options: &LabOptions) -> Result<Infallible> {
    let node = &machine.name;
    ip(&format!("netns add {node}"))?;
    fabric::lay_cable(machine, options.subnet)?;
    if options.cni == Cni::Bridge {
        let (third, cable) = (machine.address.octets()[3], fabric::cable(node));
        ip(&format!("route replace 10.244.{third}.0/24 via {} dev {cable} onlink", machine.address))?;
    }
    plug_in(state, machine)?;
    enter_cgroups(state, node)?;
    let program = std::env::current_exe()?;
    let mut init = Command::new("nsenter");
    init.arg(format!("--net=/run/netns/{node}"));
    init.args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child=SIGKILL", "--propagation", "private"]);
    init.arg(program).args(["lab-node-init", &state.to_string_lossy(), node]);
    let status = init.status().context("cannot run nsenter")?;
    bail!("{node} is off ({status})")
}

/// Gives the cable the addresses that the NIC has already: it keeps them while its machine is off.
fn plug_in(state: &Path, machine: &Machine) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let nics = runtime.block_on(AdminClient::unix(state.join("admin.sock")).nics())?;
    let attached = nics.into_iter().filter(|nic| nic.node.as_deref() == Some(&machine.name)).flat_map(|nic| nic.attached);
    for address in attached {
        fabric::plug(&machine.name, machine.mac, address)?;
    }
    Ok(())
}

fn enter_cgroups(state: &Path, node: &str) -> Result<()> {
    let lab = std::fs::read_to_string(state.join("cgroups"))?;
    let pid = std::process::id().to_string();
    for (hierarchy, folder) in HIERARCHIES.iter().zip(lab.lines()) {
        let root = PathBuf::from("/sys/fs/cgroup").join(hierarchy);
        for folder in [PathBuf::from(folder), Path::new(folder).join(node)] {
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            if *hierarchy == "cpuset" {
                cgroup::copy_cpuset(&root, &folder)?;
            }
        }
        write(Path::new(folder).join(node).join("cgroup.procs"), &pid)?;
    }
    Ok(())
}
