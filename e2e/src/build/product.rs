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

/// The product's executables in one folder.
#[derive(Debug, Clone)]
pub struct Product {
    /// A folder with `azure-vnet`, `azure-vnet-ipam` and `azure-vnet-operator`.
    pub bin: PathBuf,
}

/// The profile of [`Operator::Quick`].
pub(super) const QUICK: &str = "lab";

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
    let tree = Tree { source: checkout(), target: target_folder()? };
    let bin = bundle()?.join("bin");
    tree.gather(cache, operator, &bin)?;
    Ok(Product { bin })
}

/// A version's source, and the folder that its builds go to.
pub(super) struct Tree {
    pub source: PathBuf,
    pub target: PathBuf,
}

impl Tree {
    /// Builds plugins and operator, and puts them into one folder.
    ///
    /// # Errors
    /// If cargo fails.
    pub fn gather(&self, cache: &Cache, operator: Operator, bin: &Path) -> Result<()> {
        let plugins = self.plugins(Compiler::find(cache))?;
        let operator = self.operator(operator)?;
        fs::create_dir_all(bin)?;
        for (folder, name) in [(&plugins, "azure-vnet"), (&plugins, "azure-vnet-ipam"), (&operator, "azure-vnet-operator")] {
            let target = bin.join(name);
            let temporary = target.with_extension("tmp");
            copy(&folder.join(name), &temporary)?;
            fs::rename(&temporary, &target)?;
        }
        Ok(())
    }

    /// Builds the operator, and answers the folder that it is in.
    fn operator(&self, operator: Operator) -> Result<PathBuf> {
        let profile = match operator {
            Operator::Quick => QUICK,
            Operator::Shipped => "release",
        };
        self.build(&["--profile", profile, "-p", "azure-vnet-operator", "--bins"], &[], &self.target, "the operator")?;
        Ok(self.target.join(profile))
    }

    /// Builds the plugins as they ship, and answers the folder that they are in.
    fn plugins(&self, compiler: Compiler) -> Result<PathBuf> {
        let Compiler { rustc, target, flags } = compiler;
        let environment = [("RUSTC", rustc), ("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}").into())];
        let arguments = ["--release", "-p", "azure-vnet-plugin", "--bins", "--target", &target];
        let folder = self.target.join("static");
        self.build(&arguments, &environment, &folder, "the plugins")?;
        Ok(folder.join(&target).join("release"))
    }

    fn build(&self, arguments: &[&str], environment: &[(&str, OsString)], target: &Path, what: &str) -> Result<()> {
        progress(&format!("building {what}"));
        let mut cargo = cargo();
        cargo.current_dir(&self.source).args(["build", "--quiet", "--locked"]).args(arguments).env("CARGO_TARGET_DIR", target);
        let cargo = cargo.envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
        let output = cargo.output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo build {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Puts an image's files into a folder, with the script that the released image is made by.
    ///
    /// # Errors
    /// If the script fails.
    pub fn lay_out(&self, bin: &Path, root: &Path) -> Result<()> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let script = self.source.join("image/rootfs.sh");
        let output = Command::new("bash").arg(&script).arg(root).arg(bin).output().context("cannot run bash")?;
        if !output.status.success() {
            bail!("{} failed:\n{}", script.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
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
    let tree = Tree { source: checkout(), target: target_folder()? };
    if architecture == Architecture::of_this_machine() {
        return tree.plugins(Compiler::find(cache));
    }
    packages::require_compiler()?;
    tree.plugins(Compiler::of(cache, architecture)?)
}

/// Builds the operator for this machine's kind of processor, and answers the executable.
///
/// # Errors
/// If cargo fails.
pub fn operator_for_here(cache: &Cache, operator: Operator) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    Ok(Tree { source: checkout(), target: target_folder()? }.operator(operator)?.join("azure-vnet-operator"))
}

/// Makes the operator's image with the script that the released image is made by.
///
/// # Errors
/// If the script fails.
pub fn operator_image(cache: &Cache, product: &Product) -> Result<PathBuf> {
    let _lock = cache.lock()?;
    let root = bundle()?.join("rootfs");
    Tree { source: checkout(), target: target_folder()? }.lay_out(&product.bin, &root)?;
    let image = Image::new(OPERATOR_IMAGE, &["/usr/bin/azure-vnet-operator"], &[]).tree(&root)?;
    write(&bundle()?.join("azure-vnet.tar"), &image)
}

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

/// Writes an image where it is not written yet.
pub(super) fn write(path: &Path, image: &Image) -> Result<PathBuf> {
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

/// What this checkout builds.
pub(super) fn target_folder() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    Ok(std::path::absolute(target)?)
}
