//! What has to come from the distribution: looked for by the file that is used, installed with apt-get when root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Cache, compiler, progress};

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
        let folder = self.path("packages").join(packages.first().context("no package is named")?);
        let _lock = self.lock()?;
        if folder.exists() {
            return Ok(folder);
        }
        progress(&format!("unpacking Debian packages: {}", packages.join(" ")));
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        let finish = |command: &mut Command| {
            let output = command.current_dir(&unfinished).output().with_context(|| format!("cannot run {command:?}"))?;
            anyhow::ensure!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        let download = || finish(Command::new("apt-get").args(["download", "-q"]).args(packages));
        // The lists may be old, or not there at all.
        download().or_else(|_| finish(Command::new("apt-get").args(["update", "-q"])).and_then(|()| download()))?;
        let archives = fs::read_dir(&unfinished)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        for archive in archives {
            finish(Command::new("dpkg-deb").arg("-x").arg(&archive).arg("."))?;
            fs::remove_file(&archive)?;
        }
        fs::rename(&unfinished, &folder)?;
        Ok(folder)
    }
}
