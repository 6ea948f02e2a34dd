//! The compiler for what runs on the nodes themselves: static, and with musl's C library, since its processes start in a fraction of
//! the time of glibc's. Where the installed Rust has no standard library for that, Debian's compiler builds one, once.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Cache, key, progress};
use crate::lab::finish;

/// Debian's packages with a compiler, its standard library's source, and musl.
pub(super) const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "musl-tools"];
/// Not the one of a toolchain that a developer may have beside it.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// To be changed with what is done here, so that what was built otherwise is not used.
const RECIPE: &[u8] = b"1";

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
        if has_musl(&rustc) {
            return Self { rustc, target: musl(), flags: flags(&["relocation-model=static"]) };
        }
        match sysroot(cache) {
            Ok(sysroot) => {
                let mut flags = flags(&["relocation-model=static", "linker=cc"]);
                flags.push(format!("--sysroot={}", sysroot.display()));
                Self { rustc: RUSTC.into(), target: musl(), flags }
            }
            Err(error) => {
                progress(&format!("no musl, so with glibc, whose processes start more slowly: {error:#}"));
                Self { rustc, target: glibc(), flags: flags(&["target-feature=+crt-static", "relocation-model=static"]) }
            }
        }
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
    let files = [RUSTC.into(), CARGO.into(), musl_folder().join("libc.a")];
    files.iter().all(|file: &PathBuf| file.exists()) && source_of(RUSTC.as_ref()).is_some()
}

fn has_musl(rustc: &std::ffi::OsStr) -> bool {
    let folder = finish(Command::new(rustc).args(["--print", "target-libdir", "--target", &musl()])).unwrap_or_default();
    let names = fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// The standard library's source, if it is installed.
fn source_of(rustc: &std::ffi::OsStr) -> Option<PathBuf> {
    let sysroot = finish(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    Some(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std")).filter(|folder| folder.exists())
}

/// A folder in the form of a Rust installation, with a standard library for musl.
pub(super) fn sysroot(cache: &Cache) -> Result<PathBuf> {
    ensure!(has_packages(), "these Debian packages are missing: {}", PACKAGES.join(" "));
    let folder = musl_folder();
    let libc = fs::read(folder.join("libc.a"))?;
    let key = key(&[("rustc", &of_debian()?), ("libc.a", &libc), ("recipe", RECIPE)]);
    let sysroot = cache.path("tools").join(format!("rust-musl-{key}"));
    if sysroot.exists() {
        return Ok(sysroot);
    }
    let begun = Instant::now();
    progress("building Rust's standard library for musl (once; takes one to two minutes)");
    let unfinished = sysroot.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let lib = unfinished.join("lib/rustlib").join(musl()).join("lib");
    build_std(&unfinished.join("build"), &lib)?;
    lay_out_musl(&folder, &lib.join("self-contained"))?;
    // Build scripts and macros run here: their standard library is Debian's own.
    let host = finish(Command::new(RUSTC).args(["--print", "target-libdir", "--target", &glibc()]))?;
    let host = Path::new(host.trim()).parent().context("a library folder is in its target's")?;
    std::os::unix::fs::symlink(host, unfinished.join("lib/rustlib").join(glibc()))?;
    fs::remove_dir_all(unfinished.join("build"))?;
    fs::rename(&unfinished, &sysroot)?;
    progress(&format!("built it in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(sysroot)
}

/// Builds the standard library as a dependency of an empty crate, and collects it. Without the means to unwind or to print backtraces:
/// the plugins abort on a panic, and are stripped.
fn build_std(work: &Path, lib: &Path) -> Result<()> {
    fs::create_dir_all(work.join("src"))?;
    fs::write(work.join("src/lib.rs"), "#![no_std]\n")?;
    let manifest =
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[profile.release]\npanic = \"abort\"\n";
    fs::write(work.join("Cargo.toml"), manifest)?;
    let mut cargo = Command::new(CARGO);
    cargo.args(["build", "--quiet", "--release", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features=", "--target", &musl()]);
    // Bitcode in the libraries, so that programs can be optimized as a whole.
    let cargo = cargo.current_dir(work).env("RUSTFLAGS", "-C embed-bitcode=yes").env_remove("CARGO_ENCODED_RUSTFLAGS").process_group(0);
    finish(cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", work.join("target")))?;
    fs::create_dir_all(lib)?;
    for entry in fs::read_dir(work.join("target").join(musl()).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "rlib") && !name.starts_with("libempty-") {
            fs::copy(&path, lib.join(name))?;
        }
    }
    Ok(())
}

/// What rustc links static executables with: the start of a program by musl and GCC, and musl itself.
fn lay_out_musl(musl: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["crt1.o", "Scrt1.o", "rcrt1.o", "crti.o", "crtn.o", "libc.a"] {
        fs::copy(musl.join(name), folder.join(name)).with_context(|| format!("cannot copy {name} of musl"))?;
    }
    for name in ["crtbegin.o", "crtbeginS.o", "crtend.o", "crtendS.o"] {
        let path = finish(Command::new("cc").arg(format!("-print-file-name={name}")))?;
        fs::copy(path.trim(), folder.join(name)).with_context(|| format!("cannot copy {name} of GCC"))?;
    }
    // Named on the linker's command line. What would use it, printing backtraces, is left out by the optimization of the whole program.
    fs::write(folder.join("libunwind.a"), "!<arch>\n")?;
    Ok(())
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

/// Where Debian has musl.
fn musl_folder() -> PathBuf {
    Path::new("/usr/lib").join(format!("{}-linux-musl", std::env::consts::ARCH))
}

/// Rust's target whose programs need nothing of the machine.
pub(super) fn musl() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

fn glibc() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
