//! Rust's standard library for musl, built from Debian's source of it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{CARGO, PACKAGES, RUSTC, has_packages, of_debian};
use crate::build::{Architecture, Cache, key, packages, progress};
use crate::lab::finish;

/// To be changed with what is done here, so that what was built otherwise is not used.
const RECIPE: &[u8] = b"1";

/// A folder in the form of a Rust installation, with a standard library for musl.
///
/// # Errors
/// If a package is missing, or the standard library cannot be built.
pub(in crate::build) fn sysroot(cache: &Cache, architecture: Architecture) -> Result<PathBuf> {
    ensure!(has_packages(), "these Debian packages are missing: {}", PACKAGES.join(" "));
    let folder = musl(cache, architecture)?;
    let libc = fs::read(folder.join("libc.a"))?;
    let key = key(&[("rustc", &of_debian()?), ("libc.a", &libc), ("recipe", RECIPE)]);
    let sysroot = cache.path("tools").join(format!("rust-musl-{}-{key}", architecture.name()));
    if sysroot.exists() {
        return Ok(sysroot);
    }
    let begun = Instant::now();
    progress(&format!("building Rust's standard library for musl on {} (once; takes one to two minutes)", architecture.name()));
    let unfinished = sysroot.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let lib = unfinished.join("lib/rustlib").join(architecture.musl()).join("lib");
    build_std(&unfinished.join("build"), &lib, architecture)?;
    lay_out_musl(&folder, &lib.join("self-contained"), architecture)?;
    // Build scripts and macros run here: their standard library is Debian's own.
    let native = Architecture::of_this_machine().glibc();
    let host = finish(Command::new(RUSTC).args(["--print", "target-libdir", "--target", &native]))?;
    let host = Path::new(host.trim()).parent().context("a library folder is in its target's")?;
    std::os::unix::fs::symlink(host, unfinished.join("lib/rustlib").join(native))?;
    fs::remove_dir_all(unfinished.join("build"))?;
    fs::rename(&unfinished, &sysroot)?;
    progress(&format!("built it in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(sysroot)
}

/// Builds the standard library as a dependency of an empty crate, and collects it. Without the means to unwind or to print backtraces:
/// the plugins abort on a panic, and are stripped.
fn build_std(work: &Path, lib: &Path, architecture: Architecture) -> Result<()> {
    fs::create_dir_all(work.join("src"))?;
    fs::write(work.join("src/lib.rs"), "#![no_std]\n")?;
    let manifest =
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[profile.release]\npanic = \"abort\"\n";
    fs::write(work.join("Cargo.toml"), manifest)?;
    let mut cargo = Command::new(CARGO);
    cargo.args(["build", "--quiet", "--release", "-Zbuild-std=std,panic_abort", "-Zbuild-std-features=", "--target", &architecture.musl()]);
    // Bitcode in the libraries, so that programs can be optimized as a whole.
    let cargo = cargo.current_dir(work).env("RUSTFLAGS", "-C embed-bitcode=yes").env_remove("CARGO_ENCODED_RUSTFLAGS").process_group(0);
    finish(cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", work.join("target")))?;
    fs::create_dir_all(lib)?;
    for entry in fs::read_dir(work.join("target").join(architecture.musl()).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "rlib") && !name.starts_with("libempty-") {
            fs::copy(&path, lib.join(name))?;
        }
    }
    Ok(())
}

/// What rustc links static executables with: the start of a program by musl and GCC, and musl itself.
fn lay_out_musl(musl: &Path, folder: &Path, architecture: Architecture) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in ["crt1.o", "Scrt1.o", "rcrt1.o", "crti.o", "crtn.o", "libc.a"] {
        fs::copy(musl.join(name), folder.join(name)).with_context(|| format!("cannot copy {name} of musl"))?;
    }
    for name in ["crtbegin.o", "crtbeginS.o", "crtend.o", "crtendS.o"] {
        let path = finish(Command::new(architecture.linker()).arg(format!("-print-file-name={name}")))?;
        fs::copy(path.trim(), folder.join(name)).with_context(|| format!("cannot copy {name} of GCC"))?;
    }
    // Named on the linker's command line. What would use it, printing backtraces, is left out by the optimization of the whole program.
    fs::write(folder.join("libunwind.a"), "!<arch>\n")?;
    Ok(())
}

/// The folder with musl itself, and a linker: those of another architecture are brought.
fn musl(cache: &Cache, architecture: Architecture) -> Result<PathBuf> {
    if architecture == Architecture::of_this_machine() {
        return Ok(architecture.musl_folder());
    }
    packages::require_program(&architecture.linker(), &format!("gcc-{}-linux-gnu", architecture.machine().replace('_', "-")))?;
    let root = cache.unpacked_for(architecture, &["musl-dev"])?;
    Ok(root.join(architecture.musl_folder().strip_prefix("/")?))
}
