//! What has to come from the distribution: looked for by the file that is used, installed with apt-get when root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Architecture, Cache, compiler, progress};

/// The Debian package and one file of it that the lab uses.
const NEEDED: &[(&str, &[&str])] = &[
    ("containernetworking-plugins", &["/usr/lib/cni/bridge"]),
    ("iptables", &["/usr/sbin/iptables-nft", "/sbin/iptables-nft"]),
    ("nftables", &["/usr/sbin/nft", "/sbin/nft"]),
    ("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/bin/ip"]),
    ("runc", &["/usr/sbin/runc", "/usr/bin/runc"]),
    ("conntrack", &["/usr/sbin/conntrack"]),
    ("ebtables", &["/usr/sbin/ebtables-nft", "/usr/sbin/ebtables"]),
    ("busybox-static", &["/bin/busybox", "/usr/bin/busybox"]),
    ("jq", &["/usr/bin/jq"]),
    ("strace", &["/usr/bin/strace"]),
    ("gcc", &["/usr/bin/cc", "/usr/bin/gcc"]),
    ("libc6-dev", &["/usr/lib/x86_64-linux-gnu/libc.a", "/usr/lib/aarch64-linux-gnu/libc.a", "/usr/lib64/libc.a"]),
];

/// Makes sure that the Debian packages the lab uses are there: installs what is missing when run as root, else names it. Those that only
/// make the plugins faster are no reason to stop.
///
/// # Errors
/// If something is missing and cannot be installed.
pub fn require_packages() -> Result<()> {
    install(&missing())?;
    if compiler::lacks_packages() {
        install(compiler::PACKAGES).unwrap_or_else(|error| progress(&format!("{error:#}")));
    }
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("still missing after apt-get install: {}", still.join(" ")),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("these Debian packages are missing: {list}\n  install them: sudo apt-get update && sudo apt-get install -y {list}");
    }
    progress(&format!("installing Debian packages: {list}"));
    for arguments in [vec!["update", "-q"], [&["install", "-y", "-q", "--no-install-recommends"][..], packages].concat()] {
        let output =
            Command::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").output().context("cannot run apt-get")?;
        if !output.status.success() {
            bail!("apt-get {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// Makes sure that a browser which a program can drive is there, as [`require_packages`] does: one test needs it, and it is large.
///
/// # Errors
/// If it is missing and cannot be installed.
pub fn require_browser() -> Result<()> {
    if Path::new("/usr/bin/chromedriver").exists() { Ok(()) } else { install(&["chromium", "chromium-driver"]) }
}

/// Makes sure that what runs programs of another architecture is there, and answers its path.
///
/// # Errors
/// If it is missing and cannot be installed.
pub fn require_emulator(architecture: Architecture) -> Result<PathBuf> {
    let name = format!("qemu-{}-static", architecture.machine());
    require_program(&name, "qemu-user-static")?;
    Ok(Path::new("/usr/bin").join(name))
}

/// Makes sure that one program is there, by the package that has it: few need it.
///
/// # Errors
/// If it is missing and cannot be installed.
pub(super) fn require_program(name: &str, package: &str) -> Result<()> {
    if Path::new("/usr/bin").join(name).exists() { Ok(()) } else { install(&[package]) }
}

/// The same for Debian's compiler, where the installed one would do for the product.
pub(super) fn require_compiler() -> Result<()> {
    if compiler::has_packages() { Ok(()) } else { install(compiler::PACKAGES) }
}

fn missing() -> Vec<&'static str> {
    NEEDED.iter().filter(|(_, files)| !files.iter().any(|file| Path::new(file).exists())).map(|(package, _)| *package).collect()
}

impl Cache {
    /// Debian packages unpacked below the cache, in a folder named for the first, and not installed: nothing of them is started, and nothing of the
    /// machine's is replaced.
    ///
    /// # Errors
    /// If one cannot be downloaded or unpacked.
    pub fn unpacked(&self, packages: &[&str]) -> Result<PathBuf> {
        self.unpacked_for(Architecture::of_this_machine(), packages)
    }

    /// The same of another architecture, of which the machine's own package manager need not know.
    ///
    /// # Errors
    /// If one cannot be downloaded or unpacked.
    pub fn unpacked_for(&self, architecture: Architecture, packages: &[&str]) -> Result<PathBuf> {
        let first = packages.first().context("no package is named")?;
        let is_foreign = architecture != Architecture::of_this_machine();
        let folder = self.path("packages").join(if is_foreign { format!("{first}-{}", architecture.name()) } else { (*first).to_owned() });
        let _lock = self.lock_of("packages")?;
        if folder.exists() {
            return Ok(folder);
        }
        progress(&format!("unpacking Debian packages: {}", packages.join(" ")));
        let (unfinished, lists) = (folder.with_extension("unfinished"), folder.with_extension("lists"));
        for left in [&unfinished, &lists] {
            if left.exists() {
                fs::remove_dir_all(left)?;
            }
        }
        fs::create_dir_all(&unfinished)?;
        fs::create_dir_all(lists.join("partial"))?;
        let finish = |command: &mut Command| {
            let output = command.current_dir(&unfinished).output().with_context(|| format!("cannot run {command:?}"))?;
            anyhow::ensure!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        let apt = |arguments: &[&str]| {
            let mut apt = Command::new("apt-get");
            if is_foreign {
                let name = architecture.name();
                apt.args([format!("-oAPT::Architecture={name}"), format!("-oAPT::Architectures={name}")]);
                apt.arg(format!("-oDir::State::Lists={}", lists.display())).args(["-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache="]);
            }
            finish(apt.args(arguments))
        };
        let download = || apt(&[&["download", "-q"][..], packages].concat());
        // The lists may be old, or not there at all.
        download().or_else(|_| apt(&["update", "-q"]).and_then(|()| download()))?;
        fs::remove_dir_all(&lists)?;
        let archives = fs::read_dir(&unfinished)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        for archive in archives {
            finish(Command::new("dpkg-deb").arg("-x").arg(&archive).arg("."))?;
            fs::remove_file(&archive)?;
        }
        fs::rename(&unfinished, &folder)?;
        Ok(folder)
    }
}
