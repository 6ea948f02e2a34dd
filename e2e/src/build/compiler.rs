//! The compiler for what runs on the nodes themselves: static, and with musl's C library, since its processes start in a fraction of
//! the time of glibc's. Where the installed Rust has no standard library for that, Debian's compiler builds one, once.

mod sysroot;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Architecture, Cache, progress};
use crate::lab::finish;
pub(super) use sysroot::sysroot;

/// Debian's packages with a compiler, its standard library's source, and musl.
pub(super) const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "musl-tools"];
/// Not the one of a toolchain that a developer may have beside it.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// A compiler and what makes it link static executables.
#[derive(Debug, Clone)]
pub(super) struct Compiler {
    /// The program.
    pub rustc: OsString,
    /// What it compiles for.
    pub target: String,
    /// Its arguments.
    pub flags: Vec<String>,
}

impl Compiler {
    /// The best that this machine can have: musl by the installed Rust, musl by Debian's, glibc.
    pub(super) fn find(cache: &Cache) -> Self {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let here = Architecture::of_this_machine();
        if has_musl(&rustc) {
            return Self { rustc, target: here.musl(), flags: flags(&["relocation-model=static"]) };
        }
        Self::of(cache, here).unwrap_or_else(|error| {
            progress(&format!("no musl, so with glibc, whose processes start more slowly: {error:#}"));
            Self { rustc, target: here.glibc(), flags: flags(&["target-feature=+crt-static", "relocation-model=static"]) }
        })
    }

    /// Debian's with musl, for processors of any kind.
    ///
    /// # Errors
    /// If a package is missing, or the standard library cannot be built.
    pub(super) fn of(cache: &Cache, architecture: Architecture) -> Result<Self> {
        let sysroot = sysroot(cache, architecture)?;
        let mut flags = flags(&["relocation-model=static", &format!("linker={}", architecture.linker())]);
        flags.push(format!("--sysroot={}", sysroot.display()));
        Ok(Self { rustc: RUSTC.into(), target: architecture.musl(), flags })
    }

    /// What it says of itself.
    pub(super) fn version(&self) -> Result<Vec<u8>> {
        version(&self.rustc)
    }
}

/// Whether the packages would help: the installed Rust cannot do without them, and they are not all there.
pub(super) fn lacks_packages() -> bool {
    !has_musl("rustc".as_ref()) && !has_packages()
}

/// Whether they are all there.
pub(super) fn has_packages() -> bool {
    let files = [RUSTC.into(), CARGO.into(), Architecture::of_this_machine().musl_folder().join("libc.a")];
    files.iter().all(|file: &PathBuf| file.exists()) && source_of(RUSTC.as_ref()).is_some()
}

fn has_musl(rustc: &std::ffi::OsStr) -> bool {
    let folder = finish(Command::new(rustc).args(["--print", "target-libdir", "--target", &Architecture::of_this_machine().musl()]))
        .unwrap_or_default();
    let names = fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// The standard library's source, if it is installed.
fn source_of(rustc: &std::ffi::OsStr) -> Option<PathBuf> {
    let sysroot = finish(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    Some(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std")).filter(|folder| folder.exists())
}

/// What Debian's compiler says of itself.
pub(super) fn of_debian() -> Result<Vec<u8>> {
    version(RUSTC.as_ref())
}

fn version(rustc: &std::ffi::OsStr) -> Result<Vec<u8>> {
    let output = Command::new(rustc).arg("-vV").output().with_context(|| format!("cannot run {}", rustc.display()))?;
    if !output.status.success() {
        bail!("{} -vV failed:\n{}", rustc.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn flags(codegen: &[&str]) -> Vec<String> {
    codegen.iter().flat_map(|option| ["-C".to_owned(), (*option).to_owned()]).collect()
}
