//! The project's own executables and the images made of them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::compiler::Compiler;
use super::{Architecture, Cache, Entry, Image, cargo, checkout, key, packages, progress, replace};

/// The sandbox image.
pub const PAUSE_IMAGE: &str = "lab.test/pause:1";
/// The image of the test tool.
pub const PROBE_IMAGE: &str = "lab.test/probe:1";
/// The operator's image: repository `lab.test/azure-vnet`, tag `lab`.
pub const OPERATOR_IMAGE: &str = "lab.test/azure-vnet:lab";

/// The same with plugins that are other files: what an upgrade replaces.
pub const EARLIER_IMAGE: &str = "lab.test/azure-vnet:earlier";

/// The product's executables in one folder.
#[derive(Debug, Clone)]
pub struct Product {
    /// A folder with `azure-vnet`, `azure-vnet-ipam` and `azure-vnet-operator`.
    pub bin: PathBuf,
}

/// Which build of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// In the profile `lab`: larger, and built in a fraction of the time.
    Quick,
    /// As it ships.
    Shipped,
}

/// Builds the plugins as they ship (static) and the operator, and gathers them in one folder.
///
/// # Errors
/// If cargo fails.
pub fn product(cache: &Cache, operator: Operator) -> Result<Product> {
    let _lock = cache.lock()?;
    let plugins = build_plugins(Compiler::find(cache))?;
    let profile = match operator {
        Operator::Quick => "lab",
        Operator::Shipped => "release",
    };
    let operator = build(&["--profile", profile, "-p", "azure-vnet-operator", "--bins"], &[], &target_folder()?, "the operator")?;
    let operator = operator.join(profile);
    let bin = bundle()?.join("bin");
    fs::create_dir_all(&bin)?;
    for (folder, name) in [(&plugins, "azure-vnet"), (&plugins, "azure-vnet-ipam"), (&operator, "azure-vnet-operator")] {
        let target = bin.join(name);
        let temporary = target.with_extension("tmp");
        copy(&folder.join(name), &temporary)?;
        fs::rename(&temporary, &target)?;
    }
    Ok(Product { bin })
}

/// Copies an executable by a program of its own: one that this process had open for writing may still be open in a child that another thread is just
/// starting, and whoever executes it then is told that it is busy.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("--").arg(from).arg(to).status().context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {} ({status})", from.display());
    Ok(())
}

/// Builds the plugins alone, as they ship, and answers the folder that they are in.
///
/// # Errors
/// If cargo fails.
pub fn plugins(cache: &Cache) -> Result<PathBuf> {
    plugins_for(cache, Architecture::of_this_machine())
}

/// The same for processors of any kind.
///
/// # Errors
/// If cargo fails, or what it needs for a foreign kind cannot be had.
pub fn plugins_for(cache: &Cache, architecture: Architecture) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    if architecture == Architecture::of_this_machine() {
        return build_plugins(Compiler::find(cache));
    }
    packages::require_compiler()?;
    build_plugins(Compiler::of(cache, architecture)?)
}

fn build_plugins(compiler: Compiler) -> Result<PathBuf> {
    let Compiler { rustc, target, flags } = compiler;
    let environment = [("RUSTC", rustc), ("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}").into())];
    let arguments = ["--release", "-p", "azure-vnet-plugin", "--bins", "--target", &target];
    Ok(build(&arguments, &environment, &target_folder()?.join("static"), "the plugins")?.join(&target).join("release"))
}

/// Makes the operator's image with the script that the released image is made by.
///
/// # Errors
/// If the script fails.
pub fn operator_image(cache: &Cache, product: &Product) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    let root = bundle()?.join("rootfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let script = checkout().join("image/rootfs.sh");
    let output = Command::new("bash").arg(&script).arg(&root).arg(&product.bin).output().context("cannot run bash")?;
    if !output.status.success() {
        bail!("{} failed:\n{}", script.display(), String::from_utf8_lossy(&output.stderr));
    }
    let image = Image::new(OPERATOR_IMAGE, &["/usr/bin/azure-vnet-operator"], &[]).tree(&root)?;
    write(&bundle()?.join("azure-vnet.tar"), &image)
}

/// Makes an image in the place of an earlier version's: of the same build, with plugins of other bytes and the same behaviour.
///
/// # Errors
/// If the product's image was not made before.
pub fn earlier_image(cache: &Cache) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    let mut image = Image::new(EARLIER_IMAGE, &["/usr/bin/azure-vnet-operator"], &[]).tree(&bundle()?.join("rootfs"))?;
    for name in ["azure-vnet", "azure-vnet-ipam"] {
        let entry = image.entries.get_mut(&format!("opt/azure-vnet/bin/{name}"));
        let Some(Entry::File { content, .. }) = entry else { bail!("the image has no plugin {name}") };
        // The kernel loads what the headers name, and nothing after it.
        content.extend_from_slice(EARLIER_MARK);
    }
    write(&bundle()?.join("azure-vnet-earlier.tar"), &image)
}

/// What the plugins of [`EARLIER_IMAGE`] end with.
pub const EARLIER_MARK: &[u8] = b"\nan earlier version\n";

/// Makes the sandbox image.
///
/// # Errors
/// If the test tool cannot be built.
pub fn pause_image(cache: &Cache) -> Result<PathBuf> {
    let image = Image::new(PAUSE_IMAGE, &["/pause", "sleep"], &[]).executable("/pause", &probe_binary(cache)?)?;
    write(&cache.path("images/pause.tar"), &image)
}

/// Makes the image of the test tool.
///
/// # Errors
/// If the test tool cannot be built.
pub fn image_of_probe(cache: &Cache) -> Result<PathBuf> {
    let mut image = Image::new(PROBE_IMAGE, &["/probe"], &["sleep"]).executable("/probe", &probe_binary(cache)?)?;
    for folder in ["tmp", "proc", "sys", "dev"] {
        image.entries.insert(folder.to_owned(), Entry::Folder(0o755));
    }
    write(&cache.path("images/probe.tar"), &image)
}

/// Builds the test tool: one static executable from one file of the standard library's Rust.
///
/// # Errors
/// If rustc fails.
pub fn probe_binary(cache: &Cache) -> Result<PathBuf> {
    compile(cache, "probe", &fs::read(checkout().join("e2e/src/bin/probe.rs"))?)
}

/// Builds a program that does nothing, started as the plugins are.
///
/// # Errors
/// If rustc fails.
pub fn empty_program(cache: &Cache) -> Result<PathBuf> {
    compile(cache, "empty", b"fn main() {}\n")
}

/// Compiles one file to a static executable.
fn compile(cache: &Cache, name: &str, source: &[u8]) -> Result<PathBuf> {
    let compiler = Compiler::find(cache);
    let options =
        ["--edition", "2024", "-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "lto=fat"].map(str::to_owned);
    let flags = [&options[..], &compiler.flags].concat();
    let key = key(&[("rustc", &compiler.version()?), ("flags", flags.join(" ").as_bytes()), (name, source)]);
    let output = cache.path("tools").join(format!("{name}-{key}")).join(name);
    let _lock = cache.lock()?;
    if output.exists() {
        return Ok(output);
    }
    let folder = output.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)?;
    let (file, unfinished) = (folder.join(format!("{name}.rs")), folder.join(format!("unfinished-{}", std::process::id())));
    fs::write(&file, source)?;
    progress(&format!("building the program {name}"));
    let mut rustc = Command::new(&compiler.rustc);
    rustc.args(flags).args(["--target", &compiler.target, "--crate-name", name, "-o"]).arg(&unfinished).arg(&file);
    let result = rustc.output()?;
    if !result.status.success() {
        bail!("rustc failed on {}:\n{}", file.display(), String::from_utf8_lossy(&result.stderr));
    }
    fs::rename(&unfinished, &output)?;
    Ok(output)
}

fn write(path: &Path, image: &Image) -> Result<PathBuf> {
    let tar = image.to_tar()?;
    if fs::read(path).ok().as_deref() != Some(tar.as_slice()) {
        replace(path, &tar)?;
    }
    Ok(path.to_owned())
}

/// Where the product and its image are gathered: beside what this checkout builds, as another checkout's are not the same.
fn bundle() -> Result<PathBuf> {
    Ok(target_folder()?.join("bundle"))
}

/// Runs `cargo build` and answers the target folder.
fn build(arguments: &[&str], environment: &[(&str, OsString)], target: &Path, what: &str) -> Result<PathBuf> {
    progress(&format!("building {what}"));
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--locked"]).args(arguments).env("CARGO_TARGET_DIR", target);
    let cargo = cargo.envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(target.to_owned())
}

fn target_folder() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    Ok(std::path::absolute(target)?)
}
