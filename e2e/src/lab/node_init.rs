//! A node's first process: its own root, then containerd, kubelet and kube-proxy.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount};

use super::node_config::{CONTAINERD, KUBELET, ORIGINAL_CONFLIST, bridge_conflist, kube_proxy};
use super::options::{Cni, LabOptions};
use super::plan::{HIERARCHIES, Machine, WIRESERVER};
use super::run::{run, start, write};

/// What of the machine's `/etc` a node's programs need.
const FROM_ETC: &[&str] = &[
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "protocols",
    "services",
    "ethertypes",
    "iproute2",
    "passwd",
    "group",
];
/// What the kubelet insists on and would set for the whole machine; it writes to files of the node instead.
const SYSCTLS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// The original's stand-in.
const ORIGINAL: &str = include_str!("original.sh");
const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("kmsg", 1, 11),
    ("fuse", 10, 229),
    ("net/tun", 10, 200),
];

/// Becomes the node.
///
/// # Errors
/// If the kernel refuses a mount or a program cannot be started.
pub fn node_init(state: &Path, machine: &Machine, options: &LabOptions) -> Result<Infallible> {
    let own = state.join("nodes").join(&machine.name);
    rustix::system::sethostname(machine.name.as_bytes())?;
    let root = build_root(state, &own, machine)?;
    enter_root(&root)?;
    run_node(machine, options)?;
    super::run::reap_for_ever()
}

fn build_root(state: &Path, own: &Path, machine: &Machine) -> Result<PathBuf> {
    let root = own.join("root");
    make(&root)?;
    tmpfs(&root)?;
    for folder in [
        "usr",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var",
        "etc",
        "opt",
        "kube/bin",
        "kube/pki",
        "kube/images",
        "root",
        "home",
        "mnt",
        "srv",
        "old",
    ] {
        make(&root.join(folder))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(link), root.join(link))?;
    }
    bind_read_only(Path::new("/usr"), &root.join("usr"))?;
    bind_read_only(&state.join("bin"), &root.join("kube/bin"))?;
    bind_read_only(&state.join("images"), &root.join("kube/images"))?;
    own_folders(own, &root, machine)?;
    for name in
        ["ca.crt".to_owned(), format!("{}.kubeconfig", machine.name), format!("{}.crt", machine.name), format!("{}.key", machine.name)]
    {
        fs::copy(state.join("pki").join(&name), root.join("kube/pki").join(&name))?;
    }
    for name in ["proxy.kubeconfig", "proxy.crt", "proxy.key"] {
        fs::copy(state.join("pki").join(name), root.join("kube/pki").join(name))?;
    }
    kernel_folders(&root)?;
    Ok(root)
}

/// `/etc`, `/var`, `/opt` and `/srv` survive a reboot; `/run` and `/tmp` do not.
fn own_folders(own: &Path, root: &Path, machine: &Machine) -> Result<()> {
    for folder in [
        "var/lib/containerd",
        "var/lib/kubelet",
        "var/lib/cni",
        "var/log/pods",
        "var/log/containers",
        "var/tmp",
        "var/cache",
        "opt/cni/bin",
        "etc/cni/net.d",
        "etc/containerd",
        "srv",
    ] {
        make(&own.join(folder))?;
    }
    let _ = symlink("/run", own.join("var/run"));
    for name in FROM_ETC {
        let (from, to) = (Path::new("/etc").join(name), own.join("etc").join(name));
        if from.exists() && !to.exists() {
            run("cp", &["-a", &from.to_string_lossy(), &to.to_string_lossy()])?;
        }
    }
    write(own.join("etc/hostname"), &format!("{}\n", machine.name))?;
    write(own.join("etc/hosts"), &format!("127.0.0.1 localhost\n{} {}\n", machine.address, machine.name))?;
    // Azure's machines ask Azure.
    write(own.join("etc/resolv.conf"), &format!("nameserver {WIRESERVER}\n"))?;
    if !own.join("etc/machine-id").exists() {
        write(own.join("etc/machine-id"), &uuid()?.replace('-', ""))?;
    }
    for folder in ["var", "opt", "srv", "etc"] {
        mount_bind(own.join(folder), root.join(folder)).with_context(|| format!("cannot bind /{folder}"))?;
    }
    Ok(())
}

fn kernel_folders(root: &Path) -> Result<()> {
    mount("proc", root.join("proc"), "proc", MountFlags::empty(), None)?;
    mount("sysfs", root.join("sys"), "sysfs", MountFlags::empty(), None)?;
    let groups = root.join("sys/fs/cgroup");
    tmpfs(&groups)?;
    for hierarchy in HIERARCHIES {
        let options = if *hierarchy == "systemd" { "none,name=systemd" } else { hierarchy };
        let options = std::ffi::CString::new(options)?;
        make(&groups.join(hierarchy))?;
        mount("cgroup", groups.join(hierarchy), "cgroup", MountFlags::empty(), Some(options.as_c_str()))
            .with_context(|| format!("cannot mount cgroup {hierarchy}"))?;
    }
    devices(root)?;
    for folder in ["run", "tmp"] {
        tmpfs(&root.join(folder))?;
    }
    make(&root.join("run/lock"))?;
    make(&root.join("run/sysctl"))?;
    for (name, value) in SYSCTLS {
        stand_in(root, name, value)?;
    }
    // Every start is a boot of its own to the kubelet and to the product.
    stand_in(root, "kernel/random/boot_id", &uuid()?)
}

fn devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    tmpfs(&dev)?;
    for folder in ["pts", "shm", "mqueue", "net"] {
        make(&dev.join(folder))?;
    }
    for (name, major, minor) in DEVICES {
        mknodat(CWD, dev.join(name), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(*major, *minor))
            .with_context(|| format!("cannot make /dev/{name}"))?;
    }
    mount("devpts", dev.join("pts"), "devpts", MountFlags::empty(), Some(c"newinstance,ptmxmode=0666,mode=620,gid=5"))?;
    tmpfs(&dev.join("shm"))?;
    mount("mqueue", dev.join("mqueue"), "mqueue", MountFlags::empty(), None)?;
    for (target, link) in [("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        symlink(target, dev.join(link))?;
    }
    Ok(())
}

/// A plain file in the place of a sysctl of the whole machine.
fn stand_in(root: &Path, name: &str, value: &str) -> Result<()> {
    let file = root.join("run/sysctl").join(name.replace('/', "."));
    write(&file, &format!("{value}\n"))?;
    mount_bind(&file, root.join("proc/sys").join(name)).with_context(|| format!("cannot stand in for {name}"))
}

fn enter_root(root: &Path) -> Result<()> {
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", "old").context("cannot enter the node's root")?;
    std::env::set_current_dir("/")?;
    unmount("/old", UnmountFlags::DETACH)?;
    fs::remove_dir("/old")?;
    // Shared with nobody else: the lab's mounts were made private before.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    Ok(())
}

fn run_node(machine: &Machine, options: &LabOptions) -> Result<()> {
    write("/etc/containerd/config.toml", CONTAINERD)?;
    write("/etc/kubelet.yaml", KUBELET)?;
    write("/etc/kube-proxy.yaml", &kube_proxy(&machine.name, options))?;
    bring_plugins(machine, options.cni)?;
    let program = |name: &str| {
        let mut command = Command::new(Path::new("/kube/bin").join(name));
        command.env_clear().env("PATH", "/kube/bin:/usr/sbin:/usr/bin").env("HOME", "/root");
        command
    };
    start(&mut program("containerd"), Path::new("/var/log/containerd"))?;
    await_containerd(&program)?;
    for image in fs::read_dir("/kube/images")? {
        let image = image?.path();
        super::run::finish(program("ctr").args(["-n", "k8s.io", "images", "import", "--local"]).arg(&image))?;
    }
    super::run::finish(program("ctr").args([
        "-n",
        "k8s.io",
        "images",
        "label",
        crate::build::PAUSE_IMAGE,
        "io.cri-containerd.pinned=pinned",
    ]))?;
    let mut kubelet = program("kubelet");
    kubelet.args(["--config=/etc/kubelet.yaml", "--root-dir=/var/lib/kubelet"]);
    kubelet.arg(format!("--kubeconfig=/kube/pki/{}.kubeconfig", machine.name));
    kubelet.arg(format!("--hostname-override={}", machine.name)).arg(format!("--node-ip={}", machine.address));
    kubelet.arg(format!("--provider-id={}", machine.provider_id));
    if options.cni == Cni::None {
        kubelet.arg(format!("--register-with-taints={}=true:NoSchedule", azure_vnet_crds::STARTUP_TAINT));
    }
    start(&mut kubelet, Path::new("/var/log/kubelet"))?;
    start(program("kube-proxy").arg("--config=/etc/kube-proxy.yaml"), Path::new("/var/log/kube-proxy"))?;
    Ok(())
}

/// As a machine's image brings them: who takes them away has taken them away for good.
fn bring_plugins(machine: &Machine, cni: Cni) -> Result<()> {
    let (reference, list): (&[&str], _) = match cni {
        Cni::None => return Ok(()),
        Cni::Bridge => (&["bridge", "host-local", "loopback", "portmap"], ("10-bridge.conflist", bridge_conflist(machine))),
        Cni::Original => {
            // The original leaves this to who sets the machine up.
            write("/proc/sys/net/ipv4/ip_forward", "1")?;
            (&["loopback", "portmap"], ("10-azure.conflist", ORIGINAL_CONFLIST.to_owned()))
        }
    };
    let bin = Path::new("/opt/cni/bin");
    if bin.join("loopback").exists() {
        return Ok(());
    }
    for plugin in reference {
        fs::copy(Path::new("/usr/lib/cni").join(plugin), bin.join(plugin))?;
    }
    if cni == Cni::Original {
        for plugin in ["azure-vnet", "azure-vnet-ipam"] {
            write(bin.join(plugin), ORIGINAL)?;
            fs::set_permissions(bin.join(plugin), fs::Permissions::from_mode(0o755))?;
        }
    }
    write(Path::new("/etc/cni/net.d").join(list.0), &list.1)
}

fn await_containerd(program: &dyn Fn(&str) -> Command) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match super::run::finish(program("ctr").arg("version")) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => bail!("containerd does not answer: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn tmpfs(on: &Path) -> Result<()> {
    mount("tmpfs", on, "tmpfs", MountFlags::empty(), Some(c"mode=755")).with_context(|| format!("cannot mount a tmpfs on {}", on.display()))
}

fn bind_read_only(from: &Path, to: &Path) -> Result<()> {
    mount_bind(from, to).with_context(|| format!("cannot bind {}", from.display()))?;
    mount_remount(to, MountFlags::BIND | MountFlags::RDONLY, "").with_context(|| format!("cannot make {} read-only", to.display()))
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
