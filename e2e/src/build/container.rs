//! The Dockerfile, built on this machine by buildah. No registry of images is asked: the image that it begins with is put together of
//! Debian's packages and Debian's Rust, under the name that the Dockerfile has for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::debian::Debian;
use super::{Architecture, Cache, Layout, checkout, compiler, key, packages, progress};
use crate::lab::finish;

/// The built image's name.
const NAME: &str = "localhost/azure-vnet:built";
/// What the Dockerfile's first stage finds in the image that it begins with.
const PACKAGES: &[&str] = &["gcc", "libc6-dev", "ca-certificates", "rustc-web", "cargo-web"];
/// In the place of the tool that brings a standard library: the one that is wanted is there.
const RUSTUP: &str = "#!/bin/sh\n[ \"$1 $2\" = \"target add\" ] && [ -d \"$(rustc --print sysroot)/lib/rustlib/$3/lib\" ]\n";
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where cargo keeps what it downloaded, in the image that the Dockerfile begins with.
const CARGO_HOME: &str = "/usr/local/cargo";

/// Images and containers below the cache, out of the way of the machine's own. One program at a time has it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: fs::File,
}

impl Store {
    /// The cache's.
    ///
    /// # Errors
    /// If a program that it needs is missing and cannot be installed.
    pub fn open(cache: &Cache) -> Result<Self> {
        packages::require_program("buildah", "buildah")?;
        packages::require_compiler()?;
        let folder = cache.path("containers");
        fs::create_dir_all(&folder)?;
        let lock = fs::File::create(folder.join("lock"))?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }

    /// Builds the Dockerfile and answers the image as a registry would get it. What cargo downloaded and compiled for the last one is used.
    ///
    /// # Errors
    /// If a step of it fails.
    pub fn build(&self, cache: &Cache) -> Result<Layout> {
        // What a killed build left.
        finish(&mut self.buildah(&["rm", "--all"]))?;
        let release = self.base(cache)?;
        progress("building the Dockerfile (takes some minutes the first time)");
        let mut build = self.buildah(&["build", "--isolation", "chroot", "--pull-never", "--tag", NAME]);
        build.arg(format!("--build-arg=RUST={release}"));
        for (folder, path) in [("registry", format!("{CARGO_HOME}/registry")), ("target", "/src/target".to_owned())] {
            let folder = self.folder.join(folder);
            fs::create_dir_all(&folder)?;
            build.arg(format!("--volume={}:{path}", folder.display()));
        }
        finish(build.arg(checkout()))?;
        // The image of the last build has lost its name to this one.
        finish(&mut self.buildah(&["rmi", "--prune"]))?;
        let layout = self.folder.join("layout");
        if layout.exists() {
            fs::remove_dir_all(&layout)?;
        }
        finish(self.buildah(&["push", "--quiet", NAME]).arg(format!("oci:{}:built", layout.display())))?;
        Layout::read(&layout)
    }

    /// Runs programs in a container of the built image, and returns what each printed.
    ///
    /// # Errors
    /// If one fails.
    pub fn run(&self, programs: &[&[&str]]) -> Result<Vec<String>> {
        let container = finish(&mut self.buildah(&["from", "--pull-never", NAME]))?.trim().to_owned();
        let run = |words: &&[&str]| {
            finish(self.buildah(&["run", "--isolation", "chroot", "--env", "CNI_COMMAND=VERSION", &container, "--"]).args(*words))
        };
        let printed = programs.iter().map(run).collect();
        finish(&mut self.buildah(&["rm", &container]))?;
        printed
    }

    /// Makes the image that the Dockerfile begins with, once, and answers the release of Rust by which its name tells it.
    fn base(&self, cache: &Cache) -> Result<String> {
        let sysroot = {
            let _lock = cache.lock()?;
            compiler::sysroot(cache, Architecture::of_this_machine())?
        };
        let certificates = fs::read(CERTIFICATES)?;
        let list = PACKAGES.join(" ");
        let name = sysroot.as_os_str().as_encoded_bytes();
        let key = key(&[("packages", list.as_bytes()), ("std", name), ("certificates", &certificates), ("rustup", RUSTUP.as_bytes())]);
        let mark = self.folder.join(format!("base-{key}"));
        if let Ok(release) = fs::read_to_string(&mark) {
            return Ok(release);
        }
        progress("making the image that the Dockerfile begins with (once; takes one to three minutes)");
        let tree = self.folder.join("base.tar");
        self.debian(&sysroot)?.write(&tree)?;
        let (here, there) = (String::from_utf8(compiler::of_debian()?)?, fs::read_to_string(self.folder.join("release"))?);
        ensure!(here == there, "Debian's Rust there is another than here, which apt-get upgrade mends:\n{there}\n{here}");
        let release = here.lines().find_map(|line| line.strip_prefix("release: ")?.rsplit_once('.')).context("rustc tells no release")?.0;
        let container = finish(&mut self.buildah(&["from", "scratch"]))?.trim().to_owned();
        finish(self.buildah(&["add", "--quiet", &container]).arg(&tree).arg("/"))?;
        let linker = format!("CARGO_TARGET_{}_LINKER=cc", Architecture::of_this_machine().musl().to_uppercase().replace('-', "_"));
        finish(&mut self.buildah(&["config", "--env", &linker, "--env", &format!("CARGO_HOME={CARGO_HOME}"), &container]))?;
        finish(&mut self.buildah(&["commit", "--quiet", "--rm", &container, &format!("localhost/rust:{release}-bookworm")]))?;
        fs::remove_file(tree)?;
        fs::write(mark, release)?;
        Ok(release.to_owned())
    }

    /// Debian with Rust, a standard library for musl, and the certificates of this machine: whoever reaches registries through a proxy of his
    /// own has that one's there.
    fn debian(&self, sysroot: &Path) -> Result<Debian<'static>> {
        let rustup = self.folder.join("rustup");
        fs::write(&rustup, RUSTUP)?;
        let library = sysroot.join("lib/rustlib").join(Architecture::of_this_machine().musl());
        Ok(Debian {
            variant: "apt",
            packages: PACKAGES,
            hooks: vec![
                format!("copy-in {} /usr/lib/rustlib", library.display()),
                format!("upload {CERTIFICATES} {CERTIFICATES}"),
                format!("upload {} /usr/local/bin/rustup", rustup.display()),
                "chmod 755 \"$1/usr/local/bin/rustup\"".to_owned(),
                format!("chroot \"$1\" rustc -vV >\"{}\"", self.folder.join("release").display()),
            ],
        })
    }

    /// In a mount namespace of its own: what it mounts ends with it, even if it is killed.
    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut buildah = Command::new("unshare");
        buildah.args(["--mount", "buildah", "--root"]).arg(self.folder.join("storage")).arg("--runroot").arg(self.folder.join("run"));
        buildah.args(arguments);
        buildah
    }
}
